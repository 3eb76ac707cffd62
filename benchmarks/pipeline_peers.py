"""The input pipelines that `pipeline.py` measures side by side.

Every one crops at random, resizes, mirrors and then augments in its own way; all decode the same
files, make batches and run their calls in parallel as `tf.data` thinks best. They prefetch two
batches, as ours does: left to `tf.data`, the buffers of pipelines that wait for their turn grow
until the memory is full.
"""

import functools
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import tensorflow as tf

import keras_effnetv2 as kev2
from keras_effnetv2.data.sources import ImageSource

CROP_AREA = (0.05, 1.0)  # official preprocessing.py, `preprocess_for_train`
RANDAUGMENT_LAYERS = 2  # official, and the paper's
MAGNITUDES = (15, 5, 25)
PREFETCHED = 2  # batches
KERAS_CV = "keras-cv"
CROP_ONLY = "crop only"


@dataclass(frozen=True)
class Pipeline:
    """One row of the table.

    Attributes:
        name: short, for the table and the command line.
        settings: what it does, in words.
        make: (source, image_size, batch_size) -> endless dataset of batches; the first tensor of a
            batch has a row for every picture.
    """

    name: str
    settings: str
    make: Callable[[ImageSource, int, int], tf.data.Dataset]


def standard_pipelines() -> list[Pipeline]:
    """The pipelines that are always compared; making them imports nothing."""
    return [
        Pipeline("decode", "the whole picture is decoded, nothing else", decode_alone),
        Pipeline(
            CROP_ONLY,
            "the whole picture is decoded; crop of 0.05 to 1 of its area, bilinear resize, flip",
            functools.partial(peer, augmentation=None),
        ),
        Pipeline(
            "ours, crop only",
            "`make_dataset` without RandAugment",
            functools.partial(ours, magnitude=None),
        ),
        *(
            Pipeline(
                f"ours, RandAugment({RANDAUGMENT_LAYERS}, {magnitude})",
                f"`make_dataset` with `randaugment_magnitude={magnitude}`",
                functools.partial(ours, magnitude=magnitude),
            )
            for magnitude in MAGNITUDES
        ),
        Pipeline(
            f"ours, RandAugment({RANDAUGMENT_LAYERS}, 15), full scale",
            "the same without decoding at a reduced scale (`reduced_decode=False`)",
            functools.partial(ours, magnitude=15, reduced_decode=False),
        ),
        Pipeline(
            KERAS_CV,
            "crop only, then `keras_cv.layers.RandAugment` on each picture: 2 of its 10 "
            "operations, magnitude 0.5 with deviation 0.15 (its default), rate 1",
            functools.partial(peer, augmentation=keras_cv_randaugment),
        ),
        Pipeline(
            "keras.layers",
            "crop only, then `keras.layers.RandAugment` on each picture: `num_ops=2`, factor 0.5 "
            "(its default)",
            functools.partial(peer, augmentation=keras_randaugment),
        ),
    ]


def imported_pipeline(text: str) -> Pipeline:
    """A pipeline of somebody else's.

    Args:
        text: NAME=MODULE:FUNCTION. The function is called with a list of file paths, the image size
            and the batch size, and returns a `tf.data.Dataset` of batches whose first tensor is
            the pictures, (B, image_size, image_size, 3).

    Raises:
        ValueError: the text is not of that form, or names nothing that can be called.
    """
    name, equals, target = text.partition("=")
    module_name, colon, function_name = target.partition(":")
    if not (name and equals and module_name and colon and function_name):
        raise ValueError(
            "A pipeline is given as NAME=MODULE:FUNCTION, for example "
            f"'official=my_pipelines:official_dataset'. Received: {text!r}."
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"Pipeline {name!r}: the module {module_name!r} cannot be imported: {error}. The "
            "current folder and PYTHONPATH are searched."
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(
            f"Pipeline {name!r}: the module {module_name!r} has no function {function_name!r}. "
            f"Received: {text!r}."
        )
    make = functools.partial(call_imported, name=name, function=function)
    return Pipeline(name, f"`{target}`", make)


def call_imported(
    source: ImageSource,
    image_size: int,
    batch_size: int,
    name: str,
    function: Callable[[list[str], int, int], tf.data.Dataset],
) -> tf.data.Dataset:
    """The dataset of an imported function, again and again.

    Raises:
        ValueError: it is no dataset, or none of batches of pictures.
    """
    dataset = function(file_paths(source), image_size, batch_size)
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            f"Pipeline {name!r} must return a tf.data.Dataset of batches. "
            f"Received: {type(dataset).__name__}."
        )
    pictures = tf.nest.flatten(dataset.element_spec)[0]
    if not pictures.shape.is_compatible_with([None, image_size, image_size, 3]):
        raise ValueError(
            f"Pipeline {name!r} must yield batches whose first tensor is the pictures, of shape "
            f"(B, {image_size}, {image_size}, 3). Received: {pictures}."
        )
    return dataset.repeat()


