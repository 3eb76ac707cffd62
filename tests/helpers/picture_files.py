"""Small picture files, and folders of them."""

import numpy as np
import tensorflow as tf


def png(value, side=3):
    """The bytes of a square of one gray level."""
    return tf.io.encode_png(np.full((side, side, 3), value, np.uint8)).numpy()


def write_files(root, files):
    """Write {path below root: bytes}; return the root."""
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root
