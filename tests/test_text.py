"""Words for people."""

import pytest

from keras_effnetv2._common.text import counted, first_line


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ["epoch"], "0 epochs"),
        (1, ["epoch"], "1 epoch"),
        (1.0, ["epoch"], "1 epoch"),
        (1.5, ["epoch"], "1.5 epochs"),
        (1_281_167, ["picture"], "1,281,167 pictures"),
        (1, ["batch", "batches"], "1 batch"),
        (2, ["batch", "batches"], "2 batches"),
    ],
)
def test_a_number_of_things(count, words, said):
    assert counted(count, *words) == said


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\nno room\nat all")) == "no room"
    assert first_line(MemoryError()) == "MemoryError"
