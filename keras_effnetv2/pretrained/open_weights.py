"""Open weights by name or path: returns the tensors, and what is known about them.

Only this module decides how the pixels for weights are normalised, and with which activation their
classifier was trained.
"""

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_effnetv2._common.checks import check_choice
from keras_effnetv2._common.text import first_line
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import published_forms
from keras_effnetv2.architectures.normalization import Normalization, ScaleAndOffset
from keras_effnetv2.architectures.variants import variant_named
from keras_effnetv2.pretrained.fetch import fetch_set
from keras_effnetv2.pretrained.hub import fetch_from_hub
from keras_effnetv2.pretrained.hub_name import is_hub_name
from keras_effnetv2.pretrained.layouts import LAYOUTS, read_tensors, weight_file
from keras_effnetv2.pretrained.official import CHECKPOINT_ENDING
from keras_effnetv2.pretrained.registry import (
    IMAGENET21K_CLASSES,
    WEIGHT_SETS,
    PublishedFile,
    WeightSet,
    find_weight_set,
    published,
    weight_set,
)
from keras_effnetv2.pretrained.timm_config import NOTHING_SAID, Description

_LOG = logging.getLogger("keras_effnetv2")


class FileHash(NamedTuple):
    """A file, with its size and hashes."""

    path: Path
    size: int  # bytes
    md5: str  # hexadecimal digits
    sha256: str  # likewise


@dataclass(frozen=True)
class Weights:
    """The tensors of a weight file, and what is known about them.

    What has no comment is that of `Contents`; `stated` is None, too, if it cannot be rebuilt.
    """

    path: Path  # a file, or the folder or prefix of a checkpoint
    set: WeightSet | None  # the published one; None if it is unknown
    set_told_by: str | None  # "hash", "option" or "file name"; None without a set
    published: PublishedFile | None  # with the hash of these; None if there is none
    hashes: tuple[FileHash, ...]  # of the file, or of each one of a checkpoint, if computed
    source: str
    tensors: Mapping[str, np.ndarray]
    ignored: Mapping[str, str]
    classes: int | None  # width of the classifier; None if the file has none
    config: ModelConfig | None  # with the normalisation of these weights; None: not known
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    stated: Normalization | ScaleAndOffset | None = None
    described: Description = NOTHING_SAID

    @property
    def normalization(self) -> Normalization | ScaleAndOffset | None:
        """The normalisation of pixels before the first layer; None if it is unknown."""
        return self.stated if self.config is None else self.config.normalization

    @property
    def activation(self) -> str:
        """The activation that the classifier was trained with."""
        if self.described.activation is not None:
            return self.described.activation
        # An ImageNet-21k head is trained with a sigmoid loss, the others with softmax.
        return "sigmoid" if self.classes == IMAGENET21K_CLASSES else "softmax"

    def is_classifier(self, name: str) -> bool:
        """Return whether a tensor of the file belongs to its classifier."""
        return name.startswith(LAYOUTS[self.source].classifier)


class NoWeightsError(LookupError):
    """No trained weights are available for a network; the message says why."""


def best_set(config: ModelConfig) -> WeightSet:
    """Return the published set of a network with the best available ImageNet top-1.

    It is downloaded if needed. Sets without a published top-1 come last. After one that could not
    be downloaded, the others are only looked for on this machine.

    Raises:
        NoWeightsError: none are published for this network (strides aside), or none is available.
    """
    sets = [WEIGHT_SETS[config.name, name] for name in published(config.name)]
    if not sets or config not in published_forms(config.name):
        raise NoWeightsError(f"No trained weights are published for this network, {config.name}.")
    failures: list[Exception] = []
    for found in sorted(sets, key=lambda one: -(one.top1 or 0)):
        try:
            fetch_set(found, online=not failures)
        except (OSError, ImportError) as error:  # no connection, or a cache that cannot be written
            failures.append(error)
        else:
            return found
    raise NoWeightsError(first_line(failures[0]))


