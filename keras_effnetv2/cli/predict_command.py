"""The command `predict`: name what pictures show."""

import csv
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import BadParameter

from keras_effnetv2._common.files import written_whole
from keras_effnetv2._common.progress import progress_bar
from keras_effnetv2._common.text import counted, listed, printable, say
from keras_effnetv2.cli.command import OptionGroup, argument, command, flag, option
from keras_effnetv2.cli.options import NETWORK_OR_EXPORT, WEIGHTS_TO_JUDGE, check_network
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.evaluation import prediction
from keras_effnetv2.evaluation.named_network import MADE_FROM, is_export, network_path, open_network
from keras_effnetv2.evaluation.picture_names import (
    STANDARD_INPUT,
    picture_names,
    picture_trouble,
    shown_name,
)

if TYPE_CHECKING:
    from keras_effnetv2.evaluation.judging import JudgedNetwork


@dataclass(frozen=True)
class ScoreOptions(OptionGroup):
    """The fields of `PredictionSettings`."""

    top: int | None = option(
        "K",
        "Number of classes to name. [default: 5; if pictures may have several classes, all that "
        "are above their thresholds]",
    )
    min_score: float = option("P", "Leave out classes with a score below P, 0..1.", 0.0)
    flip: bool = flag("--flip", "Take the mean over the picture and its mirror image.")
    calibrated: bool = flag(
        "--calibrated",
        "Calibrate the scores with the temperature that the training found.",
    )
    batch_size: int = option("N", "Pictures per step.", prediction.BATCH_SIZE)


@dataclass(frozen=True)
class OutputOptions(OptionGroup):
    """Where the result goes."""

    section = "Output"

    csv: Path | None = option(
        "FILE.csv",
        "Write a table instead of printing lines. It has one row per picture: picture, class, "
        "score, the next classes as class_2, score_2 and so on up to K (if pictures may have "
        "several classes, all of them), none_of_these if the network can tell, error. The columns "
        "depend only on the network and --top.",
    )
    json: bool = flag("--json", "Print JSON Lines: one object per picture.")
    embeddings: Path | None = option(
        "FILE.npz",
        "Write the pooled features of the pictures: embeddings (N, C), paths (N), and network, "
        "which describes the network. Pictures that cannot be read are left out.",
    )

    @property
    def is_printed(self) -> bool:
        """Whether there are lines for each picture."""
        return self.json or self.csv is None

    def check(self, model: str) -> None:
        """Raise an error unless the files can be written, and the network has what they need."""
        files = (("--csv", self.csv, ".csv"), ("--embeddings", self.embeddings, ".npz"))
        for name, path, ending in files:
            if path is None:
                continue
            if path.suffix != ending or path.is_dir():
                raise ValueError(
                    f"{name} must be a file that ends in {ending}. Received: {str(path)!r}"
                )
            if not path.parent.is_dir():
                raise FileNotFoundError(f"{name}: There is no folder {str(path.parent)!r}.")
        path = network_path(model, exports=True)
        if self.embeddings is not None and path is not None and is_export(path):
            raise ValueError(f"--embeddings: {model!r} is an export without features. {MADE_FROM}")


@command(
    "keras-effnetv2 predict runs/photos cat.jpg dog.png --top 3\n"
    "keras-effnetv2 predict runs/photos/model.onnx holiday/ --csv holiday.csv\n"
    "keras-effnetv2 predict efficientnet-lite0 'all/**/*.jpg' --json > found.jsonl\n"
    "keras-effnetv2 predict runs/photos --from-file list.txt\n"
    "keras-effnetv2 predict runs/photos - < cat.jpg"
)
def predict(
    model: str = NETWORK_OR_EXPORT,
    pictures: list[str] | None = argument(
        "PICTURE",
        "Picture files, folders (with everything in them), patterns in quotes, http(s) addresses, "
        "or - for a picture on standard input.",
        None,
    ),
    *,
    from_file: str | None = option(
        "LIST", "A text file with one of these in each line; - is standard input."
    ),
    weights: str | None = WEIGHTS_TO_JUDGE,
    scores: ScoreOptions,
    output: OutputOptions,
) -> int:
    """Say what pictures show.

    If some pictures cannot be read, they are listed, the others are named, and the exit code is 1.
    """
    given = _given(pictures or [], from_file)
    settings = prediction.PredictionSettings(
        **vars(scores), embeddings=output.embeddings is not None
    )
    check_network(model, weights, exports=True)
    output.check(model)
    names = picture_names(given)
    network = None
    if output.csv is not None or not all(map(picture_trouble, names)):
        start_tensorflow()
        network = open_network(model, weights, exports=True)
    found: list[prediction.Prediction] = []
    width = max(len(printable(shown_name(name))) for name in names)
    with progress_bar("predicting") as progress:
        progress(0, len(names))
        for row in prediction.predictions(network, names, settings):
            found.append(row)
            if output.json:
                say(json.dumps(_described(row)))
            elif output.is_printed:
                _print(row, width, scores.min_score)
            progress(len(found), len(names))
    if output.csv is not None and network is not None:
        _write_csv(output.csv, found, _columns(network, settings))
        say(f"{output.csv}: {counted(len(found), 'picture')}", error=True)
    return _finish(found, network, output)


