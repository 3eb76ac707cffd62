"""Configs, block strings, scaling."""

import dataclasses
import json
from pathlib import Path

import pytest

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import is_published, published_forms, read_config
from keras_effnetv2.architectures.stage import Stage, decode_stages, encode_stages
from keras_effnetv2.architectures.stage_table import stage_table
from keras_effnetv2.evaluation.named_network import network_path
from keras_effnetv2.pretrained.registry import WEIGHT_SETS, parse_name, published
from keras_effnetv2.recipes.recipe import TrainRecipe

ALL = ModelConfig.variants()
S_BLOCKS = ["r2_k3_s1_e1_i24_o24_c1", "r4_k3_s2_e4_i24_o48_c1", "r4_k3_s2_e4_i48_o64_c1"]
S_BLOCKS += ["r6_k3_s2_e4_i64_o128_se0.25", "r9_k3_s1_e6_i128_o160_se0.25"]
S_BLOCKS += ["r15_k3_s2_e6_i160_o256_se0.25"]


def test_there_are_the_variants_of_v2_v1_and_lite():
    v2 = [f"efficientnetv2-{x}" for x in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")]
    lite = [f"efficientnet-lite{i}" for i in range(5)]
    assert set(ALL) == {*v2, *(f"efficientnet-b{i}" for i in range(8)), *lite}


# tensorflow/tpu, efficientnet_lite_builder.py: no squeeze-excite, relu6, fix_head_stem.
def test_lite_keeps_its_ends_and_has_no_squeeze_excite():
    for number in range(5):
        lite = ModelConfig.from_name(f"efficientnet-lite{number}")
        assert (lite.stem_filters, lite.head_filters, lite.activation) == (32, 1280, "relu6")
        assert {(stage.conv, stage.se_ratio) for stage in lite.stages} == {("mbconv", None)}
        assert (lite.stages[0].repeats, lite.stages[-1].repeats) == (1, 1)
        assert lite.train_size == lite.eval_size
    assert [stage.repeats for stage in lite.stages] == [1, 4, 4, 6, 6, 8, 1]
    assert [stage.output_filters for stage in lite.stages] == [24, 32, 56, 112, 160, 272, 448]
    other = ModelConfig.from_name("efficientnet-lite0").scaled(width=1.4, depth=1.8)
    assert (other.stages, other.head_filters) == (lite.stages, 1280)
    one = dataclasses.replace(lite, stages=lite.stages[:1]).scaled(width=2, depth=3)
    assert one.stages == (dataclasses.replace(lite.stages[0], output_filters=48),)


def test_a_file_without_activation_is_of_swish():
    values = json.loads(ModelConfig.from_name("efficientnetv2-s").to_json())
    del values["activation"], values["fixed_ends"]
    assert ModelConfig.from_json(json.dumps(values)) == ModelConfig.from_name("efficientnetv2-s")


# Official scaling of V1 b3 has 16 filters in stage one, the published weights have 24 (90 % rule).
def test_v1_b3_has_the_filters_of_the_published_weights_and_v2_b3_those_of_the_code():
    assert ModelConfig.from_name("efficientnet-b3").stages[0].output_filters == 24
    assert ModelConfig.from_name("efficientnetv2-b3").stages[0].output_filters == 16


# google/automl effnetv2_configs.py: train size, eval size, dropout, RandAugment, mixup.
@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("efficientnetv2-b1", (192, 240, 0.2, None, 0.0)),
        ("efficientnetv2-b3", (240, 300, 0.3, None, 0.0)),
        ("efficientnetv2-s", (300, 384, 0.2, 10, 0.0)),
        ("efficientnetv2-m", (384, 480, 0.3, 15, 0.2)),
        ("efficientnetv2-l", (384, 480, 0.4, 20, 0.5)),
        ("efficientnetv2-xl", (384, 512, 0.4, 20, 0.5)),
        ("efficientnet-b7", (480, 600, 0.5, None, 0.0)),
        ("efficientnet-lite3", (280, 280, 0.3, None, 0.0)),
    ],
)
def test_training_figures(variant, expected):
    config = ModelConfig.from_name(variant)
    assert expected == (
        config.train_size,
        config.eval_size,
        config.dropout_rate,
        config.randaugment_magnitude,
        config.mixup_alpha,
    )


