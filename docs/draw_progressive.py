"""Draw the pictures of `docs/progressive.md`.

    python docs/draw_progressive.py

`progressive_photo.png` is china.jpg of scikit-learn as the stages of EfficientNetV2-M take it, made
by `make_dataset` with the paper's plan; in mixup its partner is flower.jpg. The curves are what
`progressive_stages` and the schedule of a recipe return. Takes about 20 seconds. The photographs
are by danielbuechele and vultilion on flickr.com, licence CC BY 2.0 (scikit-learn,
datasets/images/README.txt).
"""

import dataclasses
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images

import keras_effnetv2 as kev2
from keras_effnetv2.recipes.schedule import follow_plan
from keras_effnetv2.report.figures import BLUE, ORANGE, drawing, to_svg

DOCS = Path(__file__).parent
CREDIT = "Photographs: danielbuechele and vultilion, flickr.com, CC BY 2.0"
GREY = "#7a848e"  # of letters: as far from a white page as from a dark one
PAPER: dict[str, Any] = {"label": "paper", "color": BLUE, "linewidth": 2}
CODE: dict[str, Any] = {
    "label": "released code",
    "color": ORANGE,
    "linewidth": 2,
    "linestyle": (0, (3, 2)),
}
FIRST_DRAW = 4  # epochs of a stage that are left out, so that mixup is seen in the last one


def draw_photo(folder: Path) -> Figure:
    """Return the photo as each stage takes it: once to scale, and three more draws."""
    for photo in map(Path, load_sample_images().filenames):  # china.jpg and flower.jpg
        (folder / photo.stem).mkdir()
        shutil.copy(photo, folder / photo.stem)
    source = kev2.load_source(folder, "all")
    plan = kev2.progressive_stages("efficientnetv2-m", epochs=350, preset="paper")
    figure = Figure(figsize=(8.8, 4.1), dpi=100, layout="constrained")
    figure.supxlabel(CREDIT, fontsize=7, color="#5c6670")
    for stage, column in zip(plan, figure.subfigures(1, len(plan)), strict=True):
        axes = column.subplot_mosaic([[0, 0, 0], [1, 2, 3]], height_ratios=(3, 1))
        for draw, axis in axes.items():
            batches = kev2.make_dataset(
                source,
                image_size=stage.image_size,
                batch_size=2,
                training=True,
                randaugment_magnitude=stage.randaugment_magnitude,
                mixup_alpha=stage.mixup_alpha,
                crop_area=(0.6, 1.0),
                epoch=stage.start_epoch + FIRST_DRAW + draw,
            )
            pictures, labels = next(iter(batches))
            china = pictures[int(np.argmax(labels[:, 0]))].numpy()
            side, frame = stage.image_size, plan[-1].image_size if draw == 0 else stage.image_size
            axis.imshow(china / 255, extent=(-side / 2, side / 2, 0, side))
            axis.set(xlim=(-frame / 2, frame / 2), ylim=(0, frame), xticks=(), yticks=())
            axis.spines[:].set_visible(False)
        axes[0].set_xlabel(
            f"epochs {stage.start_epoch + 1} to {stage.end_epoch}: {side} pixels\n"
            f"RandAugment {stage.randaugment_magnitude:g}, dropout {stage.dropout_rate:g}\n"
            f"mixup {stage.mixup_alpha:.2g}",
            fontsize=8.5,
        )
    return figure


def draw_plans() -> str:
    """Return the settings of M by epoch, in both presets."""
    titles = {
        "image_size": "pixels a side",
        "randaugment_magnitude": "RandAugment",
        "mixup_alpha": "mixup alpha",
        "dropout_rate": "dropout rate",
    }
    with drawing(840, 260) as figure:
        for axis, (name, title) in zip(figure.subplots(1, 4), titles.items(), strict=True):
            for preset, look in (("paper", PAPER), ("official", CODE)):
                plan = kev2.progressive_stages("efficientnetv2-m", epochs=350, preset=preset)
                axis.stairs(
                    [getattr(stage, name) for stage in plan],
                    [*(stage.start_epoch for stage in plan), plan.epochs],
                    baseline=None,
                    **look,
                )
            axis.set_title(title, fontsize=13)
            axis.margins(y=0.06)
            axis.set(xlabel="epoch", xticks=(0, 175, 350))
            axis.set_ylim(bottom=0)
            axis.grid(axis="x", visible=False)
        handles, labels = axis.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
        return to_svg(figure, "Size, magnitude, mixup and dropout of M by epoch")


def draw_rates() -> str:
    """Return the learning rate by epoch, for both meanings of `decay_by`."""
    recipe = dataclasses.replace(
        kev2.TrainRecipe.preset("quickstart"), epochs=16, image_size=(96, 192)
    )
    plan, examples = recipe.resolve("efficientnetv2-b0").plan, 3200
    steps = examples // recipe.batch_size
    curve = recipe.learning_rate_schedule(steps)
    with drawing(560, 280) as figure:
        axis = figure.subplots()
        for decay_by, look in (("pixels", PAPER), ("epochs", CODE)):
            schedule = follow_plan(curve, plan, examples, decay_by)
            rates = [float(schedule(step)) for step in range(0, 16 * steps + 1, steps // 4)]
            look = {**look, "label": f'decay_by="{decay_by}"'}
            axis.plot(np.arange(len(rates)) / 4, np.array(rates) / max(rates), **look)
        for stage in plan:
            axis.text(stage.start_epoch + 2, 1.04, f"{stage.image_size} pixels", ha="center")
            axis.axvline(stage.start_epoch, color=GREY, alpha=0.5, linewidth=1)
        axis.set(xlim=(0, 16), ylim=(0, 1.12), xlabel="epoch", ylabel="of the highest rate")
        axis.grid(axis="x", visible=False)
        figure.legend(loc="outside upper left", ncols=2)
        return to_svg(figure, "The learning rate by epoch")


def main() -> None:
    """Write the pictures."""
    drawn = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        draw_photo(Path(folder)).savefig(drawn, format="png")
    picture = Image.open(drawn).convert("RGB")
    dithered = picture.quantize(palette=picture.quantize(192, kmeans=2))
    dithered.save(DOCS / "progressive_photo.png", optimize=True)
    for name, svg in (("plans", draw_plans()), ("rates", draw_rates())):
        path = DOCS / f"progressive_{name}.svg"
        path.write_text(svg.replace("currentColor", GREY) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
