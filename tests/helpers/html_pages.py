"""Reads the pages that the package writes: as a parser does, and as a browser shows them."""

import json
import shutil
from html.parser import HTMLParser

VOID = {"meta", "img"}
HOSTILE = "<img src=x onerror='x'>\"</script> & \N{LATIN SMALL LETTER E WITH ACUTE}\x00\udcff"


class Page(HTMLParser):
    """What a page holds; fails at the first tag that is not closed where it should be."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [a for t, a in zip(self.tags, self.attributes, strict=True) if t == tag]


def assert_needs_no_other_file(html):
    """Nothing of a page comes from elsewhere or runs, whatever the names on it are."""
    page = Page(html)
    html.encode("utf-8")
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    for attributes in page.attributes:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:image/"))
        for name in set(attributes) - {"src", "alt", "title", "aria-label"}:
            assert "://" not in attributes[name] or name.startswith("xmlns")
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHROMIUM_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
# The contrast of every text to what is below it, WCAG 2.2; half-transparent colours are laid over.
MEASURE = """
(() => {
  const rgba = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
    return [r, g, b, a] };
  const over = (top, below) => [0, 1, 2].map(i => top[3] * top[i] + (1 - top[3]) * below[i]);
  const ground = e => { const below = e.parentElement ? ground(e.parentElement) : [255, 255, 255];
    return over(rgba(getComputedStyle(e).backgroundColor), below) };
  const light = c => { const [r, g, b] = c.map(v => v / 255).map(v =>
    v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05 };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.textContent, e = walk.currentNode.parentElement;
    const style = getComputedStyle(e);
    if (!text.trim() || e.closest('title, style')) continue;
    const below = ground(e.closest('svg')?.parentElement ?? e);
    const ink = rgba(e.closest('svg') ? style.fill : style.color);
    const parts = [light(over([...ink.slice(0, 3), ink[3] * style.opacity], below)), light(below)];
    found.push([Math.max(...parts) / Math.min(...parts), text.slice(0, 40)]);
  }
  const root = document.documentElement;
  return JSON.stringify({
    faint: found.filter(([contrast]) => contrast < 4.5), texts: found.length,
    overflow: root.scrollWidth - root.clientWidth,
    page: getComputedStyle(document.body).backgroundColor,
    charts: [...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width),
    images: [...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width]),
  });
})()
"""


def measure(tab, width, dark):
    """What `MEASURE` finds on the page of a `chromium.Tab`."""
    tab.resize(width, dark=dark)
    return json.loads(tab.value(MEASURE))
