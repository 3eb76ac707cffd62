"""Networks, weights and labels on JAX, where TensorFlow cannot be imported."""

import os
import subprocess
import sys

_PROGRAM = """
import sys


class NoTensorFlow:  # not None in sys.modules, where Keras looks whether it is imported
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, NoTensorFlow())
import keras, numpy as np
import keras_effnetv2 as kev2
from keras_effnetv2.architectures.cost import network_cost


def draw(self, shape, dtype=None):  # by NumPy, as JAX compiles the draw of each shape anew
    return keras.ops.convert_to_tensor(np.random.default_rng().normal(0, 0.1, shape), dtype)


keras.initializers.VarianceScaling.__call__ = draw
blocks = ["r1_k3_s2_e4_i8_o8_c1", "r1_k3_s2_e4_i8_o16_se0.25"]
config = kev2.ModelConfig("small", kev2.decode_stages(blocks), head_filters=32)
model = kev2.build_model(config)
model.save_weights("w.weights.h5")
again = kev2.build_model(config, weights="w.weights.h5")
kernels = [np.asarray(net.layers[-1].kernel) for net in (model, again)]
assert np.array_equal(*kernels)
assert kev2.load_weights(model, "w.weights.h5").loaded == len(model.weights)

pixels = kev2.preprocess_input(np.full((1, 32, 32, 3), 128.0), "b0", "imagenet21k")
assert not pixels.any()
scores = model(pixels)
assert abs(float(np.asarray(scores).sum()) - 1) < 1e-3
((best, _),) = kev2.decode_predictions(np.asarray(scores), top=2)
assert best[0].startswith("n")

features = kev2.feature_extractor(model)
assert [x.shape[-1] for x in features.outputs] == [8, 16]
assert kev2.count_flops(model, 64) == network_cost(config, 64, 1000).multiply_adds
assert kev2.fold_batch_norm(model).count_params() < model.count_params()
assert kev2.available_weights()
assert kev2.progressive_stages("b0", epochs=4, stages=2)
print(keras.backend.backend(), "tensorflow" in sys.modules)
"""


def test_networks_weights_and_labels_need_no_tensorflow(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert finished.stdout == "jax False\n"
