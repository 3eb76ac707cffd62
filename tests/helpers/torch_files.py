"""Files as torch.save writes them, in both forms, put together from the instructions of pickles."""

import io
import struct
import zipfile

import numpy as np

KINDS = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16"}
KINDS |= {"int64": "Long", "int32": "Int"}
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value):
    return b"\x8a\x10" + value.to_bytes(16, "little", signed=True)


def several(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(values):
    return several(*map(number, values))


def call(name, *arguments):
    """A call of what a name, e.g. b"torch Size", stands for."""
    return b"c" + name.replace(b" ", b"\n", 1) + b"\n" + several(*arguments) + b"R"


def mapping(entries):
    """An OrderedDict of text -> instructions."""
    items = b"".join(text(key) + value for key, value in entries.items())
    return ORDERED_DICT + b"(" + items + b"u"


def storage(key, size, kind="Float", view=b""):
    name = b"ctorch\n" + kind.encode() + b"Storage\n"
    return several(text("storage"), name, text(key), text("cpu"), number(size), view) + b"Q"


def tensor(storage, offset, shape, strides, *more):
    arguments = (storage, number(offset), numbers(shape), numbers(strides), b"\x89", ORDERED_DICT)
    return call(b"torch._utils _rebuild_tensor_v2", *arguments, *more)


def described(arrays):
    """The instructions for an OrderedDict of arrays, and key -> bytes of their storages.

    Their numbers lie in the order of Fortran, so that who ignores strides reads others.
    """
    entries, storages = {}, {}
    for name, array in arrays.items():
        key = str(len(storages))
        strides = np.cumprod([1, *array.shape])[:-1].tolist()
        owned = storage(key, array.size, KINDS[array.dtype.name])
        entries[name] = tensor(owned, 0, array.shape, strides)
        storages[key] = array.dtype.itemsize, array.tobytes("F")
    return mapping(entries), storages


def archive(code, storages=(), folder="archive/", more=(("byteorder", b"little"),), packed=False):
    """The bytes of a file since PyTorch 1.6."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else 0) as file:
        file.writestr(f"{folder}data.pkl", b"\x80\2" + code + b".")
        for name, data in more:
            file.writestr(f"{folder}{name}", data)
        for key, (_, data) in dict(storages).items():
            file.writestr(f"{folder}data/{key}", data)
    return buffer.getvalue()


def old_form(code, storages=(), little_endian=True):
    """The bytes of a file before PyTorch 1.6."""
    magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
    system = b"}" + text("little_endian") + (b"\x88" if little_endian else b"\x89") + b"s"
    keys = b"](" + b"".join(map(text, dict(storages))) + b"e"
    pickles = [b"\x80\2" + one + b"." for one in (magic, number(1001), system, code, keys)]
    numbers = [
        struct.pack("<Q", len(data) // size) + data for size, data in dict(storages).values()
    ]
    return b"".join(pickles + numbers)
