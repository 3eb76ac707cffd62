"""What names of folders, files and classes mean: a split, no class, or one class spelt twice."""

import math
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from keras_effnetv2._common.text import some
from keras_effnetv2.data.catalog import TEST, TRAIN, VALIDATION, Catalog

# How data sets in the wild call their splits -> how they are called here.
SPLIT_ALIASES = {
    **dict.fromkeys(("train", "training", "trainval"), TRAIN),
    **dict.fromkeys(("validation", "valid", "val", "validate", "development", "dev"), VALIDATION),
    **dict.fromkeys(("evaluation", "eval"), VALIDATION),
    **dict.fromkeys(("test", "testing", "holdout", "heldout"), TEST),
}
UNLABELLED = "unlabelled"  # a folder may be named so, too; its pictures are not used
_UNLABELLED_WORDS = ("unlabelled", "unlabeled", "prediction", "predict", "pred")
_SPLIT_WORDS = SPLIT_ALIASES | dict.fromkeys(_UNLABELLED_WORDS, UNLABELLED)
SPLIT_NAMES = (
    f"{TRAIN}, {VALIDATION}, {TEST}, or names such as 'Training', 'val_images', 'test_set'"
)
# The name of a split may have such words, too: "trainset", "train images".
_PICTURE_WORD = (
    r"(?:(?:sub|data)?sets?|data|images?|imgs?|pictures?|pics?|photos?|files?|samples?|folder|dir|"
    r"split|part|jpe?gs?|pngs?|tfrecords?|tfrec|records?|seg)"
)
_SPLIT_WORD = re.compile(rf"{_PICTURE_WORD}?({'|'.join(_SPLIT_WORDS)}){_PICTURE_WORD}?")
_NO_CLASS_WORDS = ("unknown", "all", "none", "no", "label", "labels", "class", "classes")
_NO_CLASS_WORD = re.compile(
    rf"{_PICTURE_WORD}{{1,2}}|{'|'.join((*_UNLABELLED_WORDS, *_NO_CLASS_WORDS))}"
)
# Characters that are not shown, besides those of the category Cf (Default_Ignorable_Code_Point of
# https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt).
_IGNORABLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def splits_of(names: Iterable[str]) -> dict[str, str]:
    """Return the split of each name that says one: "Training", "val_images", "test1".

    A prefix or suffix that is no word for pictures counts only if several splits have it in
    common, as in "flowers_train" and "flowers_test": "bullet_train" is not a split.
    """
    said: dict[str, tuple[str, tuple[str, ...]]] = {}
    for name in names:
        text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)  # trainImages
        text = re.sub(r"(hold|held)[\W_]+out", r"\1out", text.casefold())
        words = re.findall(r"[^\W\d_]+", text)
        splits = list(filter(None, map(_SPLIT_WORD.fullmatch, words)))
        if len(splits) == 1:
            others = (word for word in words if word != splits[0][0])
            affix = tuple(word for word in others if not re.fullmatch(_PICTURE_WORD, word))
            said[name] = _SPLIT_WORDS[splits[0][1]], affix
    having = defaultdict(set)
    for split, affix in said.values():
        having[affix].add(split)
    return {n: split for n, (split, affix) in said.items() if not affix or len(having[affix]) > 1}


def says_no_class(name: str) -> bool:
    """Return whether a name has only words for pictures or for no class: "images", "unknown"."""
    words = re.findall(r"[^\W\d_]+", name.casefold())
    return bool(words) and all(map(_NO_CLASS_WORD.fullmatch, words))


def composed(name: str) -> str:
    """Return a class name in NFC: "e" and an accent that follows are the one letter they look."""
    return unicodedata.normalize("NFC", name)


def alike(name: str) -> str | float:
    """Return a key that names share if they look alike: "Cat" and "cat ", "0" and "0.0"."""
    visible = "".join(c for c in _IGNORABLE.sub("", name) if unicodedata.category(c) != "Cf")
    text = unicodedata.normalize("NFKC", visible).casefold()
    text = "".join("-" if unicodedata.category(c) == "Pd" or c == "\u2212" else c for c in text)
    # "ice-cream" is "ice_cream", but "A-" may be a grade. `float` would skip the one in "1_1".
    separated = re.sub(r"(?<=[^\W_])[\s_-]+(?=[^\W_])", " ", text).strip()
    try:
        number = float(separated)
    except ValueError:
        return separated
    return number if math.isfinite(number) else separated


def own_class_names(name: str, catalog: Catalog) -> tuple[str, ...]:
    """Return the classes of a source to train on, of its first part, in its order.

    Raises:
        ValueError: it has only one, or another part has further classes.
    """
    reference, *others = catalog.parts
    own = tuple(dict.fromkeys(map(composed, catalog.class_names[reference])))
    for part in others:
        if extra := sorted(set(map(composed, catalog.class_names[part])) - set(own)):
            raise ValueError(
                f"{name!r} has classes in {part!r} that {reference!r} does not have: "
                f"{some(extra)}. Add training pictures of these classes, or remove them from "
                f"{part!r}."
            )
    if len(own) < 2:
        is_folder = os.path.isdir(os.path.expanduser(name))
        inside = " If the folders in it are the classes, give it or move them up." * is_folder
        raise ValueError(
            f"{name!r} has {f'only one class: {some(own)}' if own else 'no class'}. Training needs "
            f"at least two.{inside} To evaluate pictures of one class in Python, pass the "
            "class_names of the trained model."
        )
    return own
