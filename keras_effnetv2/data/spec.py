"""The short text that names labelled pictures, for `load_source` and for --data."""

import os
import re

_KINDS = ("csv", "tfds", "tfrecord")
_EXPECTED = "a folder of class folders, 'csv:FILE', 'tfds:NAME', 'tfrecord:PATTERN' or 'digits'"


def kind_of(spec: str) -> tuple[str, str]:
    """Return the kind of a source, "digits", "csv", "tfds", "tfrecord" or "folder", and its place.

    Raises:
        ValueError: the kind is unknown, or there is no place after it.
    """
    if "\0" in spec:
        raise ValueError(f"The name of a source cannot have a NUL in it. Received: {spec!r}.")
    if spec == "digits":
        return spec, ""
    prefix, colon, rest = spec.partition(":")
    if colon and prefix in _KINDS:
        if not rest:
            raise ValueError(f"{spec!r} does not name any data. Expected {_EXPECTED}.")
        return prefix, os.path.expanduser(rest)
    # One letter is a Windows drive.
    if colon and re.fullmatch(r"\w{2,}", prefix) and not os.path.lexists(spec):
        raise ValueError(
            f"Unknown kind of source {prefix + ':'!r}. Expected {_EXPECTED}. Received: {spec!r}."
        )
    return "folder", os.path.expanduser(spec)
