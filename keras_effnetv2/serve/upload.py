"""Picture files in the body of a request: one as it is, or some in a form (`curl -F`)."""

import itertools
import re
from email import message_from_bytes
from email.message import Message

from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.rest_json import check_rows

_FORM = "The body must be a form with a picture file, as curl -F file=@cat.jpg sends it. It has "
_MAX_FIELDS = 100  # parts of a form without a file; each takes time


def is_upload(content_type: str) -> bool:
    """Return whether a value of the header Content-Type announces files."""
    header = _header(content_type)
    kinds = "application/octet-stream", "multipart/form-data"
    return header.get_content_maintype() == "image" or header.get_content_type() in kinds


def _header(content_type: str) -> Message:
    header = Message()
    header["Content-Type"] = content_type
    return header


def uploaded_files(content_type: str, body: bytes, max_files: int) -> list[bytes] | None:
    """Return the files that a client sent instead of JSON, or None for a body of another type.

    Args:
        content_type: value of the header Content-Type. `image/...` and `application/octet-stream`
            are one file, `multipart/form-data` is a form with at least one.
        body: the body of the request.
        max_files: most files of a form.

    Raises:
        RequestError: a form has no file or too many, or ends too early.
    """
    if not is_upload(content_type):
        return None
    header = _header(content_type)
    if header.get_content_type() != "multipart/form-data":
        return [body]
    boundary = re.escape((header.get_boundary() or "").encode("latin-1", "replace"))
    body = b"\r\n" + body
    found = re.finditer(rb"\r\n--" + boundary + rb"(--|[ \t]*\r\n)", body)
    marks = list(itertools.islice(found, max_files + _MAX_FIELDS))
    parts = [body[one.end() : other.start()] for one, other in itertools.pairwise(marks)]
    files = []
    for part in parts:
        head, _, file = part.partition(b"\r\n\r\n")
        about = message_from_bytes(head)
        if about.get_filename() is not None or about.get_content_maintype() == "image":
            files.append(file)
    check_rows(files, max_files)
    if not boundary or not marks or marks[-1][1] != b"--":
        raise RequestError(400, f"{_FORM}no end, too many fields, or no boundary")
    if not files:
        raise RequestError(400, f"{_FORM}no file")
    return files
