"""A data set of TensorFlow Datasets as a `Catalog`.

A split of up to 8 GiB is kept encoded in memory; the files of a larger one are read in sequence.
"""

import os
from typing import Any

from keras_effnetv2._common.text import first_line, install_hint
from keras_effnetv2.data.catalog import SPLITS, Catalog, LabelledPictures, MemoryStore
from keras_effnetv2.data.names import SPLIT_ALIASES
from keras_effnetv2.data.tfrecord import Keys, open_records

MAX_ENCODED_BYTES = 8 * 1024**3  # of one split; held in memory as long as the source lives


def open_tfds(name: str) -> Catalog:
    """Open a data set by its name ("cifar10", "dataset/config", "dataset:1.0.0"), or download it.

    The data are in the folder of the environment variable TFDS_DATA_DIR, by default
    ~/tensorflow_datasets. A label is the number that TensorFlow Datasets gives it.
    """
    builder = _prepared_builder(name)
    image_key, label_key = _feature_keys(name, builder.info.features)
    names = tuple(builder.info.features[label_key].names)
    splits = {SPLIT_ALIASES[own]: own for own in builder.info.splits if own in SPLIT_ALIASES}
    if not splits:
        raise ValueError(
            f"'tfds:{name}' has none of the splits {', '.join(SPLITS[:-1])}. "
            f"It has: {', '.join(builder.info.splits)}."
        )

    def read(part: str) -> LabelledPictures:
        return _read(name, builder, splits[part], image_key, label_key)

    return Catalog(dict.fromkeys(splits, names), read)


def _prepared_builder(name: str) -> Any:
    try:
        import tensorflow_datasets as tfds  # an optional dependency, and slow to import
    except ImportError as error:
        raise ImportError(
            f"'tfds:{name}' needs the package tensorflow-datasets. {install_hint('datasets')}"
        ) from error
    folder = os.path.expanduser(os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR)
    try:
        builder = tfds.builder(name, data_dir=folder)
    except (ValueError, AssertionError) as error:  # unknown name or config; unknown version
        raise ValueError(
            f"TensorFlow Datasets cannot open {name!r}: {first_line(error)} (looked in "
            f"{folder!r}). The names are listed at "
            "https://www.tensorflow.org/datasets/catalog/overview."
        ) from error
    if builder.is_prepared():
        return builder
    try:
        builder.download_and_prepare()
    except Exception as error:  # the data set's own script ran: it may fail in any way
        raise FileNotFoundError(
            f"'tfds:{name}' is not prepared in {folder!r}, and preparing it failed "
            f"({type(error).__name__}: {first_line(error)}). Without a network, prepare it on "
            f"another machine with `tfds build {name}` and copy the folder, or set TFDS_DATA_DIR "
            "to the folder that has it."
        ) from error
    return builder


def _feature_keys(name: str, features: Any) -> tuple[str, str]:
    import tensorflow_datasets as tfds

    keys = []
    for kind in (tfds.features.Image, tfds.features.ClassLabel):
        found = [key for key in features if isinstance(features[key], kind)]
        if len(found) != 1:
            described = ", ".join(f"{key} ({type(features[key]).__name__})" for key in features)
            raise ValueError(
                f"'tfds:{name}' is not a set of labelled pictures: expected one feature "
                f"{kind.__name__}, found {len(found)}. Its features: {described}."
            )
        keys.append(found[0])
    return keys[0], keys[1]


def _read(name: str, builder: Any, split: str, image_key: str, label_key: str) -> LabelledPictures:
    import tensorflow_datasets as tfds

    info = builder.info.splits[split]
    if not info.num_examples:
        raise ValueError(f"'tfds:{name}' split {split!r} is empty. Use another split.")
    if info.num_bytes > MAX_ENCODED_BYTES:
        if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
            raise ValueError(
                f"'tfds:{name}' split {split!r} holds {info.num_bytes / 1024**3:.1f} GiB encoded; "
                f"more than {MAX_ENCODED_BYTES / 1024**3:.0f} GiB can only be read from TFRecord "
                f"files. Received: {builder.info.file_format.name}. Prepare it with "
                f"`tfds build {name} --file_format=tfrecord`."
            )
        files = {split: tuple(map(os.fspath, info.filepaths))}
        names = builder.info.features[label_key].names
        return open_records(files, f"tfds:{name}", Keys(image_key, label_key), names).read(split)
    dataset = builder.as_dataset(
        split=split,
        decoders={image_key: tfds.decode.SkipDecoding()},
        shuffle_files=False,
        # One file after the other, so that the order does not depend on how many there are.
        read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
    ).map(lambda example: (example[image_key], example[label_key]))
    # One batch of everything: the bytes go into the tensor without a second copy in Python.
    store, labels = dataset.batch(info.num_examples).get_single_element()
    if labels.numpy().min() < 0:  # TFDS writes -1 where the publisher holds the labels back
        raise ValueError(
            f"'tfds:{name}' split {split!r} has pictures without a label. Use another split."
        )
    names = tuple(f"{name}/{split}/{index:06d}" for index in range(len(labels)))
    return LabelledPictures.of(labels.numpy(), MemoryStore(store, names))
