"""The contestants: a Keras model, or the same model exported to a format and opened again."""

import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.variants import variant_named, variant_unless_path
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.unreadable import check_readable
from keras_effnetv2.evaluation import named_network
from keras_effnetv2.evaluation.judging import JudgedNetwork, pictures_to_judge
from keras_effnetv2.evaluation.scores import Evaluation
from keras_effnetv2.export.formats import export_model
from keras_effnetv2.export.real_pictures import photographs
from keras_effnetv2.export.runtimes import FORMATS, Runner, computes_bfloat16, load_exported
from keras_effnetv2.export.saved_model import (
    WEIGHTS_DTYPES,
    export_saved_model,
    probability_model,
    resolve_image_size,
)
from keras_effnetv2.export.signatures import PIXELS_SIGNATURE
from keras_effnetv2.images.styles import Style
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.graph import all_layers
from keras_effnetv2.runs.run_folder import open_run

KERAS_EXPORT = "keras_export"

KERAS_APPLICATIONS = "keras.applications"  # without a model's name: the same variant there
COMPARED = slice(1, None, 2)  # of the windows of photographs
_CALIBRATED = slice(0, None, 2)  # the others, with which int8 is calibrated
_SETTLED_ON = slice(0, None, 6)
_AT_ONCE = 16  # pictures that are judged
_SPREAD = 3  # standard deviation of drawn logits: some classes are likely, as after training


def all_formats() -> tuple[str, ...]:
    """Return all formats, with their values of `quantize`, e.g. "openvino:bfloat16"."""
    kinds = {"saved_model": WEIGHTS_DTYPES[1:]} | {name: f.quantize for name, f in FORMATS.items()}
    names = [name for one in kinds for name in (one, *(f"{one}:{kind}" for kind in kinds[one]))]
    return ("keras", KERAS_EXPORT, *names)


def formats_here() -> tuple[str, ...]:
    """Return the formats that this machine's CPU supports."""
    is_here = computes_bfloat16()
    return tuple(name for name in all_formats() if is_here or name != "openvino:bfloat16")


def check_comparison(networks: Sequence[str], formats: Sequence[str], against: str | None) -> None:
    """Raise ValueError for mistakes that would otherwise show up later."""
    for name in formats:
        check_choice("format", name, all_formats())
    for name in networks if against == KERAS_APPLICATIONS else ():
        same_in_keras_applications(name)


@dataclass(frozen=True)
class MeasuredNetwork:
    """A classifier to measure, and the reference for its exports."""

    name: str  # of the variant, or as in the request
    model: keras.Model  # (N, S, S, 3) float32 pixels, 0..255 -> (N, classes)
    image_size: int  # S, pixels
    run: Runner  # computes probabilities in Keras
    pictures: np.ndarray  # float32 (24, S, S, 3), see `real_pictures.photographs`
    # Labelled, to judge its exports on, if any; int8 is calibrated with a random part of them.
    judged_on: ImageSource | None = None
    judged_as: JudgedNetwork | None = None  # how it is judged on them

    @property
    def style(self) -> Style:
        """How pictures become squares, see `evaluation_crop.resize_for_evaluation`."""
        return "whole" if self.judged_as is None else self.judged_as.style

    def figures(self, answers: np.ndarray) -> dict[str, float]:
        """Return the figures of answers for `judged_on`; none without those."""
        if self.judged_on is None or self.judged_as is None:
            return {}
        return self.judged_as.completed(Evaluation(self.judged_on.labels, answers)).figures()


def open_network(
    name: str, image_size: int | None = None, weights: str | None = None, data: str | None = None
) -> MeasuredNetwork:
    """Return a network by name.

    With random kernels, batch norms get the statistics of photographs: signals that vanish or
    explode would not be a fair load, and would not show the effect of rounding.

    Args:
        name: a variant, a run folder, or MODULE:NAME of a Keras model or of a function that returns
            one; it is called with `weights=None` and `input_shape`, if it takes these.
        image_size: S, pixels; None takes a variant's evaluation size, or the model's own size.
        weights: weights of a variant, see `build_model`; None means random ones, or with `data`
            "imagenet".
        data: labelled pictures to judge its exports on, see `judging.pictures_to_judge`; not for
            MODULE:NAME.

    Raises:
        BadPicturesError: pictures cannot be read.
        ValueError: there is no classifier with this name, or the size, weights or pictures do not
            fit it.
    """
    if image_size is not None:
        check_integer("image_size", image_size, minimum=1)
    if data is not None:
        return _judged_network(name, image_size, weights, data)
    is_drawn = weights is None
    if variant := variant_unless_path(name):
        name, config = variant, ModelConfig.from_name(variant)
        image_size = image_size or config.eval_size
        model = build_model(config, weights=weights, input_shape=(image_size, image_size, 3))
    elif weights is not None:
        raise ValueError(f"`weights` are for variants only. Received: {weights!r} for {name!r}")
    elif Path(name).is_dir():
        run = open_run(name)
        model, image_size, is_drawn = run.model, image_size or run.image_size, False
    else:
        model = _import_model(name, image_size)
    network = probability_model(model)
    size = resolve_image_size(network, image_size)
    pictures = photographs(size)
    if is_drawn:
        _settle(model, pictures[_SETTLED_ON])
    return MeasuredNetwork(name, network, size, _keras_runner(network), pictures)


