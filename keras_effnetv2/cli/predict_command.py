"""The command `predict`: name what pictures show."""

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import Any

from keras_effnetv2._common.progress import progress_bar
from keras_effnetv2._common.text import counted, printable, say
from keras_effnetv2.cli.command import argument, command, option
from keras_effnetv2.cli.options import JSON, NETWORK, WEIGHTS_TO_JUDGE, check_network
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.evaluation import prediction
from keras_effnetv2.evaluation.named_network import open_network


@command(
    "keras-effnetv2 predict runs/photos cat.jpg dog.png --top 3\n"
    "keras-effnetv2 predict efficientnet-lite0 cat.jpg --embeddings cat.npz"
)
def predict(
    model: str = NETWORK,
    pictures: list[Path] = argument("PICTURE", "Picture files."),
    weights: str | None = WEIGHTS_TO_JUDGE,
    top: int = option("K", "Number of classes to name.", 5),
    embeddings: Path | None = option(
        "FILE.npz",
        "Write the pooled features of the pictures: embeddings (N, C), paths (N), and network, "
        "which says what computed them. Pictures that cannot be read are left out.",
    ),
    json: bool = JSON,
) -> int:
    """Say what pictures show."""
    if top < 1:
        raise ValueError(f"--top must be at least 1. Received: {top}")
    check_network(model, weights)
    if embeddings is not None:
        _check_embeddings(embeddings)
    network: Any = model
    if not all(map(prediction.picture_trouble, pictures)):
        start_tensorflow()
        network = open_network(model, weights)
    with progress_bar("predicting") as progress:
        found = prediction.predict(
            network, pictures, top=top, embeddings=embeddings is not None, progress=progress
        )
    if json:
        say(dumps([_described(one) for one in found], indent=2))
    else:
        _print(found)
    errors = [one.error for one in found if one.error]
    if embeddings is not None and len(errors) < len(found):
        count = prediction.write_embeddings(embeddings, network, found)
        say(f"{embeddings}: embeddings of {counted(count, 'picture')}", error=True)
    elif embeddings is not None:
        say(f"{embeddings} was not written: no picture could be read", error=True)
    return 1 if errors else 0


def _check_embeddings(path: Path) -> None:
    """Raise an error unless a file of this name can be written."""
    if path.suffix != ".npz" or path.is_dir():
        raise ValueError(f"--embeddings must be a file that ends in .npz. Received: {str(path)!r}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--embeddings: There is no folder {str(path.parent)!r}.")


def _described(found: prediction.Prediction) -> dict[str, Any]:
    """Return the classes of a picture, best first, or what is wrong with it."""
    if found.error:
        return {"picture": found.path, "error": found.error}
    columns = {"class": found.class_names, "wordnet_id": found.wordnet_ids, "score": found.scores}
    given = {name: values for name, values in columns.items() if values}
    rows = zip(*given.values(), strict=True)
    return {"picture": found.path, "classes": [dict(zip(given, row, strict=True)) for row in rows]}


def _print(predictions: Sequence[prediction.Prediction]) -> None:
    width = max(len(printable(found.path)) for found in predictions)
    for found in predictions:
        shown = f"{printable(found.path):<{width}}"
        if found.error:
            say(f"{shown}  error: {found.error}")
        for one in _described(found).get("classes", ()):
            identity = f" ({one['wordnet_id']})" if "wordnet_id" in one else ""
            say(f"{shown}  {one['score']:7.2%}  {printable(one['class'])}{identity}")
            shown = " " * width
