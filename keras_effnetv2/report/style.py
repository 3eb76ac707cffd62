"""How a page of this package looks: its templates, and how names, tables and pictures enter them.

The pages are the training report, the preview and the report of a search. Each is one file that
needs nothing else: no script, no network, no other file. Their content security policy forbids the
browser everything but the style sheet in the page and pictures in `data:` addresses.

Class and file names are other people's text: Jinja2 escapes all text, `clean_text` cleans it.
"""

import base64
import os
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

MAX_EDGE = 128  # pixels of a picture's longer edge; a larger one is reduced
JPEG_QUALITY = 90  # no artefact is seen, and a photograph takes a quarter of the bytes of a PNG
SMALL_EDGE = 96  # pixels; a picture below this is enlarged without smoothing

_TEMPLATES = Path(__file__).with_name("templates")
STYLE = (_TEMPLATES / "style.css").read_text("utf-8")


class Table(NamedTuple):
    """A table of a page.

    Attributes:
        caption: what it shows.
        header: one word or more for each column.
        words: how many columns, from the left, are words; the others are numbers.
        rows: their cells. A float is a share of 0..1, shown with a bar, None one of nothing;
            a list of (line, is bold) has several lines.
        length: the most letters of a cell that are shown.
    """

    caption: str
    header: Sequence[str]
    words: int
    rows: Sequence[Sequence[Any]]
    length: int = 40


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: a file of `report/templates`.
        content: what it shows, with `title`, the headline, and, where the template does not say
            them, `links`, the (anchor, word) of the sections that the head of the page links to.
    """
    return _environment().get_template(template).render(style=Markup(STYLE), **content)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=_cleaned,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"name": shortened, "picture": embedded, "basename": os.path.basename}
    return environment


def _cleaned(value: Any) -> Any:
    return clean_text(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def clean_text(text: str) -> str:
    """Return `text` with what no UTF-8 page can hold made visible.

    A file name may hold bytes that are no UTF-8, which Python keeps as lone surrogates (written
    here as `\\udcff`), and control characters (here the replacement character).
    """
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", text)


def plain_text(text: str) -> str:
    """Return `text` cleaned and escaped, for HTML that no template makes."""
    return escape(clean_text(text))


def shortened(text: object, length: int = 40) -> Markup:
    """Return `text` as HTML, a long one shortened in its middle.

    Args:
        text: any text; class and file names are other people's, with `<script>` and quotes.
        length: the most letters shown. Both ends stay, since a file name's ending tells its kind.

    Returns:
        A `<bdi>` element (letters that run right to left leave their surroundings alone); where
        the text was shortened, its `title` attribute has all of it.
    """
    text = clean_text(str(text))
    if len(text) <= length:
        return Markup("<bdi>{}</bdi>").format(text)
    tail = length // 3
    short = f"{text[: length - tail - 1]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"
    return Markup('<bdi title="{}">{}</bdi>').format(text, short)


def spread(total: int, count: int) -> list[int]:
    """Return at most `count` of the positions 0..total - 1, from the first to the last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def embedded(image: npt.NDArray[np.uint8], alt: str, *, reduce: bool = True) -> Markup:
    """Return a picture as an `<img>` element that holds it.

    Args:
        image: uint8 (H, W, 3).
        alt: what it shows, any text.
        reduce: bring a picture larger than `MAX_EDGE` down to it, and be exact (PNG); otherwise it
            keeps its size, and is exact where it is small (a larger one is a JPEG).
    """
    # Imported here: a page without pictures, and the import of this module, need no TensorFlow.
    import tensorflow as tf

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
    address = f"data:image/{kind};base64,{base64.b64encode(data.numpy()).decode('ascii')}"
    look = "small" if longer < SMALL_EDGE else "large"
    element = Markup('<img class="{}" src="{}" width="{}" height="{}" alt="{}">')
    return element.format(look, address, width, height, clean_text(alt))
