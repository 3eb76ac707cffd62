"""Decoding against Pillow, an independent decoder, on pictures made here."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.evaluation_crop import prepare_batch
from keras_effnetv2.images.headers import check_image, format_name

HEIGHT, WIDTH = 37, 53  # odd, so that every kind of row padding occurs
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
RGB = np.stack([COLUMNS * 4, ROWS * 6, 255 - COLUMNS * 2 - ROWS * 3], axis=-1).astype(np.uint8)
ALPHA = (COLUMNS * 5 % 256).astype(np.uint8)
GRAY16 = (COLUMNS * 1200 + ROWS).astype(np.uint16)
INDICES = ((ROWS + COLUMNS) % 2).astype(np.uint8)
PALETTE = np.array([[200, 30, 90], [10, 250, 60]], np.uint8)
PICTURE = Image.fromarray(RGB)
RGBA = Image.fromarray(np.dstack([RGB, ALPHA]))
TURNED = [PICTURE.rotate(180), PICTURE.rotate(90)]


def encode(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def read_with_pillow(data, background=(255, 255, 255)):
    """Return what a viewer shows on a background."""
    image = Image.open(io.BytesIO(data))
    if "transparency" not in image.info and "A" not in image.mode:
        return np.asarray(image.convert("RGB"))
    below = Image.new("RGBA", image.size, background)
    return np.asarray(Image.alpha_composite(below, image.convert("RGBA")).convert("RGB"))


def bmp(pixels, bits, *, height=HEIGHT, compression=0, extra=b""):
    """Return a BMP with rows of bytes, which are padded to four; a negative height is top-down."""
    rows = b"".join(row.tobytes() + bytes(-row.nbytes % 4) for row in pixels)
    sizes = (len(rows), 0, 0, 0, 0)
    header = struct.pack("<IiiHHI5I", 40, WIDTH, height, 1, bits, compression, *sizes)
    offset = 14 + len(header) + len(extra)
    start = struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
    return start + header + extra + rows


masks = struct.Struct("<3I").pack
BGRX = np.dstack([RGB[:, :, ::-1], ALPHA])
BAD_BMP = "corrupt or truncated BMP, or not uncompressed with 24 or 32 bits: save it as PNG"

WAY_OUT = "files are not supported: convert it to JPEG or PNG"
OTHERS = [
    (b"\0\0\0\x18ftypheic", "HEIC"),
    (b"\0\0\0\x1cftypmif1", "HEIC"),
    (b"\0\0\0\x20ftypavif", "AVIF"),
    (b"\0\0\0\x18ftypcrx ", "camera RAW"),
    (b"\0\0\0\x20ftypisom", "video"),
    (b"II*\0\x10\0\0\0CR", "camera RAW"),
    (b"FUJIFILMCCD-RAW", "camera RAW"),
    (b"II*\0\x08\0\0\0", "TIFF or camera RAW"),
    (b"MM\0*\0\0\0\x08", "TIFF or camera RAW"),
    (b"\xff\x0a\xfa", "JPEG XL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (b"\xff\x4f\xff\x51\0", "JPEG 2000"),
    (b"8BPS\0\1", "Photoshop (PSD)"),
    (b"<svg xmlns=", "SVG or other XML"),
    (b"<?xml version=", "SVG or other XML"),
    (b"%PDF-1.7\n", "PDF or PostScript"),
]
EXACT = {
    "png": (encode(PICTURE, "PNG"), RGB),
    "png palette": (encode(PICTURE.quantize(200), "PNG"), None),
    "png 1 bit": (encode(PICTURE.convert("1"), "PNG"), None),
    "png 2 bits": (encode(PICTURE.quantize(4), "PNG", bits=2), None),
    "png 4 bits": (encode(PICTURE.quantize(16), "PNG", bits=4), None),
    "png gray": (encode(PICTURE.convert("L"), "PNG"), None),
    "png gray 16 bits": (
        encode(Image.fromarray(GRAY16), "PNG"),
        np.repeat(np.rint(GRAY16 / 257).astype(np.uint8)[..., None], 3, axis=-1),
    ),
    "bmp 24 bits": (encode(PICTURE, "BMP"), RGB),
    "bmp 24 bits top-down": (bmp(RGB[:, :, ::-1], 24, height=-HEIGHT), RGB),
    "bmp 32 bits": (encode(RGBA, "BMP"), RGB),
    "bmp 32 bits with masks": (
        bmp(BGRX[::-1], 32, compression=3, extra=masks(0xFF0000, 0xFF00, 0xFF)),
        RGB,
    ),
    "gif": (encode(PICTURE, "GIF"), None),
    "gif interlaced": (encode(PICTURE.quantize(30), "GIF", interlace=1, comment=b"c" * 700), None),
    "gif animated": (encode(PICTURE, "GIF", save_all=True, append_images=TURNED), None),
    "webp lossless": (encode(PICTURE, "WEBP", lossless=True), RGB),
    "webp animated": (
        encode(PICTURE, "WEBP", lossless=True, save_all=True, append_images=TURNED),
        RGB,
    ),
    "webp one pixel": (
        encode(Image.new("RGB", (1, 1), (9, 80, 200)), "WEBP", lossless=True),
        np.array([[[9, 80, 200]]]),
    ),
}
"""File, and the picture it must give; None: what Pillow reads."""

LOSSY = {
    "jpeg": encode(PICTURE, "JPEG", quality=95),
    "jpeg progressive": encode(PICTURE, "JPEG", quality=95, progressive=True),
    "jpeg gray": encode(PICTURE.convert("L"), "JPEG"),
    "jpeg cmyk": encode(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "jpeg with metadata": encode(PICTURE, "JPEG", quality=95, icc_profile=bytes(200_000)),
    "webp": encode(PICTURE, "WEBP", quality=95),
}

FRAMES = {"save_all": True, "append_images": [RGBA.rotate(180)]}
PALETTE_200 = PICTURE.quantize(200)
TRANSPARENT = {
    "png rgba": encode(RGBA, "PNG"),
    "png gray alpha": encode(RGBA.convert("LA"), "PNG"),
    "png palette, one colour": encode(PALETTE_200, "PNG", transparency=3),
    "png palette, many": encode(PALETTE_200, "PNG", transparency=bytes(range(0, 200, 2))),
    "png one colour": encode(PICTURE, "PNG", transparency=tuple(RGB[9, 9].tolist())),
    "png one gray level": encode(PICTURE.convert("L"), "PNG", transparency=99),
    "png 1 bit": encode(PICTURE.convert("1"), "PNG", transparency=0),
    "gif": encode(PALETTE_200, "GIF", transparency=3),
    "gif animated": encode(
        PALETTE_200, "GIF", transparency=3, save_all=True, append_images=[PALETTE_200.rotate(180)]
    ),
    "webp lossless": encode(RGBA, "WEBP", lossless=True, exact=True),
    "webp": encode(RGBA, "WEBP", quality=95),
    "webp animated": encode(RGBA, "WEBP", quality=95, **FRAMES),
}

WHOLE = {name: data for name, (data, _) in EXACT.items()} | LOSSY | TRANSPARENT


@pytest.mark.parametrize("name", EXACT)
def test_lossless_pictures_decode_exactly(name):
    data, expected = EXACT[name]
    image = decode_image(data)
    assert image.dtype == tf.uint8
    np.testing.assert_array_equal(image, read_with_pillow(data) if expected is None else expected)


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("background", [255, (10, 200, 90)])
@pytest.mark.parametrize("name", TRANSPARENT)
def test_what_is_transparent_shows_the_background(name, background):
    data = TRANSPARENT[name]
    colour = (background,) * 3 if background == 255 else background
    expected = read_with_pillow(data, colour).astype(int)
    assert np.abs(expected - read_with_pillow(data, (0, 0, 0))).max() > 100  # some is transparent
    image = decode_image(data, background=background).numpy()
    # TensorFlow and Pillow smooth the colours of a lossy WebP alike.
    assert np.abs(image - expected).max() <= 1


def test_black_shapes_on_nothing_are_black_on_white():
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[2:6, 3:5, 3] = 255
    expected = np.full((8, 8, 3), 255)
    expected[2:6, 3:5] = 0
    np.testing.assert_array_equal(decode_image(encode(Image.fromarray(pixels), "PNG")), expected)


@pytest.mark.parametrize("shape", [(2, 700_000), (1_500, 1_000)])
def test_a_large_picture_is_laid_on_white_whole(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 4), dtype=np.uint8)
    data = encode(Image.fromarray(pixels), "PNG", compress_level=1)
    np.testing.assert_array_equal(decode_image(data), read_with_pillow(data))


def test_samples_of_16_bits_keep_their_opacity():
    levels = np.random.default_rng(0).integers(0, 2**16, (9, 7, 4), dtype=np.uint16)
    colour, opacity = levels[..., :3] / 65535, levels[..., 3:] / 65535
    expected = 255 * (colour * opacity + 1 - opacity)
    image = decode_image(tf.io.encode_png(levels)).numpy()
    assert np.abs(image - expected).max() <= 1.5  # rounded three times


@pytest.mark.parametrize("has_mask", [True, False])
def test_a_bmp_has_opacity_only_where_its_header_says_so(has_mask):
    data = bytearray(bmp(BGRX[::-1], 32, compression=3, extra=bytes(16)))
    data[14:18] = struct.pack("<I", 56)
    data[54:70] = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000 if has_mask else 0)
    expected = read_with_pillow(TRANSPARENT["png rgba"]) if has_mask else RGB
    np.testing.assert_array_equal(decode_image(bytes(data)), expected)


@pytest.mark.parametrize("background", [256, -1, 0.5, True, (1, 2), (1, 2, 300), "white", None])
def test_a_background_that_is_no_colour_is_refused(background):
    with pytest.raises(ValueError, match="`background` must be a gray level"):
        decode_image(b"", background=background)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_pictures_decode_as_pillow_does_within_rounding(name):
    # Pillow uses the slow integer DCT, TensorFlow (and so the official code) the fast one.
    difference = np.abs(
        decode_image(LOSSY[name]).numpy().astype(int) - read_with_pillow(LOSSY[name])
    )
    assert difference.max() <= 8
    assert difference.mean() < 2


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_pass_and_truncated_ones_raise(name):
    data = WHOLE[name]
    assert check_image(data).numpy() == b""
    for kept in (8, 20, 40, len(data) // 2, len(data) - 12, len(data) - 3):
        if kept < len(data):
            with pytest.raises(tf.errors.InvalidArgumentError):
                decode_image(data[:kept])


def test_eager_graph_and_dataset_agree_on_every_kind():
    files = list(WHOLE.values())
    dataset = tf.data.Dataset.from_tensor_slices(files).map(decode_image)
    assert dataset.element_spec.shape.as_list() == [None, None, 3]
    for data, image in zip(files, dataset, strict=True):
        np.testing.assert_array_equal(image, decode_image(data))


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_first_frame_smaller_than_the_picture_lies_at_its_place_on_white(kind):
    frame = np.full((4, 6, 3), 130, np.uint8)
    # The same small frame, and a header that says 20 x 30 with the frame at row 8, column 2.
    if kind == "GIF":
        data = bytearray(encode(Image.fromarray(frame), "GIF"))
        data[6:10] = struct.pack("<HH", 30, 20)
        at = data.index(b",", 13 + 3 * 2 ** ((data[10] & 7) + 1))
        data[at + 1 : at + 5] = struct.pack("<HH", 2, 8)
    else:
        frames = [Image.fromarray(frame), Image.fromarray(255 - frame)]
        data = bytearray(
            encode(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:])
        )
        data[24:30] = (29).to_bytes(3, "little") + (19).to_bytes(3, "little")
        at = data.index(b"ANMF") + 8
        data[at : at + 6] = (1).to_bytes(3, "little") + (4).to_bytes(3, "little")  # halved
    expected = np.full((20, 30, 3), 255, np.uint8)
    expected[8:12, 2:8] = 130
    np.testing.assert_array_equal(decode_image(bytes(data)), expected)


def test_png_with_flipped_bits_raises():
    data = bytearray(EXACT["png"][0])
    data[60] ^= 0xFF
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(bytes(data))


def gif_of_tiny_blocks():
    """A GIF with a comment in blocks of one byte each."""
    data = EXACT["gif"][0]
    place = 13 + 3 * 2 ** (data[10] % 8 + 1)  # after the colours
    return data[:place] + b"!\xfe" + b"\1c" * 20_000 + b"\0" + data[place:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"plain text", "not a JPEG, PNG, BMP, GIF or WebP picture"),
        (b"RIFF\x04\0\0\0WAVE", "not a JPEG, PNG, BMP, GIF or WebP picture"),
        (EXACT["png"][0][:20], "corrupt or truncated PNG"),
        (b"BMW is a car maker", BAD_BMP),
        (EXACT["bmp 24 bits"][0][:-1], BAD_BMP),
        (encode(PICTURE.convert("L"), "BMP"), BAD_BMP),
        (encode(PICTURE.quantize(200), "BMP"), BAD_BMP),
        (bmp(BGRX, 32, compression=3, extra=masks(0xFF000000, 0xFF0000, 0xFF00)), BAD_BMP),
        (bmp(INDICES, 8, compression=1), BAD_BMP),
        *[(start + bytes(20), f"{kind} {WAY_OUT}") for start, kind in OTHERS],
        (EXACT["gif"][0][:30], "corrupt or truncated GIF"),
        (gif_of_tiny_blocks(), "corrupt or truncated GIF"),  # it would take seconds to walk
        (LOSSY["webp"][:24], "corrupt or truncated WebP"),
    ],
)
def test_reason_in_words_and_the_same_one_when_decoding(data, reason):
    assert check_image(data).numpy().decode() == reason
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"JPEG|PNG|BMP|GIF|WebP|empty|files"):
        decode_image(data)


def test_pixel_limit_counts_height_times_width():
    for name, data in WHOLE.items():
        height, width = read_with_pillow(data).shape[:2]
        pixels = height * width
        assert check_image(data, max_pixels=pixels).numpy() == b"", name
        if pixels > 1:
            assert check_image(data, max_pixels=pixels - 1).numpy().decode() == (
                f"{height} x {width} pixels (height x width) is more than the {pixels - 1} "
                "that are accepted"
            )


def test_header_that_claims_four_thousand_million_rows_is_refused_undecoded():
    data = bytearray(EXACT["png"][0])
    data[16:24] = b"\xff" * 8
    assert b"4294967295 x 4294967295 pixels" in check_image(bytes(data)).numpy()


def test_a_webp_frame_larger_than_its_canvas_is_measured_by_the_frame():
    data = bytearray(WHOLE["webp animated"])
    data[24:30] = bytes(6)  # a canvas of one pixel
    assert check_image(bytes(data), max_pixels=HEIGHT * WIDTH - 1).numpy().startswith(b"37 x 53 ")


def test_damaged_files_never_harm_their_neighbours():
    """Bytes that are set, removed and inserted, mostly in the headers."""
    random = np.random.default_rng(0)
    batch = []
    for data in [*WHOLE.values()] * 8:
        damaged = bytearray(data)
        for _ in range(3):
            place = int(random.integers(min(len(data), random.choice([80, len(data)]))))
            damaged[place : place + random.integers(5)] = random.choice(
                [b"\0", b"\xff\xff\xff\xff", b"\x7f", b"\0\0\0\x80", b""]
            )
        batch += [bytes(damaged), LOSSY["jpeg"]]
    images, errors = prepare_batch(batch, 8, max_pixels=1_000_000)
    assert not any(errors.numpy()[1::2])
    assert 50 < sum(map(bool, errors.numpy()[::2])) < len(batch) // 2
    assert np.ptp(images.numpy()[1::2], axis=0).max() == 0
    assert np.isfinite(images).all()


def test_check_image_refuses_a_limit_below_one():
    with pytest.raises(ValueError, match="`max_pixels` must be an integer of at least 1"):
        check_image(b"", max_pixels=0)


def test_format_name_goes_by_content():
    files = [LOSSY["jpeg"], EXACT["png"][0], EXACT["bmp 24 bits"][0], EXACT["gif"][0], b"RIFF", b""]
    names = format_name(tf.constant([*files, LOSSY["webp"]])).numpy().tolist()
    assert names == [b"JPEG", b"PNG", b"BMP", b"GIF", b"picture", b"picture", b"WebP"]


def test_a_pipeline_holds_few_ops():
    """Every new iterator copies and optimizes them all; 940 in TensorFlow 2.21."""
    graph = tf.function(decode_image).get_concrete_function(tf.TensorSpec([], tf.string)).graph
    assert sum(len(f.node_def) for f in graph.as_graph_def().library.function) < 960
