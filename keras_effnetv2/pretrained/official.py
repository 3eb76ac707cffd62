"""Official checkpoints (google/automl): names as a function of position, and the reader.

An official name is `{model}/{stem | blocks_N | head}/{layer}/{variable}`, where layers of one
kind are counted within their block: conv2d, conv2d_1; tpu_batch_normalization, ..._1, ..._2.
"""

import contextlib
import gzip
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_effnetv2.pretrained.bounded import GZIP, BoundedReader, unpacked_limit
from keras_effnetv2.pretrained.checkpoint import read_checkpoint
from keras_effnetv2.pretrained.places import Place, layer_names, weight_names

if TYPE_CHECKING:
    import keras

CHECKPOINT_ENDING = r"\.(index|data-\d+-of-\d+)"
"""A pattern for the part after the prefix in the names of a checkpoint's files."""

_CHECKPOINT_FILE = re.compile(f"{CHECKPOINT_ENDING}$")
_BN = "tpu_batch_normalization"
_LAYERS = layer_names(
    outside=f"stem/conv2d stem/{_BN} head/conv2d head/{_BN} head/dense",
    fused_1=f"conv2d {_BN}",
    fused=f"conv2d {_BN} conv2d_1 {_BN}_1",
    mbconv_1=f"depthwise_conv2d {_BN} conv2d {_BN}_1",
    mbconv=f"conv2d {_BN} depthwise_conv2d {_BN}_1 conv2d_1 {_BN}_2",
    squeeze_excite="se/conv2d se/conv2d_1",
)


def official_names(model: "keras.Model") -> dict[str, str]:
    """Return our weight path ("stem_conv/kernel") -> official name ("stem/conv2d/kernel").

    In the order of the layers, without the `{model}/` in front.
    """
    return weight_names(model, _name)


def _name(place: Place, weight: str) -> str:
    block = "" if place.kind == "outside" else f"blocks_{place.block}/"
    if (place.role, weight) == ("dwconv2", "kernel"):
        weight = "depthwise_kernel"
    return f"{block}{_LAYERS[place.kind][place.role]}/{weight}"


def read_official(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read an official checkpoint.

    Averaged values are preferred over raw ones, as in official evaluation.

    Args:
        path: a folder, a prefix such as "folder/model", or a .tgz / .tar.gz archive.

    Returns:
        Tensors by official name without the leading `{model}/`, and the names that were left
        out with the reason.

    Raises:
        ValueError: there is no checkpoint or more than one, or it is not an EfficientNet.
    """
    path = Path(path)
    with contextlib.ExitStack() as stack:
        place = path
        if path.is_file():
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            _unpack(path, place)
        prefix = _find_prefix(place, path)
        try:
            return read_checkpoint(prefix)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as a checkpoint: {error}") from None


def _unpack(archive: Path, folder: Path) -> None:
    """Extract the checkpoint's files directly into `folder`; other files are ignored."""
    try:
        with open(archive, "rb") as file:
            packed = file.peek(len(GZIP)).startswith(GZIP)
            content: Any = gzip.GzipFile(fileobj=file) if packed else file
            bounded: Any = BoundedReader(content, unpacked_limit(archive))
            with tarfile.open(fileobj=bounded, mode="r|") as tar:
                for member in tar:
                    _check_member(member)
                    name = PurePosixPath(member.name).name
                    source = tar.extractfile(member) if _CHECKPOINT_FILE.search(name) else None
                    if source is None:
                        continue
                    if (folder / name).exists():
                        raise ValueError(
                            "it holds two checkpoints. Extract the right one and give its folder"
                        )
                    with source, open(folder / name, "xb") as target:
                        shutil.copyfileobj(source, target)
            while bounded.read(2**20):  # to the end, where gzip compares its checksum
                pass
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"{archive} cannot be read as an archive: {error}") from None


def _check_member(member: tarfile.TarInfo) -> None:
    """Refuse a member that no archive of a checkpoint has, before reading it."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"its member {member.name!r} points outside the folder")
    if not (member.isdir() or member.isreg()) or member.issparse():
        raise ValueError(f"its member {member.name!r} is a link, a device or a sparse file")


def _find_prefix(path: Path, shown: Path) -> str:
    if Path(f"{path}.index").is_file():
        return str(path)
    found = sorted(path.glob("*.index")) if path.is_dir() else []
    if len(found) != 1:
        raise ValueError(
            f"{shown} must hold exactly one checkpoint (PREFIX.index with PREFIX.data-...). "
            f"Found: {[file.name for file in found] or 'none'}. Give the prefix of the right one."
        )
    return str(found[0])[: -len(".index")]
