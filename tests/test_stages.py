"""Stage plans against the official configuration and the paper's Table 6."""

import dataclasses
import re
from pathlib import Path

import pytest
from helpers import oracle

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.recipes.stages import StagePlan, TrainStage, progressive_stages

DOCUMENT = (Path(__file__).parent.parent / "docs/progressive.md").read_text("utf-8")
GOLDEN = oracle.training("progressive")  # the official configuration, and the paper's Table 6


@pytest.mark.parametrize("variant", GOLDEN["code"])
def test_official_preset(variant):
    plan = progressive_stages(variant, epochs=350, preset="official", batch_size=4096)
    assert plan == progressive_stages(variant, epochs=350, batch_size=4096)  # the default
    for stage, row in zip(plan, GOLDEN["code"][variant]["per_stage"], strict=True):
        assert dataclasses.asdict(stage) == pytest.approx(
            {
                "index": row["stage"],
                "start_epoch": row["start_epoch_main_tf2"],
                "end_epoch": row["end_epoch_main_tf2"],
                "image_size": row["image_size"],
                "randaugment_magnitude": row["randaug_magnitude"],
                "mixup_alpha": row["mixup_alpha"],
                "cutmix_alpha": row["cutmix_alpha"],
                "dropout_rate": row["dropout_rate"],
                "batch_size": row["batch_size"],
            },
            rel=1e-12,
        )


@pytest.mark.parametrize("variant", GOLDEN["paper"])
def test_paper_preset(variant):
    plan = progressive_stages(variant, epochs=350, preset="paper")
    for stage, row in zip(plan, GOLDEN["paper"][variant]["per_stage"], strict=True):
        assert (stage.index, stage.start_epoch, stage.end_epoch, stage.image_size) == (
            row["stage"],
            row["start_epoch"],
            row["end_epoch"],
            row["image_size_int"],
        )
        found = (stage.randaugment_magnitude, stage.mixup_alpha, stage.dropout_rate)
        expected = (row["randaug_magnitude"], row["mixup_alpha"], row["dropout_rate"])
        assert found == pytest.approx(expected, rel=1e-12)
        assert stage.cutmix_alpha == 0.0


DOCUMENTED = {
    "image size": "image_size",
    "RandAugment magnitude": "randaugment_magnitude",
    "mixup alpha": "mixup_alpha",
    "cutmix alpha": "cutmix_alpha",
    "dropout rate": "dropout_rate",
}


def documented_range(variant, preset, setting):
    """A cell of the table in docs/progressive.md, as the plan has it."""
    try:
        plan = progressive_stages(variant, epochs=350, preset=preset)
    except ValueError:
        return "-"
    first, last = (f"{getattr(stage, DOCUMENTED[setting]):g}" for stage in (plan[0], plan[-1]))
    return first if first == last else f"{first} to {last}"


def test_documented_differences_between_the_presets():
    rows = re.findall(
        r"^\| (efficientnetv2-\w+) \| (.+) \| (.+) \| (.+) \|$", DOCUMENT, re.MULTILINE
    )
    expected = [
        (variant, setting, *(documented_range(variant, preset, setting) for preset in columns))
        for variant in (f"efficientnetv2-{size}" for size in ("s", "m", "l", "xl"))
        for setting in DOCUMENTED
        for columns in [("paper", "official")]
    ]
    assert rows == expected


def test_documented_epochs_and_batch_sizes(capsys):
    plan = progressive_stages("efficientnetv2-s", epochs=350, preset="paper")
    epochs = ", ".join(f"{stage.start_epoch + 1}-{stage.end_epoch}" for stage in plan)
    assert epochs in DOCUMENT.replace("\n", " ")
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    exec(compile(example, "docs/progressive.md", "exec"), {})
    assert f"# {capsys.readouterr().out.strip()}" in example


