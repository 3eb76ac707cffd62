"""The network of an export: a SavedModel, or a file of ONNX, OpenVINO or LiteRT."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from keras_effnetv2._common.text import first_line
from keras_effnetv2.data.picture_record import PictureRecord
from keras_effnetv2.evaluation.judging import JudgedNetwork, TrainedOn, classes_named
from keras_effnetv2.export.metadata import read_metadata
from keras_effnetv2.export.runtimes import load_exported
from keras_effnetv2.runs.run_folder import LABELS, read_pictures
from keras_effnetv2.runs.run_settings import RunSettings
from keras_effnetv2.runs.run_state import SAVED_MODEL, read_settings


def exported_network(path: Path) -> JudgedNetwork:
    """Return the network of an export, opened in its runtime.

    What the export does not say about classes and pictures is said by the run whose folder it is
    in. Otherwise it takes whole pictures, and its classes have the names in a `labels.txt` beside
    it, or else numbers.

    Raises:
        ValueError: it cannot be opened, or takes pictures of any size and says none, or does not
            have as many classes as names.
        ImportError: its runtime is not installed.
    """
    run = _run_around(path)
    settings = None if run is None else run[0]
    try:
        model, said = load_exported(path), read_metadata(path)
        height, width = model.image_shape
        size = said.image_size or height or (settings.image_size if settings else None)
        if size is None or {height, width} - {None, size}:
            raise ValueError(
                f"it takes pictures of {height or 'any'} x {width or 'any'} pixels, but here "
                "all pictures become squares of one size. Give what it was made from, or export "
                "that again"
            )
        (scores,) = model(np.zeros((1, size, size, 3), np.float32))
        classes = len(scores)
    except ImportError:
        raise
    except Exception as error:  # each runtime has its own
        raise ValueError(f"{path} cannot be opened: {first_line(error)}.") from None
    if said.class_names is not None and len(said.class_names) != classes:
        raise ValueError(f"{path} has {classes} classes and {len(said.class_names)} names.")
    of_run = settings.class_names if settings else ()
    names = said.class_names or of_run or _labels_beside(path)
    names = names if len(names) == classes else ()
    if names != of_run:
        run = None  # it is in that folder by chance
    described, is_named = classes_named(names, classes)
    return JudgedNetwork(
        model,
        described,
        size,
        said.style or (run[0].recipe.evaluation_style if run else "whole"),
        {"export": str(path), "image_size": size},
        names_classes=is_named,
        trained_on=TrainedOn.of(*run) if run else None,
        temperature=said.temperature,
        none_below=said.none_below,
        activation=said.activation,
        thresholds=run[0].thresholds if run else said.thresholds,
    )


def _run_around(path: Path) -> tuple[RunSettings, PictureRecord] | None:
    """Return settings and pictures of the run that an export is in."""
    folder = path.parent.parent if path.parent.name == SAVED_MODEL else path.parent
    with suppress(OSError, ValueError):
        settings = read_settings(folder)
        return settings, read_pictures(folder, settings)
    return None


def _labels_beside(path: Path) -> tuple[str, ...]:
    with suppress(OSError, ValueError):
        return tuple((path.parent / LABELS).read_text("utf-8").splitlines())
    return ()
