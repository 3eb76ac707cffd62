"""State dicts of PyTorch: .safetensors and files of `torch.save`, in the layouts of two sources."""

import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from keras_effnetv2.pretrained.contents import Contents
from keras_effnetv2.pretrained.pth import read_pth
from keras_effnetv2.pretrained.timm import check_padding
from keras_effnetv2.pretrained.timm_config import describe_beside

_LOG = logging.getLogger("keras_effnetv2")
# The tensor that every network has once. Group: the prefix that a wrapper of the network, e.g.
# DataParallel, gave to all names.
_FIRST = re.compile(r"(|.*\.)_?conv_stem\.weight")
_OF_EFFICIENTNET_PYTORCH = re.compile(r"(.*\.)?_(conv_stem|bn0|blocks|conv_head|bn1|fc)\..*")


def begins_as_safetensors(start: bytes) -> bool:
    """Return whether the first 9 bytes are those of a .safetensors."""
    return start[8:9] == b"{"  # after the length of the header, which is JSON


def read_state_dict(path: Path, source: str = "auto") -> Contents:
    """Read a state dict, and the config.json beside it; tensors have PyTorch's order of axes.

    The `source` is "timm" or "efficientnet-pytorch"; "auto" decides by the names of the tensors.

    Raises:
        ValueError: a file is damaged, or of a net that pads as PyTorch does.
    """
    described = describe_beside(path)
    try:
        stored, left_out, *metadata = _read(path)
        prefix = _prefix(stored)
        if source == "auto":
            named = any(map(_OF_EFFICIENTNET_PYTORCH.fullmatch, stored))
            source = "efficientnet-pytorch" if named else "timm"
        counters = {name for name in stored if name.endswith(".num_batches_tracked")}
        ignored = left_out | dict.fromkeys(counters, "step counter of a batch norm")
        tensors = {
            name.removeprefix(prefix): tensor
            for name, tensor in stored.items()
            if name not in counters
        }
        # EfficientNet-PyTorch pads as TensorFlow does.
        if source == "timm" and not check_padding(path, described, metadata, tensors):
            _LOG.warning(
                f"{path}: neither a config.json beside it nor a name says which net it is. It is "
                "taken for a tf_efficientnet* net. The nets without tf_ have the same tensors and "
                "pad differently: their weights give wrong results here."
            )
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        # AttributeError: a type that NumPy does not have
        raise ValueError(
            f"{os.fspath(path)} cannot be read as a state dict of PyTorch: {error}"
        ) from None
    return Contents(source, tensors, ignored, described=described)


def _read(path: Path) -> tuple[Any, ...]:
    """Return name -> array, name left out -> reason, and texts that may say which net it is."""
    with open(path, "rb") as file:
        start = file.read(9)
    of_torch_save = start.startswith((b"PK", b"\x80")) or path.suffix != ".safetensors"
    if of_torch_save and not begins_as_safetensors(start):
        return read_pth(path)
    with safe_open(path, "numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, {}, *(file.metadata() or {}).values()


def _prefix(names: Collection[str]) -> str:
    """Return the prefix of all names that a wrapper of the network added."""
    prefixes = [match[1] for match in map(_FIRST.fullmatch, names) if match]
    if len(prefixes) > 1:
        raise ValueError(
            f"it holds several networks, under {', '.join(map(repr, sorted(prefixes)[:5]))}; keep "
            "the tensors of one"
        )
    prefix = prefixes[0] if prefixes else ""
    return prefix if all(name.startswith(prefix) for name in names) else ""
