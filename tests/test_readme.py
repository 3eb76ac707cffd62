"""The README's Python examples run as printed; its command lines parse; its figures are counted."""

import re
import shlex
from pathlib import Path

import pytest
from helpers.quick_runs import step_eagerly

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.cost import network_cost
from keras_effnetv2.cli.main import parse

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = re.findall(r"^keras-effnetv2 (.*)$", README, flags=re.MULTILINE)


@pytest.mark.filterwarnings("error:.shuffle=True")
@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_runs(example, capsys, monkeypatch):
    step_eagerly(monkeypatch)
    exec(compile(example, "README.md", "exec"), {})
    for printed in re.findall(r"print\(.*\)  # (.*)", example):
        assert printed in capsys.readouterr().out


def test_there_are_examples():
    assert len(EXAMPLES) == 3
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", COMMANDS)
def test_command_line_parses(command):
    parse(shlex.split(command))


@pytest.mark.parametrize("variant", ["efficientnetv2-b0", "efficientnetv2-s"])
def test_table_of_models(variant):
    config = ModelConfig.from_name(variant)
    flops = network_cost(config, config.eval_size, 1000).multiply_adds / 1e9
    (row,) = re.findall(rf"^\| {variant} \|(.*)$", README, flags=re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:4] == [f"{flops:.2f}", str(config.eval_size)]