def test_block_strings_round_trip():
    stages = decode_stages(S_BLOCKS)
    assert encode_stages(stages) == S_BLOCKS
    assert stages == ModelConfig.from_name("efficientnetv2-s").stages
    assert stages[3] == Stage("mbconv", 6, 3, 2, 4, 64, 128, 0.25)


@pytest.mark.parametrize("variant", ALL)
def test_every_variant_round_trips_as_block_strings_and_json(variant):
    config = ModelConfig.from_name(variant)
    assert decode_stages(encode_stages(config.stages)) == config.stages
    assert ModelConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("ratio", [0.25, 1.0, 0.1, 1 / 3, 1e-5])
def test_any_squeeze_excite_ratio_round_trips(ratio):
    stage = dataclasses.replace(decode_stages(S_BLOCKS)[3], se_ratio=ratio)
    text = encode_stages([stage])
    assert "e-" not in text[0]
    assert decode_stages(text) == (stage,)


def test_order_of_the_fields_does_not_matter():
    assert decode_stages(["se0.25_o16_i32_e1_s1_k3_c1_r1"]) == (
        Stage("fused", 1, 3, 1, 1, 32, 16, 0.25),
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("r0_k3_s1_e1_i24_o24", "`r`"),
        ("rx_k3_s1_e1_i24_o24", "`r`"),
        ("r2_k2_s1_e1_i24_o24", "kernel_size"),
        ("r2_k3_s3_e1_i24_o24", "`s`"),
        ("r2_k3_s22_e1_i24_o24", "`s`"),
        ("r2_k3_s1_e1.5_i24_o24", "`e`"),
        ("r2_k3_s1_e1_i-24_o24", "`i`"),
        ("r2_k3_s1_e1_i24", "`o`"),
        ("r2_k3_s1_e1_i24_o24_c2", "`c`"),
        ("r2_k3_s1_e1_i24_o24_se1.5", "se_ratio"),
        ("r2_k3_s1_e1_i24_o24_se0", "se_ratio"),
        ("r2_k3_s1_e1_i24_o24_q7", "'q7'"),
        ("r2_r3_k3_s1_e1_i24_o24", "`r`"),
        ("r2__k3_s1_e1_i24_o24", "''"),
        ("r2_k3_s1_e1_i24_o24\n", "`o`"),
        ("r٣_k3_s1_e1_i24_o24", "`r`"),
        ("", "''"),
    ],
)
def test_a_malformed_string_names_the_wrong_field(text, named):
    with pytest.raises(ValueError, match="Block string") as error:
        decode_stages([text])
    assert named in str(error.value)


def test_a_single_string_is_not_a_list():
    with pytest.raises(ValueError, match="one for each stage"):
        decode_stages("r2_k3_s1_e1_i24_o24_c1")


@pytest.mark.parametrize("name", ["efficientnetv3", 42])
def test_unknown_variant_lists_the_known(name):
    with pytest.raises(ValueError, match=f"efficientnetv2-xl.*Received: name={name!r}"):
        ModelConfig.from_name(name)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("v2-m", "efficientnetv2-m"),
        ("eficientnetv2-xl", "efficientnetv2-xl"),
    ],
)
def test_an_unknown_variant_is_told_the_one_that_is_meant(name, meant):
    with pytest.raises(ValueError, match=f'Did you mean "{meant}"'):
        ModelConfig.from_name(name)


@pytest.mark.parametrize("alias", ["b0", "EfficientNetV2B0", "efficientnetv2_b0"])
def test_a_path_comes_before_an_alias(alias, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / alias).mkdir()
    assert network_path(alias) == Path(alias)
    with pytest.raises(ValueError, match="Is a directory"):
        read_config(alias)


