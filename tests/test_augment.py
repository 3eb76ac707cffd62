"""RandAugment against outputs of the official code (tests/golden/randaugment/README.md)."""

import itertools
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.augment import operations as augment_ops, randaugment as augment
from keras_effnetv2.augment.magnitudes import RANDAUGMENT, AugmentLayer

GOLDEN = pathlib.Path(__file__).parent / "golden" / "randaugment"
LEVELS = json.loads((GOLDEN / "levels.json").read_text())
CASES = {case["key"]: case for case in json.loads((GOLDEN / "ops.json").read_text())["cases"]}
OUTPUTS = dict(np.load(GOLDEN / "ops.npz"))
IMAGE = OUTPUTS["input"]
FUNCTIONS = {
    "AutoContrast": augment_ops.auto_contrast,
    "Equalize": augment_ops.equalize,
    "Invert": augment_ops.invert,
    "Rotate": augment_ops.rotate,
    "Posterize": lambda image, bits: augment_ops.posterize(image, bits if 1 <= bits <= 8 else 1),
    "Solarize": lambda image, threshold: augment_ops.solarize(image, threshold % 256),
    "Color": augment_ops.color,
    "Contrast": augment_ops.contrast,
    "Brightness": augment_ops.brightness,
    "Sharpness": augment_ops.sharpness,
    "ShearX": augment_ops.shear_x,
    "ShearY": augment_ops.shear_y,
    "TranslateX": augment_ops.translate_x,
    "TranslateY": augment_ops.translate_y,
    "SolarizeAdd": augment_ops.solarize_add,
}
GEOMETRIC = LEVELS["signed"]
DYNAMIC = tf.TensorSpec([None, None, 3], tf.uint8)


def _random_image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _call(name, image, arguments):
    """Call an operation with arguments as the golden files give them."""
    if name in GEOMETRIC:
        arguments = [tf.constant(argument, tf.float64) for argument in arguments]
    return FUNCTIONS[name](tf.constant(image), *arguments).numpy()


def _magnitude(key):
    """Return the magnitude in a key such as `Rotate_m15_neg`, or None."""
    fields = [field for field in key.split("_") if field[0] == "m" and field[1:].isdigit()]
    return int(fields[0][1:]) if fields else None


def test_the_operations_are_the_official_ones_in_order():
    assert list(augment.OPERATION_NAMES) == LEVELS["ops"]


@pytest.mark.parametrize("key", [key for key in CASES if _magnitude(key) is not None])
def test_apply_equals_the_official_output(key):
    output = augment.apply(
        CASES[key]["op"], IMAGE, _magnitude(key), negate=key.endswith("_neg")
    ).numpy()
    assert output.dtype == np.uint8
    # Sharpness too: its stored result is the unfused sum, row by row, that `sharpness` spells out.
    np.testing.assert_array_equal(output, OUTPUTS[key])


@pytest.mark.parametrize("key", [key for key in CASES if "_arg" in key or key.startswith("flat")])
def test_an_operation_equals_the_official_output_at_any_argument(key):
    case = CASES[key]
    image = OUTPUTS[case.get("input", "input")]
    np.testing.assert_array_equal(_call(case["op"], image, case["args"]), OUTPUTS[key])


@pytest.mark.parametrize("key", [key for key in CASES if key.startswith("Cutout")])
def test_cutout_equals_the_official_output_about_a_centre(key):
    case = CASES[key]
    magnitude = case["args"][0] / 4  # pad = int(magnitude / 10 * 40)
    output = augment.apply("Cutout", IMAGE, magnitude, center=case["centre"])
    np.testing.assert_array_equal(output.numpy(), OUTPUTS[key])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_magnitudes_become_the_official_arguments(name):
    for key, arguments in LEVELS["arguments"][name].items():
        magnitude = round(float(key) * 6) / 6  # the keys round 20/3, 25/3, 35/3 and 40/3
        output = augment.apply(name, IMAGE, magnitude).numpy()
        np.testing.assert_array_equal(output, _call(name, IMAGE, arguments), err_msg=key)


def test_cutout_pads_are_the_official_ones():
    black = np.zeros((256, 256, 3), np.uint8)
    for key, (pad,) in LEVELS["arguments"]["Cutout"].items():
        output = augment.apply("Cutout", black, round(float(key) * 6) / 6).numpy()
        square = np.zeros_like(black)
        square[128 - pad : 128 + pad, 128 - pad : 128 + pad] = 128
        np.testing.assert_array_equal(output, square, err_msg=key)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_tiny_and_flat_images_keep_shape_and_dtype(shape):
    for name in augment.OPERATION_NAMES:
        for image in (_random_image(*shape), np.full((*shape, 3), 77, np.uint8)):
            output = augment.apply(name, image, 13.7)
            assert output.shape == (*shape, 3), name
            assert output.dtype == tf.uint8, name