@pytest.mark.parametrize(
    ("batch_size", "stages", "expected"),
    [
        ((256, 64), 4, [256, 192, 128, 64]),  # as docs/progressive.md says
        ((64, 256), 4, [64, 128, 192, 256]),  # may grow too
        ((100, 33), 4, [100, 77, 55, 33]),  # 77.67 and 55.33: rounded down
        ((7, 7), 3, [7, 7, 7]),
        ((1, 2), 5, [1, 1, 1, 1, 2]),
        ((30, 27), 11, [30, 29, 29, 29, 28, 28, 28, 27, 27, 27, 27]),
        ((256, 64), 1, [64]),  # a single stage takes the last value
        (48, 3, [48, 48, 48]),
    ],
)
def test_batch_size_by_stage(batch_size, stages, expected):
    plan = progressive_stages(epochs=20, stages=stages, image_size=64, batch_size=batch_size)
    assert [stage.batch_size for stage in plan] == expected
    assert all(type(stage.batch_size) is int for stage in plan)


@pytest.mark.parametrize("variant", GOLDEN["code"])
def test_official_steps(variant):
    """main.py ends its stages at a step: of the last epoch of the plan's stage, or of the next."""
    golden = GOLDEN["code"][variant]
    steps_per_epoch = golden["steps_per_epoch_main"]
    plan = progressive_stages(variant, epochs=golden["epochs"], batch_size=golden["batch_size"])
    assert steps_per_epoch == golden["train_images"] / plan[0].batch_size
    for stage, row in zip(plan, golden["per_stage"], strict=True):
        later = row["end_step_main"] - int(stage.end_epoch * steps_per_epoch)
        assert 0 <= later < steps_per_epoch


