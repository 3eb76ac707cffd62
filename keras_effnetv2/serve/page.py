"""The page for trying a model: one HTML file that loads nothing from the network."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment

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
"""The headers of the page."""


def page(name: str, version: int, *, has_grad_cam: bool) -> str:
    """Return the page of a model as HTML; `has_grad_cam` if the server answers `/grad_cam`."""
    template = Environment(autoescape=True).from_string((_STATIC / "page.html").read_text("utf-8"))
    return template.render(
        title=f"{name}, version {version}",
        settings={"name": name, "grad_cam": has_grad_cam},
        style=STYLE + (_STATIC / "page.css").read_text("utf-8"),
        script=_SCRIPT,
    )
