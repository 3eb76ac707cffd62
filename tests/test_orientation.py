"""The EXIF orientation against Pillow: every value, every format, and files made to mislead."""

import io
import struct
import zlib

import numpy as np
import pytest
from helpers.picture_files import write_files
from PIL import Image, ImageOps

from keras_effnetv2 import load_source, make_dataset
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.evaluation_crop import decode_for_evaluation, prepare_batch
from keras_effnetv2.images.styles import CROP_STYLES, EVALUATION_STYLES
from keras_effnetv2.images.training_crop import decode_random_crop

HEIGHT, WIDTH = 160, 240  # whole blocks of a JPEG, also at an eighth
# What the sensor has, for Pillow to make of what is shown.
STORED_AS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
SHOWN = Image.fromarray(np.stack([COLUMNS, ROWS, 255 - COLUMNS], axis=-1).astype(np.uint8))
KINDS = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
}
TIFF = {
    "little": struct.pack("<4sIH HHIHH I", b"II*\0", 8, 1, 0x112, 3, 1, 6, 0, 0),
    "big": struct.pack(">4sIH HHIHH I", b"MM\0*", 8, 1, 0x112, 3, 1, 6, 0, 0),
    "of four bytes": struct.pack(">4sIH HHII I", b"MM\0*", 8, 1, 0x112, 4, 1, 6, 0),
    "far away": struct.pack("<4sI2001xH", b"II*\0", 2009, 2)
    + struct.pack("<HHII HHIHH", 0x10F, 2, 3, 65, 0x112, 3, 1, 6, 0),
}
MALFORMED = {
    "no directory": b"II*\0" + struct.pack("<I", 2**32 - 1),
    "many entries": struct.pack("<4sIH", b"II*\0", 8, 65535) + bytes(4000),
    "no order": TIFF["little"].replace(b"II*\0", b"XX*\0"),
    "value 0": TIFF["little"].replace(struct.pack("<IH", 1, 6), struct.pack("<IH", 1, 0)),
    "value 9": TIFF["little"].replace(struct.pack("<IH", 1, 6), struct.pack("<IH", 1, 9)),
    "as a fraction": TIFF["little"].replace(b"\x12\x01\x03", b"\x12\x01\x05"),
    "two values": TIFF["little"].replace(struct.pack("<IH", 1, 6), struct.pack("<IH", 2, 6)),
    "cut": TIFF["little"][:15],
    "behind the last entry": TIFF["little"].replace(b"\x08\0\0\0\x01\0", b"\x08\0\0\0\0\0"),
    "nothing": b"",
}


def encode(image, kind, orientation=None, **options):
    buffer = io.BytesIO()
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x010F] = "maker of cameras"
        options["exif"][0x0112] = orientation
    image.save(buffer, kind, **KINDS[kind], **options)
    return buffer.getvalue()


def stored(orientation, kind):
    """A file that shows SHOWN when it is turned."""
    image = SHOWN if orientation == 1 else SHOWN.transpose(STORED_AS[orientation])
    return encode(image, kind, orientation)


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_exif(tiff, kind, prefix=b"Exif\0\0"):
    """A file with these bytes as its EXIF data, behind other blocks."""
    data = encode(SHOWN, kind)
    if kind == "JPEG":
        other = segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0") + segment(0xFE, b"Exif\0\0 eXIf")
        return data[:20] + other + b"\xff" + segment(0xE1, prefix + tiff) + data[20:]
    if kind == "PNG":
        text = b"tEXtkey\0eXIf"
        chunks = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
        body = b"eXIf" + tiff
        return data[:33] + chunks + struct.pack(">I", len(tiff)) + body + struct.pack(
            ">I", zlib.crc32(body)
        ) + data[33:]  # fmt: skip
    sides = (WIDTH - 1).to_bytes(3, "little") + (HEIGHT - 1).to_bytes(3, "little")
    chunks = data[12:] + b"EXIF" + struct.pack("<I", len(tiff)) + tiff + bytes(len(tiff) % 2)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + sides + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_pillow_turns_it(orientation, kind):
    data = stored(orientation, kind)
    as_stored = decode_image(data, exif=False)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = Image.fromarray(as_stored.numpy())
    picture.info["exif"] = exif.tobytes()
    expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(decode_image(data), expected)
    assert np.abs(expected - np.asarray(SHOWN).astype(int)).max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("orientation", range(2, 9))
