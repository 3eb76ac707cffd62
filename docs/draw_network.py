"""Draw the pictures of `docs/network.md`.

    python docs/draw_network.py

`network_blocks.svg` is the paper's Figure 2 with the layers that the released code has;
`network_s.svg` shows the stages of EfficientNetV2-S. Takes a few seconds.
"""

import itertools
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from keras_effnetv2 import ModelConfig
from keras_effnetv2.architectures.stage_table import stage_table
from keras_effnetv2.report.figures import drawing, to_svg

DOCS = Path(__file__).parent
GREY = "#7a848e"  # of letters: as far from a white page as from a dark one
PLAIN, FUSED, DEPTHWISE, GATE = "#5b6670", "#0072b2", "#b34f00", "#00785a"  # under white letters

SHRINK = ("conv 1x1, BN", PLAIN, "H x W x C")
BLOCKS = {
    "MBConv": [
        ("conv 1x1, BN, swish", PLAIN, "H x W x 4C"),
        ("depthwise 3x3, BN, swish", DEPTHWISE, "H x W x 4C"),
        ("squeeze-excite", GATE, "H x W x 4C"),
        SHRINK,
    ],
    "Fused-MBConv": [
        ("conv 3x3, BN, swish", FUSED, "H x W x 4C"),
        ("(squeeze-excite)", None, "H x W x 4C"),
        SHRINK,
    ],
    "Fused-MBConv, ratio 1": [("conv 3x3, BN, swish", FUSED, "H x W x C")],
}


def draw_box(
    axis: Axes, x: float, y: float, text: str, color: str | None, size: tuple[float, float]
) -> None:
    """Draw a box around (x, y) with letters in it; without a colour only its dashed outline."""
    corner, shape = (x - size[0] / 2, y - size[1] / 2), "round,pad=0,rounding_size=0.1"
    look = {"linestyle": "--", "fill": False} if color is None else {}
    axis.add_patch(FancyBboxPatch(corner, *size, shape, color=color or GREY, **look))
    axis.text(x, y, text, color="white" if color else GREY, ha="center", va="center", fontsize=12)


def draw_blocks() -> str:
    """Return the three kinds of blocks, from top to bottom."""
    with drawing(840, 430) as figure:
        for axis, (title, layers) in zip(figure.subplots(1, 3), BLOCKS.items(), strict=True):
            axis.set(xlim=(-1.6, 2.1), ylim=(-8.6, 0.6))
            axis.axis("off")
            axis.set_title(title, fontsize=14, fontweight="bold")
            line = {"color": GREY, "linewidth": 1.5}
            stops = [0.8, *(-0.8 - 1.5 * index for index in range(len(layers))), -6.6]
            for above, below in itertools.pairwise(stops):
                axis.plot((0, 0), (above - 0.4, below + 0.4), **line)
            axis.plot((0, 0), (-7, -8.4), zorder=0, **line)
            axis.plot((0, 1.75, 1.75, 0.25), (0.1, 0.1, -7.6, -7.6), **line)
            axis.text(1.85, -4, "shortcut", color=GREY, rotation=270, va="center", fontsize=12)
            axis.text(0.1, 0.2, "H x W x C", color=GREY, fontsize=11)
            for y, (text, color, size) in zip(stops[1:], layers, strict=False):
                draw_box(axis, 0, y, text, color, (2.9, 0.8))
                axis.text(0.1, y - 0.75, size, color=GREY, fontsize=11)
            draw_box(axis, 0, -6.6, "stochastic depth", PLAIN, (2.9, 0.8))
            draw_box(axis, 0, -7.6, "+", PLAIN, (0.5, 0.5))
        return to_svg(figure, "MBConv, Fused-MBConv, and Fused-MBConv with the expand ratio 1")


def draw_stages() -> str:
    """Return the stages of S: the height of a box is the side of its map, its width the layers."""
    config = ModelConfig.from_name("efficientnetv2-s")
    with drawing(840, 260) as figure:
        axis = figure.subplots()
        axis.axis("off")
        x = 0.0
        for row in stage_table(config, config.eval_size):
            kind = FUSED if row.operator.startswith("Fused") else DEPTHWISE
            color, width = (kind if "MBConv" in row.operator else PLAIN), 1.5 + 0.4 * row.layers
            side = row.size[0] / 40
            axis.add_patch(FancyBboxPatch((x, 0), width, side, "square,pad=0", color=color))
            operator = row.operator.split(",")[0].removesuffix(" & Pooling & FC")
            words = operator.replace("-", "-\n"), f"{row.channels} ch.", f"x {row.layers}"
            axis.text(x + width / 2, side + 0.15, f"{row.size[0]}", color=GREY, ha="center")
            axis.text(x + width / 2, -0.3, "\n".join(words), color=GREY, ha="center", va="top")
            x += width + 0.5
        axis.set(xlim=(0, x), ylim=(-2.6, 5.6))
        return to_svg(figure, "The stages of EfficientNetV2-S at 384 pixels")


def main() -> None:
    """Write the pictures."""
    for name, svg in (("blocks", draw_blocks()), ("s", draw_stages())):
        path = DOCS / f"network_{name}.svg"
        path.write_text(svg.replace("currentColor", GREY) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
