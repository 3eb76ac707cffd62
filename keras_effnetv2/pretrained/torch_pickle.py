"""Pickles of `torch.save`, read without running anything.

Python's unpickler calls whatever a pickle asks for, and can be made to use any amount of memory or
time. Here a pickle is only looked at, one instruction after another: it can make plain values,
`Storage` and `Tensor`, and what it calls by name is one of the functions below.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

WAY_OUT = (
    "Save the tensors alone where the file was made: torch.save(model.state_dict(), PATH), or of a "
    "training checkpoint torch.save(checkpoint['state_dict'], PATH)"
)
_REFUSED = f"it asks for {{}}, which no state dict needs. Nothing in it was run. {WAY_OUT}"


class Refused(ValueError):
    """A pickle has something in it that no state dict has."""


class Storage(NamedTuple):
    """Numbers in the file."""

    key: str  # its name
    dtype: np.dtype
    size: int  # how many numbers there are
    first: int  # where the part begins that tensors use, in numbers
    used: int  # how many numbers that part has


class Tensor(NamedTuple):
    """A tensor as a pickle describes it; offset and strides count numbers of `dtype`."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: bytearray) -> np.ndarray:
        """Return the tensor as a view of the bytes of its storage; ValueError if it is outside."""
        one, size = self.storage.dtype.itemsize, self.dtype.itemsize
        part = memoryview(data)[self.storage.first * one :][: self.storage.used * one]
        # A tensor may repeat numbers, e.g. with a stride of 0: then it could be of any size.
        if math.prod(self.shape) * size > len(part):
            raise ValueError("one of its tensors has more numbers than its storage")
        strides = tuple(stride * size for stride in self.strides)
        try:  # NumPy checks that every number lies in the part
            return np.ndarray(self.shape, self.dtype, part, self.offset * size, strides)
        except (TypeError, ValueError, OverflowError):
            raise ValueError("one of its tensors lies outside its storage") from None


# --- what pickles may ask for -------------------------------------------------------------------

_MAX_AXES = 64  # of NumPy; without a limit, calls with one long tuple would use any memory


def _counts(*numbers: Any) -> tuple[int, ...]:
    if len(numbers) > _MAX_AXES or not all(type(one) is int and one >= 0 for one in numbers):
        raise TypeError
    return numbers


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any) -> Tensor:
    if not isinstance(storage, Storage) or len(shape) != len(strides):
        raise TypeError
    (offset,) = _counts(offset)
    return Tensor(storage, storage.dtype, offset, _counts(*shape), _counts(*strides))


def _tensor_v2(*arguments: Any) -> Tensor:
    # The next two are about gradients.
    _check_unmarked(arguments[6:])
    return _tensor(*arguments[:4])


def _tensor_v3(*arguments: Any) -> Tensor:
    _check_unmarked(arguments[7:])
    return _tensor(*arguments[:4])._replace(dtype=_entry(_DTYPES, arguments[6]))


def _check_unmarked(metadata: tuple[Any, ...]) -> None:
    if any(metadata):
        raise Refused(f"one of its tensors is only marked as negative or conjugate. {WAY_OUT}")


_CALLED: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch.Size": lambda sizes: _counts(*sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": lambda tensor, requires_grad, hooks: tensor,
}
_NUMBERS = {
    "Float": np.dtype("float32"),
    "Double": np.dtype("float64"),
    "Half": np.dtype("float16"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype("int64"),
    "Int": np.dtype("int32"),
    "Short": np.dtype("int16"),
    "Char": np.dtype("int8"),
    "Byte": np.dtype("uint8"),
    "Bool": np.dtype("bool"),
}
_STORAGES = {f"torch.{name}Storage": dtype for name, dtype in _NUMBERS.items()} | {
    "torch.storage.UntypedStorage": np.dtype("uint8")
}
_DTYPES = {
    f"torch.{dtype}": dtype
    for dtype in (*_NUMBERS.values(), *map(np.dtype, ("uint16", "uint32", "uint64")))
}


# --- the instructions ---------------------------------------------------------------------------

_NEW: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_VALUES = re.compile(  # instructions whose argument is the value
    "(BIN)?INT|BININT[12]|LONG1|(BIN)?FLOAT|(BIN|SHORT_BIN)?(STRING|UNICODE)|"
    "(BIN|SHORT_BIN)BYTES|BIN(UNICODE|BYTES)8"
)
# Instructions that use the items behind the last mark, or so many.
_TO_MARK = frozenset(("TUPLE", "LIST", "DICT", "APPENDS", "SETITEMS"))
_COUNTS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2}
_COUNTS |= {"STACK_GLOBAL": 2, "REDUCE": 2, "BUILD": 1, "BINPERSID": 1}


def read_pickle(file: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """Return the object of the pickle that begins here; the file then stands behind it.

    Args:
        file: a file in memory, so that a wrong length in it asks for no more than there is.
        storages: name -> storage, to which those of the pickle are added.

    Raises:
        ValueError: it is damaged, or has something in it that no state dict has.
    """
    try:
        return _run(file, storages)
    except Refused:
        raise
    except (ValueError, LookupError, TypeError):
        raise ValueError("its pickle is damaged, or is not one of torch.save") from None


def _run(file: io.BytesIO, storages: dict[str, Storage]) -> Any:
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stack below each mark
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name, items = opcode.name, []
        if name in _TO_MARK:
            items, stack = stack, marked.pop()
        elif name in _COUNTS:
            items = [stack.pop() for _ in range(_COUNTS[name])][::-1]
        if _VALUES.fullmatch(name):
            stack.append(argument)
        elif name in _NEW:
            stack.append(_NEW[name]())
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marked.append(stack)
            stack = []
        elif name.startswith("TUPLE"):
            stack.append(tuple(items))
        elif name == "LIST":
            stack.append(items)
        elif name == "DICT":
            stack.append(_fill({}, items))
        elif name in ("APPEND", "APPENDS"):
            _of_type(list, stack[-1]).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            _fill(_of_type(dict, stack[-1]), items)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            asked = ".".join(items or argument.split(" ", 1))
            if not any(asked in known for known in (_CALLED, _STORAGES, _DTYPES)):
                raise Refused(_REFUSED.format(repr(asked[:200])))
            stack.append(asked)
        elif name == "REDUCE":
            stack.append(_entry(_CALLED, items[0])(*_of_type(tuple, items[1])))
        elif name == "BUILD":  # attributes of the state dict itself: versions of its modules
            _of_type(dict, stack[-1])
        elif name == "BINPERSID":
            storage = _storage(*_of_type(tuple, items[0]))
            if storages.setdefault(storage.key, storage)[:3] != storage[:3]:
                raise TypeError  # one storage with two types or sizes
            stack.append(storage)
        elif name not in ("PROTO", "FRAME", "STOP"):
            what = name if argument is None else f"{name} {argument!r:.200}"
            raise Refused(_REFUSED.format(f"the instruction {what}"))
    return stack.pop()


def _storage(
    kind: Any, numbers: Any, key: Any, device: Any, size: Any, view: Any = None
) -> Storage:
    if kind != "storage" or type(key) is not str:
        raise TypeError
    first, used = (0, size) if view is None else view[1:]
    return Storage(key, _entry(_STORAGES, numbers), *_counts(size, first, used))


def _fill(target: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
    """Put [key, value, key, value, ...] into a dictionary."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, str | int):  # the hash of nested tuples can take any time
            raise TypeError
        target[key] = value
    return target


def _entry(table: dict[str, Any], name: Any) -> Any:
    return table[_of_type(str, name)]


def _of_type(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError
    return value
