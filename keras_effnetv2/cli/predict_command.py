"""The command `predict`: name what pictures show."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_effnetv2._common.text import printable, say
from keras_effnetv2.cli.command import argument, command, option
from keras_effnetv2.cli.named_network import check_network, open_network
from keras_effnetv2.cli.options import JSON, RUN_OR_VARIANT, WEIGHTS_TO_JUDGE
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.images.picture_file import picture_file_trouble

if TYPE_CHECKING:
    from keras_effnetv2.evaluation.judging import JudgedNetwork


@command(
    "keras-effnetv2 predict runs/photos cat.jpg dog.png --top 3\n"
    "keras-effnetv2 predict efficientnetv2-b0 cat.jpg"
)
def predict(
    model: str = RUN_OR_VARIANT,
    pictures: list[Path] = argument("PICTURE", "Picture files."),
    weights: str | None = WEIGHTS_TO_JUDGE,
    top: int = option("K", "Number of classes to name.", 5),
    json: bool = JSON,
) -> int:
    """Say what pictures show."""
    if top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}")
    check_network(model, weights)
    troubles = [_trouble(path) for path in pictures]
    if not all(troubles):
        start_tensorflow()
        network = open_network(model, weights)
    results = [
        {"picture": str(path)} | ({"error": trouble} if trouble else _name(network, path, top))
        for path, trouble in zip(pictures, troubles, strict=True)
    ]
    if json:
        say(dumps(results, indent=2))
    else:
        _print(results)
    return 1 if any("error" in result for result in results) else 0


def _trouble(path: Path) -> str:
    """Return why a path is not a picture file to read, or ""."""
    if path.is_dir():
        return f"it is a folder. Give picture files, for example {path / '*.jpg'}"
    return picture_file_trouble(path)


def _name(network: "JudgedNetwork", path: Path, top: int) -> dict[str, Any]:
    """Return the classes of one picture, best first, or what is wrong with it."""
    import numpy as np

    from keras_effnetv2.images.evaluation_crop import prepare_batch

    try:
        data = path.read_bytes()
    except OSError as error:  # since `_trouble` looked
        return {"error": f"cannot be read: {error.strerror}"}
    images, (problem,) = prepare_batch([data], network.image_size, network.style)
    if problem.numpy():
        return {"error": problem.numpy().decode()}
    (scores,) = network.model.predict_on_batch(images)
    best = np.argsort(-scores, kind="stable")[:top]
    classes = [{**network.classes[index], "score": float(scores[index])} for index in best]
    return {"classes": classes}


def _print(results: Sequence[dict[str, Any]]) -> None:
    pictures = [printable(result["picture"]) for result in results]
    width = max(map(len, pictures))
    for picture, result in zip(pictures, results, strict=True):
        shown = f"{picture:<{width}}"
        if "error" in result:
            say(f"{shown}  error: {result['error']}")
        for found in result.get("classes", ()):
            identity = f" ({found['wordnet_id']})" if "wordnet_id" in found else ""
            say(f"{shown}  {found['score']:7.2%}  {printable(found['class'])}{identity}")
            shown = " " * width
