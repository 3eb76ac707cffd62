"""Weight files as such: which published one it is, what is in it, the same in Keras' own layout."""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from keras_effnetv2._common.files import written_whole
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.fetch import fetch_set
from keras_effnetv2.pretrained.load import LoadReport, assign_weights, read_weight_file
from keras_effnetv2.pretrained.registry import (
    IMAGENET21K_CLASSES,
    WEIGHT_SETS,
    PublishedFile,
    WeightSet,
    find_weight_set,
    normalization_of_file,
    weight_set,
)

_ENDINGS = (".weights.h5", ".keras")


class FileHash(NamedTuple):
    """A file and what it is recognised by.

    Attributes:
        path: where it is.
        size: bytes.
        md5: hexadecimal digits.
        sha256: hexadecimal digits.
    """

    path: Path
    size: int
    md5: str
    sha256: str


@dataclass(frozen=True)
class Located:
    """A weight file or checkpoint, and what is known of it before it is read.

    Args:
        path: what `load_weights` takes.
        variant: the network whose weights it holds.
        weight_set: the published set it is; None if nothing tells.
        told_by: what tells the set: "hash", "option" or "file name"; None without a set.
        published: the published file that has its hash; None if nobody published that hash.
        hashes: of the file, or of each file of a checkpoint.
    """

    path: Path
    variant: str
    weight_set: WeightSet | None
    told_by: str | None
    published: PublishedFile | None
    hashes: tuple[FileHash, ...]


@dataclass(frozen=True)
class Loaded:
    """A network that holds the weights of a file.

    Args:
        config: its architecture, with the normalisation of the weights.
        classes: width of the classifier; None without one.
        model: pixels 0..255 in.
        report: what strict loading did.
    """

    config: ModelConfig
    classes: int | None
    model: keras.Model
    report: LoadReport


# --- which file it is ---------------------------------------------------------------------------


def parse_name(name: str) -> WeightSet:
    """The published set of a name VARIANT/SET, e.g. "efficientnetv2-s/imagenet21k".

    Raises:
        ValueError: there is no such set; the message lists what there is.
    """
    found = find_name(name)
    if found is None:
        variant = name.partition("/")[0]
        allowed = [f"{v}/{w}" for v, w in WEIGHT_SETS if v == variant]
        raise ValueError(
            "A published set is named VARIANT/SET, "
            + (f"here one of {', '.join(allowed)}" if allowed else "e.g. efficientnetv2-s/imagenet")
            + f"; `keras-effnetv2 weights` lists them all. Received: {name!r}"
        )
    return found


def find_name(name: str) -> WeightSet | None:
    """The published set of a name VARIANT/SET; None if it is not one."""
    variant, _, weights = name.partition("/")
    return WEIGHT_SETS.get((variant, weights))


def locate(
    source: str,
    variant: str | None = None,
    weights: str | None = None,
    *,
    include_top: bool = True,
) -> Located:
    """Finds a weight file and says which published set it is.

    Args:
        source: VARIANT/SET, which is fetched, or the path of a weight file or checkpoint.
        variant: the network; needed for a path, unless the file has a published hash.
        weights: name of the set, for a file whose hash is not published and whose name does not
            tell (V1's archives of two sets have one name).
        include_top: see `fetch_set`.

    Raises:
        ValueError: nothing is there, the variant is not known, what was said contradicts the
            file's hash, or the file has the name of a published one and not its hash.
        ConnectionError: a published set cannot be had.
    """
    named = find_name(source)
    if named is None:
        path = Path(source)
        files = _files_of(path)
    else:
        path, _ = fetch_set(named, include_top=include_top)
        files = [path]
    hashes = tuple(map(hash_file, files))
    known = _find_hash(hashes[0]) if len(hashes) == 1 else None
    if known is not None:
        found, published = known
        _check_agrees(path, found, variant, weights)
        return Located(path, found.variant, found, "hash", published, hashes)
    if variant is None:
        raise ValueError(
            f"{path} has no published hash, so that it does not tell which network it is for; "
            f"--variant does. Allowed: {', '.join(ModelConfig.variants())}."
        )
    ModelConfig.from_name(variant)  # an unknown one is an error that lists them
    _check_not_damaged(path, variant, hashes[0])
    if weights is not None:
        return Located(path, variant, weight_set(variant, weights), "option", None, hashes)
    by_name = find_weight_set(variant, path)
    return Located(path, variant, by_name, "file name" if by_name else None, None, hashes)


def _files_of(path: Path) -> list[Path]:
    """The file at a path, or those of the checkpoint that is a folder or a prefix."""
    if path.is_file():
        return [path]
    folder, prefix = (path, ".*") if path.is_dir() else (path.parent, re.escape(path.name))
    of_checkpoint = re.compile(rf"{prefix}\.(index|data-\d+-of-\d+)")
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    files = [file for file in listed if of_checkpoint.fullmatch(file.name)]
    if not files:
        raise ValueError(
            "Give a published set as VARIANT/SET (`keras-effnetv2 weights` lists them) or the "
            "path of a weight file, a checkpoint's folder or its prefix; nothing of that kind is "
            f"there. Received: {str(path)!r}"
        )
    return files


