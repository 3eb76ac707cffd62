"""Which weight sets are published for which variant: files, hashes, preprocessing, accuracy.

Sources of the data. Hashes of keras.applications: its own source, Keras 3.15.1. Hashes of the .h5
files of leondgarse: keras_efficientnet_v2 1.2.2. Archives and top-1 of V2: README of google/automl
efficientnetv2; of V1: README of tensorflow/tpu models/official/efficientnet. Evaluation: the
official configs (`datasets.py`, `effnetv2_configs.py`) and the pretrained tags of PyTorch Image
Models 1.0.31 (`timm`).
"""

import os
from pathlib import PurePath
from typing import NamedTuple

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.variants import Normalization

IMAGENET_CLASSES = 1000
IMAGENET21K_CLASSES = 21843


class PublishedFile(NamedTuple):
    """A file that can be fetched, because its hash is known.

    Attributes:
        source: its layout, a source of `load_weights`.
        url: where its publisher keeps it.
        hash: algorithm and hexadecimal digits, e.g. "md5:21ec...".
        has_top: whether the classifier is in it.
    """

    source: str
    url: str
    hash: str
    has_top: bool


class CentralCrop(NamedTuple):
    """Evaluation of PyTorch Image Models: a size, and the part of the picture that is kept.

    Attributes:
        size: side of the network's input, pixels.
        fraction: of the resized picture, e.g. 0.875.
        mode: "center" keeps the aspect ratio and crops the middle, "squash" makes the whole
            picture a square first.
    """

    size: int
    fraction: float
    mode: str


class WeightSet(NamedTuple):
    """One published set of weights of one variant.

    Attributes:
        variant: e.g. "efficientnetv2-s".
        weights: name of the set, e.g. "imagenet21k-ft1k".
        classes: 1000 or 21843.
        normalization: what it was trained with, a key of `config.NORMALIZATIONS`.
        style: official evaluation crop and resize, one of `images.styles.EVALUATION_STYLES`.
        image_size: official evaluation size, pixels.
        timm: how PyTorch Image Models evaluates it; None if it does not have it.
        top1: published ImageNet top-1 in percent; None where nobody published one.
        files: what can be fetched, the first choice first; all hold the same weights.
        archive: address of the official checkpoint, whose hash nobody published.
    """

    variant: str
    weights: str
    classes: int
    normalization: Normalization
    style: str
    image_size: int
    timm: CentralCrop | None
    top1: float | None
    files: tuple[PublishedFile, ...]
    archive: str


class WeightRow(NamedTuple):
    """A line of `available_weights`: one file that can be had by the name of its set.

    Attributes:
        variant: e.g. "efficientnetv2-s".
        weights: name of the set, the `weights` argument of the builders.
        classes: 1000 or 21843; a file without classifier has that of its set.
        source: layout of the file, e.g. "keras-applications".
        url: address.
        hash: algorithm and hexadecimal digits.
        preprocessing: "imagenet" is (x / 255 - mean) / std, "symmetric" is (x - 128) / 128,
            "inception" is x / 127.5 - 1; x in 0..255.
        image_size: official evaluation size, pixels.
        published_top1: ImageNet top-1 in percent, or None.
        has_top: whether the classifier is in the file.
        licence: of the file, SPDX identifier.
    """

    variant: str
    weights: str
    classes: int
    source: str
    url: str
    hash: str
    preprocessing: str
    image_size: int
    published_top1: float | None
    has_top: bool
    licence: str


_KERAS = "https://storage.googleapis.com/tensorflow/keras-applications/efficientnet_v2/"
_KERAS_V1 = "https://storage.googleapis.com/keras-applications/"
_LEONDGARSE = "https://github.com/leondgarse/keras_efficientnet_v2/releases/download/"
_OFFICIAL = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientnet/"
_LICENCE = "Apache-2.0"  # of all four repositories

