"""State dicts of PyTorch: .safetensors and files of `torch.save`, in the layouts of two sources."""

import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from keras_effnetv2._common.files import read_json
from keras_effnetv2.pretrained.contents import Contents
from keras_effnetv2.pretrained.input_range import stated_by_timm
from keras_effnetv2.pretrained.pth import read_pth
from keras_effnetv2.pretrained.timm import check_padding

_LOG = logging.getLogger("keras_effnetv2")
_CONFIG = "config.json"
# The tensor that every network has once. Groups: the prefix that a wrapper of the network, e.g.
# DataParallel, gave to all names, and the mark of EfficientNet-PyTorch.
_FIRST = re.compile(r"(|.*\.)(_?)conv_stem\.weight")


def read_state_dict(path: Path, source: str, *, is_safetensors: bool) -> Contents:
    """Read a state dict, and the config.json beside it.

    Args:
        path: the file.
        source: "timm" or "efficientnet-pytorch"; "auto" decides by the names of the tensors.
        is_safetensors: whether it is a .safetensors; otherwise `torch.save` wrote it.

    Returns:
        The contents; the tensors have PyTorch's order of axes.

    Raises:
        ValueError: a file is damaged, or of a net that pads as PyTorch does.
    """
    config = _config_beside(path)
    try:
        read = _read_safetensors if is_safetensors else read_pth
        stored, left_out, *metadata = read(path)
        prefix, mark = _prefix_and_mark(stored)
        if source == "auto":
            source = "efficientnet-pytorch" if mark else "timm"
        counters = [name for name in stored if name.endswith(".num_batches_tracked")]
        ignored = left_out | dict.fromkeys(counters, "step counter of a batch norm")
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in stored.items()
            if name not in counters
        }
        # EfficientNet-PyTorch pads as TensorFlow does.
        if source == "timm" and not check_padding(path, config, metadata, tensors):
            _LOG.warning(
                f"{path}: neither a config.json beside it nor a name says which net it is. It is "
                "taken for a tf_efficientnet* net. The nets without tf_ have the same tensors and "
                "pad in another way: their weights give wrong results here."
            )
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        # AttributeError: a type that NumPy does not have
        raise ValueError(
            f"{os.fspath(path)} cannot be read as a state dict of PyTorch: {error}"
        ) from None
    try:
        return Contents(source, tensors, ignored, stated=stated_by_timm(config))
    except ValueError as error:
        raise ValueError(f"{path.with_name(_CONFIG)}: {error}. Correct it or remove it.") from None


def _read_safetensors(path: Path) -> tuple[Any, ...]:
    """Return name -> array, an empty dictionary, and the texts in the metadata."""
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, {}, *(file.metadata() or {}).values()


def _prefix_and_mark(names: Collection[str]) -> tuple[str, str]:
    """Return the groups of `_FIRST`; the prefix is empty unless all names have it."""
    found = [match for match in map(_FIRST.fullmatch, names) if match]
    if len(found) > 1:
        prefixes = sorted(match[1] for match in found)[:5]
        raise ValueError(
            f"it holds several networks, under {', '.join(map(repr, prefixes))}; keep the tensors "
            "of one"
        )
    prefix, mark = found[0].groups() if found else ("", "")
    return prefix if all(name.startswith(prefix) for name in names) else "", mark


def _config_beside(path: Path) -> dict[str, Any]:
    """Return the config.json beside a file of the Hugging Face hub; empty if there is none.

    Newer ones have most of it in `pretrained_cfg`, which is opened.
    """
    config = path.with_name(_CONFIG)
    if not os.path.lexists(config):
        return {}
    try:
        values = read_json(config)
    except (OSError, ValueError) as error:
        raise ValueError(f"{config} cannot be read: {error}. Correct it or remove it.") from None
    outer = values if isinstance(values, dict) else {}
    nested = outer.get("pretrained_cfg")
    return {**outer, **(nested if isinstance(nested, dict) else {})}