def file_paths(source: ImageSource) -> list[str]:
    """The paths of all pictures of a source that stores paths."""
    return [os.fsdecode(path) for path in source.file_paths() or ()]


def decode_alone(source: ImageSource, image_size: int, batch_size: int) -> tf.data.Dataset:
    """The top left pixel of every picture: the pictures themselves have as many sizes as files."""
    pictures = parallel(encoded(source), lambda data: decode(data)[0, 0])
    return pictures.batch(batch_size).prefetch(PREFETCHED)


def ours(
    source: ImageSource,
    image_size: int,
    batch_size: int,
    magnitude: float | None,
    reduced_decode: bool = True,
) -> tf.data.Dataset:
    """The package's training pipeline, with the official crop."""
    return kev2.make_dataset(
        source,
        image_size=image_size,
        batch_size=batch_size,
        training=True,
        randaugment_magnitude=magnitude,
        randaugment_layers=RANDAUGMENT_LAYERS,
        crop_style="v2",
        reduced_decode=reduced_decode,
        horizontal_flip=True,
    ).repeat()


def peer(
    source: ImageSource,
    image_size: int,
    batch_size: int,
    augmentation: Callable[[], Callable[[tf.Tensor], tf.Tensor]] | None,
) -> tf.data.Dataset:
    """Crop only, and what somebody else's augmentation makes of each picture."""
    dataset = parallel(encoded(source), lambda data: flip(crop(decode(data), image_size)))
    if augmentation is not None:
        dataset = parallel(dataset, augmentation())
    return dataset.batch(batch_size).prefetch(PREFETCHED)


def keras_cv_randaugment() -> Callable[[tf.Tensor], tf.Tensor]:
    import keras_cv  # optional

    return keras_cv.layers.RandAugment(
        value_range=(0, 255), augmentations_per_image=RANDAUGMENT_LAYERS, magnitude=0.5, rate=1.0
    )


def keras_randaugment() -> Callable[[tf.Tensor], tf.Tensor]:
    return keras.layers.RandAugment(value_range=(0, 255), num_ops=RANDAUGMENT_LAYERS, factor=0.5)


def encoded(source: ImageSource) -> tf.data.Dataset:
    """The bytes of the files, without end, in an order that does not matter for the speed."""
    paths = tf.data.Dataset.from_tensor_slices(file_paths(source)).repeat()
    return parallel(paths, tf.io.read_file)


def parallel(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)


def decode(data: tf.Tensor) -> tf.Tensor:
    """uint8 (height, width, 3) of a file, decoded as the official code does."""
    return tf.io.decode_image(data, channels=3, expand_animations=False)


def crop(image: tf.Tensor, image_size: int) -> tf.Tensor:
    """Random resized crop as in google/automl, preprocessing.py, `preprocess_for_train`.

    Args:
        image: uint8 (height, width, 3).
        image_size: side of the result in pixels.

    Returns:
        float32 (image_size, image_size, 3), 0..255, resized without antialias.
    """
    begin, extent, _ = tf.image.sample_distorted_bounding_box(
        tf.shape(image),
        tf.zeros([0, 0, 4]),
        area_range=CROP_AREA,
        min_object_covered=0,
        use_image_if_no_bounding_boxes=True,
    )
    cut = tf.ensure_shape(tf.slice(image, begin, extent), [None, None, 3])
    return tf.image.resize(cut, [image_size, image_size])


def flip(image: tf.Tensor) -> tf.Tensor:
    return tf.image.random_flip_left_right(image)


def images_in(batch: object) -> int:
    """Pictures in a batch: the rows of its first tensor."""
    return int(tf.nest.flatten(batch)[0].shape[0])


def without_what_cannot_be_imported(
    pipelines: Sequence[Pipeline],
) -> tuple[list[Pipeline], list[str]]:
    """Leaves keras-cv out where it cannot be imported; also returns what to say about it."""
    if all(pipeline.name != KERAS_CV for pipeline in pipelines):
        return list(pipelines), []
    try:
        keras_cv_randaugment()
    except Exception as error:  # beside another Keras its import fails in any manner of ways
        reason = f"{KERAS_CV} is left out: {type(error).__name__}: {error}"
        return [pipeline for pipeline in pipelines if pipeline.name != KERAS_CV], [reason]
    return list(pipelines), []
