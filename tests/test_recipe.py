"""TrainRecipe: what it refuses, the presets against the official figures, plan and optimizer."""

import json
from dataclasses import fields, replace

import keras
import numpy as np
import pytest
from helpers import oracle

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.recipes.optimizers import RMSprop
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import progressive_stages

OPTIMIZER, RATES = map(oracle.training, ("optimizer", "learning_rate"))
OVERRIDES = OPTIMIZER["dataset_overrides"]
RECIPE = TrainRecipe("mine", epochs=4, batch_size=64, learning_rate=0.1, image_size=32, stages=1)
WRONG = {
    "name": (5, None),
    "epochs": (0, -1, 2.0, True, "4", None),
    "batch_size": (0, 1.5, None, (64,), (64, 0), (64, 32, 16), ((64, 32), 16)),
    "min_steps": (-1, 1.0, None),
    "max_epochs": (0, 1.0, "5"),
    "learning_rate": (0, 0.0, -0.1, float("nan"), float("inf"), "0.1", None, True),
    "progressive": ("Paper", True, 0),
    "stages": (0, 1.0, None),
    "randaugment_layers": (0, 2.0, None),
    "drop_path_rate": (-0.1, 1.0, None, float("nan")),
    "crop_area": (0.5, (0.0, 1.0), (0.6, 0.5), (0.5, 1.1), (0.1,), (0.1, 0.5, 1.0)),
    "crop_style": ("v3", None),
    "autoaugment": (1, "v0", None),
    "mixup_style": ("plain", None),
    "reduced_decode": (1, None, "yes"),
    "horizontal_flip": (1, 0, "yes"),
    "scale_randaugment": (None, "no"),
    "cutmix_style": ("mine", None),
    "class_weights": (
        *("even", 2.0, {0: 1.0}, {"a": 0}, {"a": "2"}, {"a": float("nan")}, ["a"]),
        *({"a": 1e39}, {"a": 1e-46}),  # inf and 0 in float32
    ),
    "balanced": (None, 1, "yes"),
    "optimizer": ("lamb", None),
    "schedule": ("cos", None),
    "decay_by": ("steps", None, True),
    "warmup_epochs": (-1, float("inf"), None, True),
    "head_warmup_epochs": (-0.1, float("inf"), None),
    "unfreeze_epochs": (-0.1, float("nan"), None),
    "layer_decay": (0, 0.0, 1.01, None, True),
    "batch_norm": ("freezes", None, True),
    "probe": ("last", True),
    "frozen_share": (-0.1, 1.1, None, True),
    "weight_decay": (-1e-9, None),
    "label_smoothing": (1.0, -0.1, None, "none"),
    "loss": ("mse", None),
    "ema_decay": (0, 1, 1.0, -0.5, "0.9", True),
    "gradient_clip": (0, 0.0, -1, "1", float("inf")),
    "evaluation_size": (0, -1, 7, 224.0, "auto", True),
    "small_pictures": (1, None, "yes"),
    "evaluation_style": ("square", None),
    "precision": ("float16", None),
    "deterministic": (None, 1),
    "seed": (-1, 0.0, None),
}
PLANNED = {
    "image_size": (7, 32.5, None, (32, 40, 48), "big"),
    "randaugment_magnitude": (-1, float("nan"), (0, float("inf"))),
    "mixup_alpha": (-0.1, None, (0, 1, 2)),
    "cutmix_alpha": (-0.1, None),
    "dropout_rate": (1.0, -0.1, (0.1, 1.0)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_field_outside_its_range_is_named_with_what_is_allowed(name):
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=rf"^`{name}` must be .*Received: "):
            replace(RECIPE, **{name: value})


@pytest.mark.parametrize("name", PLANNED)
def test_a_range_outside_its_bounds_is_refused_when_the_plan_is_made(name):
    for value in PLANNED[name]:
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            replace(RECIPE, **{name: value}).resolve("anything")


def test_every_field_is_checked_and_off_is_none():
    assert {field.name for field in fields(TrainRecipe)} == {"name", *WRONG, *PLANNED}
    off = {"ema_decay", "gradient_clip", "horizontal_flip", "progressive", "randaugment_magnitude"}
    plan = replace(RECIPE, dropout_rate=None, **dict.fromkeys(off)).resolve().plan
    assert plan[0].randaugment_magnitude is None
    assert plan[0].dropout_rate is None


def test_json_gives_the_same_recipe_back_lists_included():
    recipe = replace(RECIPE, image_size=[32, 64], crop_area=[0.5, 1.0], batch_size=[64, 16])
    assert recipe.crop_area == (0.5, 1.0)
    assert recipe.batch_size == (64, 16)
    assert TrainRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    for name in PRESETS:
        preset = TrainRecipe.preset(name)
        assert TrainRecipe.from_dict(json.loads(json.dumps(preset.to_dict()))) == preset
        assert preset.name == name


def test_from_dict_names_missing_and_unknown_fields():
    values = RECIPE.to_dict()
    with pytest.raises(ValueError, match=r'unknown names\. Did you mean "epochs"\?.*: epoch$'):
        TrainRecipe.from_dict(values | {"epoch": 3})
    del values["epochs"]
    with pytest.raises(ValueError, match=r"A recipe needs epochs\."):
        TrainRecipe.from_dict(values)
    with pytest.raises(
        ValueError, match=r"'quickstart', 'finetune', 'probe', 'finetune-official'.*'fine'"
    ):
        TrainRecipe.preset("fine")


def test_fields_that_a_recipe_leaves_out_get_the_defaults():
    left_out = {"min_steps", "head_warmup_epochs", "unfreeze_epochs", "layer_decay", "batch_norm"}
    values = {name: value for name, value in RECIPE.to_dict().items() if name not in left_out}
    recipe = TrainRecipe.from_dict(values)
    assert recipe == RECIPE
    assert (recipe.min_steps, recipe.head_warmup_epochs, recipe.unfreeze_epochs) == (0, 0, 0)
    assert (recipe.layer_decay, recipe.batch_norm) == (1.0, "auto")


@pytest.mark.parametrize(
    ("preset", "key"),
    [
        ("imagenet-official", "imagenet"),
        ("imagenet-paper", "imagenet"),
        ("imagenet21k", "imagenet21k"),
        ("finetune-official", "imagenet_finetune"),
    ],
)
def test_presets_have_the_official_figures(preset, key):
    official = OVERRIDES[key]
    recipe = TrainRecipe.preset(preset)
    assert recipe.epochs == official["epochs"]
    assert recipe.batch_size == official["batch_size"]
    assert recipe.learning_rate == official["lr_base"]
    assert recipe.schedule == official["lr_sched"]
    assert recipe.warmup_epochs == official["warmup_epochs"]
    resolved = recipe.resolve("efficientnetv2-s").recipe
    assert resolved.label_smoothing == official["label_smoothing"]
    assert recipe.weight_decay == OPTIMIZER["weight_decay"]["value"]
    assert recipe.ema_decay == official.get("ema_decay", OPTIMIZER["ema"]["decay"])
    assert recipe.drop_path_rate == pytest.approx(1 - official.get("survival_prob", 0.8))
    assert recipe.optimizer == "rmsprop"
    assert recipe.min_steps == official.get("min_steps", 0)
    if "dropout" in official:
        assert recipe.dropout_rate == pytest.approx(official["dropout"], abs=1e-5)
    if "mixup" in official:
        assert recipe.mixup_alpha == recipe.cutmix_alpha == official["mixup"]
        assert recipe.stages == 1


def epochs_for(preset, pictures):
    return TrainRecipe.preset(preset).resolve("efficientnetv2-s", pictures).recipe.epochs


def test_finetuning_lasts_as_many_steps_as_officially():
    # EfficientNetV2, section 5.3. CIFAR-10 has 50,000 training pictures, 97 batches of 512.
    recipe = TrainRecipe.preset("finetune-paper")
    assert (recipe.batch_size, recipe.schedule, recipe.weight_decay) == (512, "cosine", 0.0)
    assert recipe.learning_rate_schedule(97).base_learning_rate == pytest.approx(0.001)
    assert 10_000 <= epochs_for("finetune-paper", 50_000) * 97 < 10_000 + 97
    # Flowers: 2,040 pictures, 3 batches.
    assert epochs_for("finetune-paper", 2040) == 3334
    # main.py: max(min_steps, epochs * steps_per_epoch), here up to whole epochs. 10,000 steps: of
    # 97 (CIFAR-10), 2,454 (ImageNet, 1,256,144 pictures) and 1 an epoch.
    for pictures, epochs in ((50_000, 104), (1_256_144, 15), (300, 10_000)):
        assert epochs_for("finetune-official", pictures) == epochs


def test_the_default_finetuning_gives_few_pictures_more_epochs():
    recipe = TrainRecipe.preset("finetune")
    assert (recipe.probe, recipe.batch_norm, recipe.schedule) == ("first", "freeze", "cosine")
    steps = recipe.min_steps
    assert 1 < recipe.epochs < epochs_for("finetune", 320) == steps / (320 / recipe.batch_size)
    assert epochs_for("finetune", 1_000_000) == recipe.epochs
    assert epochs_for("finetune", 48) == recipe.max_epochs < steps / 3


@pytest.mark.parametrize(
    ("variant", "picture_side", "is_pretrained", "sizes", "evaluation"),
    [
        # Of weights: seven eighths of their evaluation size, down to a multiple of 32, and that for
        # evaluation; of small pictures twice their side for both, but at least 128 pixels.
        ("efficientnet-lite0", None, True, [128, 160, 192], 224),
        ("efficientnet-lite0", 400, True, [128, 160, 192], 224),
        ("efficientnet-lite2", 400, True, [128, 176, 224], 256),
        ("efficientnetv2-s", 400, True, [192, 256, 320], 384),
        ("efficientnetv2-s", 96, True, [128, 160, 192], None),
        ("efficientnetv2-b0", 32, True, [96, 112, 128], None),
        ("my-resnet", 400, True, [128, 160, 192], 224),
        # Fresh: 160 pixels of photos, twice the side of others, and never a map below 3 x 3.
        ("efficientnetv2-s", 400, False, [96, 128, 160], None),
        ("efficientnetv2-b0", 64, False, [96, 112, 128], None),
        ("efficientnetv2-b0", 41, False, [96, 96, 96], None),
        ("my-resnet", 32, False, [96, 96, 96], None),
    ],
)
def test_automatic_sizes_suit_weights_and_pictures(
    variant, picture_side, is_pretrained, sizes, evaluation
):
    recipe = replace(RECIPE, image_size="auto", stages=3, epochs=3, batch_size=8)
    known = {"picture_side": picture_side, "is_pretrained": is_pretrained}
    resolved, plan = recipe.resolve(variant, **known)
    assert [stage.image_size for stage in plan] == sizes
    assert resolved.evaluation_size == evaluation
    chosen, small = replace(recipe, evaluation_size=64).resolve(variant, **known)
    assert chosen.evaluation_size == 64
    assert [stage.image_size for stage in small] == [32, 32, 32]
    assert replace(recipe, evaluation_size=32).resolve(variant, **known).plan == small
    # The recipe of a run keeps its sizes, whatever it is used for next.
    again = TrainRecipe.from_dict(json.loads(json.dumps(resolved.to_dict())))
    assert again.resolve("efficientnetv2-l", is_pretrained=True) == (resolved, plan)


@pytest.mark.parametrize(
    ("side", "options", "is_small", "sizes"),
    [
        # Strides of 8 in all: maps of 3 x 3 to 5 x 5, and pictures as large as they are.
        (8, {}, True, [24, 24]),
        (28, {}, True, [24, 32]),  # MNIST
        (32, {}, True, [24, 32]),  # CIFAR
        (40, {}, True, [24, 40]),
        (41, {}, False, [96, 96]),
        (None, {}, False, [96, 160]),
        (32, {"is_pretrained": True}, False, [96, 128]),
        (32, {"variant": "my-resnet"}, False, [96, 96]),
        (32, {"strides": 16}, False, [48, 48]),  # of a config, which stays as it is
        (64, {"strides": 16}, False, [96, 128]),
        (32, {"image_size": (48, 64)}, False, [48, 64]),
        (32, {"image_size": (48, 64), "small_pictures": True}, True, [48, 64]),
        (32, {"small_pictures": False}, False, [96, 96]),
        (32, {"small_pictures": True, "is_pretrained": True}, True, [24, 32]),
    ],
)
def test_small_pictures_get_fewer_strides_and_few_pixels(side, options, is_small, sizes):
    fields = {name: value for name, value in options.items() if hasattr(RECIPE, name)}
    known = {name: value for name, value in options.items() if name not in fields}
    recipe = replace(TrainRecipe.preset("quickstart"), stages=2, **fields)
    known = {"variant": "efficientnetv2-b0", "picture_side": side, **known}
    resolved, plan = recipe.resolve(**known)
    assert resolved.small_pictures is is_small
    assert [stage.image_size for stage in plan] == sizes
    assert resolved.resolve(**known) == (resolved, plan)


def test_a_probe_sees_pictures_as_evaluation_does():
    probe = TrainRecipe.preset("probe").resolve("efficientnet-lite0", is_pretrained=True)
    assert [stage.image_size for stage in probe.plan] == [224]


def test_a_number_of_steps_needs_one_batch_size():
    with pytest.raises(ValueError, match=r"`min_steps` needs the same batch size.*\(64, 16\)"):
        replace(RECIPE, min_steps=10, batch_size=(64, 16))


def test_the_imagenet_presets_are_the_paper_s_and_the_code_s_stages():
    # Table 6 of the paper with Algorithm 1; effnetv2_configs.py and main_tf2.py of the code.
    paper = TrainRecipe.preset("imagenet-paper").resolve("efficientnetv2-s").plan
    official = TrainRecipe.preset("imagenet-official").resolve("efficientnetv2-s").plan
    for plan, preset in ((paper, "paper"), (official, "official")):
        assert plan == progressive_stages(
            "efficientnetv2-s", epochs=350, preset=preset, batch_size=4096
        )
    with pytest.raises(ValueError, match="Table 6"):
        TrainRecipe.preset("imagenet-paper").resolve("efficientnetv2-b0")


@pytest.mark.parametrize(
    ("variant", "style", "autoaugment"),
    [
        # effnetv2_configs.py: B0-B3 have augname "effnetv1_autoaug", S to XL "randaug".
        ("efficientnetv2-b0", "v1", True),
        ("efficientnetv2-b3", "v1", True),
        ("efficientnet-b4", "v1", True),
        ("efficientnetv2-s", "v2", False),
        ("efficientnetv2-xl", "v2", False),
        ("resnet50", "v2", False),
        (None, "v2", False),
    ],
)
def test_what_a_variant_was_trained_with_is_looked_up(variant, style, autoaugment):
    preset = replace(TrainRecipe.preset("imagenet-official"), image_size=224)
    recipe = preset.resolve(variant).recipe
    assert (recipe.crop_style, recipe.evaluation_style) == (style, style)
    assert recipe.autoaugment is autoaugment
    assert recipe.randaugment_magnitude == (None if autoaugment else "preset")
    assert recipe.resolve(variant).recipe == recipe
    chosen = {
        "crop_style": "finetune",
        "evaluation_style": "whole",
        "reduced_decode": False,
        "autoaugment": False,
        "loss": "softmax",
        "label_smoothing": 0.2,
    }
    chosen = replace(preset, **chosen)
    assert chosen.resolve(variant).recipe == chosen
    quickstart = TrainRecipe.preset("quickstart")
    # The whole picture is judged averaged; the official styles skip pixels there and in training.
    settled = {"reduced_decode": True, "image_size": (96, 160), "small_pictures": False}
    settled = replace(quickstart, **settled, loss="softmax", label_smoothing=0.1)
    assert quickstart.resolve(variant).recipe == settled
    assert recipe.reduced_decode is False


def test_finetuning_takes_the_evaluation_size_floored_to_a_multiple_of_16():
    # dataset_overrides: "1.0 * eval size, floored to a multiple of 16".
    for variant in ModelConfig.variants():
        (stage,) = TrainRecipe.preset("finetune-official").resolve(variant).plan
        eval_size = ModelConfig.from_name(variant).eval_size
        assert stage.image_size % 16 == 0
        assert 0 <= eval_size - stage.image_size < 16
        assert stage.randaugment_magnitude is None
        assert TrainRecipe.preset("imagenet21k").resolve(variant).plan[0].image_size == 224


def test_another_model_needs_a_size_but_no_more():
    for preset in ("finetune-official", "imagenet-paper"):
        with pytest.raises(ValueError, match="`image_size` must be given"):
            TrainRecipe.preset(preset).resolve("my-resnet")
    recipe = replace(TrainRecipe.preset("finetune-official"), image_size=96)
    (stage,) = recipe.resolve("my-resnet").plan
    assert stage.image_size == 96


def test_the_rate_peaks_at_the_batch_over_256():
    recipe = replace(RECIPE, schedule="constant", warmup_epochs=1.0, batch_size=512)
    schedule = recipe.learning_rate_schedule(steps_per_epoch=10)
    rates = [float(schedule(step)) for step in (0, 5, 10, 39)]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.2], rtol=1e-6)
    official = TrainRecipe.preset("imagenet-official").learning_rate_schedule(312.75)
    assert official.base_learning_rate == pytest.approx(0.256)  # 0.016 * 4096 / 256
    # A short run warms up for half of it at most.
    short = replace(RECIPE, epochs=4, warmup_epochs=5.0).learning_rate_schedule(10)
    assert short.warmup_epochs == 2


