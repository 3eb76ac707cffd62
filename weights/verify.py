"""Hashes a weight file, loads it strictly and judges it: `keras-effnetv2 weights verify`.

    python weights/verify.py efficientnetv2-b0/imagenet --data imagenet/val

`python weights/verify.py --help` shows the options.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # a clone, not installed

from keras_effnetv2.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["weights", "verify", *sys.argv[1:]]))
