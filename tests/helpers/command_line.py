"""The command line as a test calls it, and a published variant that is quick to build."""

from contextlib import contextmanager

import pytest

from keras_effnetv2.architectures.variants import VARIANTS
from keras_effnetv2.cli.main import main

VARIANT = "efficientnetv2-b0"


def command(capsys, *words):
    """Exit code, stdout and stderr of a command, also of one that is not understood."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as exit:
        code = exit.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@contextmanager
def small_variant():
    """VARIANT has a quarter of its width and one block a stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, VARIANT, VARIANTS[VARIANT]._replace(width=0.25, depth=0.1))
        yield
