"""The model card of a repository: README.md with figures and working code."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from keras_effnetv2._common.text import counted, printable
from keras_effnetv2._version import __version__
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.evaluation.scores import wilson_interval
from keras_effnetv2.pretrained.hub_name import is_hub_name, parse_hub_name
from keras_effnetv2.pretrained.registry import published
from keras_effnetv2.pretrained.timm_config import Description
from keras_effnetv2.recipes.stages import StagePlan
from keras_effnetv2.report.run_page import MAX_ROWS, class_table, confused_pairs
from keras_effnetv2.runs.run_folder import Run

CARD = "README.md"

_TEMPLATE = Path(__file__).with_name("card.md")
_SQUARES = {
    "whole": "the whole picture, bilinear with antialias",
    "finetune": "the whole picture, bilinear",
    "v2": "the central square, from 320 pixels on the whole picture, bilinear",
    "v1": "the central square, bicubic",
}
# Data that anybody can have, and whose name says nothing about its owner's machine.
_PUBLIC_DATA = re.compile(r"digits|tfds:\w[\w:/.-]*")


def model_card(run: Run, described: Description, repository: str) -> str:
    """Return the model card of a run for a repository OWNER/NAME, Markdown with a YAML head."""
    settings, result = run.settings, run.settings.result or {}
    judged, accuracy = settings.validation.pictures, result["validation_accuracy"]
    spec = settings.training.spec
    assert described.config is not None
    return _template().render(
        repository=repository,
        run=run,
        settings=settings,
        recipe=run.recipe,
        variant=_variant(described),
        architecture=described.architecture,
        parameters=run.model.count_params(),
        accuracy=accuracy,
        interval=wilson_interval(round(accuracy * judged), judged),
        loss=result["validation_loss"],
        minutes=result["seconds"] / 60,
        epochs=counted(len(run.history["epoch"]), "epoch"),
        data=spec if _PUBLIC_DATA.fullmatch(spec) else None,
        squares=_SQUARES[run.style],
        base_model=_repository(settings.weights),
        started_from=_started_from(settings.weights, settings.model),
        stages=StagePlan(settings.stages).table(),
        thresholds=list(zip(run.class_names, settings.thresholds or (), strict=False)),
        version=__version__,
        **_tables(run),
    )


def _variant(described: Description) -> str | None:
    """Return the name of the published variant, e.g. "efficientnetv2-s"; None if it is not one."""
    name = (described.architecture or "").removeprefix("tf_").replace("_", "-")
    return name if name in ModelConfig.variants() else None


def _started_from(weights: str | None, model: str) -> str:
    """Return where a training started, without the paths of its owner."""
    if weights is None:
        return "random weights"
    if weights in published(model):
        return f"the published weights {model}/{weights}"
    repository = _repository(weights)
    return f"https://huggingface.co/{repository}" if repository else "weights of its owner"


def _repository(weights: str | None) -> str | None:
    return parse_hub_name(weights).id if is_hub_name(weights) else None


def _tables(run: Run) -> dict[str, Any]:
    """Return the table of the classes, and the confusion matrix or the most confused pairs."""
    names, confusion = run.class_names, run.confusion
    if confusion is None:
        return {"classes": None, "matrix": None, "pairs": None}
    classes, pairs = class_table(names, confusion), confused_pairs(names, confusion)
    trained = Counter(entry.class_name for entry in run.pictures.training)
    is_small = len(names) <= MAX_ROWS
    return {
        "classes": classes,
        "trained": trained,
        "matrix": list(zip(names, confusion.tolist(), strict=True)) if is_small else None,
        "pairs": pairs if pairs.rows and not is_small else None,
    }


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"text": _text, "row": _row, "share": _share}
    return environment.from_string(_TEMPLATE.read_text("utf-8"))


def _text(value: object) -> str:
    """Return a text as Markdown that shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#!|&~$@:])", r"\\\1", printable(str(value)))


def _row(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
