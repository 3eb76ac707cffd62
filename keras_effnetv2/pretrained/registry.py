"""Which weight sets are published for which variant: files, hashes, preprocessing, accuracy.

The table is `published.json`. Sources of its data: hashes of keras.applications are in its own
source (Keras 3.15.1), those of leondgarse's .h5 files in keras_efficientnet_v2 1.2.2. Archives and
top-1 of V2: README of google/automl efficientnetv2; of V1: README of tensorflow/tpu
models/official/efficientnet. Of Lite: README of lite/ there, and the packages of
ml-illustrated. Evaluation: the official configs (`datasets.py`, `effnetv2_configs.py`; of
ImageNet-21k `eval.isize` 224) and the pretrained tags of PyTorch Image Models 1.0.31 (`timm`).

The V1 files that leondgarse and google/automl call imagenet are those of the folder advprop,
trained by AdvProp (arXiv 1911.09665); keras.applications' are of ckptsaug (AutoAugment).
"""

import json
import os
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import PurePath
from typing import NamedTuple

from keras_effnetv2._common.checks import did_you_mean
from keras_effnetv2.architectures.normalization import Normalization
from keras_effnetv2.architectures.variants import variant_named
from keras_effnetv2.pretrained.weight_cache import file_name_of

IMAGENET_CLASSES = 1000
# No set is named with a separator or the ending of a file.
_LIKE_A_PATH = re.compile(r"[/\\]|\.[A-Za-z]\w*$")
IMAGENET21K_CLASSES = 21843
# Parts of the names that PyTorch's .pth have at their publishers.
_MARKS = {
    "": "imagenet",
    "aa": "imagenet",
    "ap": "imagenet-advprop",
    "ns": "noisy-student",
    "21k": "imagenet21k",
    "21ft1k": "imagenet21k-ft1k",
}
CROP_MODES = ("center", "squash")
INTERPOLATIONS = ("bilinear", "bicubic")


class PublishedFile(NamedTuple):
    """A file that can be fetched, because its hash is known."""

    source: str  # its layout, a source of `load_weights`
    url: str  # where its publisher keeps it
    hash: str  # algorithm and hexadecimal digits, e.g. "md5:21ec..."
    has_top: bool  # whether the classifier is in it
    package: str | None = None  # its path in a Python package, which is installed; None: at `url`

    @property
    def name(self) -> str:
        """The name of the file, also in the cache."""
        return file_name_of(self.package or self.url)


class CentralCrop(NamedTuple):
    """Evaluation of PyTorch Image Models: a size, and the part of the picture that is kept.

    The mode "center" keeps the aspect ratio and crops the middle, "squash" makes the whole picture
    a square first.
    """

    size: int  # side of the network's input, pixels
    fraction: float  # of the resized picture, e.g. 0.875
    mode: str  # one of `CROP_MODES`
    interpolation: str = "bicubic"  # one of `INTERPOLATIONS`


class WeightSet(NamedTuple):
    """One published set of weights of one variant.

    All `files` hold the same weights, the first choice first. There are none if only the archive is
    published (Lite3, Lite4).
    """

    variant: str  # e.g. "efficientnetv2-s"
    weights: str  # name of the set, e.g. "imagenet21k-ft1k"
    classes: int  # 1000 or 21843
    normalization: Normalization  # that it was trained with
    style: str  # official evaluation crop and resize, one of `images.styles.EVALUATION_STYLES`
    image_size: int  # official evaluation size, pixels
    timm: CentralCrop | None  # evaluation of PyTorch Image Models; None if it does not have it
    top1: float | None  # published, ImageNet, in percent; None where nobody published one
    files: tuple[PublishedFile, ...]
    archive: str  # address of the official checkpoint, whose hash nobody published


class WeightRow(NamedTuple):
    """A line of `available_weights`: one file, found by the name of its set.

    The preprocessing "imagenet" is (x / 255 - mean) / std, "symmetric" is (x - 128) / 128,
    "inception" is x / 127.5 - 1, "lite" is (x - 127) / 128; x in 0..255.
    """

    variant: str  # e.g. "efficientnetv2-s"
    weights: str  # name of the set, the `weights` argument of the builders
    classes: int  # 1000 or 21843; a file without classifier has that of its set
    source: str  # layout of the file, e.g. "keras-applications"
    url: str
    hash: str  # algorithm and hexadecimal digits
    preprocessing: str
    image_size: int  # official evaluation size, pixels
    published_top1: float | None  # ImageNet, in percent; None where nobody published one
    has_top: bool  # whether the classifier is in the file
    licence: str = "Apache-2.0"  # SPDX identifier, that of all four repositories


def _read_sets() -> Iterator[WeightSet]:
    for row in json.loads((files(__package__) / "published.json").read_text("utf-8")):
        row["files"] = tuple(PublishedFile(**file) for file in row["files"])
        row["timm"] = CentralCrop(*row["timm"]) if row["timm"] else None
        yield WeightSet(**row)


