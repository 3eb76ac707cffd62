"""How a page of this package looks: its style sheet, and how text, tables and pictures enter it.

The pages are the training report, the preview and the report of a search. Each is one file that
needs nothing else: no script, no network, no other file. Their content security policy forbids the
browser everything but the style sheet in the page and pictures in `data:` addresses.

Class and file names are other people's text: all of it passes through `plain_text` or `name_html`.
"""

import base64
import unicodedata
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt

NAME_LENGTH = 40  # letters of a name that are shown; the rest is in its title attribute
MAX_EDGE = 128  # pixels of a picture's longer edge; a larger one is reduced
JPEG_QUALITY = 90  # no artefact is seen, and a photograph takes a quarter of the bytes of a PNG
SMALL_EDGE = 96  # pixels; a picture below this is enlarged without smoothing

# Colours: Okabe & Ito, "Color Universal Design" (2008), which colour-blind readers can tell apart:
# blue #0072b2 and vermilion #d55e00; in the dark sky blue #56b4e9 and orange #e69f00. A train
# and a validation line also differ in their dashes, and of a search's networks those of the front
# have a dark outline. The oranges of the heat map are vermilion made lighter for black letters, and
# darker for white ones.
CHART_STYLE = """
:root{color-scheme:light dark;--ink:#1c2024;--muted:#5c6670;--page:#fff;--card:#f6f7f9;
--edge:#d9dde2;--train:#0072b2;--validation:#d55e00;--hit:0 114 178;--miss:230 126 34;--gain:1;
--on-hit:#000}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e8eb;--muted:#9aa4af;--page:#14171a;
--card:#1d2125;--edge:#363c43;--train:#56b4e9;--validation:#e69f00;--miss:168 78 0;
--gain:1.6;--on-hit:#fff}}
svg text{font:13px system-ui,sans-serif;fill:var(--ink)}svg text.muted{fill:var(--muted)}
.backdrop{fill:var(--card)}.grid{stroke:var(--edge)}.axis{stroke:var(--muted)}
polyline{fill:none;stroke-width:2;stroke-linejoin:round}circle{stroke-width:2}
.dot{fill:var(--train);fill-opacity:.3;stroke:var(--train);stroke-width:1;stroke-opacity:.7}
.front{fill:var(--validation);fill-opacity:.55;stroke:var(--ink);stroke-width:1.5}
.ring,.square{fill:none;stroke:var(--ink);stroke-width:1.5}.ring{stroke-dasharray:3 2}
.steps{stroke:var(--validation);stroke-width:1.5}
.label{paint-order:stroke;stroke:var(--card);stroke-width:3px;stroke-linejoin:round}
"""