def test_contrast_blends_from_the_pixel_count():
    for size, row in LEVELS["contrast_degenerate"]["checked"].items():
        height, width = (int(side) for side in size.split("x"))
        output = augment_ops.contrast(tf.constant(_random_image(height, width)), 0.0)
        np.testing.assert_array_equal(output, np.full((height, width, 3), row["degenerate"]))


def test_reference_size_scales_pixel_arguments_only():
    image = _random_image(64, 96)
    for name in augment.OPERATION_NAMES:
        official = augment.apply(name, image, 7)
        np.testing.assert_array_equal(augment.apply(name, image, 7, reference_size=64), official)
        halved = augment.apply(name, image, 7, reference_size=128)
        if name in ("TranslateX", "TranslateY", "Cutout"):
            half = augment.apply(name, image, 3.5)
            assert (half.numpy() != official.numpy()).any()
            np.testing.assert_array_equal(halved, half)
        else:
            np.testing.assert_array_equal(halved, official)


def test_same_image_and_seed_give_the_same_result_everywhere():
    layers = augment.RandAugment(num_layers=2, magnitude=10)
    seeds = np.stack([np.arange(8), np.full(8, 5)], axis=1).astype(np.int32)
    traced = tf.function(layers, input_signature=[DYNAMIC, tf.TensorSpec([2], tf.int32)])
    mapped = tf.data.Dataset.from_tensor_slices(seeds).map(lambda seed: traced(IMAGE, seed))
    eager = [layers(IMAGE, seed).numpy() for seed in seeds]
    for seed, expected, output in zip(seeds, eager, mapped, strict=True):
        np.testing.assert_array_equal(traced(IMAGE, seed), expected)
        np.testing.assert_array_equal(output, expected)
    assert len({output.tobytes() for output in eager}) > 4


def test_object_seed_gives_a_sequence_that_repeats_in_tf_data_too():
    def sequence(seed):
        layers = augment.RandAugment(num_layers=1, magnitude=10, seed=seed)
        return [layers(IMAGE).numpy().tobytes() for _ in range(6)]

    first = sequence(3)
    assert len(set(first)) > 3
    assert sequence(4) != first
    layers = augment.RandAugment(num_layers=1, magnitude=10, seed=3)
    images = tf.data.Dataset.from_tensors(IMAGE).repeat(6).map(layers)
    assert [image.tobytes() for image in images.as_numpy_iterator()] == first


def test_no_seed_gives_fresh_draws_of_the_global_generator():
    def draws():
        tf.random.set_seed(11)
        layers = augment.RandAugment()
        return [layers(IMAGE).numpy().tobytes() for _ in range(5)]

    first = draws()
    assert len(set(first)) > 2
    assert draws() == first


