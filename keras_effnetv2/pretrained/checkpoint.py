"""The variables of an official checkpoint, read by TensorFlow in a child process that may crash.

TensorFlow's reader ends the whole process, with no error to catch, if an index declares impossible
shapes (measured on 2.21: a negative side, more elements than 2^63, 254 sides). So a child process
(this module, run as a program) reads the checkpoint and writes a safetensors file.
"""

import glob
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from keras_effnetv2._common.text import say

_MAX_INDEX = 2**26  # bytes; a training checkpoint of efficientnetv2-xl has under 2^19
_REFUSED = 3  # exit status of a child that says why on stdout
_AVERAGE = "/ExponentialMovingAverage"
_OPTIMIZER_SLOT = re.compile(r"/(RMSProp(_\d+)?|Momentum|Adam(_\d+)?)$")


def read_checkpoint(prefix: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Do `official.read_official` for a prefix, "folder/model" for "folder/model.index".

    Raises:
        ValueError: the checkpoint is damaged or refused; the message does not name it.
    """
    if os.path.getsize(f"{prefix}.index") > _MAX_INDEX:
        raise ValueError(f"its index has more than {_MAX_INDEX:,} bytes")
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "weights.safetensors")
        read_in_child(prefix, target)
        with safe_open(target, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["ignored"])


def read_in_child(prefix: str, target: str) -> None:
    """Run `read_with_tensorflow` in its own process; ValueError if that crashes."""
    path = os.pathsep.join(filter(None, sys.path))
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path}
    child = subprocess.run(
        [sys.executable, "-P", "-m", "keras_effnetv2.pretrained.checkpoint", prefix, target],
        env=os.environ | quiet,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if child.returncode == _REFUSED:
        raise ValueError(child.stdout.strip())
    if child.returncode:
        said = "" if child.returncode < 0 else "".join(child.stderr.splitlines()[-1:])
        raise ValueError(
            f"TensorFlow crashed on it with the status {child.returncode} {said}".strip()
        )


def _choose(names: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Return which variables to read, and the names left out with the reason.

    The first maps the name without the leading `{model}/` to the name in the checkpoint.
    """
    wanted: dict[str, str] = {}
    ignored: dict[str, str] = {}
    models = set()
    for name in sorted(names):
        if name == "global_step":
            ignored[name] = "step counter"
        elif _OPTIMIZER_SLOT.search(name):
            ignored[name] = "optimizer slot"
        elif not name.endswith(_AVERAGE) and name + _AVERAGE in names:
            ignored[name] = "raw value; its average is used"
        else:
            model_name, _, rest = name.removesuffix(_AVERAGE).partition("/")
            models.add(model_name)
            wanted[rest] = name
    if len(models) != 1:
        raise ValueError(
            "it must hold one model, whose variables are named MODEL/stem/..., "
            f"MODEL/blocks_0/... Received: {sorted(models)[:10] or 'no variables'}"
        )
    return wanted, ignored


def read_with_tensorflow(prefix: str, target: str) -> None:
    """Write the weights of a checkpoint to safetensors; errors are those of `read_checkpoint`."""
    import tensorflow as tf

    room = sum(map(os.path.getsize, glob.glob(f"{glob.escape(prefix)}.data-*")))
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        wanted, ignored = _choose(shapes)
        if sum(math.prod(shapes[name]) for name in wanted.values()) > room:
            raise ValueError(f"its index declares more than the {room:,} bytes of its data files")
        tensors = {short: np.asarray(reader.get_tensor(name)) for short, name in wanted.items()}
    except (tf.errors.OpError, OSError, IndexError) as error:  # IndexError: a file cut short
        raise ValueError(str(error)) from None
    for name, tensor in tensors.items():
        if tensor.dtype.kind not in "fiub" and tensor.dtype.name != "bfloat16":
            raise ValueError(f"its {name} is not an array of numbers")
    save_file(tensors, target, {"ignored": json.dumps(ignored)})


if __name__ == "__main__":
    try:
        read_with_tensorflow(*sys.argv[1:])
    except ValueError as error:
        say(error)
        sys.exit(_REFUSED)
