"""Pictures to network inputs: crop and resize, one picture or a batch of files.

One code path for training, evaluation, a scan of a folder and serving. Made of TensorFlow ops
alone; the files themselves are read in `headers.py` and `decode.py`. Nothing here normalises:
pictures stay in 0..255, and the model holds its own normalisation.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer
from keras_effnetv2.images.decode import WHITE, Colour, decode_image
from keras_effnetv2.images.headers import JPEG, MAX_PIXELS, check_image, format_name, is_jpeg
from keras_effnetv2.images.orientation import AS_STORED, orientation, stored_window, turned
from keras_effnetv2.images.styles import EVALUATION_STYLES, Style
from keras_effnetv2.pretrained.registry import CROP_MODES, CentralCrop

_KERNELS = {"bilinear": "triangle", "bicubic": "keyscubic"}  # Pillow's name -> TensorFlow's
# Official `preprocessing.py`: the central crop is size / (size + 32) of the shorter side, and
# from 320 pixels on nothing is cropped.
_CROP_PADDING = 32
_V2_WHOLE_FROM = 320


def resize_for_evaluation(image: Any, image_size: int, style: Style = "whole") -> Any:
    """Make a picture square, always in the same way.

    The styles "v2", "v1" and "finetune" are those of the official code (google/automl,
    `preprocessing.py` and `preprocess_legacy.py`):

    - "whole": the whole picture, bilinear with antialias. The default for your own pictures:
      nothing at the edge is lost, and a large picture does not alias.
    - "v2": below 320 pixels the central square of size / (size + 32) of the shorter side, from 320
      on the whole picture; bilinear without antialias. For ImageNet weights of S, M, L and XL, and
      every ImageNet-21k set.
    - "v1": the same square at every size, rounded to the other side, and TensorFlow 1's bicubic
      resize, whose result may leave 0..255. For ImageNet weights of V2 B0-B3 and all of V1.
    - "finetune": the whole picture, bilinear without antialias, at every size. It is also the
      default of `keras.utils.image_dataset_from_directory`.
    - a `CentralCrop`: as PyTorch Image Models evaluates (timm 1.0.31, `transforms_imagenet_eval`).
      Pillow's bicubic or bilinear resize with antialias to floor(size / fraction): of the shorter
      side, in mode "squash" of both; then the central square. The result has whole grey levels,
      equal to Pillow's except for some in ten thousand (bilinear: in a hundred) that differ by one.

    Args:
        image: (height, width, 3), 0..255, uint8 or float32; the size need not be known beforehand.
        image_size: height and width of the result in pixels.
        style: one of `EVALUATION_STYLES`, or a `CentralCrop` of the same size.

    Returns:
        float32 (image_size, image_size, 3), 0..255 up to rounding ("v1" overshoots).

    Raises:
        ValueError: the style is unknown, the crop is not as described above, or the size is not a
            positive whole number.
    """
    _check_style(style, image_size)
    image = tf.ensure_shape(tf.convert_to_tensor(image), [None, None, 3])
    if isinstance(style, CentralCrop):
        return _resize_as_pillow(image, style)
    if _is_cropped(image_size, style):
        image = cut(image, central_window(tf.shape(image), image_size, round_up=style == "v1"))
    if style == "v1":
        return resize_bicubic(image, image_size)
    return resize_bilinear(image, image_size, antialias=style == "whole")


def decode_for_evaluation(
    data: Any,
    image_size: int,
    style: Style = "whole",
    *,
    exif: bool = True,
    background: Colour = WHITE,
) -> Any:
    """Decode a picture file and make it square, always in the same way.

    The same as `resize_for_evaluation(decode_image(data), ...)`, except that two styles also decode
    differently. The official "v1" crops a JPEG while decoding, so the colour of the last columns is
    not smoothed with that of their neighbours outside. PyTorch Image Models decodes with Pillow,
    whose inverse DCT is exact.

    Args:
        data: scalar string tensor, the bytes of a picture file, see `decode_image`.
        image_size: height and width of the result in pixels.
        style: as for `resize_for_evaluation`.
        exif: as for `decode_image`.
        background: as for `decode_image`.

    Returns:
        As `resize_for_evaluation`.

    Raises:
        ValueError: as `resize_for_evaluation` and `decode_image`.
        tf.errors.InvalidArgumentError: as `decode_image`, when it runs.
    """
    _check_style(style, image_size)
    accurate = isinstance(style, CentralCrop)
    image = decode_image(data, accurate, exif=exif, background=background)
    if style != "v1":
        return resize_for_evaluation(image, image_size, style)
    # Cutting decodes no further than it has to, and would not see that a file is truncated: so a
    # JPEG is decoded whole before.
    window = central_window(tf.shape(image), image_size, round_up=True)

    def decode_square() -> Any:
        turn = orientation(data, JPEG) if exif else AS_STORED
        stored = stored_window(window, tf.shape(image), turn)
        return turned(tf.image.decode_and_crop_jpeg(data, stored, channels=3), turn)

    square = tf.cond(is_jpeg(data), decode_square, lambda: cut(image, window))
    return resize_bicubic(square, image_size)


def prepare_batch(
    image_bytes: Any, image_size: int, style: Style = "whole", max_pixels: int = MAX_PIXELS
) -> tuple[Any, Any]:
    """Decode and resize a batch of picture files; a bad file does not affect the others.

    The content of a file never raises an error. Works in a graph without Python, keeps the order,
    and decodes in parallel.

    Args:
        image_bytes: string (N,), the bytes of one file each; N may be 0.
        image_size: height and width of the results in pixels.
        style: as for `resize_for_evaluation`.
        max_pixels: larger pictures (height x width) are refused before they are decoded.

    Returns:
        Images, float32 (N, image_size, image_size, 3), 0..255, zeros for a bad file; and errors,
        string (N,), empty where all is well, otherwise the reason in words.

    Raises:
        ValueError: the style is unknown, or a size or limit is not a positive whole number.
    """
    _check_style(style, image_size)
    check_integer("max_pixels", max_pixels, minimum=1)
    prepare = _batch_function(image_size, style, max_pixels)
    return prepare(tf.convert_to_tensor(image_bytes, tf.string))


@functools.cache  # tracing takes seconds
def _batch_function(image_size: int, style: Style, max_pixels: int) -> Any:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def prepare(image_bytes: Any) -> tuple[Any, Any]:
        blank = tf.zeros([image_size, image_size, 3])

        def prepare_one(index: Any) -> tuple[Any, Any, Any]:
            data = image_bytes[index]
            reason = check_image(data, max_pixels)
            image = tf.cond(
                tf.equal(reason, ""),
                lambda: decode_for_evaluation(data, image_size, style),
                lambda: blank,
            )
            return index, image, reason

        # An op that fails takes its graph with it; only a tf.data pipeline can drop the element
        # instead. What was dropped is then read from the indices that are missing. The last element
        # stands in for those, and keeps the batch from being empty.
        count = tf.size(image_bytes, out_type=tf.int64)
        prepared = tf.data.Dataset.range(count).map(
            prepare_one, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )
        stand_in = tf.data.Dataset.from_tensors((count, blank, tf.constant(b"")))
        rows = prepared.ignore_errors().concatenate(stand_in).batch(count + 1)
        indices, images, reasons = rows.get_single_element()

        missing = tf.size(indices) - 1
        row_of = tf.tensor_scatter_nd_update(
            tf.fill([count + 1], missing), indices[:, tf.newaxis], tf.range(missing + 1)
        )[:count]
        errors = tf.where(row_of == missing, _undecodable(image_bytes), tf.gather(reasons, row_of))
        return tf.gather(images, row_of), errors

    return prepare


def prepare_files(
    image_bytes: Sequence[bytes], image_size: int, style: Style = "whole", *, is_traced: bool
) -> tuple[np.ndarray, list[str]]:
    """Return what `prepare_batch` does, as NumPy and Python have it.

    Without `is_traced` the files are prepared one by one, which for up to four of them takes less
    time than tracing.
    """
    if is_traced:
        images, errors = prepare_batch(image_bytes, image_size, style)
        return images.numpy(), [error.decode() for error in errors.numpy()]
    pixels, reasons = np.zeros((len(image_bytes), image_size, image_size, 3), np.float32), []
    for image, data in zip(pixels, map(tf.constant, image_bytes), strict=True):
        try:
            reason = check_image(data)
            if not reason.numpy():
                image[:] = decode_for_evaluation(data, image_size, style)
        except tf.errors.InvalidArgumentError:
            reason = _undecodable(data)
        reasons.append(reason.numpy().decode())
    return pixels, reasons


def _undecodable(data: Any) -> Any:
    return tf.strings.join(["corrupt or truncated ", format_name(data)])


def _check_style(style: Style, image_size: int) -> None:
    check_integer("image_size", image_size, minimum=1)
    if not isinstance(style, CentralCrop):
        check_choice("style", style, EVALUATION_STYLES)
    elif (
        style.size != image_size
        or not 0 < style.fraction <= 1
        or style.mode not in CROP_MODES
        or style.interpolation not in _KERNELS
    ):
        raise ValueError(
            f"A CentralCrop must have the size that is asked for ({image_size}), a fraction in "
            f"(0, 1], one of the modes {', '.join(CROP_MODES)} and one of the interpolations "
            f"{', '.join(_KERNELS)}. Received: {style}"
        )


def central_window(extent: Any, image_size: int, round_up: bool) -> Any:
    """Return the square that the official evaluation crops: int32 (4,), top, left, height, width.

    `extent`, int32, has height and width first; `round_up` says how to split an odd margin.
    """
    height, width = tf.unstack(extent[:2])
    ratio = image_size / (image_size + _CROP_PADDING)
    side = tf.cast(ratio * tf.cast(tf.minimum(height, width), tf.float32), tf.int32)
    side = tf.maximum(side, 1)  # a picture one pixel high
    top, left = ((length - side + int(round_up)) // 2 for length in (height, width))
    return tf.stack([top, left, side, side])


def seen_window(
    height: int, width: int, image_size: int, style: Style
) -> tuple[int, int, int, int]:
    """Return which part `resize_for_evaluation` makes a square: top, left, height, width, pixels.

    `height` and `width` are those of the whole picture.
    """
    if _is_cropped(image_size, style):
        extent = tf.constant([height, width])
        window = central_window(extent, image_size, round_up=style == "v1")
        top, left, seen_height, seen_width = window.numpy().tolist()
        return top, left, seen_height, seen_width
    seen_height, seen_width = height, width
    if isinstance(style, CentralCrop):
        if style.mode == "center":
            seen_height = seen_width = min(height, width)
        share = style.size / math.floor(style.size / style.fraction)
        seen_height, seen_width = (
            max(1, round(share * side)) for side in (seen_height, seen_width)
        )
    return (height - seen_height) // 2, (width - seen_width) // 2, seen_height, seen_width


def _is_cropped(image_size: int, style: Style) -> bool:
    """Return whether a style crops to `central_window`."""
    return style == "v1" or (style == "v2" and image_size < _V2_WHOLE_FROM)


def nearest_crop(image_size: int, style: str) -> CentralCrop:
    """Return what comes nearest to a style of this package in PyTorch Image Models."""
    interpolation = "bicubic" if style == "v1" else "bilinear"
    if _is_cropped(image_size, style):
        fraction = image_size / (image_size + _CROP_PADDING)
        return CentralCrop(image_size, fraction, "center", interpolation)
    return CentralCrop(image_size, 1.0, "squash", interpolation)


def cut(image: Any, window: Any) -> Any:
    """Return the part of a picture in a window: top, left, height, width."""
    top, left, height, width = tf.unstack(window, num=4)
    return image[top : top + height, left : left + width]


def resize_bicubic(image: Any, image_size: int) -> Any:
    """Resize to a square as TensorFlow 1's `tf.image.resize_bicubic` does, float32."""
    # The current tf.image.resize has another bicubic kernel and other pixel centres.
    size = [image_size, image_size]
    resized = tf.raw_ops.ResizeBicubic(images=image[tf.newaxis], size=size)[0]
    return tf.ensure_shape(resized, [*size, 3])