def open_weights(
    name_or_path: str | os.PathLike[str],
    variant: str | ModelConfig | None = None,
    *,
    set_name: str | None = None,
    source: str = "auto",
    include_top: bool = True,
    classes: int | None = None,
    check_hash: bool = False,
) -> Weights:
    """Open the weights of a published set or of a repository, downloaded if needed, or of a file.

    Args:
        name_or_path: SET with a variant, VARIANT/SET, hf://OWNER/NAME[@REVISION] (the Hugging Face
            hub), or the path of a weight file or checkpoint.
        variant: the network of the weights: a name, or your own config.
        set_name: the published set of a file, if its hash and its name do not tell.
        source: layout of the file, see `load_weights`.
        include_top: whether you want the classifier; if not, a published file without it, which is
            smaller, is preferred.
        classes: width of the classifier you want; None is that of the weights. With another width
            their classifier is not used.
        check_hash: search for the hash of a file among the published ones. A known hash gives
            variant and set; a file with a published name but another hash is refused.

    Raises:
        ValueError: nothing is there, it cannot be read, or the arguments contradict the file.
        ConnectionError: it is not in the cache and cannot be downloaded.
        ImportError: the hub's library, or the package of a published set, is not installed.
    """
    check_choice("source", source, ("auto", *LAYOUTS))
    config = ModelConfig.from_name(variant) if isinstance(variant, str) else variant
    found = _named_set(name_or_path, config)
    told_by: str | None = None
    file: PublishedFile | None = None
    described = NOTHING_SAID
    is_path = found is None and not is_hub_name(name_or_path)
    if found is not None:
        _check_agrees(name_or_path, found, config, set_name)
        with_top = include_top and classes in (None, found.classes)
        path, file = fetch_set(found, include_top=with_top)
        told_by = "hash"
    elif is_hub_name(name_or_path):
        path, described = fetch_from_hub(name_or_path)
    else:
        if config is not None and set_name is None:
            find_weight_set(config.name, name_or_path)  # says what else can be given
        path = weight_file(Path(name_or_path))
    hashes = tuple(map(hash_file, _files_of(path))) if check_hash else ()
    if is_path:
        found, told_by, file = _identify(name_or_path, config, set_name, hashes)
    if file is not None and source == "auto":
        source = file.source
    contents = read_tensors(path, source)
    source, tensors = contents.source, contents.tensors
    described = contents.described if described is NOTHING_SAID else described
    stated = described.normalization or contents.stated
    trained = _classes(tensors, LAYOUTS[source].classifier)
    names = described.class_names
    if names is not None and len(names) != trained:
        raise ValueError(
            f"{os.fspath(name_or_path)}: config.json names {len(names)} classes, but the "
            f"classifier has {trained or 'none'}."
        )
    if config is None:
        config = ModelConfig.from_name(found.variant) if found else described.config
    if config is None and check_hash:
        raise ValueError(
            f"{os.fspath(name_or_path)} does not have a published hash, so its network is unknown. "
            f"Give it (--variant, variant=). Allowed: {', '.join(ModelConfig.variants())}."
        )
    if config is not None:
        if isinstance(stated, ValueError):
            raise stated
        config = replace(config, normalization=stated or _normalization(config, found, trained))
    return Weights(
        *(path, found, told_by, file, hashes, source, tensors, contents.ignored, trained, config),
        others=contents.others,
        stated=None if isinstance(stated, ValueError) else stated,
        described=described,
    )


def hash_file(path: Path) -> FileHash:
    """Return the size and the hashes of a file."""
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
        file.seek(0)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileHash(path, path.stat().st_size, md5, sha256)


# --- which set it is ----------------------------------------------------------------------------


def _named_set(
    name_or_path: str | os.PathLike[str], config: ModelConfig | None
) -> WeightSet | None:
    """Return the published set with this name; None for a path."""
    if not isinstance(name_or_path, str):
        return None
    if config is not None and name_or_path in published(config.name):
        return WEIGHT_SETS[config.name, name_or_path]
    given, _, name = name_or_path.partition("/")
    variant = given if os.path.lexists(name_or_path) else variant_named(given) or given
    return WEIGHT_SETS[variant, name] if name in published(variant) else None