def test_training_and_evaluation_see_the_turned_picture(orientation, kind):
    turned, plain = stored(orientation, kind), encode(SHOWN, kind)
    pairs = [
        [decode_random_crop(data, size, (seed, 5), style=style, reduced_decode=reduced)
         for data in (turned, plain)]
        for style in CROP_STYLES for reduced in (True, False)
        for size, seed in ((16, 1), (16, 2), (90, 3))
    ]  # fmt: skip
    pairs += [
        [decode_for_evaluation(data, 40, style) for data in (turned, plain)]
        for style in EVALUATION_STYLES
    ]
    worst = max(float(np.abs(one - other).max()) for one, other in pairs)
    assert worst <= (5 if kind == "JPEG" else 0)
    as_stored = decode_for_evaluation(turned, 40, exif=False)
    assert np.abs(as_stored - decode_for_evaluation(plain, 40)).max() > 50


def test_a_data_set_turns_pictures_and_lays_them_on_a_background(tmp_path):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    buffer = io.BytesIO()
    clear.save(buffer, "PNG")
    write_files(tmp_path, {"a/1.jpg": stored(6, "JPEG"), "b/2.png": buffer.getvalue()})
    source = load_source(tmp_path, "all")
    options = {"image_size": 24, "batch_size": 2, "training": False}
    (images, _) = next(make_dataset(source, **options).as_numpy_iterator())
    files = [stored(6, "JPEG"), buffer.getvalue()]
    np.testing.assert_array_equal(images, prepare_batch(files, 24)[0])
    assert np.abs(images[0] - decode_for_evaluation(encode(SHOWN, "JPEG"), 24)).max() < 4
    assert images[1].min() == 255
    other = make_dataset(source, **options, exif=False, background=(0, 9, 3))
    (images, _) = next(other.as_numpy_iterator())
    np.testing.assert_array_equal(images[0], decode_for_evaluation(files[0], 24, exif=False))
    assert (images[1] == (0, 9, 3)).all()
    training = make_dataset(source, **options | {"training": True, "background": (0, 9, 3)})
    images, labels = next(training.as_numpy_iterator())
    assert (images[labels[:, 1] == 1] == (0, 9, 3)).all()
    with pytest.raises(ValueError, match="`background` must be a gray level"):
        make_dataset(source, **options, background=256)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TIFF)
def test_either_order_of_bytes_is_read_behind_other_blocks(name, kind):
    for prefix in (b"Exif\0\0", b"") if kind != "JPEG" else (b"Exif\0\0",):
        data = with_exif(TIFF[name] if kind == "JPEG" else prefix + TIFF[name], kind)
        assert decode_image(data).shape == (WIDTH, HEIGHT, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_exif_data_turns_nothing(name, kind):
    data = with_exif(MALFORMED[name], kind)
    np.testing.assert_array_equal(decode_image(data), decode_image(data, exif=False))


def test_what_only_looks_like_exif_data_turns_nothing():
    jpeg = encode(SHOWN, "JPEG")
    text = segment(0xFE, segment(0xE1, b"Exif\0\0" + TIFF["little"]))
    behind = jpeg + segment(0xE1, b"Exif\0\0" + TIFF["little"])
    unflagged = bytearray(with_exif(TIFF["little"], "WEBP"))
    unflagged[20] = 0
    for data in (jpeg[:2] + text + jpeg[2:], behind, bytes(unflagged)):
        assert decode_image(data).shape == (HEIGHT, WIDTH, 3)


def test_damaged_exif_data_never_fails():
    random = np.random.default_rng(0)
    for kind in KINDS:
        whole = with_exif(TIFF["far away"], kind)
        place = whole.index(b"II*\0")
        for _ in range(60):
            damaged = bytearray(whole)
            at = place + int(random.integers(8)) + 2001 * int(random.integers(2))
            damaged[at : at + 3] = random.bytes(3)
            if kind == "PNG":  # its checksums would say it
                continue
            shape = sorted(decode_image(bytes(damaged)).shape[:2])
            assert shape == [HEIGHT, WIDTH]
