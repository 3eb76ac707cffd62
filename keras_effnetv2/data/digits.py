"""The 1,797 handwritten digits in scikit-learn, as a `Catalog`: data without a download.

Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
Repository (1998); scikit-learn holds its test part, 8 x 8 pixels of 0..16. The file is read from
there, because the import of scikit-learn takes a second.
"""

import numpy as np

from keras_effnetv2._common.files import installed_file
from keras_effnetv2.data.catalog import ALL, Catalog, LabelledPictures, MemoryStore

_BRIGHTEST = 16  # each counts the set pixels in 4 x 4 cells


def open_digits() -> Catalog:
    """Return the catalog of the digits "0" to "9", with the single part "all"."""
    # A mirrored digit is another sign, or none.
    return Catalog({ALL: tuple("0123456789")}, _read, horizontal_flip=False)


def _read(part: str) -> LabelledPictures:
    import tensorflow as tf

    path = installed_file("sklearn/datasets/data/digits.csv.gz")
    assert path is not None
    table = np.loadtxt(path, delimiter=",")
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1].astype(np.int64)
    pixels = np.round(images * (255 / _BRIGHTEST)).astype(np.uint8)
    names = tuple(f"digits/{index:04d}" for index in range(len(pixels)))
    files = (tf.io.encode_png(picture[..., np.newaxis]).numpy() for picture in pixels)
    return LabelledPictures.of(labels, MemoryStore.of(files, names))