@pytest.mark.parametrize("variant", ModelConfig.variants())
def test_official_rule_for_other_numbers_of_stages(variant):
    size = ModelConfig.from_name(variant).train_size
    for stages in (1, 2, 3, 5, 6, 7):
        plan = progressive_stages(variant, epochs=20, preset="official", stages=stages)
        # Integer arithmetic: no rounding can creep in.
        expected = [128 + (size - 128) * (i + 1) // stages for i in range(stages)]
        assert [stage.image_size for stage in plan] == expected


def test_explicit_ranges():
    plan = progressive_stages(
        epochs=10,
        stages=4,
        image_size=(128, 300),
        randaugment_magnitude=(5, 15),
        mixup_alpha=(0, 0.3),
        cutmix_alpha=0.5,
        dropout_rate=[0.1, 0.4],
        batch_size=(256, 63),
    )
    assert [stage.image_size for stage in plan] == [128, 185, 242, 300]
    assert [stage.randaugment_magnitude for stage in plan] == pytest.approx([5, 25 / 3, 35 / 3, 15])
    assert [stage.mixup_alpha for stage in plan] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [stage.cutmix_alpha for stage in plan] == [0.5] * 4
    assert [stage.dropout_rate for stage in plan] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert [stage.batch_size for stage in plan] == [256, 191, 127, 63]
    assert [stage.start_epoch for stage in plan] == [0, 2, 5, 7]


def test_ranges_left_out_are_off():
    (stage,) = progressive_stages(epochs=3, stages=1, image_size=(64, 96))
    assert stage == TrainStage(0, 0, 3, image_size=96)
    assert (stage.randaugment_magnitude, stage.mixup_alpha, stage.cutmix_alpha) == (None, 0, 0)
    assert (stage.dropout_rate, stage.batch_size) == (None, 64)


def test_explicit_range_overrides_the_preset():
    preset = progressive_stages("efficientnetv2-m", epochs=8, preset="paper")
    plan = progressive_stages(
        "efficientnetv2-m",
        epochs=8,
        preset="paper",
        image_size=(64, 112),
        randaugment_magnitude=None,
        dropout_rate=None,
    )
    assert [stage.image_size for stage in plan] == [64, 80, 96, 112]
    assert {stage.randaugment_magnitude for stage in plan} == {None}
    assert {stage.dropout_rate for stage in plan} == {None}
    assert [stage.mixup_alpha for stage in plan] == [stage.mixup_alpha for stage in preset]


@pytest.mark.parametrize(("epochs", "stages"), [(1, 1), (4, 4), (5, 4), (350, 4), (7, 3)])
def test_epochs_are_covered_once(epochs, stages):
    plan = progressive_stages(epochs=epochs, stages=stages, image_size=64)
    assert plan.epochs == epochs
    covered = [epoch for stage in plan for epoch in range(stage.start_epoch, stage.end_epoch)]
    assert covered == list(range(epochs))
    for epoch in range(epochs):
        assert plan.at(epoch).start_epoch <= epoch < plan.at(epoch).end_epoch


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stages": 5}, r"`epochs` must be at least `stages`.*epochs=4, stages=5"),
        ({"stages": 0}, r"`stages` must be an integer of at least 1"),
        ({"epochs": 2.5}, r"`epochs` must be an integer"),
        ({"image_size": (7, 64)}, r"`image_size` .*at least 8, or .*: \(7, 64\)"),
        ({"image_size": (64, 0)}, r"`image_size` .*at least 8, or .*: \(64, 0\)"),
        ({"image_size": (64, 32)}, r"the smaller size first\. Received: \(64, 32\)"),
        ({"image_size": "big"}, r"`image_size` must be an integer of at least 8.*'big'"),
        ({"image_size": (32.5, 64)}, r"`image_size` must be an integer.*32\.5"),
        ({"mixup_alpha": (0, -0.1)}, r"`mixup_alpha` must be a number of at least 0, .*: .*-0\.1"),
        ({"cutmix_alpha": -1}, r"`cutmix_alpha` must be a number of at least 0"),
        ({"cutmix_alpha": None}, r"`cutmix_alpha` must be a number of at least 0\. .*: None"),
        ({"randaugment_magnitude": -1}, r"`randaugment_magnitude` .* at least 0, or None"),
        ({"dropout_rate": (0.1, 1.0)}, r"of at least 0 and below 1, or None, or two.*, 1\.0"),
        ({"dropout_rate": (0.1, 0.2, 0.3)}, r"or two of these for .*FIRST:LAST \(in Python a pair"),
        ({"dropout_rate": (None, 0.3)}, r"or two of these.*\(None, 0\.3\)"),
        ({"mixup_alpha": float("nan")}, r"`mixup_alpha` must be a number"),
        ({"mixup_alpha": True}, r"`mixup_alpha` must be a number.*True"),
        ({"batch_size": (8, 0)}, r"`batch_size` must be an integer of at least 1"),
        ({"preset": "paper"}, r"preset='paper' needs a variant"),
        ({"preset": "best"}, r"`preset` must be one of 'paper', 'official', None"),
        ({"variant": "efficientnetv2-z"}, r"Unknown variant.*efficientnetv2-s"),
        ({"variant": "efficientnetv2-xl", "preset": "paper"}, r"(?s)Table 6.*preset='official'"),
        ({"image_size": "preset"}, r"`image_size` is needed without a variant"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        progressive_stages(**{"epochs": 4, "image_size": (32, 64), **arguments})


def test_print_is_an_aligned_table():
    plan = progressive_stages(
        epochs=12, stages=2, image_size=(96, 128), randaugment_magnitude=(5, 10 / 3)
    )
    assert str(plan).splitlines() == [
        "stage  epochs  size  randaugment  mixup  cutmix  dropout  batch",
        "    1     1-6    96            5      0       0        -     64",
        "    2    7-12   128        3.333      0       0        -     64",
    ]


def test_plan_is_checked_and_frozen():
    first, second = progressive_stages(epochs=4, stages=2, image_size=64)
    assert StagePlan([first, second]) == (first, second)
    for broken in ([], [second], [first, first], [second, first], [first, "second"]):
        with pytest.raises(ValueError, match="Received"):
            StagePlan(broken)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.image_size = 96
    with pytest.raises(ValueError, match="The plan has the epochs 0 to 3"):
        StagePlan([first, second]).at(4)
