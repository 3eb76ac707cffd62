"""The search space: what it holds, what it refuses, and the way from a network to parameters."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest

import keras_effnetv2 as kev2
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.stage import decode_stages, encode_stages
from keras_effnetv2.search.space import SearchSpace, StageChoices

CHOICES = StageChoices(conv=("mbconv",), kernel=(3,), expand=(4,), layers=(1, 2))
TWO_STAGES = ModelConfig(
    "two", decode_stages(["r1_k3_s1_e1_i8_o8_c1", "r2_k3_s2_e4_i8_o16_se0.25"]), head_filters=32
)


def at_random(seed):
    random = np.random.default_rng(seed)
    return lambda name, choices: choices[random.integers(len(choices))]


def found_before(parameters):
    return lambda name, choices: parameters[name]


# Paper, section 3.3: two convolutions, two kernels, three expansions. B0 has 1, 2, 2, 3, 5 and 8
# layers, so two numbers to choose from in the first stage and three in the others; the seven stages
# of B4 have 2, 4, 4, 6, 6, 8 and 2.
@pytest.mark.parametrize(
    ("backbone", "layers", "size"),
    [
        ("efficientnetv2-b0", (1, 2), 2 * 12 * (3 * 12) ** 5),
        ("efficientnet-b4", (1, 2, 3), (3 * 12) ** 7),
    ],
)
def test_the_paper_s_choices_around_a_backbone(backbone, layers, size):
    space = SearchSpace.from_backbone(backbone)
    assert space.size == size
    config = ModelConfig.from_name(backbone)
    assert len(space.parameters) == 4 * len(config.stages)
    assert list(space.parameters.items())[:4] == [
        ("stage1_conv", ("mbconv", "fused")),
        ("stage1_kernel", (3, 5)),
        ("stage1_expand", (1, 4, 6)),
        ("stage1_layers", layers),
    ]
    fifth = config.stages[4].repeats
    assert space.parameters["stage5_layers"] == (fifth - 1, fifth, fifth + 1)
    assert SearchSpace.from_backbone() == SearchSpace.from_backbone("efficientnetv2-b0")


def test_every_combination_is_another_network():
    space = SearchSpace.from_backbone(TWO_STAGES)
    names, choices = space.parameters.keys(), space.parameters.values()
    networks = set()
    for values in itertools.product(*choices):
        parameters = dict(zip(names, values, strict=True))
        networks.add(tuple(encode_stages(space.sample(found_before(parameters)).stages)))
    assert len(networks) == space.size == (2 * 2 * 3 * 2) * (2 * 2 * 3 * 3)


def test_random_samples_keep_what_is_fixed_and_round_trip():
    config = ModelConfig.from_name("efficientnet-b4")
    space = SearchSpace.from_backbone(config)
    choose = at_random(0)
    chosen = set()
    for _ in range(300):
        sample = space.sample(choose)
        assert decode_stages(encode_stages(sample.stages)) == sample.stages
        assert ModelConfig.from_json(sample.to_json()) == sample
        assert replace(sample, name=config.name, stages=config.stages) == config
        for stage, fixed in zip(sample.stages, config.stages, strict=True):
            for name in ("strides", "input_filters", "output_filters"):
                assert getattr(stage, name) == getattr(fixed, name)
            assert stage.se_ratio == (0.25 if stage.conv == "mbconv" else None)
        parameters = space.parameters_of(sample)
        assert space.sample(found_before(parameters)) == sample
        chosen |= parameters.items()
    # Each choice has at least a third of 300 draws, so none can be missing by chance.
    assert chosen == {(name, n) for name, choices in space.parameters.items() for n in choices}


def test_every_variant_is_in_the_space_around_it():
    for variant in ModelConfig.variants():
        config = ModelConfig.from_name(variant)
        space = SearchSpace.from_backbone(config)
        parameters = space.parameters_of(config)
        assert parameters.keys() == space.parameters.keys()
        assert space.sample(found_before(parameters), name=variant) == config


def test_the_parameters_of_b0():
    b0 = ModelConfig.from_name("efficientnetv2-b0")
    parameters = SearchSpace.from_backbone().parameters_of(b0)
    stages = [
        [parameters[f"stage{number}_{choice}"] for choice in ("conv", "kernel", "expand", "layers")]
        for number in range(1, 7)
    ]
    assert stages == [
        ["fused", 3, 1, 1],
        ["fused", 3, 4, 2],
        ["fused", 3, 4, 2],
        ["mbconv", 3, 4, 3],
        ["mbconv", 3, 6, 5],
        ["mbconv", 3, 6, 8],
    ]


def test_a_choice_is_one_of_those_and_becomes_a_plain_number():
    space = SearchSpace.from_backbone(TWO_STAGES)
    sample = space.sample(lambda name, choices: np.array(choices)[-1])
    assert {type(stage.repeats) for stage in sample.stages} == {int}
    assert sample.name == "two-search"
    with pytest.raises(ValueError, match=r"stage1_kernel one of \(3, 5\)\. Received: 7"):
        space.sample(lambda name, choices: 7 if name == "stage1_kernel" else choices[0])


def test_samples_build_as_they_say():
    backbone = ModelConfig.from_name("efficientnetv2-b0").scaled(width=0.25, depth=0.3)
    config = SearchSpace.from_backbone(backbone).sample(at_random(0))
    model = kev2.build_model(config, classes=3)
    assert model.name == "efficientnetv2-b0-search"
    depthwise = [layer for layer in model.layers if type(layer).__name__ == "DepthwiseConv2D"]
    expected = [
        (stage.kernel_size,) * 2
        for stage in config.stages
        if stage.conv == "mbconv"
        for _ in range(stage.repeats)
    ]
    assert [layer.kernel_size for layer in depthwise] == expected
    assert model.compute_output_shape((2, 32, 32, 3)) == (2, 3)


# --- a network that is not in the space ---------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("r1_k3_s1_e1_i8_o8_c1", ""),
        ("r1_k3_s1_e1_i8_o8_c1", "r2_k3_s2_e4_i8_o24_se0.25"),  # 16 filters
        ("r1_k3_s1_e1_i8_o8_c1", "r2_k3_s1_e4_i8_o16_se0.25"),  # a stride of 2
        ("r1_k3_s1_e1_i8_o8_c1", "r2_k3_s2_e4_i8_o16"),  # squeeze-excite
        ("r1_k3_s1_e1_i8_o8_c1_se0.25", "r2_k3_s2_e4_i8_o16_se0.25"),
        ("r1_k7_s1_e1_i8_o8_c1", "r2_k3_s2_e4_i8_o16_se0.25"),  # kernels of 3 and 5
        ("r1_k3_s1_e1_i8_o8_c1", "r9_k3_s2_e4_i8_o16_se0.25"),  # 1 to 3 layers
    ],
)
def test_a_network_outside_is_shown_beside_the_nearest(first, second):
    space = SearchSpace.from_backbone(TWO_STAGES)
    blocks = [one for one in (first, second) if one]
    config = ModelConfig("other", decode_stages(blocks), head_filters=32)
    with pytest.raises(ValueError, match="other is not in the search space around two") as error:
        space.parameters_of(config)
    assert str(error.value).endswith(f"Received: {', '.join(blocks)} and 32")
    assert "nearest network there has r1_k3_s1_e1_i8_o8_c1, r" in str(error.value)


def test_the_head_is_the_backbone_s():
    space = SearchSpace.from_backbone(TWO_STAGES)
    with pytest.raises(ValueError, match=r"and 32 filters in its head\. Received: .* and 64$"):
        space.parameters_of(replace(TWO_STAGES, head_filters=64))
    with pytest.raises(ValueError, match=r"whose activation is 'swish'\. Received: 'relu6'"):
        space.parameters_of(replace(TWO_STAGES, activation="relu6"))
    with pytest.raises(ValueError, match="must be a ModelConfig"):
        space.parameters_of("efficientnetv2-b0")


def test_the_paper_s_net_is_not_in_the_space_of_the_paper_s_backbone():
    b4 = ModelConfig.from_name("efficientnet-b4")
    space = SearchSpace.from_backbone(replace(b4, stages=b4.stages[:-1]))
    with pytest.raises(ValueError, match="efficientnetv2-s is not in the"):
        space.parameters_of(ModelConfig.from_name("efficientnetv2-s"))


# --- spaces that cannot be ----------------------------------------------------------------------


def test_choices_that_no_stage_can_have():
    for wrong, named in (
        ({"conv": ()}, "`conv` must be a tuple of one or more"),
        ({"conv": "mbconv"}, "`conv` must be a tuple"),
        ({"conv": ("mbconv", "dense")}, "one of 'fused', 'mbconv'. Received: 'dense'"),
        ({"kernel": (3, 4)}, "`kernel_size` must be odd"),
        ({"kernel": (3, 5, 3)}, "`kernel` must be a tuple of one or more choices, each once"),
        ({"expand": (0, 1)}, "`expand`: `expand_ratio` must be"),
        ({"expand": ([1],)}, "`expand`"),  # as JSON may hold it
        ({"layers": (True,)}, "`layers`: `repeats`"),
    ):
        with pytest.raises(ValueError, match=f"StageChoices field .*{named}"):
            replace(CHOICES, **wrong)


def test_spaces_that_do_not_fit_their_backbone():
    for arguments, named in (
        (("efficientnetv2-b0", (CHOICES,) * 6), "`backbone` must be a ModelConfig"),
        ((TWO_STAGES, (CHOICES,)), "`stages` must be 2 StageChoices"),
        ((TWO_STAGES, None), "`stages` must be 2 StageChoices"),
        ((TWO_STAGES, (CHOICES, "mbconv")), "`stages` must be 2 StageChoices"),
        ((TWO_STAGES, (CHOICES,) * 2, 1.5), "`se_ratio` .* above 0 and of at most 1, or None"),
    ):
        with pytest.raises(ValueError, match=named):
            SearchSpace(*arguments)
    # Two layers and one, or one and two: the same three layers.
    blocks = ["r1_k3_s2_e4_i8_o16_c1", "r1_k3_s1_e4_i16_o16_c1"]
    with pytest.raises(ValueError, match=r"Stages 1 and 2 of same both have 16.*Merge them"):
        SearchSpace.from_backbone(ModelConfig("same", decode_stages(blocks)))


def test_choices_around_a_backbone_that_cannot_be():
    for options, named in (
        ({"backbone": "efficientnetv3"}, "Unknown variant"),
        ({"backbone": None}, "`backbone` must be a ModelConfig"),
        (
            {"layer_offsets": (-1,)},
            "Stage 1 of efficientnetv2-b0 has 1 layer, and none would",
        ),
        ({"layer_offsets": ("1",)}, "`layer_offsets` must be a sequence of integers"),
        ({"layer_offsets": 1}, "`layer_offsets` must be a sequence of integers"),
        ({"kernel": range(3)}, "`kernel` must be a tuple"),
    ):
        with pytest.raises(ValueError, match=named):
            SearchSpace.from_backbone(**options)


def test_wider_offsets_leave_out_what_cannot_be():
    space = SearchSpace.from_backbone(TWO_STAGES, layer_offsets=range(-2, 3), se_ratio=None)
    assert space.parameters["stage1_layers"] == (1, 2, 3)
    assert space.parameters["stage2_layers"] == (1, 2, 3, 4)
    assert {stage.se_ratio for stage in space.sample(at_random(0)).stages} == {None}


# --- JSON ---------------------------------------------------------------------------------------


def test_a_space_comes_back_from_json():
    space = SearchSpace.from_backbone(se_ratio=0.125)
    values = json.loads(json.dumps(space.to_dict()))
    assert values == space.to_dict()
    assert SearchSpace.from_dict(values) == space != SearchSpace.from_backbone()


def without(values, key):
    return {name: value for name, value in values.items() if name != key}


def test_what_is_no_space_is_one_clear_error():
    values = SearchSpace.from_backbone(TWO_STAGES).to_dict()
    backbone, (first, second) = values["backbone"], values["stages"]
    for damaged, named in (
        ([], "A search space: .* an object with exactly backbone, stages, se_ratio"),
        (without(values, "se_ratio"), r"Received: \['backbone', 'stages'\]"),
        (values | {"epochs": 1}, "'epochs'"),
        (
            values | {"backbone": "efficientnetv2-b0"},
            "backbone of a search space: .* must be an object",
        ),
        (values | {"backbone": backbone | {"dropout_rate": "x"}}, "backbone of a search space"),
        (values | {"backbone": backbone | {"stages": ["r1_k3_s1_e1_o8_c1"]}}, "is missing"),
        (values | {"stages": None}, "The stages of a search space: .*not iterable"),
        (values | {"stages": [first]}, "`stages` must be 2 StageChoices"),
        (values | {"stages": [3, 3]}, "Stage 1 of a search space: it must be an object"),
        (
            values | {"stages": [first, without(second, "expand")]},
            "Stage 2 of a search space: .* exactly conv, kernel, expand, layers",
        ),
        (
            values | {"stages": [first | {"kernel": [2]}, second]},
            "Stage 1 of a search space: .*must be odd",
        ),
        (values | {"se_ratio": True}, "`se_ratio`"),
    ):
        with pytest.raises(ValueError, match=named):
            SearchSpace.from_dict(damaged)
