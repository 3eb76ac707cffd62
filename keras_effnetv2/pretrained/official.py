"""Official checkpoints (google/automl): names as a function of position, and the reader.

An official name is `{model}/{stem | blocks_N | head}/{layer}/{variable}`, where layers of one
kind are counted inside their block: conv2d, conv2d_1; tpu_batch_normalization, ..._1, ..._2.
"""

import os
import re
import shutil
import tarfile
import tempfile
from collections import Counter
from pathlib import Path

import keras
import numpy as np

_AVERAGE = "/ExponentialMovingAverage"
_OPTIMIZER_SLOT = re.compile(r"/(RMSProp(_\d+)?|Momentum|Adam(_\d+)?)$")
CLASSIFIER_BIAS = "head/dense/bias"
_LAYER_NAMES = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "tpu_batch_normalization",
    "Dense": "dense",
}
_VARIABLE_NAMES = {("DepthwiseConv2D", "kernel"): "depthwise_kernel"}


def official_names(model: keras.Model) -> dict[str, str]:
    """Official name of every weight of a model, without the `{model}/` in front.

    Args:
        model: a model of `build_model`.

    Returns:
        Our weight path (e.g. "block1a_project_conv/kernel") -> official name (e.g.
        "blocks_0/conv2d/kernel"), in the order of the layers.
    """
    blocks: dict[str, int] = {}
    counts: Counter[tuple[str, str]] = Counter()
    names = {}
    for layer in model.layers:
        kind = _LAYER_NAMES.get(type(layer).__name__)
        if kind is None:
            continue
        scope = _scope(layer.name, blocks)
        number = counts[scope, kind]
        counts[scope, kind] += 1
        layer_name = f"{scope}/{kind}_{number}" if number else f"{scope}/{kind}"
        for weight in layer.weights:
            variable = _VARIABLE_NAMES.get((type(layer).__name__, weight.name), weight.name)
            names[f"{layer.name}/{weight.name}"] = f"{layer_name}/{variable}"
    return names


def _scope(layer_name: str, blocks: dict[str, int]) -> str:
    match = re.match(r"(block\d+[a-z]+)_(se_)?", layer_name)
    if match:
        index = blocks.setdefault(match.group(1), len(blocks))
        return f"blocks_{index}/se" if match.group(2) else f"blocks_{index}"
    return "stem" if layer_name.startswith("stem_") else "head"


def is_official(path: str | os.PathLike[str]) -> bool:
    """Whether the path looks like an official checkpoint: archive, folder or prefix."""
    path = Path(path)
    if path.is_dir():
        return (path / "checkpoint").is_file() or any(path.glob("*.index"))
    return path.name.endswith((".tgz", ".tar.gz")) or Path(f"{path}.index").is_file()


def read_official(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads an official checkpoint.

    Averaged values are preferred over raw ones, as official evaluation does.

    Args:
        path: a folder, a prefix such as "folder/model", or a .tgz / .tar.gz archive.

    Returns:
        Tensors by official name without the leading `{model}/`, and the names that were left
        out with the reason.

    Raises:
        ValueError: no checkpoint is there, more than one is, or it is not one of EfficientNet.
    """
    path = Path(path)
    if path.is_file() and path.name.endswith((".tgz", ".tar.gz")):
        with tempfile.TemporaryDirectory() as folder:
            _unpack(path, Path(folder))
            return _read_prefix(_find_prefix(Path(folder), path))
    return _read_prefix(_find_prefix(path, path))


def _unpack(archive: Path, folder: Path) -> None:
    """Extracts the checkpoint's files flat into `folder`; other members are left alone."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = Path(member.name).name
                if not member.isfile() or not re.search(r"\.(index|data-\d+-of-\d+)$", name):
                    continue
                source = tar.extractfile(member)
                if source is not None:
                    with source, open(folder / name, "xb") as target:
                        shutil.copyfileobj(source, target)
    except FileExistsError:
        raise ValueError(
            f"{archive} holds two checkpoints; extract the one that is meant and give its folder."
        ) from None
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{archive} cannot be read as an archive: {error}") from None


def _find_prefix(path: Path, shown: Path) -> str:
    if Path(f"{path}.index").is_file():
        return str(path)
    found = sorted(path.glob("*.index")) if path.is_dir() else []
    if len(found) != 1:
        raise ValueError(
            f"{shown} must hold exactly one checkpoint (PREFIX.index with PREFIX.data-...). "
            f"Found: {[file.name for file in found] or 'none'}. Give the prefix of the one meant."
        )
    return str(found[0])[: -len(".index")]


def _read_prefix(prefix: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(prefix)
        stored = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tf.errors.OpError, ValueError, IndexError) as error:  # IndexError: a file cut short
        raise ValueError(f"{prefix} cannot be read as a checkpoint: {error}") from None
    tensors: dict[str, np.ndarray] = {}
    ignored: dict[str, str] = {}
    models = set()
    for name, tensor in sorted(stored.items()):
        if name == "global_step":
            ignored[name] = "step counter"
        elif _OPTIMIZER_SLOT.search(name):
            ignored[name] = "optimizer slot"
        elif not name.endswith(_AVERAGE) and name + _AVERAGE in stored:
            ignored[name] = "raw value; the average is used"
        else:
            model_name, _, rest = name.removesuffix(_AVERAGE).partition("/")
            models.add(model_name)
            tensors[rest] = tensor
    if len(models) != 1:
        raise ValueError(
            f"{prefix} must hold one model, whose variables are named MODEL/stem/..., "
            f"MODEL/blocks_0/... Received: {sorted(models)[:10] or 'no variables'}"
        )
    return tensors, ignored
