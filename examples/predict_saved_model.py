"""Classify picture files with an exported SavedModel, in a process that has TensorFlow only.

    python examples/predict_saved_model.py runs/demo/saved_model/1 runs/demo/pictures/*.png

Takes about 10 seconds on two cores, most of it to start TensorFlow and to load the model.
Expected: one line per picture with its best class and the score; for a file that is no picture the
reason, and exit code 1.

The folder is what `keras-effnetv2 train` writes to RUN/saved_model/1, and `keras-effnetv2 export
RUN --output DIR` to DIR/1. Serving it takes neither Keras nor keras_effnetv2: this program makes
both impossible to import.
"""

import os
import sys
from pathlib import Path

sys.modules["keras"] = None
sys.modules["keras_effnetv2"] = None
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def main(saved_model: str, pictures: list[str]) -> int:
    """Prints the best class of each picture and returns the exit code."""
    import tensorflow as tf  # only now: the settings above have to be there before

    classify = tf.saved_model.load(saved_model).signatures["classify_bytes"]
    contents = [Path(picture).read_bytes() for picture in pictures]
    answer = classify(image_bytes=tf.constant(contents))
    rows = zip(
        pictures,
        answer["classes"].numpy(),
        answer["scores"].numpy(),
        answer["error"].numpy(),
        strict=True,
    )
    failed = False
    for picture, classes, scores, error in rows:
        result = f"error: {error.decode()}" if error else f"{scores[0]:7.2%}  {classes[0].decode()}"
        print(f"{picture}  {result}")
        failed = failed or bool(error)
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: python {sys.argv[0]} SAVED_MODEL PICTURE...")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
