"""The index of a TensorFlow checkpoint, checked before TensorFlow reads it.

TensorFlow's own reader ends the whole process, with no error to catch, at an index that declares
impossible shapes (measured on 2.21: a negative side, more elements than 2^63, 254 sides, a
reference type). So the index is first read here, and refused if it is not of plain arrays that its
data files have room for.

PREFIX.index is a sorted table as LevelDB has it: blocks of (key, value), a block of where these
are, and a footer. A key is a variable's name, the value a `BundleEntryProto`
(tensorflow/core/protobuf/tensor_bundle.proto).
"""

import glob
import math
import os
import struct
from collections.abc import Iterator
from typing import Any

_MAX_INDEX = 2**26  # bytes; a training checkpoint of efficientnetv2-xl has under 2^19
_MAX_SIDES = 8  # of a tensor; a kernel has four
_MAX_NAME = 2**12  # bytes
_FOOTER = 48  # bytes
_MAGIC = 0xDB4775248B80FB57  # tensorflow/core/lib/io/format.h, kTableMagicNumber
# tensorflow/core/framework/types.proto: float32, float64, int32, uint8, int16, int8, string, int64,
# bool, bfloat16, uint16, float16, uint32, uint64. (A checkpoint of objects, as TensorFlow 2 writes
# it, has one string.)
_TYPES = {1, 2, 3, 4, 5, 6, 7, 9, 10, 14, 17, 19, 22, 23}


def checked_names(prefix: str) -> list[str]:
    """The variables of a checkpoint, all of which TensorFlow can be asked for.

    Args:
        prefix: of the checkpoint, e.g. "folder/model" for "folder/model.index".

    Raises:
        ValueError: the index is damaged or refused.
    """
    if os.path.getsize(f"{prefix}.index") > _MAX_INDEX:
        raise ValueError(f"its index has more than {_MAX_INDEX:,} bytes")
    with open(f"{prefix}.index", "rb") as file:
        table = file.read()
    room = sum(map(os.path.getsize, glob.glob(f"{glob.escape(prefix)}.data-*")))
    names: dict[str, None] = {}
    try:
        for key, value in _table(table):
            if key:  # the first entry, without name, describes the checkpoint
                name = key.decode("utf-8")
                if name in names:
                    raise ValueError(f"its index has {name} twice")
                names[name] = None
                _check_entry(name, _entry(value), room)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"its index is damaged: {error}") from None
    return list(names)


def _entry(value: bytes) -> Any:
    from tensorflow.core.protobuf import tensor_bundle_pb2

    try:
        return tensor_bundle_pb2.BundleEntryProto.FromString(value)
    except Exception as error:  # protobuf's DecodeError, which is no ValueError
        raise ValueError(f"its index is damaged: {error}") from None


def _check_entry(name: str, entry: Any, room: int) -> None:
    """Raises ValueError unless an entry is of an array that the data files have room for."""
    sides = [dim.size for dim in entry.shape.dim]
    # Without the zeros: a product that is too large on the way is too large for TensorFlow.
    elements = math.prod(side for side in sides if side)
    if (
        min(sides, default=0) < 0
        or len(sides) > _MAX_SIDES
        or not 0 <= entry.size <= room
        or elements > room
    ):
        raise ValueError(
            f"its index declares {name} with the shape {sides} in {entry.size} bytes, for which "
            f"the {room:,} bytes of its data files have no room"
        )
    if entry.dtype not in _TYPES or entry.slices or entry.shape.unknown_rank:
        raise ValueError(f"its index declares {name} as something else than a whole array")


def _table(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a sorted table."""
    footer = table[-_FOOTER:]
    (magic,) = struct.unpack("<Q", footer[-8:])
    if magic != _MAGIC:
        raise ValueError("its index is no table")
    _, position = _handle(footer, 0)  # of a block that nobody uses
    where, _ = _handle(footer, position)
    for _, handle in _block(table, where):
        yield from _block(table, _handle(handle, 0)[0])


def _block(table: bytes, where: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a block: a key shares its beginning with the one before."""
    offset, size = where
    if table[offset + size] != 0:
        raise ValueError("its index is compressed, as TensorFlow does not write it")
    block = table[offset : offset + size]
    (restarts,) = struct.unpack("<I", block[-4:])
    end = size - 4 - 4 * restarts
    starts = set()
    key, position = b"", 0
    while position < end:
        starts.add(position)
        shared, position = _varint(block, position)
        rest, position = _varint(block, position)
        length, position = _varint(block, position)
        if shared + rest > _MAX_NAME:
            raise ValueError(f"its index has a name of more than {_MAX_NAME} bytes")
        key = key[:shared] + block[position : position + rest]
        position += rest + length
        yield key, block[position - length : position]
    # A search begins at these; anywhere else, TensorFlow would see other entries than we do.
    searched = struct.unpack(f"<{restarts}I", block[end:-4])
    if position != end or (starts and not starts.issuperset(searched)):
        raise ValueError("its index is damaged")


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Offset and size of a block, and the position after them."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """A number of up to 64 bits in seven bits a byte, the lowest first; the position after it."""
    value = 0
    for shift in range(0, 64, 7):
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("its index is damaged")
