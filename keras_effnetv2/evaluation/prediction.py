"""Names of what pictures show, and their features.

Importing this module starts neither Keras nor TensorFlow, and pictures that cannot be read are
found without them.
"""

import json
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_effnetv2._common.checks import check_integer, check_number
from keras_effnetv2._common.files import written_whole
from keras_effnetv2._common.progress import Progress
from keras_effnetv2.evaluation.named_network import (
    MADE_FROM,
    described_network,
    network_path,
    open_network,
)
from keras_effnetv2.evaluation.picture_names import (
    picture_names,
    picture_trouble,
    read_picture,
    shown_name,
)

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_effnetv2.evaluation.judging import JudgedNetwork

BATCH_SIZE = 32
_TRACED_FROM = 5  # pictures; for fewer, calling each layer takes less time than tracing the network
_FOLDED_FROM = 256  # pictures; for fewer, folding may take more time than it saves
_ROUNDING = 1e-5  # the most that folding may change a score
_READERS = 8  # files or addresses that are read at once
_TOP = 5  # classes
_AHEAD = 2  # batches that are prepared while one is computed


@dataclass(frozen=True)
class Prediction:
    """What a network says about a picture.

    Attributes:
        path: the picture file, or its address; "-" for standard input.
        class_names: names of the classes with the highest scores, the best first; multi-label:
            those above their thresholds.
        scores: their scores, 0..1.
        wordnet_ids: of ImageNet's classes, their WordNet ids, else empty.
        error: why the picture could not be read; empty if it was.
        none_of_these: whether it may show none of the classes: the highest score, without
            temperature, is below that of 95% of the rightly named validation pictures. None: the
            network has no such threshold.
        embedding: if asked for: float32 (C,), what the classifier was computed from.
    """

    path: str
    class_names: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    wordnet_ids: tuple[str, ...] = ()
    error: str = ""
    none_of_these: bool | None = None
    embedding: "np.ndarray | None" = None


@dataclass(frozen=True)
class PredictionSettings:
    """What is asked of a network about each picture; see `predict`."""

    top: int | None = None
    min_score: float = 0.0
    flip: bool = False
    calibrated: bool = False
    embeddings: bool = False
    batch_size: int = BATCH_SIZE

    def __post_init__(self) -> None:
        check_integer("top", self.top, minimum=1, or_none=True)
        check_number("min_score", self.min_score, minimum=0, maximum=1)
        check_integer("batch_size", self.batch_size, minimum=1)

    def most_classes(self, network: "JudgedNetwork") -> int:
        """Return how many classes of a picture are named at most."""
        every = len(network.classes)
        return min(self.top or (_TOP if network.thresholds is None else every), every)


def predict(
    model_or_path: "keras.Model | JudgedNetwork | str | os.PathLike[str]",
    pictures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    weights: str | None = None,
    class_names: Sequence[str] | None = None,
    top: int | None = None,
    min_score: float = 0.0,
    flip: bool = False,
    calibrated: bool = False,
    embeddings: bool = False,
    batch_size: int = BATCH_SIZE,
    progress: Progress | None = None,
) -> list[Prediction]:
    """Name what pictures show.

    Each picture is cropped and resized as the network is evaluated.

    Args:
        model_or_path: the folder of a run, a `.keras` file, an export (`.onnx`, `.xml` of OpenVINO,
            `.tflite`, the folder of a SavedModel or of its versions), the name of a variant,
            hf://OWNER/NAME[@REVISION] of the Hugging Face hub, or a Keras classifier
            (N, S, S, 3), 0..255 -> (N, classes).
        pictures: JPEG, PNG, BMP, GIF or WebP files, one or several. A folder stands for the picture
            files below it, and a pattern such as "photos/*.jpg" for those that match it, in the
            order of their names. An http(s) address is downloaded, in at most a minute and 64 MiB.
            "-" is a picture on standard input.
        weights: for a variant: name of a published set or path; None is "imagenet".
        class_names: a name for each class of a model that does not know them, such as
            `source.class_names`. Without it the classes of a Keras model have numbers (those of
            ImageNet have names), and a warning says so.
        top: number of classes to name, at least 1. None: 5; of a network whose pictures may have
            several classes, all that are above their thresholds.
        min_score: classes with a lower score, 0..1, are not named.
        flip: compute the mean over the picture and its mirror image.
        calibrated: use the temperature of a run or its export, which makes scores nearer to the
            share that is right. The order of the classes stays.
        embeddings: True: also return the features of each picture. They are what the last layer
            with weights is computed from: in networks of this package the pooled feature map.
            Exports have none.
        batch_size: pictures that are computed at once.
        progress: called with (pictures done, all pictures).

    Returns:
        One `Prediction` a picture, in their order. Those of pictures that cannot be read have an
        `error`.

    Raises:
        ValueError: there is no such network, it has no features or no temperature, or an argument
            is not as described above.
        ConnectionError: weights are not in the cache and cannot be downloaded.
        ImportError: the runtime of an export is not installed.
    """
    settings = PredictionSettings(top, min_score, flip, calibrated, embeddings, batch_size)
    if isinstance(model_or_path, str | os.PathLike):
        network_path(model_or_path, exports=True)  # raises before the pictures are read
    names = picture_names(pictures)
    network = None
    if not all(map(picture_trouble, names)):
        network = _named(_opened(model_or_path, weights, class_names), class_names)
    found: list[Prediction] = []
    for row in predictions(network, names, settings):
        found.append(row)
        if progress is not None:
            progress(len(found), len(names))
    return found


