"""The look of this package's pages: templates, and how to insert names, tables and pictures.

The pages are the training report, the preview and the report of a search. Each is a single file
without scripts, network or other files. Its content security policy allows the browser only the
style sheet in the page and pictures in `data:` addresses.

Class and file names are foreign text: Jinja2 escapes all text, `printable` cleans it.
"""

import base64
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from keras_effnetv2._common.text import printable

MAX_EDGE = 128  # pixels of a picture's longer edge; a larger one is reduced
JPEG_QUALITY = 90  # no artefact is seen, and a photograph takes a quarter of the bytes of a PNG
SMALL_EDGE = 96  # pixels; a picture below this is enlarged without smoothing

_TEMPLATES = Path(__file__).with_name("templates")
STYLE = (_TEMPLATES / "style.css").read_text("utf-8")


class Table(NamedTuple):
    """A table of a page."""

    caption: str
    header: Sequence[str]
    words: int  # how many columns, from the left, are no numbers
    # Their cells. A float is a share of 0..1, shown with a bar; None is a share of nothing; a list
    # of (line, is bold) has several lines.
    rows: Sequence[Sequence[Any]]
    length: int = 40  # the largest number of letters shown in a cell


def render(template: str, **content: Any) -> str:
    """Return a page.

    Args:
        template: a file of `report/templates`.
        content: what it shows, including `title`, the headline, and `links`, the (anchor, word)
            of the sections for the links at the top, if the template does not have them.
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
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def plain_text(text: str) -> str:
    """Return `text` cleaned and escaped, for HTML outside of templates."""
    return escape(printable(text))


def shortened(text: object, length: int = 40) -> Markup:
    """Return `text` as HTML, with the middle of a long one left out.

    Args:
        text: any text; class and file names may have `<script>` and quotes.
        length: the largest number of letters. Both ends stay, since a file name's ending matters.

    Returns:
        A `<bdi>` element (right-to-left letters do not affect the text around it). If the text was
        shortened, its `title` attribute has all of it.
    """
    text = printable(str(text))
    if len(text) <= length:
        return Markup("<bdi>{}</bdi>").format(text)
    tail = length // 3
    short = f"{text[: length - tail - 1]}\N{HORIZONTAL ELLIPSIS}{text[-tail:]}"
    return Markup('<bdi title="{}">{}</bdi>').format(text, short)


def spread(total: int, count: int) -> list[int]:
    """Return at most `count` evenly spread positions of 0..total - 1, with first and last."""
    return np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()


def embedded(
    image: npt.NDArray[np.uint8], alt: str, *, reduce: bool = True, max_edge: int = MAX_EDGE
) -> Markup:
    """Return a picture as an `<img>` element that holds it.

    Args:
        image: uint8 (H, W, 3).
        alt: a description, any text.
        reduce: True to shrink a picture to `max_edge` and store it exactly (PNG). False keeps its
            size and stores it exactly if it is small (a larger one is a JPEG).
        max_edge: the longer edge of a reduced picture, pixels.
    """
    # Imported here: a page without pictures, and the import of this module, need no TensorFlow.
    import tensorflow as tf

    height, width = image.shape[:2]
    longer = max(height, width)
    if longer > max_edge and reduce:
        height, width = (max(1, round(edge * max_edge / longer)) for edge in (height, width))
        reduced = tf.image.resize(image, (height, width), method="area")
        image = tf.cast(tf.round(reduced), tf.uint8)
    if longer >= SMALL_EDGE and not reduce:
        kind, data = "jpeg", tf.io.encode_jpeg(image, quality=JPEG_QUALITY)
    else:
        kind, data = "png", tf.io.encode_png(image)
    address = f"data:image/{kind};base64,{base64.b64encode(data.numpy()).decode('ascii')}"
    look = "small" if longer < SMALL_EDGE else "large"
    element = Markup('<img class="{}" src="{}" width="{}" height="{}" alt="{}">')
    return element.format(look, address, width, height, printable(alt))
