"""Writes weights of any source as .weights.h5 or .keras: `keras-effnetv2 weights convert`.

    python weights/convert.py efficientnetv2-s.tgz s.keras --variant efficientnetv2-s

`python weights/convert.py --help` shows the options.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone, not installed

from keras_effnetv2.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["weights", "convert", *sys.argv[1:]]))
