"""Load a whole `.keras` file, unless it asks for far more memory than its own size."""

import math
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras

from keras_effnetv2._common.files import check_regular, parse_json
from keras_effnetv2.pretrained.keras_files import unpacked_model

# Parameters that a model may have beyond the bytes of its file, which are four for each: layers
# without numbers in the file, such as the states of random generators.
_SPARE = 2**20
_MAX_REASON = 500  # characters; Keras repeats the whole config


def load_model(path: Path) -> keras.Model:
    """Load a `.keras` file, without its optimizer.

    A layer of a billion units takes gigabytes as soon as it is built, even if the file holds no
    numbers for it, so the model is built without variables first.

    Raises:
        ValueError: the file is damaged, contains Python code, or describes a model with more
            numbers than it holds. The message names the file.
        OSError: it cannot be read.
    """
    check_regular(path)
    try:
        description, weights = unpacked_model(path)
        config = parse_json(description)
        # In its own thread, because Keras makes variables that were left open later in the same.
        with ThreadPoolExecutor(1) as pool:
            needed = pool.submit(_count_parameters, config).result()
        held = weights.getbuffer().nbytes
        if needed > held + _SPARE:
            raise ValueError(
                f"it describes a model of {needed:,} parameters and holds {held:,} bytes of weights"
            )
        return keras.models.load_model(path, compile=False)
    except (
        *(ValueError, TypeError, LookupError, AttributeError, RuntimeError, ArithmeticError),
        *(zipfile.BadZipFile, EOFError, MemoryError),
    ) as error:
        reason = str(error)[:_MAX_REASON] or type(error).__name__
        raise ValueError(f"{path.name} cannot be read: {reason}") from None


def _count_parameters(config: Any) -> int:
    """Return the number of parameters of a model, without making its variables."""
    try:
        with keras.StatelessScope(initialize_variables=False):
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
    except ValueError as error:
        if "stateless scope" not in str(error):
            raise
        return 0  # a layer of the user's own makes variables in a way that cannot wait
    if not isinstance(model, keras.Model):
        raise ValueError(f"it holds a {type(model).__name__} and not a model")
    return sum(math.prod(variable.shape) for variable in model.variables)