def hash_file(path: Path) -> FileHash:
    """Hashes a file."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileHash(path, path.stat().st_size, md5, sha256)


def _find_hash(hashed: FileHash) -> tuple[WeightSet, PublishedFile] | None:
    for found in WEIGHT_SETS.values():
        for file in found.files:
            if _has_hash(hashed, file):
                return found, file
    return None


def _has_hash(hashed: FileHash, file: PublishedFile) -> bool:
    return file.hash in (f"md5:{hashed.md5}", f"sha256:{hashed.sha256}")


def _check_agrees(path: Path, found: WeightSet, variant: str | None, weights: str | None) -> None:
    if variant not in (None, found.variant) or weights not in (None, found.weights):
        asked = "/".join(word for word in (variant, weights) if word is not None)
        raise ValueError(
            f"{path} is {found.variant}/{found.weights} by its hash; leave out --variant and "
            f"--set, or give those. Received: {asked}"
        )


def _check_not_damaged(path: Path, variant: str, hashed: FileHash) -> None:
    """Refuses what has the name of one of the variant's published files and not its hash."""
    for (name, _), found in WEIGHT_SETS.items():
        for file in found.files if name == variant else ():
            if file.url.rpartition("/")[2] == path.name:
                raise ValueError(
                    f"{path} is named as the published file of {variant}/{found.weights} and is "
                    f"not that file, or is damaged: its hash is md5:{hashed.md5} "
                    f"(sha256:{hashed.sha256}) instead of {file.hash}. Fetch it again from "
                    f"{file.url}, or rename a file that is meant to be another one."
                )


# --- what is in it ------------------------------------------------------------------------------


def load(located: Located, source: str = "auto", *, include_top: bool = True) -> Loaded:
    """Builds the network of a file and loads the file, strictly.

    Args:
        located: the file.
        source: its layout, see `load_weights`.
        include_top: keep the classifier, if the file has one.

    Raises:
        ValueError: the file does not fit the variant, see `load_weights`.
    """
    if located.published is not None and source == "auto":
        source = located.published.source
    file = read_weight_file(located.path, source)
    config = ModelConfig.from_name(located.variant)
    if located.weight_set is None:
        normalization = normalization_of_file(config, file.classes)
    else:
        normalization = located.weight_set.normalization
    config = replace(config, normalization=normalization)
    classes = file.classes if include_top else None
    model = _build(config, classes)
    return Loaded(config, classes, model, assign_weights(model, file))


def _build(config: ModelConfig, classes: int | None) -> keras.Model:
    # The activation that `build_model` chooses itself for a file.
    activation = "sigmoid" if classes == IMAGENET21K_CLASSES else "softmax"
    return build_model(
        config,
        include_top=classes is not None,
        classes=classes,
        classifier_activation=activation,
    )


def moving_variances(model: keras.Model) -> tuple[float, float]:
    """Smallest and largest moving variance of a model's batch normalisations.

    Raises:
        ValueError: one is negative, which no training leaves behind.
    """
    values = {
        layer.name: keras.ops.convert_to_numpy(layer.moving_variance)
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization)
    }
    negative = [name for name, variances in values.items() if variances.min() < 0]
    if negative:
        raise ValueError(
            f"Moving variances must not be negative, and are in {len(negative)} layer(s): "
            f"{', '.join(negative[:5])}. The file is damaged or was converted wrongly."
        )
    every = np.concatenate(list(values.values()))
    return float(every.min()), float(every.max())


# --- the same in Keras' own layout --------------------------------------------------------------


def convert(loaded: Loaded, output: str | os.PathLike[str], *, overwrite: bool = False) -> FileHash:
    """Writes a loaded network to a file, whole or not at all, and reads it back.

    Args:
        loaded: what `load` returned.
        output: `.weights.h5` for the weights alone, `.keras` for the network with its
            preprocessing, which loads without this package.
        overwrite: replace a file that is there.

    Returns:
        The written file; each weight in it was read back and is equal bit by bit.

    Raises:
        ValueError: another ending, or what was read back differs.
        FileExistsError: the output exists, and `overwrite` is False.
        OSError: it cannot be written.
    """
    output = check_output(output, overwrite=overwrite)
    try:
        with written_whole(output) as scratch:
            if output.suffix == ".keras":
                loaded.model.save(scratch)
            else:
                loaded.model.save_weights(scratch)
            _check_equal(loaded.model, _read_back(loaded, scratch))
    except OSError as error:
        raise OSError(f"{output} cannot be written: {error.strerror or error}") from error
    return hash_file(output)


def check_output(output: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Says whether a file may be written, before the work that it takes; see `convert`."""
    output = Path(output)
    if not output.name.endswith(_ENDINGS) or output.name in _ENDINGS:
        raise ValueError(
            "The output must end in .weights.h5 (weights alone) or .keras (the whole network). "
            f"Received: {str(output)!r}"
        )
    if output.is_dir() or (output.exists() and not overwrite):
        raise FileExistsError(
            f"{output} exists. Choose another name, or replace a file with --overwrite."
        )
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent}; make it first.")
    return output


def _read_back(loaded: Loaded, path: Path) -> keras.Model:
    if path.suffix == ".keras":
        return keras.models.load_model(path, compile=False)
    fresh = _build(loaded.config, loaded.classes)
    assign_weights(fresh, read_weight_file(path, "keras"))
    return fresh


def _check_equal(model: keras.Model, read: keras.Model) -> None:
    different = [
        ours.path
        for ours, theirs in zip(model.weights, read.weights, strict=True)
        if not np.array_equal(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs))
    ]
    if different:
        raise ValueError(
            f"What was written reads back otherwise: {len(different)} weight(s), first "
            f"{different[0]}. Nothing was kept; check the disk."
        )