def test_operations_and_signs_are_drawn_uniformly_and_independently(monkeypatch):
    # Each stand-in appends its number in base 16 to the first channel, its sign to the second.
    def stand_in(digit):
        def append(image, layer):
            return image * [16, 2, 0] + tf.stack([digit, tf.cast(layer.negate, tf.uint8), 0])

        return append

    names = augment.OPERATION_NAMES
    monkeypatch.setattr(
        augment, "OPERATIONS", {name: stand_in(np.uint8(digit)) for digit, name in enumerate(names)}
    )
    layers = augment.RandAugment(2)
    seeds = tf.data.Dataset.range(5120).map(lambda number: tf.stack([number, 1]))
    pixels = seeds.map(lambda seed: layers(np.zeros((1, 1, 3), np.uint8), seed)[0, 0]).batch(5120)
    operations, signs, _ = next(pixels.as_numpy_iterator()).T
    # Chi-squared with n degrees of freedom: mean n, standard deviation sqrt(2 n).
    for drawn, cells in ((operations, 256), (operations // 16 * 2 + signs % 2, 32), (signs, 4)):
        expected = 5120 / cells
        distance = ((np.bincount(drawn, minlength=cells) - expected) ** 2 / expected).sum()
        assert distance < cells - 1 + 4 * (2 * (cells - 1)) ** 0.5


def test_cutout_centres_are_as_uniform_as_the_draws():
    image = tf.zeros((6, 12, 3), tf.uint8)
    cutout = augment.one_of([("Cutout", 10)], RANDAUGMENT)
    scale = augment.pixel_scale(image, 240)  # pad 1: rows row - 1 and row
    for row, column in itertools.product(range(6), range(12)):
        for within in (0.01, 0.99):
            draws = tf.constant([0.0, (row + within) / 6, (column + within) / 12])
            rows, columns = np.nonzero(cutout(tf.constant(0), image, draws, scale)[..., 0] == 128)
            assert (rows.max(), columns.max()) == (row, column)


def test_only_the_drawn_operation_is_computed():
    graph = tf.function(augment.RandAugment(3)).get_concrete_function(DYNAMIC).graph
    # One function for all layers, which chooses among sixteen operations and none.
    layers = [node.attr["f"].func.name for node in graph.as_graph_def().node if node.attr["f"].func]
    layers = [name for name in layers if "apply_one" in name]
    assert len(layers) == 3
    assert len(set(layers)) == 1
    (layer,) = [f for f in graph.as_graph_def().library.function if f.signature.name == layers[0]]
    (case,) = [node for node in layer.node_def if "Case" in node.op]
    assert len(case.attr["branches"].list.func) == 16 + 1


def test_no_layers_change_nothing():
    np.testing.assert_array_equal(augment.RandAugment(num_layers=0)(IMAGE), IMAGE)


def test_an_unknown_name_lists_all_sixteen():
    with pytest.raises(ValueError, match="Received: 'Blur'") as error:
        augment.apply("Blur", IMAGE, 5)
    assert all(name in str(error.value) for name in LEVELS["ops"])


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("magnitude", (None, -0.1, 30.1, float("nan"), True, "10"), "a number from 0 to 30"),
        ("reference_size", (0, -224, float("nan"), "224", True), "a number of at least 1, or None"),
        ("num_layers", (-1, 1.5, None), "an integer of at least 0"),
        ("seed", ((1, 2),), "an integer, or None"),
    ],
)
def test_bad_arguments_are_refused(name, values, message):
    for value in values:
        with pytest.raises(ValueError, match=f"`{name}` must be {message}. Received"):
            augment.RandAugment(**{name: value})
        if name in ("magnitude", "reference_size"):
            with pytest.raises(ValueError, match=f"`{name}` must be {message}. Received"):
                augment.apply("Cutout", IMAGE, **{"magnitude": 5, name: value})


@pytest.mark.parametrize(
    "image",
    [IMAGE.astype(np.float32), IMAGE.astype(np.int32), IMAGE[..., :1], IMAGE[..., 0], IMAGE[None]],
    ids=["float32", "int32", "one channel", "no channels", "batch"],
)
def test_an_image_that_is_not_one_uint8_rgb_image_is_refused(image):
    for augmentation in (lambda image: augment.apply("Invert", image, 5), augment.RandAugment()):
        with pytest.raises(ValueError, match=r"one uint8 image of shape \(H, W, 3\).*Received: dt"):
            augmentation(image)


def test_a_bad_seed_of_a_call_is_refused():
    for seed in (7, (1, 2, 3), (0.5, 1.0)):
        with pytest.raises(ValueError, match=r"seed must be two integers, shape \(2,\)"):
            augment.RandAugment()(IMAGE, seed)


# ---- without the quirks ------------------------------------------------------------------------

MAGNITUDES = (0, 2, 5, 8, 10, 15, 20, 30)


def _strength(name, magnitude, negate):
    output = augment.apply(name, IMAGE, magnitude, negate, corrected=True).numpy()
    return np.abs(output.astype(int) - IMAGE).mean()


@pytest.mark.parametrize("negate", [False, True])
@pytest.mark.parametrize(
    "name", sorted(set(augment.OPERATION_NAMES) - {"AutoContrast", "Equalize", "Invert"})
)
def test_corrected_operations_start_at_nothing_and_grow(name, negate):
    strengths = [_strength(name, magnitude, negate) for magnitude in MAGNITUDES]
    assert strengths[0] == 0
    assert strengths[2] > 0
    # A picture that is turned or moved far does not differ ever more; the others do.
    if name not in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"):
        assert all(b >= a - 0.01 for a, b in itertools.pairwise(strengths))


def test_corrected_contrast_blends_from_the_mean_grey():
    grey = np.asarray(tf.image.rgb_to_grayscale(IMAGE), float).mean()
    output = augment.apply("Contrast", IMAGE, 30, negate=True, corrected=True).numpy()  # factor 0.1
    grey = int(grey + 0.5)
    np.testing.assert_allclose(output, grey + 0.1 * (IMAGE.astype(float) - grey), atol=1)