def predictions(
    network: "JudgedNetwork | None", names: Sequence[str], settings: PredictionSettings
) -> Iterator[Prediction]:
    """Yield what `predict` returns, as soon as it is known.

    Args:
        network: names the pictures; None if `picture_trouble` says that none can be read.
        names: of `picture_names`.
        settings: what is asked.
    """
    if network is None:
        yield from (Prediction(shown_name(one), error=picture_trouble(one)) for one in names)
        return
    import numpy as np

    from keras_effnetv2.evaluation.scores import run_padded

    corrected = _calibration(network) if settings.calibrated else None
    size, is_traced = min(settings.batch_size, len(names)), len(names) >= _TRACED_FROM
    compute = _computation(network, settings.embeddings, settings.flip, len(names))
    most = settings.most_classes(network)
    for batch in _batches(names, size, network, is_traced):
        rows = zip(batch.names, batch.errors, strict=True)
        if all(batch.errors):
            yield from (Prediction(shown_name(name), error=error) for name, error in rows)
            continue
        outputs = run_padded(compute, batch.pixels, size)
        features, found = outputs if settings.embeddings else (None, outputs)
        scores = found if corrected is None else corrected(found)
        for index, (name, error) in enumerate(rows):
            if error:
                yield Prediction(shown_name(name), error=error)
                continue
            best = (-scores[index]).argsort(kind="stable")[:most]
            if network.thresholds is not None and settings.top is None:
                best = best[found[index][best] >= np.array(network.thresholds)[best]]
            best = best[scores[index][best] >= settings.min_score]
            limit = network.none_below
            classes = [network.classes[one] for one in best]
            yield Prediction(
                shown_name(name),
                tuple(one["class"] for one in classes),
                tuple(scores[index][best].tolist()),
                tuple(one["wordnet_id"] for one in classes if "wordnet_id" in one),
                none_of_these=None if limit is None else bool(found[index].max() < limit),
                embedding=None if features is None else features[index].astype("float32"),
            )


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


def _opened(
    network: Any, weights: str | None, class_names: Sequence[str] | None
) -> "JudgedNetwork":
    import keras

    from keras_effnetv2.evaluation.judging import JudgedNetwork

    if isinstance(network, str | os.PathLike):
        return open_network(network, weights, exports=True)
    if weights is not None or not isinstance(network, keras.Model | JudgedNetwork):
        raise ValueError(
            "The network must be the folder of a run, a .keras file, an export, a Keras model, or "
            f"a variant, which alone takes `weights`. Received: {network!r} and weights={weights!r}"
        )
    if isinstance(network, JudgedNetwork):
        return network
    described = described_network(network)
    if class_names is None and "wordnet_id" not in described.classes[0]:
        warnings.warn(
            "The model does not know the names of its classes, so they are numbers here. Name them "
            "with class_names=, for example class_names=source.class_names.",
            stacklevel=3,  # where `predict` is called
        )
    return described


def _named(network: "JudgedNetwork", class_names: Sequence[str] | None) -> "JudgedNetwork":
    """Return a network whose classes have these names."""
    if class_names is None:
        return network
    if isinstance(class_names, str) or len(class_names) != len(network.classes):
        raise ValueError(
            "`class_names` must be a name for each class of the network, which has "
            f"{len(network.classes)}. Received: {class_names!r}"
        )
    return replace(network, classes=[{"class": name} for name in class_names])


