"""Words for people, and what a terminal is given of other people's."""

import io
from contextlib import redirect_stderr, redirect_stdout

import pytest

from keras_effnetv2._common.text import aligned, counted, first_line, printable, say


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


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b]0;title\x07", r"\u001b]0;title\u0007"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b2J\x7f\x85", r"\u009b2J\u007f\u0085"),
        ("\u202egpj.exe\u2066\u200f\u061c", r"\u202egpj.exe\u2066\u200f\u061c"),
        ("\u2028\u2029\udcff", r"\u2028\u2029\udcff"),
        ("Küste 松 \N{WOMAN}\u200d\N{MICROSCOPE}", "Küste 松 \N{WOMAN}\u200d\N{MICROSCOPE}"),
    ],
)
def test_what_steers_a_terminal_is_escaped(name, shown):
    assert printable(name) == shown
    assert aligned([(name, "1")], left=[0]) == [f"{shown}  1"]


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", r"K\xfcste \u677e"),
        ("cp1252", r"Küste \u677e"),
        ("utf-8", "Küste 松"),
    ],
)
@pytest.mark.parametrize("redirect", [redirect_stdout, redirect_stderr])
def test_lines_are_printed_in_any_encoding(encoding, shown, redirect):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, newline="\n")
    with redirect(stream):
        say("Küste 松\n\x1b[2J", error=redirect is redirect_stderr)
    expected = f"{shown}\n\\u001b[2J\n"
    assert stream.buffer.getvalue().decode(encoding) == expected