def _identify(
    name: str | os.PathLike[str],
    config: ModelConfig | None,
    set_name: str | None,
    hashes: tuple[FileHash, ...],
) -> tuple[WeightSet | None, str | None, PublishedFile | None]:
    """Return the set of a file, how it is known, and the published file with the same hash."""
    for found in WEIGHT_SETS.values() if len(hashes) == 1 else ():
        for file in found.files:
            if file.hash in (f"md5:{hashes[0].md5}", f"sha256:{hashes[0].sha256}"):
                _check_agrees(name, found, config, set_name)
                return found, "hash", file
    if config is None:
        return None, None, None
    if hashes:
        _check_not_damaged(Path(name), config.name, hashes[0])
    if set_name is not None:
        return weight_set(config.name, set_name), "option", None
    by_name = find_weight_set(config.name, name)
    return by_name, "file name" if by_name else None, None


def _files_of(path: Path) -> list[Path]:
    """Return the file at a path, or the files of a checkpoint with this folder or prefix."""
    if path.is_file():
        return [path]
    folder, prefix = (path, ".*") if path.is_dir() else (path.parent, re.escape(path.name))
    of_checkpoint = re.compile(prefix + CHECKPOINT_ENDING)
    listed = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in listed if of_checkpoint.fullmatch(file.name)]


def _check_agrees(
    name_or_path: str | os.PathLike[str],
    found: WeightSet,
    config: ModelConfig | None,
    set_name: str | None,
) -> None:
    variant = None if config is None else config.name
    if variant not in (None, found.variant) or set_name not in (None, found.weights):
        asked = "/".join(word for word in (variant, set_name) if word is not None)
        raise ValueError(
            f"{os.fspath(name_or_path)} is {found.variant}/{found.weights} by name or hash. "
            f"Leave out the variant and the set, or give the right ones. Received: {asked}"
        )


def _check_not_damaged(path: Path, variant: str, hashed: FileHash) -> None:
    """Refuse a file with the name of a published file of the variant but another hash."""
    for name in published(variant):
        for file in WEIGHT_SETS[variant, name].files:
            if file.name == path.name:
                raise ValueError(
                    f"{path} has the name of the published file of {variant}/{name}, but is "
                    f"another file or is damaged: its hash is md5:{hashed.md5} "
                    f"(sha256:{hashed.sha256}) instead of {file.hash}. Download it again from "
                    f"{file.url}, or rename it if it is another file."
                )


# --- what is in it ------------------------------------------------------------------------------


def _classes(tensors: Mapping[str, np.ndarray], classifier: tuple[str, ...]) -> int | None:
    """Return the width of the classifier in a file; None if it has none."""
    shapes = [tensor.shape for name, tensor in tensors.items() if name.startswith(classifier)]
    bias, kernel = sorted(shapes, key=len) if len(shapes) == 2 else ((), ())
    # The kernel must agree: a made-up bias alone could ask for any amount of memory.
    is_classifier = (len(bias), len(kernel)) == (1, 2) and bias[0] in kernel
    return bias[0] if is_classifier else None


def _normalization(
    config: ModelConfig, found: WeightSet | None, classes: int | None
) -> Normalization | ScaleAndOffset:
    """Return how the pixels for weights are normalised.

    This is for files that do not state it. A published set does. An ImageNet-21k head saw
    (x - 128) / 128, also on b0-b3. Any other file is assumed to use that of a fresh network, with a
    warning if the variant has sets that were trained with another.
    """
    if found is not None:
        return found.normalization
    if classes == IMAGENET21K_CLASSES:
        return "symmetric"
    others = {name: WEIGHT_SETS[config.name, name].normalization for name in published(config.name)}
    others = {name: other for name, other in others.items() if other != config.normalization}
    if others:
        _LOG.warning(
            f"A weight file does not say how its pixels were normalised; {config.normalization!r} "
            "is assumed. If it was trained, or fine-tuned, with another one "
            f"({', '.join(sorted(set(others.values())))}: that of {', '.join(others)}), build the "
            "model with build_model(dataclasses.replace(config, normalization=...), ...)."
        )
    return config.normalization
