"""The pages of the server: one to try a model, one with the paths. They load no other files."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, Template

from keras_effnetv2.report.style import STYLE

_STATIC = files("keras_effnetv2.serve") / "static"
_SCRIPT = (_STATIC / "page.js").read_text("utf-8")
_SCRIPT_HASH = base64.b64encode(hashlib.sha256(_SCRIPT.encode("utf-8")).digest()).decode("ascii")

PAGE_HEADERS = {
    # The script of this page, this server's answers and pictures in the page: nothing else.
    "Content-Security-Policy": (
        f"default-src 'none'; script-src 'sha256-{_SCRIPT_HASH}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""The headers of the pages."""


def page(name: str, version: int, *, has_grad_cam: bool) -> str:
    """Return the page of a model as HTML; `has_grad_cam` if the server answers `/grad_cam`."""
    return _template("page.html").render(
        title=f"{name}, version {version}",
        settings={"name": name, "grad_cam": has_grad_cam},
        style=STYLE + (_STATIC / "page.css").read_text("utf-8"),
        script=_SCRIPT,
    )


def paths_page(document: Mapping[str, Any], address: str) -> str:
    """Return the page that lists the paths of `openapi`, with examples for an address, as HTML."""
    style = STYLE + (_STATIC / "paths.css").read_text("utf-8")
    return _template("paths.html").render(document=document, address=address, style=style)


@cache
def _template(name: str) -> Template:
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string((_STATIC / name).read_text("utf-8"))