def _calibration(network: "JudgedNetwork") -> "Callable[[np.ndarray], np.ndarray]":
    """Return a function of scores (N, classes) that uses the temperature of a network."""
    import keras

    from keras_effnetv2.evaluation.calibration import calibrated
    from keras_effnetv2.models.graph import last_activation

    temperature, model = network.temperature, network.model
    if temperature is None:
        raise ValueError(
            "The network has no temperature. A training finds one on its validation pictures, "
            "unless pictures may have several classes, and stores it in the run and its exports. "
            "Train on pictures of one class, or leave out --calibrated (calibrated=True)."
        )
    activation = network.activation
    if activation is None:
        assert isinstance(model, keras.Model)
        activation = last_activation(model.outputs[0])
    return lambda scores: calibrated(scores, temperature, activation)


def _computation(
    network: "JudgedNetwork", embeddings: bool, flip: bool, count: int
) -> "Callable[[np.ndarray], Any]":
    """Return a function of a batch of pixels, for `count` pictures.

    It returns scores, or (features, scores).
    """
    import keras
    import numpy as np

    from keras_effnetv2.export.runtimes import ExportedModel
    from keras_effnetv2.models.graph import with_features

    model: Any = network.model
    if isinstance(model, ExportedModel) and embeddings:
        raise ValueError(f"{model.path} is an export, which has no features. {MADE_FROM}")
    is_tensorflow = keras.backend.backend() == "tensorflow"
    if not isinstance(model, ExportedModel):
        if count >= _FOLDED_FROM and is_tensorflow:
            model = _folded(model, network.image_size)
        model = with_features(model) if embeddings else model

    def outputs_of(pixels: np.ndarray) -> Any:
        if isinstance(model, ExportedModel):
            return model(pixels)
        if count >= _TRACED_FROM or not is_tensorflow:
            return model.predict_on_batch(pixels)
        return _layer_by_layer(model, pixels)

    def mean_of_both(pixels: np.ndarray) -> Any:
        mirrored = np.ascontiguousarray(pixels[:, :, ::-1])
        both = outputs_of(pixels), outputs_of(mirrored)
        return keras.tree.map_structure(lambda one, other: (one + other) / 2, *both)

    return mean_of_both if flip else outputs_of


def _folded(model: "keras.Model", size: int) -> "keras.Model":
    """Return a model without batch norms, which takes less time, if it computes the same."""
    import numpy as np

    from keras_effnetv2.models.folding import fold_batch_norm

    noise = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype(np.float32)
    with suppress(ValueError):  # of a model that cannot be folded
        folded = fold_batch_norm(model)
        both = _layer_by_layer(folded, noise), _layer_by_layer(model, noise)
        return folded if np.allclose(*both, rtol=0, atol=_ROUNDING) else model
    return model


def _layer_by_layer(model: "keras.Model", pixels: "np.ndarray") -> Any:
    """Return what a model computes, without a trace."""
    import keras

    outputs = model.predict_step(keras.ops.convert_to_tensor(pixels))
    return keras.tree.map_structure(keras.ops.convert_to_numpy, outputs)


class _Batch(NamedTuple):
    names: Sequence[str]
    pixels: "np.ndarray"
    errors: Sequence[str]  # "" for a picture that could be read


def _batches(
    names: Sequence[str], size: int, network: "JudgedNetwork", is_traced: bool
) -> Iterator[_Batch]:
    """Yield the pictures in batches, which are prepared while others are computed."""
    from keras_effnetv2.images.evaluation_crop import prepare_files

    preparing, readers = ThreadPoolExecutor(1), ThreadPoolExecutor(_READERS)

    def prepare(part: Sequence[str]) -> _Batch:
        files, troubles = zip(*readers.map(read_picture, part), strict=True)
        pixels, errors = prepare_files(
            files, network.image_size, network.style, is_traced=is_traced
        )
        both = zip(troubles, errors, strict=True)
        return _Batch(part, pixels, [trouble or error for trouble, error in both])

    try:
        ahead: deque[Future[_Batch]] = deque()
        for start in range(0, len(names), size):
            ahead.append(preparing.submit(prepare, names[start : start + size]))
            if len(ahead) > _AHEAD:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        for pool in (preparing, readers):  # after Ctrl-C, nobody waits for a download
            pool.shutdown(wait=False, cancel_futures=True)