# MD5 of keras.applications' files, with and without top: the "imagenet" sets.
_KERAS_MD5 = {
    "efficientnetv2-b0": ("21ecbf6da12460d5c40bb2f29ceb2188", "893217f2bb855e2983157299931e43ff"),
    "efficientnetv2-b1": ("069f0534ff22adf035c89e2d9547a9dc", "0e80663031ca32d657f9caa404b6ec37"),
    "efficientnetv2-b2": ("424e49f28180edbde1e94797771950a7", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "efficientnetv2-b3": ("1f1fc43bd98a6e4fd8fdfd551e02c7a0", "f6abf7b5849ac99a89b50dd3fd532856"),
    "efficientnetv2-s": ("e1d88a8495beba45748fedd0cecbe016", "af0682fb74e8c54910f2d4393339c070"),
    "efficientnetv2-m": ("a3bf6aa3276309f4fc6a34aa114c95cd", "1b8dc055df72dde80d614482840fe342"),
    "efficientnetv2-l": ("27e6d408b53c7ebc868fefa357689935", "b0b66b5c863aef5b46e8608fe1711615"),
    "efficientnet-b0": ("902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet-b1": ("1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432"),
    "efficientnet-b2": ("b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "efficientnet-b3": ("ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226"),
    "efficientnet-b4": ("18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "efficientnet-b5": ("ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f"),
    "efficientnet-b6": ("165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743"),
    "efficientnet-b7": ("8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
}

# MD5 of leondgarse's files by their names, all with top.
_LEONDGARSE_MD5 = {
    "efficientnetv2-b0-21k-ft1k": "4e4da4eb629897e4d6271e131039fe75",
    "efficientnetv2-b0-21k": "5dbb4252df24b931e74cdd94d150f25a",
    "efficientnetv2-b0-imagenet": "9abdc43cb00f4cb06a8bdae881f412d6",
    "efficientnetv2-b1-21k-ft1k": "5f1aee82209f4f0f20bd24460270564e",
    "efficientnetv2-b1-21k": "a50ae65b50ceff7f5283be2f4506d2c2",
    "efficientnetv2-b1-imagenet": "5d4223b59ff268828d5112a1630e234e",
    "efficientnetv2-b2-21k-ft1k": "ec384b84441ddf6419938d1e5a0cbef2",
    "efficientnetv2-b2-21k": "9f718a8bbb7b63c5313916c5e504790d",
    "efficientnetv2-b2-imagenet": "1814bc08d4bb7a5e0ed3ccfe1cf18650",
    "efficientnetv2-b3-21k-ft1k": "4a27827b0b2df508bed31ae231003bb1",
    "efficientnetv2-b3-21k": "ade5bdbbdf1d54c4561aa41511525855",
    "efficientnetv2-b3-imagenet": "cda85b8494c7ec5a68dffb335a254bab",
    "efficientnetv2-l-21k-ft1k": "30327edcf1390d10e9a0de42a2d731e3",
    "efficientnetv2-l-21k": "7970f913eec1b4918e007c8580726412",
    "efficientnetv2-l-imagenet": "2b65f5789f4d2f1bf66ecd6d9c5c2d46",
    "efficientnetv2-m-21k-ft1k": "0c236c3020e3857de1e5f2939abd0cc6",
    "efficientnetv2-m-21k": "3923c286366b2a5137f39d1e5b14e202",
    "efficientnetv2-m-imagenet": "ac3fd0ff91b35d18d1df8f1895efe1d5",
    "efficientnetv2-s-21k-ft1k": "93046a0d601da46bfce9d4ca14224c83",
    "efficientnetv2-s-21k": "10b05d878b64f796ab984a5316a4a1c3",
    "efficientnetv2-s-imagenet": "3b91df2c50c7a56071cca428d53b8c0d",
    "efficientnetv2-xl-21k-ft1k": "9aaa2bd3c9495b23357bc6593eee5bce",
    "efficientnetv2-xl-21k": "c97de2770f55701f788644336181e8ee",
    "efficientnetv1-b0-noisy_student": "d125a518737c601f8595937219243432",
    "efficientnetv1-b0-imagenet": "cc7d08887de9df8082da44ce40761986",
    "efficientnetv1-b1-noisy_student": "8f44bff58fc5ef99baa3f163b3f5c5e8",
    "efficientnetv1-b1-imagenet": "a967f7be55a0125c898d650502c0cfd0",
    "efficientnetv1-b2-noisy_student": "b4ffed8b9262df4facc5e20557983ef8",
    "efficientnetv1-b2-imagenet": "6c8d1d3699275c7d1867d08e219e00a7",
    "efficientnetv1-b3-noisy_student": "9d696365378a1ebf987d0e46a9d26ddd",
    "efficientnetv1-b3-imagenet": "d78edb3dc7007721eda781c04bd4af62",
    "efficientnetv1-b4-noisy_student": "a0f61b977544493e6926186463d26294",
    "efficientnetv1-b4-imagenet": "4c83aa5c86d58746a56675565d4f2051",
    "efficientnetv1-b5-noisy_student": "c3b6eb3f1f7a1e9de6d9a93e474455b1",
    "efficientnetv1-b5-imagenet": "0bda50943b8e8d0fadcbad82c17c40f5",
    "efficientnetv1-b6-noisy_student": "20dd18b0df60cd7c0387c8af47bd96f8",
    "efficientnetv1-b6-imagenet": "da13735af8209f675d7d7d03a54bfa27",
    "efficientnetv1-b7-noisy_student": "7f6f6dd4e8105e32432607ad28cfad0f",
    "efficientnetv1-b7-imagenet": "d9c22b5b030d1e4f4c3a96dbf5f21ce6",
}

# Name of a set -> what it is called in leondgarse's and in the official addresses. The V1 files
# that leondgarse and google/automl call imagenet are those of the folder advprop, trained by
# AdvProp (arXiv 1911.09665); keras.applications' are those of ckptsaug, trained by AutoAugment.
_LEONDGARSE_NAMES = {
    "imagenet": "imagenet",
    "imagenet21k": "21k",
    "imagenet21k-ft1k": "21k-ft1k",
    "imagenet-advprop": "imagenet",
    "noisy-student": "noisy_student",
}
_OFFICIAL_V2 = {"imagenet": "", "imagenet21k": "-21k", "imagenet21k-ft1k": "-21k-ft1k"}
_OFFICIAL_V1 = {
    "imagenet": "ckptsaug/",
    "imagenet-advprop": "advprop/",
    "noisy-student": "noisystudent/noisy_student_",
}
_V2_SETS = tuple(_OFFICIAL_V2)
_V1_SETS = tuple(_OFFICIAL_V1)

# Published top-1, percent, in the order of _V2_SETS and _V1_SETS.
_TOP1 = {
    "efficientnetv2-b0": (78.7, None, None),
    "efficientnetv2-b1": (79.8, None, None),
    "efficientnetv2-b2": (80.5, None, None),
    "efficientnetv2-b3": (82.1, None, None),
    "efficientnetv2-s": (83.9, None, 84.9),
    "efficientnetv2-m": (85.2, None, 86.2),
    "efficientnetv2-l": (85.7, None, 86.9),
    "efficientnetv2-xl": (None, None, 87.2),
    "efficientnet-b0": (77.1, 77.6, 78.8),
    "efficientnet-b1": (79.1, 79.6, 81.5),
    "efficientnet-b2": (80.1, 80.5, 82.4),
    "efficientnet-b3": (81.6, 81.9, 84.1),
    "efficientnet-b4": (82.9, 83.3, 85.3),
    "efficientnet-b5": (83.6, 84.3, 86.1),
    "efficientnet-b6": (84.0, 84.8, 86.4),
    "efficientnet-b7": (84.3, 85.2, 86.9),
}

# `crop_pct` and `crop_mode` of PyTorch Image Models at our evaluation size, for every set of a
# variant but those that follow.
_TIMM = {
    "efficientnetv2-b0": (0.875, "center"),
    "efficientnetv2-b1": (0.882, "center"),
    "efficientnetv2-b2": (0.89, "center"),
    "efficientnetv2-b3": (0.904, "center"),
    "efficientnetv2-s": (1.0, "center"),
    "efficientnetv2-m": (1.0, "squash"),
    "efficientnetv2-l": (1.0, "squash"),
    "efficientnetv2-xl": (1.0, "squash"),
    "efficientnet-b0": (0.875, "center"),
    "efficientnet-b1": (0.882, "center"),
    "efficientnet-b2": (0.89, "center"),
    "efficientnet-b3": (0.904, "center"),
    "efficientnet-b4": (0.922, "center"),
    "efficientnet-b5": (0.934, "center"),
    "efficientnet-b6": (0.942, "center"),
    "efficientnet-b7": (0.949, "center"),
}
_TIMM_EXCEPTIONS: dict[tuple[str, str], tuple[float, str] | None] = {
    ("efficientnetv2-b0", "imagenet21k"): None,
    ("efficientnetv2-b0", "imagenet21k-ft1k"): None,
    ("efficientnetv2-b1", "imagenet21k"): None,
    ("efficientnetv2-b1", "imagenet21k-ft1k"): None,
    ("efficientnetv2-b2", "imagenet21k"): None,
    ("efficientnetv2-b2", "imagenet21k-ft1k"): None,
    ("efficientnetv2-b3", "imagenet21k-ft1k"): (0.9, "squash"),
}

_IMAGENET21K_EVAL_SIZE = 224  # official config of ImageNet-21k, `eval.isize`, every variant


def _make_set(variant: str, weights: str, top1: float | None) -> WeightSet:
    config = ModelConfig.from_name(variant)
    normalization, style, size = config.normalization, "v2", config.eval_size
    if weights == "imagenet-advprop":
        normalization = "inception"
    elif weights.startswith("imagenet21k"):
        normalization = "symmetric"
    if weights == "imagenet21k":
        size = _IMAGENET21K_EVAL_SIZE
    elif weights == "imagenet21k-ft1k":
        style = "finetune"
    elif config.normalization == "imagenet":
        style = "v1"
    crop = _TIMM_EXCEPTIONS.get((variant, weights), _TIMM[variant])
    return WeightSet(
        variant=variant,
        weights=weights,
        classes=IMAGENET21K_CLASSES if weights == "imagenet21k" else IMAGENET_CLASSES,
        normalization=normalization,
        style=style,
        image_size=size,
        timm=None if crop is None else CentralCrop(config.eval_size, *crop),
        top1=top1,
        files=_files(variant, weights),
        archive=_archive(variant, weights),
    )


def _files(variant: str, weights: str) -> tuple[PublishedFile, ...]:
    files = []
    if weights == "imagenet" and variant in _KERAS_MD5:
        v1 = variant.startswith("efficientnet-")
        name = variant.replace("-", "") if v1 else variant
        base = _KERAS_V1 if v1 else _KERAS
        for md5, suffix in zip(_KERAS_MD5[variant], ("", "_notop"), strict=True):
            files.append(
                PublishedFile(
                    "keras-applications", f"{base}{name}{suffix}.h5", f"md5:{md5}", not suffix
                )
            )
    name = variant.replace("efficientnet-", "efficientnetv1-")
    name = f"{name}-{_LEONDGARSE_NAMES[weights]}"
    holds_it = weights != "imagenet" or variant.startswith("efficientnetv2")
    if holds_it and name in _LEONDGARSE_MD5:
        release = f"effnet{name.removeprefix('efficientnet')[:2]}_pretrained"
        files.append(
            PublishedFile(
                "leondgarse",
                f"{_LEONDGARSE}{release}/{name}.h5",
                f"md5:{_LEONDGARSE_MD5[name]}",
                has_top=True,
            )
        )
    return tuple(files)


def _archive(variant: str, weights: str) -> str:
    if weights in _OFFICIAL_V2 and variant.startswith("efficientnetv2"):
        return f"{_OFFICIAL}v2/{variant}{_OFFICIAL_V2[weights]}.tgz"
    return f"{_OFFICIAL}{_OFFICIAL_V1[weights]}{variant}.tar.gz"


# XL was not trained on ImageNet alone.
WEIGHT_SETS: dict[tuple[str, str], WeightSet] = {
    (variant, weights): _make_set(variant, weights, top1)
    for variant, accuracies in _TOP1.items()
    for weights, top1 in zip(
        _V2_SETS if variant.startswith("efficientnetv2") else _V1_SETS, accuracies, strict=True
    )
    if (variant, weights) != ("efficientnetv2-xl", "imagenet")
}


def published(variant: str) -> tuple[str, ...]:
    """Names of the sets that are published for a variant; none for one that is not ours."""
    return tuple(weights for name, weights in WEIGHT_SETS if name == variant)


def available_weights() -> list[WeightRow]:
    """Every file that a builder can fetch by the name of its set, e.g. `weights="imagenet21k"`.

    Returns:
        One `WeightRow` a file; the rows of a set stand together, the first choice first.
    """
    return [
        WeightRow(
            variant=found.variant,
            weights=found.weights,
            classes=found.classes,
            source=file.source,
            url=file.url,
            hash=file.hash,
            preprocessing=found.normalization,
            image_size=found.image_size,
            published_top1=found.top1,
            has_top=file.has_top,
            licence=_LICENCE,
        )
        for found in WEIGHT_SETS.values()
        for file in found.files
    ]


def weight_set(variant: str, weights: str) -> WeightSet:
    """The published set of that name.

    Raises:
        ValueError: nothing of that name is published for the variant; the message lists what is.
    """
    if weights not in published(variant):
        raise ValueError(
            f"`weights` must be None or a set that is published for {variant} "
            f"({_names(variant)}). Received: weights={weights!r}"
        )
    return WEIGHT_SETS[variant, weights]


def find_name(name: str) -> WeightSet | None:
    """Return the published set of a name VARIANT/SET; None if it is not one."""
    variant, _, weights = name.partition("/")
    return WEIGHT_SETS.get((variant, weights))


def parse_name(name: str) -> WeightSet:
    """Return the published set of a name VARIANT/SET, e.g. "efficientnetv2-s/imagenet21k".

    Raises:
        ValueError: there is no such set; the message lists what there is.
    """
    found = find_name(name)
    if found is None:
        variant = name.partition("/")[0]
        allowed = [f"{variant}/{weights}" for weights in published(variant)]
        raise ValueError(
            "A published set is named VARIANT/SET, "
            + (f"here one of {', '.join(allowed)}" if allowed else "e.g. efficientnetv2-s/imagenet")
            + f"; `keras-effnetv2 weights` lists them all. Received: {name!r}"
        )
    return found


def find_weight_set(variant: str, weights: str | os.PathLike[str] | None) -> WeightSet | None:
    """The published set that a `weights` argument names, by its name or by a file's.

    The input range belongs to the weights, and a file does not tell it. A published file that was
    put somewhere by hand is known by the name its publisher gave it, also unpacked.

    Returns:
        None for a fresh network and for a path that is named otherwise.

    Raises:
        ValueError: neither None, nor a set published for the variant, nor the path of something
            that is there; the message says what can be given.
    """
    if weights is None:
        return None
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(
            "`weights` must be None, the name of a published set or a path. "
            f"Received: weights={weights!r}"
        )
    if weights in published(variant):
        return WEIGHT_SETS[variant, os.fspath(weights)]
    if not _is_path(weights):
        raise ValueError(
            f"`weights` must be None, the path of a weight file, or a set that is published for "
            f"{variant} ({_names(variant)}). Received: weights={weights!r}"
        )
    path = PurePath(os.path.abspath(weights))
    # A checkpoint's prefix is known by its folder, which its archive unpacks to.
    parts = {path.name} if os.path.exists(path) else {path.name, path.parent.name}
    matches = [
        WEIGHT_SETS[variant, name]
        for name in published(variant)
        if _published_names(WEIGHT_SETS[variant, name]).intersection(parts)
    ]
    # V1's archives of two sets have one name, so that it tells nothing.
    return matches[0] if len(matches) == 1 else None


def _published_names(found: WeightSet) -> set[str]:
    """Names of the files of a set, and of the folder that its archive unpacks to."""
    names = {url.rpartition("/")[2] for url in (found.archive, *(file.url for file in found.files))}
    return names | {name.removesuffix(".tgz").removesuffix(".tar.gz") for name in names}


def _names(variant: str) -> str:
    return ", ".join(repr(name) for name in published(variant)) or "none"


def _is_path(weights: str | os.PathLike[str]) -> bool:
    # A checkpoint may be named by its prefix, to which no file of exactly that name belongs.
    return os.path.exists(weights) or os.path.exists(f"{os.fspath(weights)}.index")