def test_batches_that_shrink_keep_the_rate_per_picture():
    recipe = replace(
        RECIPE,
        batch_size=(128, 32),
        stages=2,
        image_size=(32, 64),
        schedule="constant",
        warmup_epochs=0.0,
    )
    plan = recipe.resolve().plan
    assert [stage.batch_size for stage in plan] == [128, 32]
    optimizer = recipe.make_optimizer(plan, 1000, small_model())
    # Two epochs of 1000 // 128 = 7 steps, then the second stage.
    rates = []
    for step in (0, 13, 14, 75):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(rates, [0.05, 0.05, 0.0125, 0.0125], rtol=1e-6)
    (stage,) = replace(recipe, stages=1).resolve().plan
    single = replace(recipe, stages=1).learning_rate_schedule(1)
    assert single.base_learning_rate == pytest.approx(0.1 * stage.batch_size / 256)


def test_the_imagenet_recipe_has_the_official_rate_at_every_step():
    recipe = TrainRecipe.preset("imagenet-official")
    optimizer = recipe.make_optimizer(
        recipe.resolve("efficientnetv2-s").plan, 1_256_144, small_model()
    )
    golden = RATES["imagenet_exponential_main_tf2"]
    found = []
    for step in golden["steps"]:
        optimizer.iterations.assign(step)
        found.append(float(optimizer.learning_rate))
    np.testing.assert_allclose(found, golden["lr"], rtol=1e-6)