STYLE = (
    CHART_STYLE
    + """
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif;
overflow-wrap:anywhere}
header,main{max-width:1160px;margin:0 auto;padding:0 20px}main{padding-bottom:40px}
h1{font-size:1.75rem;line-height:1.2;margin:28px 0 8px}
h2{font-size:1.25rem;margin:40px 0 8px;padding-bottom:6px;border-bottom:1px solid var(--edge)}
h3{font-size:1rem;margin:24px 0 8px}
p,caption,.muted{color:var(--muted)}p{margin:4px 0 12px}
nav a{color:var(--train);margin-right:16px;white-space:nowrap}
.scroll{overflow-x:auto;overflow-wrap:break-word}.scroll td{white-space:nowrap}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding-bottom:6px}
th,td{padding:5px 12px 5px 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--edge)}
thead th{color:var(--muted);font-weight:600}tbody th{font-weight:600;min-width:8em}
td.number,th.number{text-align:right;white-space:nowrap;padding-left:12px}
td.bar{background:linear-gradient(90deg,rgb(var(--hit)/.3) var(--share),transparent 0)
no-repeat 12px 4px/calc(100% - 24px) 1.6em;min-width:8em}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,21rem),1fr));gap:20px}
figure{margin:0;break-inside:avoid}
.chart{background:var(--card);border-radius:8px;padding:14px}
.chart h3{margin:0 0 4px}.chart figcaption{font-size:.8125rem;color:var(--muted)}
svg{display:block;width:100%;max-width:600px;height:auto}
.stage{stroke:var(--muted);stroke-dasharray:3 4}
.train{stroke:var(--train)}circle.train{fill:var(--train)}
.validation{stroke:var(--validation);stroke-dasharray:7 4}
circle.validation{fill:var(--card);stroke-dasharray:none}
.heat{font-size:.75rem}.heat th{color:var(--ink);font-weight:400;white-space:nowrap}
.heat thead th{writing-mode:vertical-rl;transform:rotate(180deg);padding:5px 0;border:0}
.heat.upright thead th{writing-mode:horizontal-tb;transform:none;text-align:center}
.heat thead td{border:0}
.heat tbody th{text-align:right;vertical-align:middle;padding:0 8px;border:0;min-width:0}
.heat tbody td{width:30px;min-width:24px;height:28px;padding:0 3px;text-align:center;
vertical-align:middle;border:1px solid var(--page)}
.zero{color:var(--muted)}
.hit{color:var(--on-hit);background:rgb(var(--hit)/var(--shade))}
.miss{background:rgb(var(--miss)/calc(var(--shade)*var(--gain)))}
.deep{color:#fff}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(96px,1fr));gap:12px}
.mistakes{grid-template-columns:repeat(auto-fill,minmax(152px,1fr))}
.pictures img{display:block;width:100%;min-width:96px;height:auto;aspect-ratio:1;
object-fit:contain;background:var(--card);border-radius:6px}
img.small{image-rendering:pixelated}
.pictures figcaption{font-size:.8125rem;line-height:1.35;margin-top:4px}
figcaption span{display:block}
svg.wide{max-width:760px;min-width:440px}
.code{margin:0 0 12px;padding:10px 14px;overflow-x:auto;border-radius:6px;background:var(--card);
font:.8125rem/1.5 ui-monospace,monospace}
.sheet{display:grid;grid-template-columns:repeat(auto-fill,min(100%,var(--column)));gap:20px 12px}
.sheet img{display:block;width:var(--side);max-width:100%;height:auto;margin-bottom:4px}
.sheet figcaption{font-size:.8125rem;line-height:1.35}
@media(max-width:600px){header,main{padding:0 14px}h1{font-size:1.4rem}.chart{padding:10px}
td.bar{min-width:6em}}
@media print{nav{display:none}body{font-size:10pt}.charts{grid-template-columns:1fr 1fr}
.heat{font-size:6pt}
.heat tbody td{min-width:0;width:5mm;height:5mm;padding:0}.scroll{overflow:visible}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}h2,h3{break-after:avoid}}
"""
)


def clean_text(text: str) -> str:
    """Returns `text` with what no UTF-8 page can hold made visible.

    A file name may hold bytes that are no UTF-8, which Python keeps as lone surrogates (written
    here as `\\udcff`), and control characters (here the replacement character).
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join("\ufffd" if unicodedata.category(c) == "Cc" else c for c in text)


def plain_text(text: str) -> str:
    """Returns `text` cleaned and escaped, for an attribute, a heading or an SVG text."""
    return escape(clean_text(text))


def name_html(text: str, length: int = NAME_LENGTH) -> str:
    """Returns `text` as safe HTML, a long one shortened in its middle.

    Args:
        text: any text; class and file names are other people's, with `<script>` and quotes.
        length: the most letters shown. Both ends stay, since a file name's ending tells its kind.

    Returns:
        A `<bdi>` element (letters that run right to left leave their surroundings alone); where
        the text was shortened, its `title` attribute has all of it.
    """
    text = clean_text(text)
    if len(text) <= length:
        return f"<bdi>{escape(text)}</bdi>"
    tail = length // 3
    short = f"{text[: length - tail - 1]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"
    return f'<bdi title="{escape(text)}">{escape(short)}</bdi>'


def spread(total: int, count: int) -> list[int]:
    """Returns at most `count` of the positions 0..total - 1, from the first to the last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def page_html(title: str, links: Sequence[tuple[str, str]], sections: Sequence[str]) -> str:
    """Returns a whole page.

    Args:
        title: any text.
        links: (anchor, word) of the sections that the head of the page links to.
        sections: what `section_html` returned.
    """
    title = plain_text(title)
    navigation = "".join(f'<a href="#{anchor}">{word}</a> ' for anchor, word in links)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\';'
        " img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n"
        f'<body><header><h1>{title}</h1><nav aria-label="Sections">{navigation}</nav></header>\n'
        f"<main>{''.join(sections)}</main></body></html>\n"
    )


