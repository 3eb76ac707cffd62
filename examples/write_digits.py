"""Write a handwritten digit of each class as a PNG file, none of which `train` has trained on.

    python examples/write_digits.py runs/demo/pictures

Takes about 5 seconds. Expected: ten files, named by digit and position: 0-11.png, 1-0.png, ...

They are from the part of the digits that training with `--data digits` holds back as validation
pictures, as long as its seed and its validation fraction are the default ones.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_effnetv2 as kev2
from keras_effnetv2.cli.quiet_start import start_tensorflow


def main(folder: Path) -> None:
    """Writes the first validation picture of each class to the folder."""
    start_tensorflow()  # without its messages, some of which come at any level
    folder.mkdir(parents=True, exist_ok=True)
    seen = set()
    for image_bytes, label, index in kev2.load_source("digits", "validation").dataset():
        digit = int(label)
        if digit not in seen:
            seen.add(digit)
            (folder / f"{digit}-{int(index)}.png").write_bytes(image_bytes.numpy())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} FOLDER")
    main(Path(sys.argv[1]))
