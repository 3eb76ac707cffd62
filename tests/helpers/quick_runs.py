"""Makes tests of `train` quick: a network of two blocks, few pictures, no export, no report."""

from dataclasses import replace

from keras_effnetv2.architectures.config import ModelConfig, decode_stages
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.training import results

_BLOCKS = ("r1_k3_s2_e4_i8_o8_c1", "r1_k3_s2_e4_i8_o16_se0.25")


def two_blocks():
    """EfficientNetV2-B0 with a fused block and a plain one, which is traced in seconds."""
    full = ModelConfig.from_name("efficientnetv2-b0")
    return replace(full, stages=decode_stages(_BLOCKS), head_filters=32)


def leave_out_results(patch):
    """No export and no report; `patch` is a `pytest.MonkeyPatch`."""
    patch.setattr(results, "export_saved_model", lambda *args, **options: None)
    patch.setattr(results, "gather_report", lambda **contents: None)
    patch.setattr(results, "write_report", lambda report, path: None)


def some_digits(folder, count):
    """A folder of class folders with the first `count` digits of each split."""
    for split in ("train", "validation"):
        digits = load_source("digits", split)
        for data, label, index in digits.dataset().take(count):
            target = folder / split / digits.class_names[int(label)]
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{int(index)}.png").write_bytes(data.numpy())
    return folder