def section_html(anchor: str, heading: str, body: str) -> str:
    """Returns a section; `heading` and `body` are HTML."""
    return (
        f'<section id="{anchor}" aria-labelledby="{anchor}-heading">'
        f'<h2 id="{anchor}-heading">{heading}</h2>{body}</section>'
    )


def summary_table(rows: Sequence[tuple[str, str]]) -> str:
    """Returns a table of (label, value) texts."""
    cells = "".join(
        f'<tr><th scope="row">{plain_text(label)}</th><td>{name_html(value, 200)}</td></tr>'
        for label, value in rows
    )
    return f"<table><tbody>{cells}</tbody></table>"


def scroll_frame(label: str, table: str) -> str:
    """Returns `table` in a frame that scrolls alone where the page is too narrow for it."""
    return f'<div class="scroll" role="region" aria-label="{label}" tabindex="0">{table}</div>'


def data_table(caption: str, text_columns: int, headers: Sequence[str], rows: Sequence[str]) -> str:
    """Returns a framed table whose first `text_columns` columns are words, the others numbers."""
    heads = "".join(
        f'<th scope="col"{"" if i < text_columns else " class=number"}>{header}</th>'
        for i, header in enumerate(headers)
    )
    return scroll_frame(
        caption,
        f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>",
    )


def picture_html(image: npt.NDArray[np.uint8], alt: str, *, reduce: bool = True) -> str:
    """Returns a picture as an `<img>` element.

    Args:
        image: uint8 (H, W, 3).
        alt: what it shows, any text.
        reduce: bring a picture larger than `MAX_EDGE` down to it, and be exact (PNG); otherwise it
            keeps its size, and is exact where it is small (a larger one is a JPEG).

    Raises:
        ValueError: the image has another dtype or shape.
    """
    # Imported here: a report without pictures, and the import of this module, need no TensorFlow.
    import tensorflow as tf

    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or not image.size:
        raise ValueError(
            "A picture must be uint8 of the shape (H, W, 3), not empty; of floats"
            f" 0..255 take .astype('uint8'). Received: {image.dtype} of the shape {image.shape}."
        )
    height, width = image.shape[:2]
    longer = max(height, width)
    if longer > MAX_EDGE and reduce:
        height, width = (max(1, round(edge * MAX_EDGE / longer)) for edge in (height, width))
        reduced = tf.image.resize(image, (height, width), method="area")
        image = tf.cast(tf.round(reduced), tf.uint8)
    if longer >= SMALL_EDGE and not reduce:
        kind, data = "jpeg", tf.io.encode_jpeg(image, quality=JPEG_QUALITY)
    else:
        kind, data = "png", tf.io.encode_png(image)
    text = base64.b64encode(data.numpy()).decode("ascii")
    small = ' class="small"' if longer < SMALL_EDGE else ""
    return (
        f'<img{small} src="data:image/{kind};base64,{text}" width="{width}" height="{height}"'
        f' alt="{plain_text(alt)}">'
    )
