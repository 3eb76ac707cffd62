"""Names of what picture files show, and their features.

Importing this module starts neither Keras nor TensorFlow, and pictures that cannot be read are
found without them.
"""

import functools
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2._common.files import written_whole
from keras_effnetv2._common.progress import Progress
from keras_effnetv2.evaluation.named_network import described_network, network_path, open_network
from keras_effnetv2.images.picture_file import picture_file_trouble

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_effnetv2.evaluation.judging import JudgedNetwork

_TRACED_FROM = 5  # pictures; for fewer, calling each layer takes less time than tracing the network


@dataclass(frozen=True)
class Prediction:
    """What a network says about a picture.

    Attributes:
        path: the picture file.
        class_names: names of the classes with the highest scores, the best first.
        scores: their scores, 0..1.
        wordnet_ids: of ImageNet's classes, their WordNet ids, else empty.
        error: why the picture could not be read; empty if it was.
        embedding: if asked for: float32 (C,), what the classifier was computed from.
    """

    path: str
    class_names: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    wordnet_ids: tuple[str, ...] = ()
    error: str = ""
    embedding: "np.ndarray | None" = None


def predict(
    model_or_path: "keras.Model | JudgedNetwork | str | os.PathLike[str]",
    pictures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    weights: str | None = None,
    top: int = 5,
    embeddings: bool = False,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Name what picture files show.

    Each picture is cropped and resized as the network is evaluated.

    Args:
        model_or_path: the folder of a run, a `.keras` file, the name of a variant,
            hf://OWNER/NAME[@REVISION] of the Hugging Face hub, or a Keras classifier
            (N, S, S, 3), 0..255 -> (N, classes).
        pictures: a JPEG, PNG, BMP, GIF or WebP file, or several.
        weights: for a variant: name of a published set or path; None is "imagenet".
        top: number of classes to name, at least 1.
        embeddings: True: also return the features of each picture. They are what the last layer
            with weights is computed from: in networks of this package the pooled feature map.
        progress: called with (pictures done, all pictures).

    Returns:
        One `Prediction` a picture, in their order. Those of pictures that cannot be read have an
        `error`.

    Raises:
        ValueError: there is no such network, it is an export, it has no features, or an argument
            is not as described above.
        ConnectionError: weights are not in the cache and cannot be downloaded.
    """
    check_integer("top", top, minimum=1)
    if isinstance(model_or_path, str | os.PathLike):
        network_path(model_or_path)  # raises before the pictures are read
    if isinstance(pictures, str | os.PathLike):
        pictures = [pictures]
    paths = [Path(picture) for picture in pictures]

    @functools.cache
    def classifier() -> Callable[[Path], Prediction]:
        network = _opened(model_or_path, weights)
        return _classifier(network, top, embeddings, is_traced=len(paths) >= _TRACED_FROM)

    found: list[Prediction] = []
    for path in paths:
        error = picture_trouble(path)
        found.append(Prediction(str(path), error=error) if error else classifier()(path))
        if progress is not None:
            progress(len(found), len(paths))
    return found


def picture_trouble(path: Path) -> str:
    """Return why a path is not a picture file to read, or ""."""
    if path.is_dir():
        return f"it is a folder. Give picture files, for example {path / '*.jpg'}"
    if str(path).startswith(("http:", "https:")) and not path.exists():
        return "it is an address. Download the picture, and give the file"
    return picture_file_trouble(path)


def write_embeddings(
    path: Path, network: "JudgedNetwork", predictions: Sequence[Prediction]
) -> int:
    """Write the features of the pictures that could be read, and return their number.

    Args:
        path: an `.npz` file, written whole or not at all: `embeddings` float32 (N, C), `paths` str
            (N,), and `network`, JSON that says what computed them.
        network: the network of the predictions.
        predictions: with embeddings.
    """
    import numpy as np

    read = [one for one in predictions if one.embedding is not None]
    with written_whole(path) as scratch:
        np.savez(
            scratch,
            embeddings=np.array([one.embedding for one in read]),
            paths=np.array([one.path for one in read]),
            network=np.array(json.dumps(dict(network.facts))),
        )
    return len(read)


def _opened(network: Any, weights: str | None) -> "JudgedNetwork":
    import keras

    from keras_effnetv2.evaluation.judging import JudgedNetwork

    if isinstance(network, str | os.PathLike):
        return open_network(network, weights)
    if weights is not None or not isinstance(network, keras.Model | JudgedNetwork):
        raise ValueError(
            "The network must be the folder of a run, a .keras file, a Keras model, or a variant, "
            f"which alone takes `weights`. Received: {network!r} and weights={weights!r}"
        )
    return described_network(network) if isinstance(network, keras.Model) else network


def _classifier(
    network: "JudgedNetwork", top: int, embeddings: bool, is_traced: bool
) -> Callable[[Path], Prediction]:
    """Return a function that names one picture."""
    import keras
    import numpy as np

    from keras_effnetv2.models.graph import with_features

    model = with_features(network.model) if embeddings else network.model

    def outputs_of(pixels: Any) -> Any:
        if is_traced or keras.backend.backend() != "tensorflow":
            return model.predict_on_batch(pixels)
        outputs = model.predict_step(keras.ops.convert_to_tensor(pixels))
        return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)

    def classify(path: Path) -> Prediction:
        try:
            data = path.read_bytes()
        except OSError as error:  # since `picture_trouble` looked
            return Prediction(str(path), error=f"cannot be read: {error.strerror}")
        pixels, trouble = _decoded(data, network)
        if trouble:
            return Prediction(str(path), error=trouble)
        outputs = outputs_of(pixels[np.newaxis])
        features, scores = outputs if embeddings else (None, outputs)
        best = np.argsort(-scores[0], kind="stable")[:top]
        classes = [network.classes[index] for index in best]
        return Prediction(
            str(path),
            tuple(one["class"] for one in classes),
            tuple(scores[0][best].tolist()),
            tuple(one["wordnet_id"] for one in classes if "wordnet_id" in one),
            embedding=None if features is None else features[0].astype(np.float32),
        )

    return classify


def _decoded(data: bytes, network: "JudgedNetwork") -> tuple[Any, str]:
    """Return a picture file as pixels for a network, or why it cannot be read.

    Without `prepare_batch`, whose trace takes longer than some pictures.
    """
    import tensorflow as tf

    from keras_effnetv2.images.evaluation_crop import decode_for_evaluation
    from keras_effnetv2.images.headers import check_image, format_name

    file = tf.constant(data)
    try:
        if trouble := check_image(file).numpy().decode():
            return None, trouble
        pixels = decode_for_evaluation(file, network.image_size, network.style)
    except tf.errors.OpError:
        return None, f"corrupt or truncated {format_name(file).numpy().decode()}"
    return pixels.numpy(), ""  # JAX takes no TensorFlow tensors