def _resize_as_pillow(image: Any, crop: CentralCrop) -> Any:
    """Resize and cut a square as torchvision does with a Pillow picture."""
    target = math.floor(crop.size / crop.fraction)
    height, width = tf.unstack(tf.shape(image, out_type=tf.int64)[:2])
    if crop.mode == "squash":
        new_height = new_width = tf.constant(target, tf.int64)
    else:
        shorter = tf.minimum(height, width)
        new_height, new_width = target * height // shorter, target * width // shorter

    def resize(image: Any, *axes: int) -> Any:
        for axis in axes:
            image = _resize_one_way(image, axis, (new_height, new_width)[axis], crop)
        return image

    # The order shows, as grey levels are cut to 0..255 in between. Pillow since 13.0 (its pull
    # request 9549) begins with the height where that shrinks by far more, before it never did.
    height_first = (new_height < height) & (height - new_height > 2 * (width - new_width))
    resized = tf.cond(height_first, lambda: resize(image, 0, 1), lambda: resize(image, 1, 0))
    return tf.ensure_shape(resized, [crop.size, crop.size, 3])


def _resize_one_way(image: Any, axis: int, length: Any, crop: CentralCrop) -> Any:
    """Resize one side to `length` as Pillow does; only the middle pixels are computed."""
    margin = length - crop.size
    # Half the margin; torchvision rounds as Python does, from the middle to the even number.
    begin = margin // 2 + margin % 2 * (margin // 2 % 2)
    size = tf.unstack(tf.shape(image)[:2])
    scale, translation = [1.0, 1.0], [0.0, 0.0]
    scale[axis] = tf.cast(length / tf.cast(size[axis], tf.int64), tf.float32)
    translation[axis] = -tf.cast(begin, tf.float32)
    size[axis] = crop.size
    resized = tf.raw_ops.ScaleAndTranslate(
        images=image[tf.newaxis],
        size=size,
        scale=scale,
        translation=translation,
        kernel_type=_KERNELS[crop.interpolation],
        antialias=True,
    )[0]
    return tf.clip_by_value(tf.floor(resized + 0.5), 0.0, 255.0)


def resize_bilinear(image: Any, image_size: int, antialias: bool = False) -> Any:
    """Resize to a square as `tf.image.resize` does, float32."""
    resized = tf.image.resize(image, [image_size, image_size], antialias=antialias)
    # Without this, tf.image.resize hands a picture that has the size already back as uint8.
    return tf.cast(tf.ensure_shape(resized, [image_size, image_size, 3]), tf.float32)
