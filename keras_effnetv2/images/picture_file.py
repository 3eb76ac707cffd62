"""Check picture files before they are read. This module does not import TensorFlow."""

import os

from keras_effnetv2._common.files import file_trouble

MAX_PICTURE_BYTES = 2**28
"""The most bytes of a picture file; reading takes up to twice as much memory, on every core.

JPEG and PNG files of 100 million pixels, the most that are decoded, are smaller.
"""


def picture_file_trouble(path: str | bytes | os.PathLike[str]) -> str:
    """Return why a path is not a picture file to read, or ""; its content is not read."""
    trouble = file_trouble(path)
    if not trouble and (size := os.path.getsize(path)) > MAX_PICTURE_BYTES:
        return f"{size:,} bytes are too many for a picture: at most {MAX_PICTURE_BYTES:,} are read"
    return trouble
