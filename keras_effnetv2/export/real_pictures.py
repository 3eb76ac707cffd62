"""Pictures that exports are calibrated and judged with: a source, arrays, or two photographs."""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any

import numpy as np

from keras_effnetv2._common.files import installed_file
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.unreadable import check_readable
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.evaluation_crop import resize_for_evaluation
from keras_effnetv2.images.styles import Style

PicturesLike = ImageSource | Iterable[Any]
"""A source, or pictures (H, W, 3) or batches of them, 0..255, with or without labels."""

_PHOTOGRAPHS = ("china.jpg", "flower.jpg")  # 640 x 427 pixels each
_WINDOW = 213  # pixels: two rows and three columns of windows in a photograph
_BATCH = 32
_ROUNDING = 1  # grey level beyond 0..255 that resizing may leave


def photographs(image_size: int) -> np.ndarray:
    """Return parts of two photographs, a temple and a flower, which come with scikit-learn.

    Args:
        image_size: S, pixels.

    Returns:
        float32 (24, S, S, 3), 0..255: six parts of each photograph, and the same mirrored and
            darkened.
    """
    windows = []
    for name in _PHOTOGRAPHS:
        path = installed_file(f"sklearn/datasets/images/{name}")
        assert path is not None
        photograph = decode_image(path.read_bytes())
        for top in (0, _WINDOW):
            for left in (0, _WINDOW, 2 * _WINDOW):
                window = photograph[top : top + _WINDOW, left : left + _WINDOW]
                windows.append(resize_for_evaluation(window, image_size).numpy())
    plain = np.stack(windows)
    return np.concatenate([plain, plain[:, :, ::-1] / 2])


def picture_array(
    pictures: PicturesLike, image_size: int, style: Style, max_pictures: int
) -> np.ndarray:
    """Return pictures in one array, float32 (N, S, S, 3), 0..255.

    Args:
        pictures: see `PicturesLike`. From a source with more than `max_pictures` a random part
            is taken (always the same), from anything else the first ones.
        image_size: S, pixels.
        style: how pictures become squares, see `evaluation_crop.resize_for_evaluation`.
        max_pictures: the most pictures to return.

    Raises:
        BadPicturesError: pictures of a source cannot be read.
        ValueError: there is no picture, one is not (H, W, 3) with values 0..255, or all values are
            below 1.
    """
    if isinstance(pictures, ImageSource):
        if pictures.num_examples > max_pictures:
            # Not one of each class: there may be more classes than pictures asked for.
            random = np.random.default_rng(0)
            chosen = random.choice(pictures.num_examples, max_pictures, replace=False)
            pictures = pictures.subset(np.sort(chosen))
        check_readable(pictures)
        batches = make_dataset(
            pictures, image_size=image_size, batch_size=_BATCH, training=False, style=style
        )
        return np.concatenate([images for images, _ in batches.as_numpy_iterator()])
    single = islice(chain.from_iterable(map(_as_batch, pictures)), max_pictures)
    resized = [resize_for_evaluation(picture, image_size, style).numpy() for picture in single]
    if not resized:
        raise ValueError("At least one picture is needed. Received: none")
    images = np.stack(resized)
    if images.max() <= 1:
        raise ValueError(
            "Pictures must have values 0..255: multiply those of 0..1 by 255. "
            f"Received: {images.min():.3g}..{images.max():.3g} in {len(images)} pictures"
        )
    return images


def _as_batch(element: Any) -> np.ndarray:
    """Return one element of an iterable as pictures (N, H, W, 3)."""
    images = np.asarray(element[0] if isinstance(element, tuple) else element)
    batch = images[np.newaxis] if images.ndim == 3 else images
    if batch.ndim != 4 or batch.shape[-1] != 3 or not np.issubdtype(batch.dtype, np.number):
        raise ValueError(
            "Pictures must be an ImageSource (see load_source), or arrays (H, W, 3) or "
            f"(N, H, W, 3). Received: {type(element).__name__} {images.dtype} {images.shape}"
        )
    # NaN is refused, too.
    if not (batch.min(initial=0) >= -_ROUNDING and batch.max(initial=0) <= 255 + _ROUNDING):
        raise ValueError(
            "Pictures must have values 0..255. Clip them after a bicubic resize. "
            f"Received: {batch.min():.6g}..{batch.max():.6g}"
        )
    return batch.astype(np.float32)
