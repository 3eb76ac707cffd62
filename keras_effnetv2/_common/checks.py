"""Checks of plain values: each raises a ValueError that says what is allowed and what was received.

A value is checked once, where it enters the package.
"""

import difflib
import importlib.util
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, TypeVar

from keras_effnetv2._common.text import install_hint

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Settings = TypeVar("_Settings", bound="DataclassInstance")


def is_integer(value: Any) -> bool:
    """Return whether a value is a whole number; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a real, finite number; True and False are not."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def plain(value: Any) -> Any:
    """Return a number as Python's own, which JSON and Keras want; NumPy has others.

    A list or tuple of numbers becomes a tuple of those; anything else is returned as it is.
    """
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return tuple(map(plain, value))
    if is_integer(value):
        return int(value)
    return float(value) if is_number(value) and not isinstance(value, float) else value


def make_plain(settings: Any) -> None:
    """Replace the fields of a frozen dataclass by what `plain` makes of them."""
    for one in fields(settings):
        object.__setattr__(settings, one.name, plain(getattr(settings, one.name)))


def check_integer(
    name: str,
    value: Any,
    *,
    minimum: int | None = None,
    maximum: int | None = None,
    or_none: bool = False,
) -> None:
    """Raise ValueError unless a value is an integer in a range; arguments as of `check_number`."""
    fits = is_integer(value) and abs(value) < 2**63  # elsewhere numbers have 64 bits
    kind = "an integer of 64 bits" if is_integer(value) and not fits else "an integer"
    _check(name, value, kind, fits, or_none, minimum, maximum)


def check_number(
    name: str,
    value: Any,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    or_none: bool = False,
) -> None:
    """Raise ValueError unless a value is a finite number in a range; None is no limit.

    Args:
        name: name of the argument or the field, for the message.
        value: the received value.
        minimum: smallest value.
        maximum: largest value.
        above: the value must be greater.
        below: the value must be less.
        or_none: also allow None.
    """
    limits = (minimum, maximum, above, below)
    _check(name, value, "a number", is_number(value), or_none, *limits)


def check_thresholds(thresholds: Sequence[Any] | None, classes: int) -> None:
    """Raise ValueError unless there is a number in 0..1 for each class, or None for all."""
    for value in thresholds or ():
        check_number("thresholds", value, minimum=0, maximum=1)
    if thresholds is not None and len(thresholds) != classes:
        raise ValueError(
            f"`thresholds` must be a number for each of the {classes} classes. "
            f"Received: {len(thresholds)}"
        )


def check_choice(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise ValueError unless a value is allowed; 1 and 0 are not True and False."""
    choices = list(allowed)
    if not any(
        value == one and isinstance(value, bool) == isinstance(one, bool) for one in choices
    ):
        listed = ", ".join(map(repr, choices))
        raise ValueError(
            f"`{name}` must be one of {listed}.{did_you_mean(value, choices)} Received: {value!r}"
        )


def check_names(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError if there are unknown names, for example fields of a file."""
    known = list(known)
    if unknown := [name for name in names if name not in known]:
        hints = "".join(did_you_mean(name, known) for name in unknown)
        raise ValueError(
            f"{what} has unknown names.{hints} Known are "
            f"{', '.join(known)}. Received: {', '.join(map(str, unknown))}"
        )


def from_mapping(kind: type[_Settings], what: str, values: Any) -> _Settings:
    """Return a dataclass made of what a file has of its fields, by their names.

    A field that is missing gets its default. `what` is for the message: "A recipe".

    Raises:
        ValueError: not names with values; a name is unknown, or missing and without default.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{what} must be an object of names and values. Received: {values!r}")
    check_names(what, values, [field.name for field in fields(kind)])
    needed = {one.name for one in fields(kind) if one.default is one.default_factory is MISSING}
    if missing := needed - set(values):
        raise ValueError(f"{what} needs {', '.join(sorted(missing))}.")
    return kind(**values)


def check_tensorboard(what: str) -> None:
    """Raise ImportError if the package that `what` needs is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            f"{what} needs the package tensorboard, which is not installed. "
            + install_hint("loggers")
        )


def check_class_names(names: Iterable[Any]) -> None:
    """Raise ValueError unless every name is a single line, as in a file of names."""
    broken = [name for name in names if not isinstance(name, str) or name.splitlines() != [name]]
    if broken:
        raise ValueError(
            "A class name must be a single line that is not empty, because labels.txt has one name "
            f"per line. Received: {', '.join(map(repr, broken))}"
        )


def did_you_mean(word: Any, known: Iterable[Any]) -> str:
    """Return ' Did you mean "WORD"?' with the closest known word, or nothing.

    Capitals, hyphens and underscores do not count. The end of a known word is enough, if it has
    two letters or more, and so are the first letters of its parts ("lr" for "learning_rate").
    """
    words = [str(one) for one in known]
    plain = {re.sub("[-_]", "", one.lower()): one for one in words}
    initials = {"".join(part[:1] for part in one.split("_")): one for one in words if "_" in one}
    given = re.sub("[-_]", "", str(word).lower())
    if given in initials:
        return f' Did you mean "{initials[given]}"?'
    ends = [one for one in plain if len(given) > 1 and one.endswith(given)]
    close = ends or difflib.get_close_matches(given, plain, n=1)
    return f' Did you mean "{plain[close[0]]}"?' if close else ""


def _check(
    name: str,
    value: Any,
    kind: str,
    is_kind: bool,
    or_none: bool,
    minimum: float | None,
    maximum: float | None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    if or_none and value is None:
        return
    if (
        is_kind
        and (minimum is None or value >= minimum)
        and (maximum is None or value <= maximum)
        and (above is None or value > above)
        and (below is None or value < below)
    ):
        return
    if minimum is not None and maximum is not None:
        limits = f" from {minimum:.12g} to {maximum:.12g}"
    else:
        words = {"of at least": minimum, "above": above, "of at most": maximum, "below": below}
        said = [f" {word} {limit:.12g}" for word, limit in words.items() if limit is not None]
        limits = " and".join(said)
    raise ValueError(f"`{name}` must be {kind}{limits}{', or None' * or_none}. Received: {value!r}")
