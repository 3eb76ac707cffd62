"""The network to judge or to predict with: a run, a file, an export, a variant, a repository.

Importing this module starts neither Keras nor TensorFlow.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_effnetv2._common.checks import did_you_mean
from keras_effnetv2._common.progress import working
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.variants import variant_unless_path
from keras_effnetv2.export.outputs import version_folder
from keras_effnetv2.pretrained.hub_name import check_hub_name, is_hub_name

if TYPE_CHECKING:
    import keras

    from keras_effnetv2.evaluation.judging import JudgedNetwork
    from keras_effnetv2.export.metadata import Metadata

MADE_FROM = "Give what it was made from: the folder of a run, a .keras file, or a variant."
_EXPORTS = (".onnx", ".xml", ".tflite")
_FILES = (".keras", *_EXPORTS)


def network_path(name: str | os.PathLike[str], *, exports: bool = False) -> Path | None:
    """Return the path of a run or of a file; None for a name.

    A name is that of a variant, or hf://OWNER/NAME of the Hugging Face hub. The path of a
    SavedModel is the folder of its newest version.

    Args:
        name: the name or the path.
        exports: whether an export is allowed, too.

    Raises:
        ValueError: it is misspelt, nothing of that name is there, or it is an export.
        ImportError: the package for the hub is not installed.
    """
    variants, path = ModelConfig.variants(), Path(name)
    if is_hub_name(name):
        check_hub_name(name)
        return None
    if variant_unless_path(name):
        return None
    path = path.parent if path.name == "saved_model.pb" else path
    path = version_folder(path) or path
    if is_export(path) and not exports:
        raise ValueError(f"{str(name)!r} is an export, which cannot be opened here. {MADE_FROM}")
    if path.is_dir() or (path.suffix in _FILES and path.is_file()):
        return path
    kind = "file" if path.suffix in _FILES else "network" if path.is_file() else "folder"
    allowed = f", an export (a SavedModel folder, {', '.join(_EXPORTS)})" * exports
    raise ValueError(
        f"There is no {kind} {str(name)!r}.{did_you_mean(name, variants)} A network is the "
        f"folder of a run, a .keras file{allowed}, hf://OWNER/NAME or one of {', '.join(variants)}."
    )


def is_export(path: Path) -> bool:
    """Return whether this is the path of an exported file or the folder of a SavedModel."""
    return path.suffix in _EXPORTS or version_folder(path) is not None


@working("opening the network")
def open_network(
    name: str | os.PathLike[str],
    weights: str | None = None,
    protocol: str | None = None,
    *,
    exports: bool = False,
) -> "JudgedNetwork":
    """Return the network of a run, a file, an export or a repository, or a variant with weights.

    Args:
        name: folder of a run, a `.keras` file, a variant, or hf://OWNER/NAME[@REVISION].
        weights: for a variant: what `open_weights` takes; None is "imagenet".
        protocol: for a variant or a repository: how to judge it, see `published_network`.
        exports: whether an export is allowed, too; its `model` is an `ExportedModel`.

    Raises:
        ValueError: as `network_path`; or the network, its weights or a file is not as it should be.
        ImportError: the runtime of an export, or the package for the hub, is not installed.
    """
    from keras_effnetv2.evaluation.judging import published_network
    from keras_effnetv2.export.metadata import read_metadata
    from keras_effnetv2.models.build import build_model
    from keras_effnetv2.models.model_file import load_model
    from keras_effnetv2.pretrained.open_weights import open_weights
    from keras_effnetv2.runs.run_folder import MODEL
    from keras_effnetv2.runs.run_state import RECIPE

    path, is_repository = network_path(name, exports=exports), is_hub_name(name)
    if weights is not None and (path is not None or is_repository):
        raise ValueError(
            f"`weights` are for a variant only; {str(name)!r} has its own. Received: {weights!r}"
        )
    if path is None:
        weights = weights or (str(name) if is_repository else "imagenet")
        opened = open_weights(weights, None if is_repository else str(name))
        assert opened.config is not None
        return published_network(
            build_model(opened.config, weights=opened),
            opened,
            protocol,
            facts={"variant": opened.config.name, "weights": weights},
        )
    if is_export(path):
        from keras_effnetv2.evaluation.exported_network import exported_network

        return exported_network(path)
    if path.name == MODEL and (path.parent / RECIPE).is_file():
        path = path.parent
    if path.is_dir():
        return _trained_network(path)
    return described_network(load_model(path), read_metadata(path))


def described_network(model: "keras.Model", said: "Metadata | None" = None) -> "JudgedNetwork":
    """Return a Keras classifier of pixels 0..255, with the way to prepare its pictures.

    What its file says comes first, as that of a run does. Otherwise a model with the name of a
    variant is judged as that. Its size is that of the model's input, if that is fixed. The whole
    picture is used for any other model, and its classes have numbers unless there are as many as
    in ImageNet.

    Raises:
        ValueError: it is no such classifier, or takes pictures of any size and no variant has its
            name.
    """
    from keras_effnetv2.evaluation.judging import JudgedNetwork, classes_named
    from keras_effnetv2.evaluation.scores import evaluation_protocol, set_to_follow
    from keras_effnetv2.export.metadata import Metadata
    from keras_effnetv2.images.styles import Style

    shapes: list[Any] = [getattr(model, name, None) for name in ("input_shape", "output_shape")]
    if [len(shape or ()) for shape in shapes] != [4, 2] or shapes[0][3] != 3:
        raise ValueError(
            "The model must take pictures (N, height, width, 3) and return scores (N, classes). "
            f"Received: {model.name!r}, {shapes[0]} -> {shapes[1]}"
        )
    said = said or Metadata()
    (_, height, width, _), (_, classes) = shapes
    height, width = (side or said.image_size for side in (height, width))
    is_variant = model.name in ModelConfig.variants()
    if height != width or (height is None and not is_variant):
        raise ValueError(
            f"The model {model.name!r} takes pictures of {height or 'any'} x {width or 'any'} "
            "pixels, but here all pictures become squares of one size. Build it with "
            "input_shape=(S, S, 3), or give the folder of its run."
        )
    style: Style = said.style or "whole"
    if is_variant and said.style is None:
        size, style = evaluation_protocol(set_to_follow(model.name, None, classes), "official")
        height = height or size
    facts = {"model": model.name, "image_size": height}
    described, is_named = classes_named(said.class_names or (), classes)
    return JudgedNetwork(
        *(model, described, height, style, facts),
        names_classes=is_named,
        variant=model.name if is_variant else None,
        temperature=said.temperature,
        none_below=said.none_below,
        thresholds=said.thresholds,
    )


def _trained_network(path: Path) -> "JudgedNetwork":
    from keras_effnetv2.evaluation.judging import JudgedNetwork, TrainedOn
    from keras_effnetv2.runs.run_folder import open_run

    run = open_run(path)
    return JudgedNetwork(
        model=run.model,
        classes=[{"class": name} for name in run.class_names],
        image_size=run.image_size,
        style=run.style,
        facts={"run": str(run.path)},
        trained_on=TrainedOn.of(run.settings, run.pictures),
        variant=run.settings.model,
        weights=run.settings.weights_origin,
        temperature=run.settings.temperature,
        none_below=run.settings.none_below,
        thresholds=run.settings.thresholds,
    )
