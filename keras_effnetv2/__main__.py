"""`python -m keras_effnetv2`, the same as `keras-effnetv2`."""

import sys

from keras_effnetv2.cli.main import main

sys.exit(main())