def test_corrected_layers_leave_something_of_nearly_every_picture():
    layers = augment.RandAugment(2, 15, reference_size=224, corrected=True)
    seeds = tf.stack([tf.range(300), tf.zeros(300, tf.int32)], axis=1)
    outputs = tf.map_fn(
        tf.function(lambda seed: layers(IMAGE, seed)), seeds, fn_output_signature=tf.uint8
    )
    assert (outputs.numpy().std(axis=(1, 2)).max(axis=1) < 1).mean() < 0.02


@pytest.mark.parametrize(
    ("magnitude", "bits", "threshold"), [(0, 8, 256), (5, 6, 128), (10, 4, 0), (20, 1, 0)]
)
def test_corrected_posterize_and_solarize_neither_invert_nor_wrap(magnitude, bits, threshold):
    values = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    posterized = augment.apply("Posterize", values, magnitude, corrected=True)
    np.testing.assert_array_equal(posterized, values >> (8 - bits) << (8 - bits))
    solarized = augment.apply("Solarize", values, magnitude, corrected=True)
    np.testing.assert_array_equal(solarized, np.where(values < threshold, values, 255 - values))


def test_corrected_enhancement_goes_both_ways_about_the_picture():
    brighter = augment.apply("Brightness", IMAGE, 5, corrected=True).numpy()
    darker = augment.apply("Brightness", IMAGE, 5, negate=True, corrected=True).numpy()
    assert darker.mean() < IMAGE.mean() < brighter.mean()
    np.testing.assert_array_equal(darker, (IMAGE * np.float32(0.55)).astype(np.uint8))
    seeds = [(number, 3) for number in range(40)]
    official, corrected = augment.RandAugment(1, 5), augment.RandAugment(1, 5, corrected=True)
    # Officially magnitude 5 leaves the picture as it is in 4 of 16 draws.
    same = [
        sum(np.array_equal(layers(IMAGE, s), IMAGE) for s in seeds)
        for layers in (official, corrected)
    ]
    assert same[0] > 4
    assert same[1] == 0


def test_geometry_is_that_of_the_projective_transform_op():
    """The op that the official code calls, on levels and sizes of every kind."""
    random = np.random.default_rng(4)
    for number in range(40):
        image = _random_image(*random.integers(1, 90, 2), seed=number)
        level = float(np.round(random.normal(0, 20)) / 2)  # halves are rounded away from zero
        for name, place in (("ShearX", 1), ("ShearY", 3), ("TranslateX", 2), ("TranslateY", 5)):
            matrix = np.float32([1, 0, 0, 0, 1, 0, 0, 0])
            matrix[place] = level
            expected = tf.raw_ops.ImageProjectiveTransformV3(
                images=image[None],
                transforms=[matrix],
                output_shape=image.shape[:2],
                fill_value=128.0,
                interpolation="NEAREST",
                fill_mode="CONSTANT",
            )[0]
            np.testing.assert_array_equal(_call(name, image, [level]), expected)


def test_grey_is_that_of_rgb_to_grayscale_for_many_colours():
    colours = _random_image(512, 512)
    grey = np.repeat(tf.image.rgb_to_grayscale(colours), 3, axis=2)
    np.testing.assert_array_equal(_call("Color", colours, [0.0]), grey)


@pytest.mark.parametrize("shape", [(24, 36, 3), (None, None, 3)])
def test_graphs_round_as_the_operations_do_alone(shape):
    """TensorFlow's graph optimizer reorders sums where it knows the shapes."""

    def every_operation(image, negate, center):
        scale = tf.constant(1.0, tf.float64)
        layer = AugmentLayer(11.0, RANDAUGMENT, False, negate, (center[0], center[1]), scale)
        return [op(image, layer) for op in augment.OPERATIONS.values()]

    specs = [
        tf.TensorSpec(shape, tf.uint8),
        tf.TensorSpec([], tf.bool),
        tf.TensorSpec([2], tf.int32),
    ]
    traced = tf.function(every_operation, input_signature=specs)
    for image in [_random_image(24, 36, seed) for seed in range(8)]:
        for negate in (False, True):
            outputs = traced(image, tf.constant(negate), tf.constant([5, 7]))
            for name, output in zip(augment.OPERATIONS, outputs, strict=True):
                alone = augment.apply(name, image, 11, negate, center=(5, 7))
                np.testing.assert_array_equal(output, alone, err_msg=name)
