"""The SavedModel that is served: found in its folder, loaded, described and called."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from keras_effnetv2.runs.run_folder import RECIPE, SAVED_MODEL

Columns = Mapping[str, npt.NDArray[Any]]
"""Named arrays with the same number of rows."""

_GRAPH_FILE = "saved_model.pb"


@dataclass(frozen=True)
class ServedModel:
    """A loaded SavedModel.

    Attributes:
        folder: of the version.
        version: its number.
        signatures: signature name -> function of tensors by name.
        definitions: signature name -> `SignatureDef`.
        loaded: what `tf.saved_model.load` returned; the functions need it alive.
    """

    folder: Path
    version: int
    signatures: Mapping[str, Any]
    definitions: Mapping[str, Any]
    loaded: Any

    @property
    def metadata(self) -> dict[str, Any]:
        """The definitions as TensorFlow Serving gives them in JSON."""
        return {name: _signature_json(self.definitions[name]) for name in sorted(self.definitions)}

    def inputs(self, signature: str) -> Mapping[str, Any]:
        """Return the `tf.TensorSpec` of every input of a signature, by name."""
        specs: Mapping[str, Any] = self.signatures[signature].structured_input_signature[1]
        return specs

    def run(self, signature: str, columns: Columns) -> Columns:
        """Call a signature.

        Args:
            signature: its name.
            columns: an array for each input.

        Returns:
            An array for each output.
        """
        specs = self.inputs(signature)
        tensors = {name: tf.constant(columns[name], spec.dtype) for name, spec in specs.items()}
        outputs = self.signatures[signature](**tensors)
        return {name: outputs[name].numpy() for name in sorted(outputs)}


def newest_version(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the newest version of an exported model.

    Args:
        path: a run folder, or the folder of the versions that `export_saved_model` wrote.

    Raises:
        ValueError: there is none.
    """
    root = Path(path)
    is_run = (root / RECIPE).is_file()
    versions = root / SAVED_MODEL if is_run else root
    found = [
        folder
        for folder in (versions.iterdir() if versions.is_dir() else ())
        if re.fullmatch("[0-9]+", folder.name) and (folder / _GRAPH_FILE).is_file()
    ]
    if found:
        return max(found, key=lambda folder: int(folder.name))
    if (root / _GRAPH_FILE).is_file():
        raise ValueError(f"{root} is one version of a model. Serve the folder of the versions.")
    if is_run:
        raise ValueError(
            f"The run in {root} has no exported model in {versions}. Write it with: "
            f"keras-effnetv2 export {root}"
        )
    raise ValueError(
        f"Nothing to serve in {root}. Expected is the folder of a finished run, or the folder that "
        "keras-effnetv2 export wrote, with a folder of each version (1, 2, ...) in it."
    )


def load_served_model(path: str | os.PathLike[str]) -> ServedModel:
    """Load the newest version of an exported model.

    Args:
        path: see `newest_version`.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    folder = newest_version(path)
    try:
        with _without_warnings():
            loaded = tf.saved_model.load(str(folder))
        graph = saved_model_pb2.SavedModel.FromString((folder / _GRAPH_FILE).read_bytes())
    except Exception as error:  # TensorFlow raises a dozen kinds for a damaged file
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ValueError(f"The model in {folder} cannot be loaded: {reason}") from None
    return ServedModel(
        folder=folder,
        version=int(folder.name),
        signatures=dict(loaded.signatures),
        definitions=dict(graph.meta_graphs[0].signature_def),
        loaded=loaded,
    )


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep TensorFlow from saying that the graph has no gradients, which serving does not need."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _signature_json(definition: Any) -> dict[str, Any]:
    return {
        "inputs": {name: _tensor_json(definition.inputs[name]) for name in definition.inputs},
        "outputs": {name: _tensor_json(definition.outputs[name]) for name in definition.outputs},
        "method_name": definition.method_name,
    }


def _tensor_json(info: Any) -> dict[str, Any]:
    # Sizes are strings: so JSON has the 64-bit numbers of protocol buffers.
    dims = [{"size": str(dim.size), "name": dim.name} for dim in info.tensor_shape.dim]
    return {
        "dtype": types_pb2.DataType.Name(info.dtype),
        "tensor_shape": {"dim": dims, "unknown_rank": info.tensor_shape.unknown_rank},
        "name": info.name,
    }
