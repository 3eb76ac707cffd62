"""Files made to do harm: refused with one error, the model untouched, nothing written or run."""

import base64
import gzip
import json
import os
import pickle
import struct
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import source_files, torch_files
from helpers.torch_files import call, mapping, number, several, storage, tensor, text

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import read_config
from keras_effnetv2.architectures.stage import decode_stages
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.model_file import load_model
from keras_effnetv2.pretrained.load import load_weights
from keras_effnetv2.pretrained.open_weights import open_weights

MIB = 2**20
MICRO = ModelConfig("micro", decode_stages(["r1_k3_s1_e1_i4_o4_c1"]), head_filters=4)


@pytest.fixture(scope="module")
def model():
    return build_model(MICRO, classes=7)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Source -> a file of it that loads."""
    files = source_files.write_all(tmp_path_factory.mktemp("whole"), model)
    return files | {"zip": files["keras"], "keras": files["weights.h5"]}


@pytest.fixture
def tmp_path(tmp_path):
    """A folder so deep in one of the test that what is written above it lies in that one, too."""
    folder = tmp_path / "above" / "here"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def refused(model, tmp_path, monkeypatch):
    """Asserts that loading a file ends in an error with some words, and changes nothing."""
    monkeypatch.chdir(tmp_path)

    def check(path, words, source="auto"):
        before, files = model.get_weights(), everything(tmp_path)
        with pytest.raises(ValueError, match=words):
            load_weights(model, path, source)
        assert everything(tmp_path) == files
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)

    return check


def everything(folder):
    return sorted(str(path) for path in folder.parents[1].rglob("*"))


# --- archives -----------------------------------------------------------------------------------


def member(name, type=tarfile.REGTYPE, linkname="", size=0):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = type, linkname, size
    return info


@pytest.mark.parametrize(
    "evil",
    [
        member("/tmp/kev2_evil.index"),
        member("../../kev2_evil.index"),
        member("net/../../kev2_evil.txt"),
        member("net/other.index", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("net/other.index", type=tarfile.LNKTYPE, linkname="../../x"),
        member("net/zero", type=tarfile.CHRTYPE),
        member("net/pipe.index", type=tarfile.FIFOTYPE),
        member("net/disk", type=tarfile.BLKTYPE),
    ],
    ids=lambda info: info.name + info.type.decode(),
)
def test_members_of_archives(evil, whole, refused, tmp_path):
    with tarfile.open(tmp_path / "net.tgz", "w:gz") as tar:
        tar.addfile(evil)
        tar.add(whole["official"], "net")
    words = r"net\.tgz cannot be read as an archive: its member '.*' (points outside|is a link)"
    refused(tmp_path / "net.tgz", words)
    assert not os.path.exists("/tmp/kev2_evil.index")


def zeros(count):
    """Gzip of that many MiB of zeros; parts of a gzip file may simply stand one after another."""
    return gzip.compress(bytes(16 * MIB)) * (count // 16)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (tarfile.REGTYPE, "net/model.data-00000-of-00001"),
        (tarfile.XHDTYPE, "net/junk"),
        (tarfile.GNUTYPE_LONGNAME, "net/junk"),
    ],
)
def test_ten_gigabytes_of_zeros(kind, name, refused, tmp_path):
    header = member(name, type=kind, size=10 * 1024 * MIB).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "net.tgz").write_bytes(gzip.compress(header) + zeros(10 * 1024))
    assert os.path.getsize(tmp_path / "net.tgz") < 12 * MIB
    refused(tmp_path / "net.tgz", "unpacks to more than 268,435,456 bytes")


def test_a_sparse_member(refused, tmp_path):
    """A header with a hole of a terabyte: nothing in the archive, a terabyte once extracted."""
    header = bytearray(member("net/model.index", type=tarfile.GNUTYPE_SPARSE).tobuf())
    header[386:398], header[398:410] = b"00000000000\0", b"00000000000\0"
    header[483:495] = b"\x80" + (2**40).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (tmp_path / "net.tgz").write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    refused(tmp_path / "net.tgz", "is a link, a device or a sparse file")


def test_an_archive_with_a_wrong_checksum(whole, refused, tmp_path):
    with tarfile.open(tmp_path / "net.tgz", "w:gz") as tar:
        tar.add(whole["official"], "net")
    data = bytearray((tmp_path / "net.tgz").read_bytes())
    data[-8] ^= 1
    (tmp_path / "net.tgz").write_bytes(data)
    refused(tmp_path / "net.tgz", "cannot be read as an archive: CRC check failed")


# --- checkpoints --------------------------------------------------------------------------------

# The index of a float32 "net/stem/conv2d/kernel", with right checksums, but the shape that is said;
# made by hand, as TensorFlow would not write it.
IMPOSSIBLE = {
    "[-1, 4]": (  # ends the process of TensorFlow's reader (2.21)
        "AAAGCAEaAggBABYcbmV0L3N0ZW0vY29udjJkL2tlcm5lbAgBEhESCwj///////////8BEgIIBCgQNUwomHQAAAAA"
        "AQAAAACjQk8nAAAAAAEAAAAAwPKhsAABAv8ARgAAAAABAAAAAE2Fv3tLCFgOAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAAAAV/uAiyR1R9s="
    ),
    "[2**40], 2**42 bytes": (
        "AAAGCAEaAggBABYabmV0L3N0ZW0vY29udjJkL2tlcm5lbAgBEgkSBwiAgICAgCAogICAgICAATVMKJh0AAAAAAEA"
        "AAAA7hZYLQAAAAABAAAAAMDyobAAAQL/AEQAAAAAAQAAAADMp858SQhWDgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
        "AAAAAAAAAAAAAAAAAFf7gIskdUfb"
    ),
}


@pytest.fixture
def impossible(tmp_path):
    def write(shape):
        (tmp_path / "model.index").write_bytes(base64.b64decode(IMPOSSIBLE[shape]))
        (tmp_path / "model.data-00000-of-00001").write_bytes(struct.pack("<4f", 1, 2, 3, 4))
        return tmp_path / "model"

    return write


@pytest.mark.slow  # a process that ends
def test_a_checkpoint_that_ends_tensorflow(impossible, refused):
    refused(impossible("[-1, 4]"), "cannot be read as a checkpoint: TensorFlow crashed on it")


def test_a_checkpoint_that_declares_terabytes(impossible, refused, checkpoints_in_this_process):
    words = "declares more than the 16 bytes of its data files"
    refused(impossible("[2**40], 2**42 bytes"), words)


def test_an_index_of_many_megabytes(refused, tmp_path):
    with open(tmp_path / "model.index", "wb") as file:
        file.truncate(2**26 + 1)
    refused(tmp_path / "model", "its index has more than 67,108,864 bytes")


# --- HDF5 ---------------------------------------------------------------------------------------


def virtual_data(file):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4,))
    file.create_virtual_dataset("stem_conv/more", layout)


def put(*links):
    """Return what gives a file those (name, link or value)."""

    def change(file):
        for name, item in links:
            file[name] = item

    return change


def array(*arguments, **options):
    return lambda file: file.create_dataset("stem_conv/more", *arguments, **options)


LAMBDA = {"class_name": "Lambda", "config": {"function": ["4wEAAAD...", None, None]}}
LAMBDA = json.dumps({"class_name": "Functional", "layers": [LAMBDA]})


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (put(("stem_conv/more", h5py.ExternalLink("/etc/passwd", "/"))), "more is a link"),
        (put(("stem_conv/more", h5py.SoftLink("/stem_bn"))), "more is a link"),
        (put(("a", h5py.SoftLink("/b")), ("b", h5py.SoftLink("/a"))), "is a link"),
        (lambda file: put(("loop/again", file.create_group("loop")))(file), "contains itself"),
        (array((4,), "f4", external=[("/etc/hostname", 0, 16)]), "more is in another file"),
        (virtual_data, "more is in another file"),
        (put(("stem_conv/more", "a string")), "more does not hold numbers"),
        (array((1,), h5py.ref_dtype), "more does not hold numbers"),
        (put(("stem_conv/more", np.dtype("f4"))), "more is neither a group nor an array"),
        (array((2**40,), "f4"), "holds no data"),
        (array(data=np.zeros(2**22, "f4"), compression="gzip"), "more is compressed"),
        (array(data=np.zeros(64, "f4"), compression="lzf"), "more is compressed.*h5repack"),
        (
            lambda file: file.attrs.update({"model_config": LAMBDA}),
            "Lambda layer, which is Python code. Nothing was run",
        ),
    ],
)
def test_hdf5(harm, words, whole, refused, tmp_path):
    for source in ("keras-applications", "leondgarse", "keras"):
        path = tmp_path / whole[source].name
        path.write_bytes(whole[source].read_bytes())
        with h5py.File(path, "a") as file:
            harm(file)
        refused(path, words)
        refused(path, words, source=source)


def test_arrays_that_share_their_bytes(model, refused, tmp_path):
    """Two arrays at one place of the file: what is read is more than the file has."""
    with h5py.File(tmp_path / "n.h5", "w") as file:
        for name in "ab":
            file[f"stem_conv/{name}"] = np.full(2**16, 1.0, "f4")
        first, second = (file[f"stem_conv/{name}"].id.get_offset() for name in "ab")
    data = (tmp_path / "n.h5").read_bytes()
    for old, new in ((second, first), (len(data), second)):  # the place, and the file's length
        data = data.replace(struct.pack("<Q", old), struct.pack("<Q", new))
    (tmp_path / "n.h5").write_bytes(data[:second])
    refused(tmp_path / "n.h5", "more bytes than it has", source="keras-applications")


# --- safetensors --------------------------------------------------------------------------------


def described(size, **tensors):
    header = json.dumps(tensors).encode()
    return struct.pack("<Q", len(header)) + header + bytes(size)


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<Q", 2**31) + b"{",
        struct.pack("<Q", 2**64 - 1) + b"{",
        b"{",
        described(4, a=TENSOR),
        described(8, a=TENSOR | {"shape": [2**40]}),
        described(8, a=TENSOR | {"shape": [2**40, 2**40]}),
        described(8, a=TENSOR | {"shape": [-2]}),
        described(8, a=TENSOR | {"data_offsets": [8, 0]}),
        described(8, a=TENSOR, b=TENSOR),
        described(8, a=TENSOR | {"dtype": "F8_E4M3", "shape": [8]}),
        struct.pack("<Q", 10**6) + b"[" * 10**6,
    ],
    ids=range(11),
)
def test_safetensors(data, refused, tmp_path):
    (tmp_path / "net.safetensors").write_bytes(data)
    refused(tmp_path / "net.safetensors", "cannot be read as a state dict of PyTorch")


# --- Keras archives -----------------------------------------------------------------------------


def edited(path, whole, change, more=()):
    """A `.keras` file whose config.json is changed, with more members."""
    with zipfile.ZipFile(whole["zip"]) as file:
        members = {name: file.read(name) for name in file.namelist()}
    changed = {"config.json": change(members["config.json"].decode())}
    archive(path, members | changed | dict(more))
    return path


def archive(path, members, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)


def test_zips_that_keras_does_not_write(refused, tmp_path):
    archive(tmp_path / "n.keras", {"config.json": "{}", "model.weights.h5": bytes(257 * MIB)})
    refused(tmp_path / "n.keras", "unpacks to more than 268,435,456 bytes")
    archive(tmp_path / "n.keras", {"config.json": "{}", "model.weights.h5": b""}, zipfile.ZIP_LZMA)
    refused(tmp_path / "n.keras", "in a way that Keras does not use")


def test_zip_that_understates_its_size(refused, tmp_path):
    """The size in the directory is what the member says; the data go on."""
    packed = zlib.compress(bytes(16 * MIB))
    archive(tmp_path / "n.keras", {"config.json": "{}", "model.weights.h5": packed}, 0)
    data = (tmp_path / "n.keras").read_bytes().replace(struct.pack("<I", len(packed)), b"\0\1\0\0")
    (tmp_path / "n.keras").write_bytes(data)
    refused(tmp_path / "n.keras", "cannot be read as")


def test_zip_with_code(whole, refused, tmp_path):
    layer = '{"module": "builtins", "class_name": "__lambda__", "config": {"value": "4wEA"}}'
    refused(edited(tmp_path / "n.keras", whole, lambda text: layer), "Lambda layer")


def test_zip_with_other_members_is_read_in_memory(model, whole, tmp_path):
    path = edited(tmp_path / "n.keras", whole, str, {"../evil.txt": b"x", "/tmp/kev2_evil": b"x"})
    files = everything(tmp_path)
    load_weights(model, path)
    assert everything(tmp_path) == files
    assert not os.path.exists("/tmp/kev2_evil")


# --- models -------------------------------------------------------------------------------------


def replaced(old, new):
    def change(text):
        assert old in text
        return text.replace(old, new)

    return change


CONFIGS = [
    (replaced('"units": 7', '"units": 1000000000'), "describes a model of 5,000,000,"),
    (replaced('"units": 7', '"units": 1' + "0" * 400), "describes a model of 5"),
    (replaced('"filters": 4', '"filters": 1000000000'), "cannot be read"),
    (replaced('"units": 7', '"units": NaN'), "NaN is not a JSON number"),
    (replaced('"units": 7', '"units": "x"'), "cannot be read"),
    (replaced('"Dense"', '"Dance"'), "cannot be read"),
    (replaced('"layers"', '"strata"'), "cannot be read"),
    (lambda text: "[" * 9_999, "nested too deeply"),
    (lambda text: " " * (2**24 + 1), "more than 16,777,216 bytes"),
    (lambda text: "{}", "it holds a dict and not a model"),
    (lambda text: "[3]", "it holds a list and not a model"),
]


@pytest.mark.parametrize(("change", "words"), CONFIGS, ids=range(len(CONFIGS)))
def test_a_model_is_checked_before_it_takes_memory(change, words, whole, tmp_path):
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=rf"model\.keras cannot be read: .*{words}|{words}"):
        load_model(edited(tmp_path / "model.keras", whole, change))
    gib = 2**30 if sys.platform == "darwin" else 2**20  # there in bytes, else in KiB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + gib


def test_a_model_that_is_whole_loads(model, whole):
    read = load_model(whole["zip"])
    for old, new in zip(model.get_weights(), read.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "[" * 9_999, "nested too deeply"),
        (replaced('"units": 7', '"units": NaN'), "NaN is not a JSON number"),
        (lambda text: "[3]", "not one that Keras writes"),
        (lambda text: '{"class_name": "Model", "config": {"layers": [3]}}', "not one that Keras"),
        (lambda text: '{"class_name": "Model", "config": 3}', "not one that Keras writes"),
    ],
    ids=range(5),
)
def test_weights_of_a_model_whose_description_is_none(change, words, whole, refused, tmp_path):
    path = edited(tmp_path / "n.keras", whole, change)
    refused(path, rf"n\.keras cannot be read as a Keras weight file: .*{words}")


@pytest.mark.parametrize("source", ["auto", "timm", "keras", "official"])
def test_what_is_no_regular_file(source, refused, tmp_path):
    os.mkfifo(tmp_path / "n.keras")
    (tmp_path / "zero.safetensors").symlink_to("/dev/zero")
    for path in (tmp_path / "n.keras", tmp_path / "zero.safetensors", "/dev/zero"):
        refused(path, "is a device, a pipe or a socket; give a regular file", source)
        with pytest.raises(ValueError, match="a device, a pipe or a socket"):
            build_model(MICRO, weights=path)
        with pytest.raises(ValueError, match="a device, a pipe or a socket"):
            read_config(str(path))
        with pytest.raises(ValueError, match="a device, a pipe or a socket"):
            load_model(Path(path))


@pytest.mark.parametrize("weights", ["missing.h5", "a/missing", Path("missing"), "x.safetensors"])
def test_a_file_that_is_missing_is_said_to_be(weights, refused, tmp_path):
    with pytest.raises(ValueError, match=f"There is no file or folder '{weights}'"):
        build_model(MICRO, weights=weights)
    refused(weights, f"There is no file, folder or checkpoint '{weights}'")


def test_a_folder_without_weights_says_what_is_in_it(whole, refused, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, "must hold one weight file, and has none")
    for name in ("a.keras", "b.h5"):
        (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, r"must hold one weight file, and has a\.keras, b\.h5")


# --- pickles ------------------------------------------------------------------------------------


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)  # into the working directory, which `refused` looks at


@pytest.mark.parametrize(
    "name",
    ["n.pth", "n.pt", "n.bin", "n.pkl", "n.ckpt", "n.safetensors", "n.h5", "n.keras", "n.tgz"],
)
def test_pickles(name, refused, tmp_path):
    for protocol in range(6):
        (tmp_path / name).write_bytes(pickle.dumps(Harm(), protocol))
        known = protocol >= 2 or name in ("n.pth", "n.pt", "n.bin", "n.pkl", "n.ckpt")
        asks = rf"it asks for '{os.name}\.mkdir', which no state dict needs\. Nothing in it was run"
        refused(tmp_path / name, asks if known else r"n\.")
        refused(tmp_path / name, asks if protocol >= 2 else r"n\.", source="timm")
        (tmp_path / name).write_bytes(torch_files.archive(pickle.dumps(Harm(), protocol)[:-1]))
        refused(tmp_path / name, asks)


def nested(code, times, start=b")"):
    return start + code * times


FOUR = storage("0", 4)
DAMAGED = "its pickle is damaged"
OUTSIDE = "one of its tensors (lies outside|has more numbers than) its storage"
ASKED = [
    (call(b"posix system", text("mkdir harm")), r"'posix\.system'"),
    (call(b"builtins eval", text("1")), r"'builtins\.eval'"),
    (call(b"builtins getattr", b"N", text("x")), r"'builtins\.getattr'"),
    (call(b"torch._utils os.system", text("mkdir harm")), r"'torch\._utils\.os\.system'"),
    (text("torch.storage") + text("os.system") + b"\x93", r"'torch\.storage\.os\.system'"),
    (call(b"torch.storage _load_from_bytes", b"C\0"), r"'torch\.storage\._load_from_bytes'"),
    (call(b"torch._utils _rebuild_tensor_v2 x"), r"'torch\._utils\._rebuild_tensor_v2 x'"),
    (storage("0", 4, "QInt8"), r"'torch\.QInt8Storage'"),
    (b"\x82\1", "the instruction EXT1 1"),
    (b"\x84\1\0\0\0", "the instruction EXT4 1"),
    (b"(iposix\nsystem\n", "the instruction INST 'posix system'"),
    (b"ccollections\nOrderedDict\n)\x81", "the instruction NEWOBJ"),
    (b"(ccollections\nOrderedDict\no", "the instruction OBJ"),
    (b"Pstorage\n", "the instruction PERSID 'storage'"),
    (b"\x96" + bytes(8), "the instruction BYTEARRAY8"),
    (b"\x8f", "the instruction EMPTY_SET"),
]
WRONG = [
    # what is called, and with what
    (text("posix.system") + several(text("mkdir harm")) + b"R", DAMAGED),
    (call(b"torch Size", several(text("x"))), DAMAGED),
    (call(b"torch Size", several(b"K\0" * 65)), DAMAGED),
    (call(b"collections OrderedDict", b"]" + several(b"K\0K\0") + b"a"), DAMAGED),
    (call(b"torch._utils _rebuild_tensor_v2"), DAMAGED),
    (call(b"torch._utils _rebuild_tensor_v2", *[b"N"] * 9), DAMAGED),
    (torch_files.ORDERED_DICT + b")R", DAMAGED),
    (FOUR + b"}b", DAMAGED),  # attributes of a storage
    # storages
    (b"NQ", DAMAGED),
    (several(text("module"), b"N", text("x"), text("source")) + b"Q", DAMAGED),
    (several(text("storage"), b"ctorch\nSize\n", text("0"), b"N", b"K\4") + b"Q", DAMAGED),
    (several(text("storage"), b"ctorch\nByteStorage\n", b")", b"N", b"K\4") + b"Q", DAMAGED),
    (storage("0", -4), DAMAGED),
    (several(FOUR, storage("0", 2, "Double")), DAMAGED),
    (several(FOUR, storage("0", 5)), DAMAGED),
    (storage("0", 4, view=several(text("v"), number(-1), number(4))), DAMAGED),
    (tensor(storage("0", 4, view=several(b"N", b"K\2", b"K\4")), 0, (4,), (1,)), OUTSIDE),
    # tensors
    (tensor(FOUR, -1, (4,), (1,)), DAMAGED),
    (tensor(FOUR, 0, (-4,), (1,)), DAMAGED),
    (tensor(FOUR, 3, (4,), (-1,)), DAMAGED),
    (tensor(FOUR, 0, (2, 2), (1,)), DAMAGED),
    (tensor(FOUR, 0, [1] * 65, [1] * 65), DAMAGED),
    (tensor(FOUR, 1, (4,), (1,)), OUTSIDE),
    (tensor(FOUR, 0, (2, 2), (4, 1)), OUTSIDE),
    (tensor(FOUR, 2**62, (1,), (1,)), OUTSIDE),
    (tensor(FOUR, 2**100, (1,), (1,)), OUTSIDE),
    (tensor(FOUR, 0, (2,), (2**62,)), OUTSIDE),
    (tensor(FOUR, 0, (2,), (2**100,)), OUTSIDE),
    (tensor(FOUR, 0, (2**40,), (0,)), OUTSIDE),
    (tensor(FOUR, 0, (2**32, 2**32), (0, 0)), OUTSIDE),
    (tensor(FOUR, 0, (3, 3), (1, 1)), OUTSIDE),
    (tensor(FOUR, 0, (0, 2**100), (1, 1)), OUTSIDE),
    # lengths that are not there, and what takes a billion steps or levels elsewhere
    (b"X\xff\xff\xff\xff", DAMAGED),
    (b"\x8d" + b"\xff" * 7 + b"\x7f", DAMAGED),
    (b"\x8b\xff\xff\xff\x7f", DAMAGED),
    (b"I" + b"9" * 10**5 + b"\n", DAMAGED),
    (b"\x95" + b"\xff" * 8 + b"N", "holds no tensors by name"),
    (b"Nr\xff\xff\xff\x7f", "holds no tensors by name"),
    (nested(b"\x85", 10**4), "holds no tensors by name"),
    (b"}" + nested(b"\x85", 10**4) + b"Ns", DAMAGED),
    (b"}" + nested(b"q\0h\0\x86", 60) + b"Ns", DAMAGED),
    (b"}q\0" + text("state_dict") + b"h\0s", "holds no tensors by name"),
    (b"a", DAMAGED),
    (b"t", DAMAGED),
    (b"h\0", DAMAGED),
]


@pytest.mark.parametrize("form", [torch_files.archive, torch_files.old_form])
@pytest.mark.parametrize(("code", "words"), [*ASKED, *WRONG])
def test_pickles_of_state_dicts(code, words, form, refused, tmp_path):
    """Nothing is run, and little memory is used."""
    path = tmp_path / "net.pth"
    tracemalloc.start()
    for whole in (code, mapping({"conv_stem.weight": code})):
        path.write_bytes(form(whole, {"0": (4, bytes(16))} if words == OUTSIDE else {}))
        refused(path, words if whole != code or (code, words) in ASKED else "state dict")
    assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    tracemalloc.stop()


@pytest.mark.parametrize("form", [torch_files.archive, torch_files.old_form])
def test_state_dicts_that_are_cut_off(form, refused, tmp_path):
    kernel = np.arange(6, dtype="float32").reshape(2, 3)
    data = form(*torch_files.described({"conv_stem.weight": kernel}))
    path = tmp_path / "net.pth"
    path.write_bytes(data)
    np.testing.assert_array_equal(open_weights(path).tensors["conv_stem.weight"], kernel)
    for end in range(0, len(data), 41):
        path.write_bytes(data[:end])
        refused(path, "cannot be read as a state dict of PyTorch")


def test_archives_of_state_dicts(model, whole, refused, tmp_path):
    path = tmp_path / "net.pth"
    code, numbers = torch_files.described({"conv_stem.weight": np.zeros((2, 3), "float32")})

    def check(words, code=code, numbers=numbers, **changes):
        path.write_bytes(torch_files.archive(code, numbers, **changes))
        refused(path, words)

    check("is compressed or has a member twice", packed=True)
    check("its numbers are big-endian", more=[("byteorder", b"big")])
    check("its archive is damaged: .*no item named 'archive/data/0'", numbers={})
    check("lies outside its storage|more numbers", numbers={"0": (4, bytes(20))})
    check("must have one data.pkl", more=[("other/data.pkl", b"\x80\2N.")])
    check("is a program", more=[("constants.pkl", b"\x80\2N.")])
    with pytest.warns(UserWarning, match="Duplicate name"):
        check("is compressed or has a member twice", more=[("data/0", bytes(24))])
    old = torch_files.old_form(code, numbers, little_endian=False)
    path.write_bytes(old)
    refused(path, "its numbers are big-endian")
    path.write_bytes(torch_files.old_form(code, {"0": (4, bytes(20))}))
    refused(path, "other sizes than its pickle says")
    path.write_bytes(torch_files.old_form(code, {}))
    refused(path, "its storage '0' is missing")
    path.write_bytes(torch_files.old_form(code, numbers | {"1": (4, bytes(4))}))
    refused(path, "has one that no tensor uses")


@pytest.mark.parametrize("folder", ["", "../../", "/tmp/kev2_evil/"])
def test_archives_of_state_dicts_are_read_in_memory(folder, tmp_path):
    path = tmp_path / "net.pth"
    code, numbers = torch_files.described({"conv_stem.weight": np.ones((2, 3), "float32")})
    path.write_bytes(torch_files.archive(code, numbers, folder))
    files = everything(tmp_path)
    assert open_weights(path).tensors["conv_stem.weight"].sum() == 6
    assert everything(tmp_path) == files
    assert not os.path.exists("/tmp/kev2_evil")
