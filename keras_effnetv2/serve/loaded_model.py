"""The served SavedModel: find it in its folder, load it, describe it, call it."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.json_format import MessageToDict
from tensorflow.core.protobuf import saved_model_pb2

from keras_effnetv2.export.metadata import Metadata, read_metadata
from keras_effnetv2.export.outputs import GRAPH_FILE, versions
from keras_effnetv2.export.runtimes import load_saved_model
from keras_effnetv2.runs.run_state import RECIPE, SAVED_MODEL, check_finished

Columns = Mapping[str, npt.NDArray[Any]]
"""Named arrays with the same number of rows."""

Function = Callable[[Columns], Columns]
"""Computes rows; each result depends only on its own row."""


@dataclass(frozen=True)
class ServedModel:
    """A loaded version of a SavedModel."""

    folder: Path
    version: int
    signatures: Mapping[str, Any]  # name -> function of tensors by name
    metadata: Mapping[str, Any]  # the signatures as TensorFlow Serving describes them in JSON
    loaded: Any  # the result of `tf.saved_model.load`, which the functions need
    described: Metadata = field(default_factory=Metadata)  # what its export says of it

    @cached_property
    def functions(self) -> Mapping[str, Function]:
        """Return the signatures as functions of arrays."""
        return {name: partial(self.run, name) for name in self.signatures}

    def inputs(self, signature: str) -> Mapping[str, Any]:
        """Return the `tf.TensorSpec` of every input of a signature, by name."""
        specs: Mapping[str, Any] = self.signatures[signature].structured_input_signature[1]
        return specs

    def run(self, signature: str, columns: Columns) -> Columns:
        """Return an array for each output of a signature, given one for each input."""
        specs = self.inputs(signature)
        tensors = {name: tf.constant(columns[name], spec.dtype) for name, spec in specs.items()}
        outputs = self.signatures[signature](**tensors)
        return {name: outputs[name].numpy() for name in sorted(outputs)}


def file_columns(files: Sequence[bytes]) -> Columns:
    """Return the input of `BYTES_SIGNATURE` for picture files."""
    return {"image_bytes": np.array(files, dtype=object)}


def version_folders(path: str | os.PathLike[str]) -> list[Path]:
    """Return the folders whose names are numbers, in a run's export or a folder of versions.

    The export may also be beside those of other formats. The largest number is the first.
    """
    root = Path(path)
    folder = root / SAVED_MODEL if (root / SAVED_MODEL).is_dir() else root
    return [one for one in versions(folder) if one.is_dir()]


def newest_version(path: str | os.PathLike[str]) -> Path:
    """Return the folder of the newest version, in a run's export or a folder of versions.

    Raises:
        ValueError: there is no version.
    """
    root = Path(path)
    for folder in version_folders(root):
        if (folder / GRAPH_FILE).is_file():
            return folder
    if (root / GRAPH_FILE).is_file():
        raise ValueError(f"{root} is one version of a model. Give the folder that it is in.")
    if (root / RECIPE).is_file():
        check_finished(root)
        raise ValueError(
            f"The run in {root} has no exported model in {root / SAVED_MODEL}. Export it with: "
            f"keras-effnetv2 export {root}"
        )
    raise ValueError(
        f"Nothing to serve in {root}. Expected the folder of a finished run, or the output folder "
        "of keras-effnetv2 export, with a folder for each version (1, 2, ...)."
    )


def load_served_model(folder: Path) -> ServedModel:
    """Load the version in a folder.

    Raises:
        ValueError: it cannot be loaded.
    """
    loaded = load_saved_model(folder)
    graph = saved_model_pb2.SavedModel.FromString((folder / GRAPH_FILE).read_bytes())
    metadata = {
        name: MessageToDict(
            definition, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        for name, definition in sorted(graph.meta_graphs[0].signature_def.items())
    }
    return ServedModel(
        folder,
        int(folder.name),
        dict(loaded.signatures),
        metadata,
        loaded,
        read_metadata(folder),
    )
