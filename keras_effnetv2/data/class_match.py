"""Pictures for a network whose weights do not name its classes, published or your own."""

import os
import re
from collections.abc import Sequence

from keras_effnetv2._common.text import some
from keras_effnetv2.data.sources import ImageSource, available_classes, load_source
from keras_effnetv2.pretrained.labels import Label, class_list, has_class_list

_STARTS_WITH_ID = re.compile(r"n\d{8}(?!\d)")


def load_source_for(spec: str | os.PathLike[str], split: str, classes: int) -> ImageSource:
    """Find labelled pictures and map their classes to the outputs of a network.

    1000 and 21843 outputs mean the published lists: `match_classes` finds the source's classes
    there, and some of them are enough; `class_names[label]` is the source's own name, or the
    WordNet id of a class that the source does not have. For any other number the source must have
    exactly that many classes, which are sorted by name (those of TensorFlow Datasets keep its
    order).

    Raises:
        ValueError: a class is not in the list, or the number of classes is wrong. Further errors
            are those of `load_source`.
    """
    if has_class_list(classes):
        found = available_classes(spec)
        names = [label.wordnet_id for label in class_list(classes)]
        for position, name in zip(match_classes(found, class_list(classes)), found, strict=True):
            names[position] = name
        return load_source(spec, split, class_names=names)
    source = load_source(spec, split)
    if len(source.class_names) != classes:
        raise ValueError(
            f"The network has {classes} classes, but {source.spec!r} has "
            f"{len(source.class_names)}: {some(source.class_names)}. The weights do not name their "
            "classes, so the pictures must have exactly as many, in the same order by name."
        )
    return source


def match_classes(names: Sequence[str], labels: Sequence[Label]) -> tuple[int, ...]:
    """Return the positions of classes in a published list, see `labels.class_list`.

    A name is a WordNet id, alone or followed by anything but a digit ("n01440764",
    "n01440764_tench"), or a name that only one class has ("tench", "African elephant").

    Raises:
        ValueError: a name is not in the list or belongs to several classes, or two names mean one
            class; the message says how to name a class.
    """
    positions: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        for key in (label.wordnet_id, label.name):
            positions.setdefault(key, []).append(position)
    found = {}
    for name in names:
        starts_with_id = _STARTS_WITH_ID.match(name)
        key = starts_with_id[0] if starts_with_id else name.replace(" ", "_")
        found[name] = positions.get(key, [])
    if unknown := [name for name, where in found.items() if not where]:
        raise ValueError(
            f"{len(unknown)} of {len(names)} classes are not among the {len(labels)} of the "
            f"network: {some(unknown)}. Name a class by its WordNet id, with or without a name "
            f"after it, or by its name, as in {labels[0].wordnet_id!r}, "
            f"{'_'.join(labels[0])!r} or {labels[0].name!r}; "
            f"keras_effnetv2.pretrained.labels.class_list({len(labels)}) lists them. "
            "For other classes, train a network on them (keras-effnetv2 train), and give its run."
        )
    name_of: dict[int, str] = {}
    for name, where in found.items():
        if len(where) > 1:
            ids = ", ".join(labels[position].wordnet_id for position in where)
            raise ValueError(
                f"{len(where)} classes of the network are called {name!r}: {ids}. Use the id "
                "of the right one as the name of the class."
            )
        other = name_of.setdefault(where[0], name)
        if other != name:
            raise ValueError(
                f"{other!r} and {name!r} are one class of the network, "
                f"{labels[where[0]].wordnet_id}. Put their pictures together."
            )
    return tuple(found[name][0] for name in names)