def _given(pictures: Sequence[str], from_file: str | None) -> list[str]:
    """Return the pictures on the command line and in the list."""
    uses = [*pictures, *[from_file] * (from_file is not None)].count(STANDARD_INPUT)
    if uses > 1:
        raise BadParameter("standard input (-) can be read only once.")
    if uses and sys.stdin.isatty():
        raise BadParameter("standard input (-) is a terminal. Send a file: ... - < cat.jpg")
    lines: list[str] = []
    if from_file is not None:
        data = sys.stdin.buffer.read() if from_file == STANDARD_INPUT else _read(Path(from_file))
        data = data.removeprefix(b"\xef\xbb\xbf")
        split = data.split(b"\0") if b"\0" in data else data.splitlines()  # as find -print0 has it
        lines = [os.fsdecode(line) for line in split if line]
    if not pictures and not lines:
        empty = f"{from_file!r} names no picture. " if from_file is not None else ""
        raise BadParameter(f"{empty}Give a PICTURE, or a list of them with --from-file.")
    return [*pictures, *lines]


def _read(path: Path) -> bytes:
    if path.is_dir() or not path.exists():
        raise FileNotFoundError(f"--from-file: There is no file {str(path)!r}.")
    return path.read_bytes()


def _described(found: prediction.Prediction) -> dict[str, Any]:
    """Return the classes of a picture, best first, or what is wrong with it."""
    if found.error:
        return {"picture": found.path, "error": found.error}
    columns = {"class": found.class_names, "wordnet_id": found.wordnet_ids, "score": found.scores}
    given = {name: values for name, values in columns.items() if values}
    rows = zip(*given.values(), strict=True)
    classes = [dict(zip(given, row, strict=True)) for row in rows]
    mark = {} if found.none_of_these is None else {"none_of_these": found.none_of_these}
    return {"picture": found.path, "classes": classes, **mark}


def _print(found: prediction.Prediction, width: int, min_score: float) -> None:
    shown = f"{printable(found.path):<{width}}"
    if found.error:
        say(f"{shown}  error: {found.error}")
    elif not found.scores:
        lacking = (
            f"with a score of at least {min_score:.2%}" if min_score else "above its threshold"
        )
        say(f"{shown}  no class {lacking}")
    mark = "  (perhaps none of these)" if found.none_of_these else ""
    for one in _described(found).get("classes", ()):
        identity = f" ({one['wordnet_id']})" if "wordnet_id" in one else ""
        say(f"{shown}  {one['score']:7.2%}  {printable(one['class'])}{identity}{mark}")
        mark, shown = "", " " * width


def _finish(found: Sequence[prediction.Prediction], network: Any, output: OutputOptions) -> int:
    """Write the embeddings, list what cannot be read, and return the exit code."""
    bad = [f"{one.path!r}: {one.error}" for one in found if one.error]
    if output.embeddings is not None and len(bad) < len(found):
        count = prediction.write_embeddings(output.embeddings, network, found)
        say(f"{output.embeddings}: embeddings of {counted(count, 'picture')}", error=True)
    elif output.embeddings is not None:
        say(f"{output.embeddings} was not written: no picture could be read", error=True)
    if bad:
        say(
            f"error: {len(bad):,} of {counted(len(found), 'picture')} cannot be read:\n  "
            + listed(bad, separator="\n  "),
            error=True,
        )
    return 1 if bad else 0


def _columns(network: "JudgedNetwork", settings: prediction.PredictionSettings) -> list[str]:
    """Return the columns of the table, whatever is in its rows."""
    named = ["class", *["wordnet_id"] * ("wordnet_id" in network.classes[0]), "score"]
    places = range(1, settings.most_classes(network) + 1)
    mark = [] if network.none_below is None else ["none_of_these"]
    return ["picture", *[_column(name, at) for at in places for name in named], *mark, "error"]


def _column(name: str, place: int) -> str:
    return name if place == 1 else f"{name}_{place}"


def _write_csv(path: Path, found: Sequence[prediction.Prediction], columns: Sequence[str]) -> None:
    rows: list[dict[str, Any]] = []
    for described in map(_described, found):
        row = {name: value for name, value in described.items() if name != "classes"}
        for place, named in enumerate(described.get("classes", ()), start=1):
            row |= {_column(name, place): value for name, value in named.items()}
        rows.append(row)
    with (
        written_whole(path) as scratch,
        open(scratch, "w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
