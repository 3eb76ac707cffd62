"""Weight files: load them strictly, check them, and write them in Keras' own layout."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.files import reserve, written_whole
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.load import LoadReport, assign_weights
from keras_effnetv2.pretrained.open_weights import FileHash, Weights, hash_file, open_weights

_ENDINGS = (".weights.h5", ".keras")
_BYTES_BESIDE = 4096  # of an array in an HDF5 file, at most: its name, shape and alignment


def load(weights: Weights, *, include_top: bool = True) -> tuple[keras.Model, LoadReport]:
    """Build the network of weights, which takes pixels 0..255, and load them strictly.

    Raises:
        ValueError: the variant is not known, or the weights do not fit it, see `load_weights`.
    """
    if weights.config is None:
        raise ValueError(
            f"{weights.path} does not say which network it is for. Give the "
            "variant (--variant, variant=)."
        )
    classes = weights.classes if include_top else None
    model = build_model(
        weights.config,
        include_top=classes is not None,
        classes=classes,
        classifier_activation=weights.activation,
    )
    return model, assign_weights(model, weights)


def moving_variances(model: keras.Model) -> tuple[float, float]:
    """Return the smallest and largest moving variance of a model's batch normalisations.

    Raises:
        ValueError: one is negative, which training never causes.
    """
    values = {
        layer.name: keras.ops.convert_to_numpy(layer.moving_variance)
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    negative = [name for name, variances in values.items() if variances.min() < 0]
    if negative:
        raise ValueError(
            f"Moving variances must not be negative. They are in {len(negative)} layer(s): "
            f"{', '.join(negative[:5])}. The file is damaged or was converted wrongly."
        )
    every = np.concatenate(list(values.values()))
    return float(every.min()), float(every.max())


def convert(
    model: keras.Model, output: str | os.PathLike[str], *, overwrite: bool = False
) -> FileHash:
    """Write a network from `load` to a file, whole or not at all, and read it back.

    A `.weights.h5` holds the weights alone, a `.keras` the network with its preprocessing, which
    loads without this package.

    Raises:
        ValueError: a weight that was read back is not equal bit by bit.
        OSError: the output cannot be written. See also `check_weight_output`.
    """
    output = check_weight_output(output, overwrite=overwrite)
    try:
        with written_whole(output) as scratch:
            if output.suffix == ".keras":
                model.save(scratch)
                read = keras.models.load_model(scratch, compile=False)
            else:
                reserve(scratch, hdf5_bytes(model.variables))
                model.save_weights(scratch)
                read = keras.models.clone_model(model)
                assign_weights(read, open_weights(scratch, source="keras"))
            _check_equal(model, read)
    except OSError as error:
        raise OSError(f"{output} cannot be written: {error.strerror or error}") from error
    return hash_file(output)


def hdf5_bytes(arrays: Sequence[Any]) -> int:
    """Return the size of a file of HDF5 with these variables, or a little more."""
    values = sum(math.prod(one.shape) * np.dtype(one.dtype).itemsize for one in arrays)
    return values + _BYTES_BESIDE * len(arrays)


def check_weight_output(output: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Return the path of an output file if it may be written; see `convert`."""
    output = Path(output)
    if not output.name.endswith(_ENDINGS) or output.name in _ENDINGS:
        raise ValueError(
            "The output must end in .weights.h5 (weights alone) or .keras (the whole network). "
            f"Received: {str(output)!r}"
        )
    if output.is_dir() or (output.exists() and not overwrite):
        raise FileExistsError(
            f"{output} exists. Choose another name, or replace it (--overwrite, overwrite=True)."
        )
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent}. Make it first.")
    return output


def _check_equal(model: keras.Model, read: keras.Model) -> None:
    different = [
        ours.path
        for ours, theirs in zip(model.weights, read.weights, strict=True)
        if not np.array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    ]
    if different:
        raise ValueError(
            f"{len(different)} weight(s) read back from the written file differ; the first is "
            f"{different[0]}. The file was not kept. Check the disk."
        )
