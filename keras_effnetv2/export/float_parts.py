"""Which parts of a network an int8 file of LiteRT keeps in float, so that it answers as before."""

import re
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.progress import working
from keras_effnetv2._common.quiet import quiet_stderr
from keras_effnetv2.export.check import Batches, answers_of, top1_agreement
from keras_effnetv2.export.converters import Calibration, int8_converter
from keras_effnetv2.export.runtimes import load_exported
from keras_effnetv2.models.graph import all_layers

_PARTS = 16  # of a large network each has some ten operations


@dataclass(frozen=True)
class Judge:
    """Compares files with Keras."""

    batches: Batches
    expected: np.ndarray  # (pictures, classes), what Keras answers
    min_agreement: float  # share of the pictures, 0..1, on which the best class must be the same

    def __call__(self, path: Path) -> tuple[bool, float]:
        """Return whether a file agrees, and the mean difference of its probabilities."""
        try:
            answers = answers_of(load_exported(path), self.batches)
        except RuntimeError:  # LiteRT refuses scales that are too far apart
            return False, np.inf
        agreement = top1_agreement(answers, self.expected)
        return agreement >= self.min_agreement, float(np.abs(answers - self.expected).mean())


@working("finding the parts to keep in float")
def keep_float_parts(
    saved_model: Path, path: Path, calibration: Calibration, judge: Judge
) -> list[str]:
    """Write an int8 file that keeps in float what int8 cannot hold.

    The operations are divided into parts, in their order. Every pair of neighbouring parts is kept
    in float once, to find which ones help most; then those are, one more pair each time, until the
    file agrees. They are pairs because an activation is exact only between two operations in
    float.

    Args:
        saved_model: folder of the SavedModel to convert.
        path: the file to write.
        calibration: pictures to find the ranges of activations, (1, H, W, 3) each.
        judge: compares it with Keras.

    Returns:
        The operations in float, by the names of their results, in their order.
    """
    options = tf.lite.experimental.QuantizationDebugOptions()
    with warnings.catch_warnings():  # it uses TensorFlow's interpreter, which is deprecated
        warnings.filterwarnings("ignore", message=r"\s*Warning: tf.lite.Interpreter")
        with quiet_stderr():
            debugger = tf.lite.experimental.QuantizationDebugger(
                converter=int8_converter(saved_model, calibration),
                debug_dataset=lambda: [[calibration[0]]],
                debug_options=options,
            )
            operations = _int8_operations(debugger)
        parts = [part.tolist() for part in np.array_split(operations, _PARTS)]

        def write(in_float: Collection[int]) -> tuple[bool, float]:
            # Setting new options would also make a file for debugging, and fail if all is in float.
            options.denylisted_nodes = [name for index in in_float for name in parts[index]]
            with quiet_stderr():
                path.write_bytes(debugger.get_nondebug_quantized_model())
            return judge(path)

        pairs = [{index, index + 1} for index in range(_PARTS - 1)]
        tried = [(*write(pair), pair) for pair in pairs]
        chosen: set[int] = set()
        for _, _, pair in sorted(tried, key=lambda one: (not one[0], one[1])):
            chosen |= pair
            agrees, _ = write(chosen)
            if agrees:
                break
    return [name for index in sorted(chosen) for name in parts[index]]


def _int8_operations(debugger: "tf.lite.experimental.QuantizationDebugger") -> list[str]:
    """Return the names of what the operations in int8 return, in their order."""
    # Not by running the file, which LiteRT may refuse. It holds "NumericVerify/NAME1:9" for NAME.
    compared = tf.lite.Interpreter(model_content=debugger.get_debug_quantized_model())
    names = (
        re.match(r"NumericVerify/(.*?)\d?:\d+$", one["name"])
        for one in compared.get_tensor_details()
    )
    return [name[1] for name in names if name]


def layers_of(operations: Sequence[str], model: keras.Model) -> tuple[str, ...]:
    """Return the layers that operations compute; an operation of none stands for itself.

    Args:
        operations: their names in a file, such as "net_1/block1a_project_conv_1/convolution",
            where a number may follow the name of a layer.
        model: the network.
    """
    names = {layer.name for layer in all_layers(model)}

    def layer(operation: str) -> str:
        for part in reversed(re.split("[/;:]", operation)):
            for name in (part, re.sub(r"_\d+$", "", part)):
                if name in names:
                    return name
        return operation

    return tuple(dict.fromkeys(map(layer, operations)))