# In the order of the variants; XL was not trained on ImageNet alone.
WEIGHT_SETS: dict[tuple[str, str], WeightSet] = {
    (found.variant, found.weights): found for found in _read_sets()
}


def published(variant: str) -> tuple[str, ...]:
    """Return the names of a variant's sets that can be fetched; none for an own network."""
    return tuple(
        one.weights for one in WEIGHT_SETS.values() if one.variant == variant and one.files
    )


def available_weights() -> list[WeightRow]:
    """Return every file that a builder can fetch by its set's name, e.g. `weights="imagenet21k"`.

    Returns:
        One `WeightRow` a file; the rows of a set stand together, the first choice first.

    Examples:
        >>> {row.weights for row in available_weights() if row.variant == "efficientnet-lite0"}
        {'imagenet'}
    """
    return [
        WeightRow(
            *(found.variant, found.weights, found.classes),
            *(file.source, file.url, file.hash),
            *(found.normalization, found.image_size, found.top1),
            file.has_top,
        )
        for found in WEIGHT_SETS.values()
        for file in found.files
    ]


def weight_set(variant: str, weights: str) -> WeightSet:
    """Return the published set of that name.

    Raises:
        ValueError: nothing of that name is published for the variant; the message lists what is.
    """
    if weights not in published(variant):
        raise ValueError(
            f"`weights` must be None or a set that is published for {variant} "
            f"({_names(variant)}). Received: weights={weights!r}"
        )
    return WEIGHT_SETS[variant, weights]


def parse_name(name: str) -> WeightSet:
    """Return the published set of a name VARIANT/SET, e.g. "efficientnetv2-s/imagenet21k".

    Raises:
        ValueError: there is no such set; the message lists what there is.
    """
    given, _, weights = name.partition("/")
    variant = variant_named(given) or given
    if weights not in published(variant):
        allowed = [f"{variant}/{one}" for one in published(variant)]
        raise ValueError(
            "A published set is named VARIANT/SET, "
            + (f"here one of {', '.join(allowed)}" if allowed else "e.g. efficientnetv2-s/imagenet")
            + f"; `keras-effnetv2 weights` lists them all. Received: {name!r}"
        )
    return WEIGHT_SETS[variant, weights]


def find_weight_set(variant: str, weights: str | os.PathLike[str]) -> WeightSet | None:
    """Return the published set that a file is by its name; None if it is named otherwise.

    The input range belongs to the weights, and a file does not tell it. A published file that was
    put somewhere by hand is known by the name its publisher gave it, also unpacked.

    Raises:
        ValueError: it is no path of something that is there; the message says what can be given.
    """
    # A checkpoint may be named by its prefix, to which no file of exactly that name belongs.
    is_path = isinstance(weights, str | os.PathLike) and (
        os.path.exists(weights) or os.path.exists(f"{os.fspath(weights)}.index")
    )
    if not is_path:
        missing = ""
        if isinstance(weights, os.PathLike) or _LIKE_A_PATH.search(str(weights)):
            missing = f"There is no file or folder {os.fspath(weights)!r}. "
        raise ValueError(
            f"{missing}`weights` must be None, the path of a weight file, hf://OWNER/NAME, or a "
            f"set that is published for {variant} ({_names(variant)})."
            f"{did_you_mean(weights, published(variant))} Received: weights={weights!r}"
        )
    path = PurePath(os.path.abspath(weights))
    # A checkpoint's prefix is known by its folder, which its archive unpacks to.
    parts = {path.name} if os.path.exists(path) else {path.name, path.parent.name}
    matches = [
        one
        for one in WEIGHT_SETS.values()
        if one.variant == variant and _published_names(one).intersection(parts)
    ]
    # V1's archives of two sets have one name, so that it tells nothing.
    return matches[0] if len(matches) == 1 else _set_of_torch_file(variant, path.name)


def _set_of_torch_file(variant: str, name: str) -> WeightSet | None:
    """Return the set of a .pth with the name of EfficientNet-PyTorch or PyTorch Image Models."""
    theirs = variant.replace("-", "[-_]")
    match = re.fullmatch(rf"(adv-|tf_)?{theirs}_?(\w*)-[0-9a-f]{{8}}\.pth", name)
    if match is None:
        return None
    mark = "ap" if match[1] == "adv-" else match[2]
    return WEIGHT_SETS.get((variant, _MARKS.get(mark, "")))


def _published_names(found: WeightSet) -> set[str]:
    """Return the names of the files of a set, and of the folder that its archive unpacks to."""
    names = {file_name_of(found.archive), *(file.name for file in found.files)}
    return names | {name.removesuffix(".tgz").removesuffix(".tar.gz") for name in names}


def _names(variant: str) -> str:
    return ", ".join(repr(name) for name in published(variant)) or "none"