def small_model():
    layers = [
        keras.Input((8, 8, 3)),
        keras.layers.Conv2D(4, 3, name="conv"),
        keras.layers.DepthwiseConv2D(3, name="depthwise"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Flatten(),
        keras.layers.Dense(2, name="dense"),
    ]
    model = keras.Sequential(layers)
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    return model


def make_optimizer(recipe, model, num_examples=64):
    return recipe.make_optimizer(recipe.resolve().plan, num_examples, model)


def step(optimizer, model, gradient=0.0):
    gradients = [keras.ops.full(variable.shape, gradient) for variable in model.trainable_variables]
    optimizer.apply(gradients, model.trainable_variables)


def test_weight_decay_shrinks_kernels_only():
    rate = 0.1 * 64 / 256
    # Decoupled: weight -= rate * decay * weight. Official: as if the gradient were 0.5.
    official = 1 - rate * 0.5 / np.sqrt(0.9 + 0.1 * 0.5**2 + 1e-3)
    for name, shrunk in (("rmsprop", official), ("adam", 1 - rate * 0.5), ("sgd", 1 - rate * 0.5)):
        model = small_model()
        recipe = replace(
            RECIPE, optimizer=name, schedule="constant", warmup_epochs=0.0, weight_decay=0.5
        )
        step(make_optimizer(recipe, model), model)
        for variable in model.trainable_variables:
            kept = shrunk if "kernel" in variable.name else 1.0
            np.testing.assert_allclose(variable.numpy(), kept, rtol=1e-6, err_msg=variable.path)


def test_optimizer_settings():
    model = small_model()
    optimizer = make_optimizer(replace(RECIPE, gradient_clip=2.0), model)
    assert type(optimizer) is RMSprop
    assert optimizer.clipnorm == 2.0
    official = OPTIMIZER["optimizer"]
    assert (optimizer.rho, optimizer.momentum, optimizer.epsilon) == tuple(
        official[name] for name in ("decay", "momentum", "epsilon")
    )
    assert optimizer.weight_decay == OPTIMIZER["weight_decay"]["value"]
    assert optimizer.variable_rates == ()
    assert make_optimizer(replace(RECIPE, weight_decay=0.0), model).weight_decay is None
    for name in ("adam", "sgd"):
        recipe = replace(RECIPE, optimizer=name, gradient_clip=2.0)
        assert make_optimizer(recipe, model).global_clipnorm == 2.0


def test_rates_by_depth_begin_at_their_epochs():
    # Groups: conv, depthwise with its norm, dense. 10 steps an epoch.
    recipe = replace(
        RECIPE,
        epochs=8,
        layer_decay=0.5,
        head_warmup_epochs=1.5,
        unfreeze_epochs=2.0,
        schedule="constant",
        warmup_epochs=0.0,
        optimizer="sgd",
        weight_decay=0.5,
    )
    model = small_model()
    optimizer = make_optimizer(recipe, model, num_examples=640)
    conv, depthwise, norm, dense = ((0.25, 35), (0.5, 15), (0.5, 15), (1.0, 0))
    assert optimizer.variable_rates == (
        *(conv, conv),
        *(depthwise, depthwise),
        *(norm, norm),
        *(dense, dense),
    )
    # A short run leaves half of its epochs to all: 3 + 1 epochs of waiting in 4 become 1.5 + 0.5.
    short = replace(RECIPE, epochs=4, head_warmup_epochs=3.0, unfreeze_epochs=1.0)
    rates = make_optimizer(short, small_model(), num_examples=640).variable_rates
    assert [rate.first_step for rate in rates[::2]] == [20, 15, 15, 0]
    start = [variable.numpy() for variable in model.trainable_variables]
    for _ in range(15):
        step(optimizer, model, gradient=1.0)
    moved = [
        not np.array_equal(variable.numpy(), before)
        for variable, before in zip(model.trainable_variables, start, strict=True)
    ]
    assert moved == [False] * 6 + [True] * 2


def test_several_classes_are_not_smoothed_unless_asked_to():
    """At 0.95 and 0.05, the smoothed targets of a sigmoid, scores would pile up."""
    for given, resolved in (("auto", 0.0), (0.1, 0.1)):
        recipe = replace(RECIPE, label_smoothing=given)
        assert recipe.resolve(multi_label=True).recipe.label_smoothing == resolved
        assert recipe.resolve().recipe.label_smoothing == 0.1


def test_losses_smooth_the_labels():
    # softmax: smoothed target 0.9 + 0.1 / 2 and 0.05 (optimizer.json, label_smoothing). sigmoid:
    # both outputs, targets 0.95 and 0.05, averaged over the classes as officially by
    # tf.losses.sigmoid_cross_entropy (a sum would be twice that).
    expected = -(0.95 * np.log(0.8) + 0.05 * np.log(0.2))
    for loss in ("softmax", "sigmoid"):
        recipe, labels = replace(RECIPE, loss=loss), np.eye(2)[:1]
        value = recipe.make_loss()(recipe.smooth_labels(labels), np.array([[0.8, 0.2]]))
        assert float(value) == pytest.approx(expected, rel=1e-5)
        plain = recipe.make_loss()(labels, np.array([[0.8, 0.2]]))
        assert float(plain) == pytest.approx(-np.log(0.8), rel=1e-5)


@pytest.mark.parametrize(("epochs", "sizes"), [(1, [96]), (2, [32, 96]), (3, [32, 64, 96])])
def test_fewer_epochs_than_stages_have_the_first_and_the_last_size(epochs, sizes):
    recipe = replace(RECIPE, epochs=epochs, stages=4, image_size=(32, 96))
    recipe, plan = recipe.resolve()
    assert [stage.image_size for stage in plan] == sizes
    assert recipe.stages == len(plan)
    assert replace(recipe, stages=4, min_steps=40, epochs=1).resolve(None, 640).recipe.stages == 4


def test_the_loss_follows_the_labels():
    assert RECIPE.resolve(multi_label=True).recipe.loss == "sigmoid"
    assert RECIPE.resolve().recipe.loss == "softmax"
    with pytest.raises(ValueError, match=r"softmax gives each picture one class.*multi-label"):
        replace(RECIPE, loss="softmax").resolve(multi_label=True)