@pytest.mark.parametrize(
    ("alias", "variant"),
    [
        ("b0", "efficientnetv2-b0"),
        ("EfficientNetV2B0", "efficientnetv2-b0"),
        ("efficientnetv2_b0", "efficientnetv2-b0"),
        ("tf_efficientnetv2_b0", "efficientnetv2-b0"),
        ("XL", "efficientnetv2-xl"),
        ("efficientnet_b0", "efficientnet-b0"),
        ("EfficientNetB7", "efficientnet-b7"),
        ("b7", "efficientnet-b7"),
        ("lite0", "efficientnet-lite0"),
        ("tf_efficientnet_lite4", "efficientnet-lite4"),
    ],
)
def test_a_variant_has_other_spellings(alias, variant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # nothing there has that name
    config = ModelConfig.from_name(variant)
    assert ModelConfig.from_name(alias) == read_config(alias) == config
    assert network_path(alias) is None
    recipe = TrainRecipe.preset("finetune")
    assert recipe.resolve(alias) == recipe.resolve(variant)
    for name in published(variant):
        assert parse_name(f"{alias}/{name}") is WEIGHT_SETS[variant, name]


def test_neighbouring_stages_must_fit():
    with pytest.raises(ValueError, match="Stage 2 has 48 input filters, but stage 1 has 24 output"):
        ModelConfig("mine", decode_stages([S_BLOCKS[0], S_BLOCKS[2]]))


@pytest.mark.parametrize(
    "wrong",
    [
        *({"stages": ()}, {"stages": 5}, {"name": "a/b"}, {"name": 5}, {"eval_size": 0}),
        *({"dropout_rate": 1.0}, {"dropout_rate": "0.2"}, {"dropout_rate": None}),
        *({"width": 0}, {"width": "1"}, {"depth": float("inf")}, {"depth": True}),
        *({"min_width_fraction": 1.5}, {"min_width_fraction": []}, {"mixup_alpha": -0.1}),
        *({"randaugment_magnitude": "15"}, {"randaugment_magnitude": -1}, {"normalization": {}}),
        *({"activation": "relu"}, {"activation": None}, {"activation": ["relu6"]}),
        *({"fixed_ends": 1}, {"fixed_ends": None}),
    ],
    ids=str,
)
def test_wrong_fields_are_named(wrong):
    values = {"name": "mine", "stages": decode_stages(S_BLOCKS)} | wrong
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        ModelConfig(**values)


def test_scaling_b0_gives_b3():
    scaled = ModelConfig.from_name("efficientnetv2-b0").scaled(width=1.2, depth=1.4)
    b3 = ModelConfig.from_name("efficientnetv2-b3")
    assert (scaled.stages, scaled.head_filters) == (b3.stages, b3.head_filters)
    assert (scaled.width, scaled.depth) == (1.2, 1.4)


@pytest.mark.parametrize("wrong", [{"width": 0}, {"depth": -1}, {"width": float("nan")}])
def test_scaling_by_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        ModelConfig.from_name("efficientnetv2-b0").scaled(**wrong)


@pytest.mark.parametrize(
    ("side", "strides", "table"),
    [
        (128, 32, (2, 1, 2, 2, 2, 1, 2)),
        (97, 32, (2, 1, 2, 2, 2, 1, 2)),
        (96, 16, (1, 1, 2, 2, 2, 1, 2)),
        (64, 16, (1, 1, 2, 2, 2, 1, 2)),
        (32, 8, (1, 1, 1, 2, 2, 1, 2)),
        (28, 8, (1, 1, 1, 2, 2, 1, 2)),
        (8, 2, (1, 1, 1, 1, 1, 1, 2)),
        (3, 1, (1,) * 7),
    ],
)
def test_small_pictures_keep_a_map_of_four(side, strides, table):
    b0 = ModelConfig.from_name("efficientnetv2-b0")
    small = b0.for_small_pictures(side)
    rows = stage_table(small, side)
    assert (small.strides, tuple(row.stride for row in rows[:-1])) == (strides, table)
    assert [row.size[0] for row in (rows[0], rows[-1])] == [
        -(-side // small.stem_strides),
        -(-side // strides),
    ]
    assert small.kernel_sizes() == b0.kernel_sizes()
    assert ModelConfig.from_json(small.to_json()) == small
    assert small.for_small_pictures(side) == small
    assert is_published(small) == (small == b0)
    assert small in published_forms(small.name)


def test_a_file_without_strides_of_the_stem_has_two():
    values = json.loads(ModelConfig.from_name("efficientnetv2-b0").to_json())
    del values["stem_strides"]
    assert ModelConfig.from_json(json.dumps(values)).stem_strides == 2
    with pytest.raises(ValueError, match=r"`stem_strides` must be one of 1, 2\."):
        ModelConfig.from_json(json.dumps(values | {"stem_strides": 3}))
    with pytest.raises(ValueError, match="`side` must be an integer of at least 1"):
        ModelConfig.from_name("efficientnetv2-b0").for_small_pictures(0)


def test_fused_stages_are_counted_from_one():
    config = ModelConfig.from_name("efficientnet-b4").with_fused_stages(1, 3)
    assert [s.conv for s in config.stages] == ["fused", "mbconv", "fused"] + ["mbconv"] * 4
    assert [s.se_ratio for s in config.stages] == [None, 0.25, None, *[0.25] * 4]
    plain = ModelConfig.from_name("efficientnetv2-b0").with_fused_stages()
    assert {(s.conv, s.se_ratio) for s in plain.stages} == {("mbconv", 0.25)}
    lite = ModelConfig.from_name("efficientnet-lite0")
    assert lite.with_fused_stages(1, 2).with_fused_stages() == lite


@pytest.mark.parametrize("number", [0, 8, -1, "1", True])
def test_a_stage_that_is_not_there_cannot_be_fused(number):
    with pytest.raises(ValueError, match="stages 1 to 7"):
        ModelConfig.from_name("efficientnet-b4").with_fused_stages(number)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("{", "Not a JSON text"),
        ("[" * 10**5, "Not a JSON text"),
        ("9" * 5000, "Not a JSON text"),
        (
            '{"name": "x", "stages": ["r1_k3_s1_e1_i8_o8"], "width": NaN}',
            "NaN is not a JSON number",
        ),
        ("[]", "A model config must be an object of names and values"),
        ('{"name": "x", "stages": ["r1_k3_s1_e1_i8_o8"], "width": 1%s}' % ("0" * 400), "`width`"),
        (
            '{"name": "x", "stages": ["r1_k3_s1_e1_i8_o8"], "train_size": 1%s}' % ("0" * 30),
            "64 bits",
        ),
        ('{"name": "x", "stages": ["r1000000000_k3_s1_e1_i8_o8"]}', "`repeats`"),
        ('{"name": "x", "stages": ["r9999_k3_s1_e1_i60000_o60000_c1"]}', "at most 2,147,483,648"),
        ('{"name": "x", "stages": [{"a": 1}]}', "A block string must be a str"),
        ('{"name": ["x"], "stages": ["r1_k3_s1_e1_i8_o8"]}', "`name` must consist of"),
        ('{"name": "x"}', "A model config needs stages"),
        ('{"name": "x", "stages": [], "layers": 1}', "has unknown names.*Received: layers"),
        *(
            (f'{{"name": "x", "stages": {stages}}}', "`stages` must be .* list of block strings")
            for stages in ("5", "null", '"r1_k3_s1_e1_i8_o8"', "{}")
        ),
    ],
)
def test_json_that_is_not_a_config(text, named):
    with pytest.raises(ValueError, match=named):
        ModelConfig.from_json(text)
