"""`RunSettings`: what `recipe.json` of a run folder holds.

Importing this module starts neither Keras nor TensorFlow.
"""

import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from keras_effnetv2._common.checks import (
    check_class_names,
    check_integer,
    check_number,
    check_thresholds,
    from_mapping,
)
from keras_effnetv2._version import __version__
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import StagePlan, TrainStage

if TYPE_CHECKING:
    from keras_effnetv2.data.picture_record import PictureRecord
    from keras_effnetv2.data.sources import ImageSource

# What a run is resumed with must be what it was started with.
_FIXED = ("model", "architecture", "weights", "class_names", "recipe", "limits")


@dataclass(frozen=True)
class Limits:
    """What ends a training before its last epoch, see `train`; None does not."""

    patience: int | None = None  # epochs of the last stage without a better one
    max_minutes: float | None = None  # of the whole of `train`

    def __post_init__(self) -> None:
        check_integer("patience", self.patience, minimum=1, or_none=True)
        check_number("max_minutes", self.max_minutes, above=0, or_none=True)

    def resuming(self, earlier: "Limits") -> "Limits":
        """Return the limits of a run that is resumed: what is not given is what it had."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(earlier, **given)


@dataclass(frozen=True)
class RecordedPictures:
    """What is recorded about the pictures of a training."""

    spec: str  # what `load_source` took
    split: str  # "train", "validation" and so on
    pictures: int  # their number

    def __post_init__(self) -> None:
        check_integer("pictures", self.pictures, minimum=0)
        for name, value in (("spec", self.spec), ("split", self.split)):
            if not isinstance(value, str):
                raise ValueError(f"`{name}` must be a text. Received: {value!r}")

    @classmethod
    def of(cls, source: "ImageSource") -> "RecordedPictures":
        """Return the record of a source."""
        # A path may hold bytes that are no UTF-8; neither a terminal nor a text file takes those.
        spec = source.spec.encode("utf-8", "backslashreplace").decode("utf-8")
        return cls(spec, source.split, source.num_examples)


def _versions() -> dict[str, str]:
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "keras_effnetv2": __version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "backend": keras.backend.backend(),
    }


_KINDS: Mapping[str, Any] = {  # of what stands in the file as it is
    "model": str,
    "architecture": dict | None,
    "weights": str | None,
    "is_pretrained": bool,
    "class_names": list,
    "stages": list,
    "versions": dict,
    "thresholds": list | None,
    "result": dict | None,
    "pictures_sha256": str,
    "kept_classifier": bool,
    "left_out_while_training": list,
}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Everything needed to repeat a run, then its state and its result."""

    finished: bool
    model: str  # its name
    architecture: Mapping[str, Any] | None  # of a `ModelConfig` that is no published variant
    weights: str | None  # that the network started from; None for fresh ones or a model's
    is_pretrained: bool  # at the start
    training: RecordedPictures
    validation: RecordedPictures
    validation_fraction: float | None  # share that was to be carved, as given
    max_train_examples: int | None  # as given
    class_names: tuple[str, ...]  # one for each output
    recipe: TrainRecipe  # nothing of it "preset" but what varies by stage
    stages: tuple[TrainStage, ...]
    limits: Limits
    max_pictures_per_epoch: int | None  # what `limits.max_minutes` left; None: all
    image_size: int  # side of the pictures that the run is evaluated and served with
    versions: Mapping[str, str] = field(default_factory=_versions)  # and the name of the backend
    # Multi-label: the score of each class from which on it is named, the result of the training;
    # 0.5 until then. None: a picture has one class.
    thresholds: tuple[float, ...] | None
    pictures_sha256: str  # of pictures.csv
    # validation_accuracy, validation_loss, calibration_error, calibrated_error and seconds; None
    # until the run is finished.
    result: Mapping[str, float] | None = None
    kept_classifier: bool = False  # fitted first: after it `limits.max_minutes` left too little
    temperature: float | None = None  # of the finished network, see `calibration.Confidence`
    none_below: float | None = None  # likewise; None: not fitted
    left_out_while_training: tuple[str, ...] = ()  # names of pictures that became unreadable

    @property
    def weights_origin(self) -> str:
        """Where the trained weights come from, for people."""
        trained = f"trained on {self.training.spec}"
        return trained + (f", started from {self.weights}" if self.weights else "")

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "RunSettings":
        """Read what `to_dict` returned, also from JSON.

        Raises:
            ValueError: these are not the settings of a run; the message says what is wrong.
        """
        if not isinstance(values, dict) or not isinstance(values.get("finished"), bool):
            raise ValueError("it does not say whether the run is finished")
        known = [one.name for one in fields(cls)]
        if missing := [name for name in known if name not in values]:
            raise ValueError(f"it needs {', '.join(missing)}")
        given = {name: values[name] for name in known}
        for name, kind in _KINDS.items():
            if not isinstance(given[name], kind):
                raise ValueError(f"its `{name}` is {given[name]!r}")
        for name in ("training", "validation"):
            given[name] = from_mapping(RecordedPictures, f"`{name}`", given[name])
        given["limits"] = from_mapping(Limits, "`limits`", given["limits"])
        given["recipe"] = TrainRecipe.from_dict(given["recipe"])
        stages = (from_mapping(TrainStage, "A stage", stage) for stage in given["stages"])
        given["stages"] = tuple(StagePlan(stages))
        for name in ("class_names", "thresholds", "left_out_while_training"):
            if given[name] is not None:
                given[name] = tuple(given[name])
        return cls(**given)

    def __post_init__(self) -> None:
        check_class_names(self.class_names)
        check_integer("image_size", self.image_size, minimum=1)
        check_number("validation_fraction", self.validation_fraction, or_none=True)
        check_number("temperature", self.temperature, above=0, or_none=True)
        check_number("none_below", self.none_below, minimum=0, maximum=1, or_none=True)
        for name in ("max_train_examples", "max_pictures_per_epoch"):
            check_integer(name, getattr(self, name), or_none=True)
        for name, value in (self.result or {}).items():
            check_number(name, value)
        check_thresholds(self.thresholds, len(self.class_names))


def check_same_run(
    earlier: RunSettings,
    settings: RunSettings,
    recorded: "PictureRecord",
    pictures: "PictureRecord",
) -> None:
    """Raise ValueError unless a run is resumed with the settings in its `recipe.json`.

    Its pictures must be those that are `recorded`; where they are does not matter.
    """
    old, new = ({key: one.to_dict()[key] for key in _FIXED} for one in (earlier, settings))
    if changed := changes(old, new) + recorded.changes(pictures):
        raise ValueError(
            "A run can only be resumed with the settings it was started with. Repeat them (the "
            "recipe with --recipe DIR/recipe.json, TrainRecipe.from_dict), or choose another "
            "output folder. Changed: " + "; ".join(changed)
        )


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return where two pieces of plain data differ, each as "dotted.name: was OLD, is NEW".

    Tuples are equal to the lists that JSON makes of them.
    """
    before, after = (json.loads(json.dumps(values)) for values in (old, new))
    return [f"{name}: was {was!r}, is {now!r}" for name, was, now in _differences(before, after)]


def _differences(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [] if old == new else [(name, old, new)]
    return [
        difference
        for key in {**old, **new}
        for difference in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
    ]
