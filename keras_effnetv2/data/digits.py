"""The 1,797 handwritten digits in scikit-learn, as a `Catalog`: data without a download.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository (1998); `sklearn.datasets.load_digits` holds its test part, 8 x 8 pixels of 0..16.
"""

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.catalog import ALL, Catalog, LabelledPictures, MemoryStore

_BRIGHTEST = 16  # load_digits counts the set pixels in 4 x 4 cells


def open_digits() -> Catalog:
    """Return the catalog of the digits "0" to "9", with the single part "all"."""
    # A mirrored digit is another sign, or none.
    return Catalog({ALL: tuple("0123456789")}, _read, horizontal_flip=False)


def _read(part: str) -> LabelledPictures:
    from sklearn.datasets import load_digits  # takes a second that no other source should pay

    digits = load_digits()
    pixels = np.round(digits.images * (255 / _BRIGHTEST)).astype(np.uint8)
    names = tuple(f"digits/{index:04d}" for index in range(len(pixels)))
    files = (tf.io.encode_png(picture[..., np.newaxis]).numpy() for picture in pixels)
    return LabelledPictures.of(digits.target, MemoryStore.of(files, names))
