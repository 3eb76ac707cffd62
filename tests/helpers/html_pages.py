"""Reads the pages that the package writes: as a parser does, and as a browser shows them."""

import json
import re
import shutil
import subprocess
from html import escape
from html.parser import HTMLParser

VOID = {"meta", "img"}
HOSTILE = "<script>alert(1)</script>\"' onload='x' & \N{LATIN SMALL LETTER E WITH ACUTE}\x00\udcff"


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

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag):
        return [a for t, a in zip(self.tags, self.attributes, strict=True) if t == tag]


CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
CHROMIUM_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
MEASURE = """
onload = () => {
  const found = [...document.querySelectorAll('iframe')].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const box = element => element.getBoundingClientRect();
    return {
      sections: [...page.querySelectorAll('section')].map(s => s.id),
      images: [...page.images].map(i =>
        [i.naturalWidth, i.naturalHeight, Math.round(box(i).width), Math.round(box(i).height)]),
      width: root.clientWidth, scroll: root.scrollWidth,
      charts: [...page.querySelectorAll('svg')].map(s => box(s).width > 200),
      page: getComputedStyle(page.body).backgroundColor,
    };
  });
  document.getElementById('found').textContent = JSON.stringify(found);
};
"""


def measure_in_chromium(html, widths, folder):
    """Shows `html`, unchanged, in a frame of every width; returns what `MEASURE` finds in each."""
    frames = "".join(f'<iframe width="{w}" srcdoc="{escape(html)}"></iframe>' for w in widths)
    wrapper = folder / "wrapper.html"
    wrapper.write_text(
        f'<meta charset="utf-8"><script>{MEASURE}</script><pre id="found"></pre>{frames}',
        encoding="utf-8",
    )
    options = [*CHROMIUM_OPTIONS, "--window-size=1300,900", "--dump-dom"]
    command = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}"]
    dom = subprocess.run(
        [*command, wrapper.as_uri()], capture_output=True, timeout=120, check=True
    ).stdout.decode("utf-8")
    return json.loads(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL).group(1))
