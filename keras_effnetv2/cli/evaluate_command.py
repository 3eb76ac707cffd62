"""The command `evaluate`: judge a run, an export or published weights on labelled pictures."""

from json import dumps
from typing import TYPE_CHECKING, Any

from keras_effnetv2._common.progress import progress_bar
from keras_effnetv2._common.text import aligned, counted, printable, say
from keras_effnetv2.cli.command import command, option
from keras_effnetv2.cli.options import (
    DATA_TO_JUDGE,
    JSON,
    NETWORK_OR_EXPORT,
    WEIGHTS_TO_JUDGE,
    JudgingOptions,
    Split,
    check_data,
    check_network,
)
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.evaluation.named_network import open_network

if TYPE_CHECKING:
    from keras_effnetv2.evaluation.judging import ChosenPictures, JudgedNetwork, Judgement

_WORST_CLASSES = 10  # lines of the table


@command(
    "keras-effnetv2 evaluate runs/photos --data photos/\n"
    "keras-effnetv2 evaluate runs/photos/model.onnx --data photos/\n"
    "keras-effnetv2 evaluate efficientnetv2-s --weights imagenet21k-ft1k \\\n"
    "    --data imagenet/val"
)
def evaluate(
    *,
    model: str = NETWORK_OR_EXPORT,
    data: str = DATA_TO_JUDGE,
    weights: str | None = WEIGHTS_TO_JUDGE,
    split: Split | None = option(
        None,
        "The pictures to judge. The training pictures of a run are left out, except with all and "
        "train. [default for a run: test if there is one, else all that it was not trained on; for "
        "a variant: the first of validation, test and all that exists]",
    ),
    judging: JudgingOptions,
    json: bool = JSON,
) -> None:
    """Judge a trained run, an export or published weights on labelled pictures."""
    check_network(model, weights, judging.protocol, exports=True)
    judging.check()
    check_data(data, multi_label=True)  # the network says later whether the labels are
    start_tensorflow()
    from keras_effnetv2.data.sources import available_splits
    from keras_effnetv2.evaluation.judging import pictures_to_judge

    available_splits(data, multi_label=True)  # bad data: say so before weights are downloaded
    network = open_network(model, weights, judging.protocol, exports=True)
    judgement = judge_pictures(network, pictures_to_judge(network, data, split), judging)
    if json:
        say(dumps(judgement.figures(), indent=2))
    else:
        print_judgement(judgement)


def judge_pictures(
    network: "JudgedNetwork", pictures: "ChosenPictures", judging: JudgingOptions
) -> "Judgement":
    """Judge a network; print notes, the progress and pictures left out to stderr."""
    from keras_effnetv2.evaluation.judging import judge

    for note in pictures.source.notes:
        say(note, error=True)
    with progress_bar("checking") as checking, progress_bar("evaluating") as evaluating:
        judgement = judge(
            network,
            pictures,
            batch_size=judging.batch_size,
            skip_bad=judging.skip_bad,
            checking=checking,
            evaluating=evaluating,
        )
    for picture in judgement.left_out:
        say(f"left out: {picture.name!r}: {picture.reason}", error=True)
    return judgement


def print_judgement(judgement: "Judgement") -> None:
    """Print the figures, a comparison with the published one, and the worst classes."""
    figures, counts = judgement.figures(), judgement.counts
    hidden = {*counts, "left_out"}
    width = max(map(len, figures))
    for name, value in figures.items():
        if name not in hidden:
            say(f"{name:<{width}} {printable(_figure(value))}")
    if judgement.left_out:
        say(f"\n{counted(len(judgement.left_out), 'picture')} could not be read, see above.")
    if counts:
        say(
            f"\nOf these {figures['pictures']:,} pictures, {counts['held_back']:,} were held back "
            f"from the training, {counts['trained_on']:,} were trained on, {counts['new']:,} are "
            f"new. {counts['not_judged']:,} other pictures were not judged."
        )
    if "published_accuracy" in figures:
        say(f"\n{_comparison(figures)}")
    rows, columns = judgement.by_class(), list(judgement.evaluation.by_class())
    header = [f"class, lowest {columns[0]} first", "pictures", *columns]
    table = [
        (printable(name), f"{pictures}", *(f"{value:.1%}" for value in values))
        for name, pictures, *values in rows[:_WORST_CLASSES]
    ]
    say("\n" + "\n".join(aligned([header, *table], left=(0,))))
    if len(rows) > _WORST_CLASSES:
        say(f"({_WORST_CLASSES} of {len(rows)} classes)")


def _figure(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.4f} to {value[1]:.4f} (95%)"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _comparison(figures: dict[str, Any]) -> str:
    """Return the accuracy next to the published one, and the limits of the comparison."""
    published = figures["published_accuracy"]
    low, high = figures["accuracy_interval"]
    verdict = "contains it" if low <= published <= high else "does not contain it"
    lines = [
        f"published {published:.1%} on the 50,000 validation pictures of ImageNet; the interval "
        f"{low:.1%} to {high:.1%} {verdict} "
        f"(difference {100 * (figures['accuracy'] - published):+.1f} percentage points)"
    ]
    if figures["classes_with_pictures"] < figures["classes"]:
        lines.append(
            f"judged on {figures['classes_with_pictures']} of the {figures['classes']} classes, "
            "the published figure is for all"
        )
    if figures["protocol"] != "official":
        lines.append("the published figure was measured by the official protocol")
    return "\n".join(lines)