def _judged_network(
    name: str, image_size: int | None, weights: str | None, data: str
) -> MeasuredNetwork:
    judged = named_network.open_network(name, weights)
    network = probability_model(judged.model)
    size = resolve_image_size(network, image_size or judged.image_size)
    pictures = pictures_to_judge(judged, data).source
    check_readable(pictures)
    return MeasuredNetwork(
        *(name, network, size, _keras_runner(network), photographs(size)),
        judged_on=pictures,
        judged_as=judged,
    )


def compared_answers(network: MeasuredNetwork, run: Runner) -> np.ndarray:
    """Return what an export answers for the pictures that it is compared on: (pictures, classes).

    They are `judged_on`, or without those half of `pictures`.
    """
    if network.judged_on is None:
        return run(network.pictures[COMPARED])
    batches = make_dataset(
        network.judged_on,
        image_size=network.image_size,
        batch_size=_AT_ONCE,
        training=False,
        style=network.style,
    )
    return np.concatenate([run(images) for images, _ in batches.as_numpy_iterator()])


def same_in_keras_applications(variant: str) -> str:
    """Return MODULE:NAME of a variant in keras.applications; raise ValueError if it has none."""
    classes = {name.lower(): name for name in dir(keras.applications) if name[0].isupper()}
    name = classes.get((variant_named(variant) or variant).replace("-", ""))
    if name is None:
        raise ValueError(
            f"{KERAS_APPLICATIONS} without a name means the same variant there, but it does "
            f"not have {variant!r}. Give a name, for example {KERAS_APPLICATIONS}:EfficientNetV2L"
        )
    return f"{KERAS_APPLICATIONS}:{name}"


def open_contestant(
    network: MeasuredNetwork, format: str, scratch: Path, threads: int | None
) -> Runner:
    """Export a network to one of `all_formats()`, and return a function that runs the export.

    It needs `scratch`, an empty folder, while it is used. `threads` is for the runtimes of files;
    None takes all cores. TensorFlow has its own setting.
    """
    model, size = network.model, network.image_size
    kind, _, quantize = format.partition(":")
    if kind == "keras":
        return network.run
    if kind == KERAS_EXPORT:
        model.export(scratch, format="tf_saved_model", verbose=False)
        # What is loaded has to stay in reach: its functions hold their variables only weakly.
        exported = tf.saved_model.load(scratch)
        return _as_runner(lambda images: exported.serve(images))
    if kind == "saved_model":
        dtype = quantize or "float32"
        folder = export_saved_model(model, scratch, image_size=size, weights_dtype=dtype)
        signatures = tf.saved_model.load(folder).signatures
        return _as_runner(lambda images: signatures[PIXELS_SIGNATURE](images)["probabilities"])
    calibration: Any = None
    if quantize == "int8":
        calibration = network.judged_on or network.pictures[_CALIBRATED]
    report = export_model(
        model,
        scratch / f"model{FORMATS[kind].suffix}",
        kind,
        quantize or None,
        image_size=size,
        calibration=calibration,
        pictures=network.pictures[COMPARED],
        style=network.style,
        force=True,
    )
    return load_exported(report.path, threads)


def _keras_runner(model: keras.Model) -> Runner:
    graph = tf.function(lambda images: model(images, training=False), autograph=False)
    return _as_runner(graph)


def _as_runner(function: Callable[[Any], Any]) -> Runner:
    return lambda images: function(tf.constant(images)).numpy()


def _import_model(name: str, image_size: int | None) -> keras.Model:
    if ":" not in name:
        raise ValueError(
            "A model must be a variant (see keras-effnetv2 info --help), a run folder, or "
            f"MODULE:NAME, for example keras.applications:ResNet50. Received: {name!r}"
        )
    try:
        model = pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"There is no model {name!r}: {error}") from error
    if callable(model) and not isinstance(model, keras.Model):
        wanted: dict[str, Any] = {"weights": None}
        if image_size is not None:
            wanted["input_shape"] = (image_size, image_size, 3)
        try:
            taken = inspect.signature(model).parameters
            model = model(**{name: wanted[name] for name in wanted if name in taken})
        except TypeError as error:
            raise ValueError(
                f"{name!r} must be a Keras model, or a function that returns one and needs no "
                f"arguments except weights and input_shape: {error}"
            ) from error
    if not isinstance(model, keras.Model):
        raise ValueError(f"{name!r} must return a Keras model. Received: {type(model).__name__}")
    return model


def _settle(model: keras.Model, pictures: np.ndarray) -> None:
    """Give batch norms the statistics of pictures, and logits the spread of a trained network."""
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(pictures, training=True)
    head = model.layers[-1]
    if isinstance(head, keras.layers.Dense):
        features = keras.Model(model.inputs, head.input)(pictures, training=False)
        spread = keras.ops.std(keras.ops.matmul(features, head.kernel))
        head.kernel.assign(head.kernel * (_SPREAD / spread))
