"""README, docs, notebooks: examples run, commands parse, links lead to files, models are right."""

import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from helpers.notebooks import NOTEBOOKS, text_of
from helpers.quick_runs import leave_out_operations, step_eagerly

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.cost import network_cost
from keras_effnetv2.cli.main import parse
from keras_effnetv2.pretrained.registry import WEIGHT_SETS
from keras_effnetv2.recipes.recipe import TrainRecipe

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in [
        *(*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"),
        *sorted(ROOT.glob("docs/**/*.md")),
    ]
}
PAGES |= {str(path.relative_to(ROOT)): text_of(path, "markdown") for path in NOTEBOOKS}


def of_pages(pattern):
    """Returns (page, match) for every match in every page; the Chinese one repeats the README's."""
    return [
        (page, match)
        for page, text in PAGES.items()
        if page != "README.zh-CN.md"
        for match in re.findall(pattern, text, flags=re.DOTALL | re.MULTILINE)
    ]


EXAMPLES = of_pages(r"```python\n(.*?)```")
COMMANDS = [
    *of_pages(r"^keras-effnetv2 ((?:[^\n]*\\\n)*[^\n]*)$"),
    *of_pages(r"`keras-effnetv2 ([^`]*)`"),
]
RECIPES = of_pages(r"```toml\n(.*?)```")
BLOCKS = of_pages(r"^ *```(\w*)\n(.*?)^ *```$")  # (page, (language, text))
MAKE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.filterwarnings("error:.shuffle=True")
@pytest.mark.parametrize(("page", "example"), EXAMPLES)
def test_example_runs(page, example, capsys, monkeypatch, tmp_path):
    step_eagerly(monkeypatch)
    leave_out_operations(monkeypatch)
    monkeypatch.chdir(tmp_path)
    code = compile(example, page, "exec")
    modules = re.findall(r"^(?:import|from) (\w+)", example, flags=re.MULTILINE)
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        pytest.skip(f"compiled only: {', '.join(missing)} is not installed")
    exec(code, {})
    for printed in re.findall(r"print\(.*\)  # (.*)", example):
        assert printed in capsys.readouterr().out


def test_there_are_examples():
    assert len(EXAMPLES) > 5
    assert len(COMMANDS) > 35


@pytest.mark.parametrize("page", PAGES)
def test_command_lines_parse(page):
    for command in [command for there, command in COMMANDS if there == page]:
        parse(shlex.split(command.replace("\\\n", " ")))


def options_of(command):
    """Returns the options of a command and of those below it."""
    own = {word for one in command.params for word in (*one.opts, *one.secondary_opts)}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


def test_options_in_the_text_are_there():
    """But for first columns of tables, which name what other libraries and older versions have."""
    options = options_of(parse(["weights"]).find_root().command)
    for page in PAGES.keys() - {"docs/benchmarks.md"}:  # it names those of scripts
        text = re.sub(r"^\|[^|]*\|", "", PAGES[page], flags=re.MULTILINE)
        for code in re.findall(r"`([^`\n]+)`", text):
            named = set(re.findall(r"(?<!\S)--[a-z][\w-]*", code))
            assert named <= options, (page, code)


@pytest.mark.parametrize(("page", "text"), RECIPES)
def test_recipe_is_read(page, text, tmp_path):
    (tmp_path / "mine.toml").write_text(text)
    TrainRecipe.from_file(tmp_path / "mine.toml")


def test_every_line_of_a_block_is_a_command_that_a_test_knows():
    """Also where it cannot run here: docker, a server that listens, an environment of its own."""
    known = r"keras-effnetv2 |make |pip install '\.\[|curl |docker run |python -[cm] |tensorboard "
    plain = {"python3 -m venv venv", ". venv/bin/activate", "export KERAS_BACKEND=jax"}
    assert {language for _, (language, _) in BLOCKS} == {"", "json", "python", "text", "toml"}
    for page, (language, text) in BLOCKS:
        for line in text.replace("\\\n", " ").splitlines() if language == "" else ():
            assert line in plain or re.match(known, line), (page, line)


def test_json_is_whole():
    texts = [text for _, (language, text) in BLOCKS if language == "json"]
    assert texts
    for text in texts:
        rest = text.strip()
        while rest:
            _, end = json.JSONDecoder().raw_decode(rest)
            rest = rest[end:].strip()


def test_curl_asks_for_paths_of_the_server():
    described = json.loads((ROOT / "keras_effnetv2/serve/static/openapi.json").read_text("utf-8"))
    addresses = of_pages(r"^curl [^\n]*http://localhost:8501(/\S+)$")
    assert addresses
    for page, path in addresses:
        plain = re.sub(r"/versions/\d+", "", path).replace("/models/photos", "/models/{model}")
        assert plain in described["paths"], (page, path)


def test_docker_serves_the_folder_under_its_name():
    commands = [shlex.split(line) for _, line in of_pages(r"^(docker run [^\n]*)$")]
    assert commands
    for words in commands:
        (name,) = (word[11:] for word in words if word.startswith("MODEL_NAME="))
        (mounted,) = (word.split(":") for word in words if ":/models/" in word)
        assert mounted == [f"$PWD/runs/{name}/saved_model", f"/models/{name}", "ro"]
        assert words[-1] == "tensorflow/serving"


def test_python_lines_compile():
    lines = [shlex.split(line) for _, line in of_pages(r"^(python -c [^\n]*)$")]
    assert lines
    for _, _, program in lines:
        compile(program, "page", "exec")


def test_options_of_scripts_are_there():
    """Of benchmarks and other scripts outside of the package, which are not run here."""
    found = of_pages(r"python (?:-m )?((?:benchmarks|weights|docs)[/.][\w/.]+)((?:\s[^`]*)?)")
    assert len(found) > 20
    for page, (script, words) in found:
        path = script if script.endswith(".py") else f"{script.replace('.', '/')}/__main__.py"
        source = (ROOT / path).read_text(encoding="utf-8")
        for option in re.findall(r"(?<!\S)--[a-z][\w-]*", words):
            assert f'"{option}"' in source, (page, script, option)


def test_other_commands_are_there():
    for _, target in of_pages(r"(?:^ *|`)make ([a-z-]+)"):
        assert f"\n{target}:" in MAKE
    for _, script in of_pages(r"(?:^|`)(?:python|bash) (\w+/\S+\.(?:py|sh))"):
        assert (ROOT / script).is_file(), script
    for _, extras in of_pages(r"(?:'\.|`)\[([a-z,]+)\]"):
        assert set(extras.split(",")) <= set(EXTRAS)


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", PAGES[page]):
        assert ((ROOT / page).parent / link).exists(), link


def test_chinese_readme_is_in_step():
    english, chinese = PAGES["README.md"], PAGES["README.zh-CN.md"]

    def parts(text):
        tables = re.findall(r"^\|.*$", text, flags=re.MULTILINE)
        return {
            "blocks": re.findall(r"```.*?```", text, flags=re.DOTALL),
            "headings": re.findall(r"^#+ ", text, flags=re.MULTILINE),
            "links": [link for link in re.findall(r"\]\((.*?)\)", text) if link[:6] != "README"],
            "numbers": [re.findall(r"\d+(?:[.,]\d+)*", row) for row in tables],
        }

    assert parts(chinese) == parts(english)
    assert set(re.findall(r"`[^`\n]+`", english)) <= set(re.findall(r"`[^`\n]+`", chinese))


def rows_of_models(page):
    """Returns the rows of a page's table of models by variant, each by the names of its columns."""
    tables = re.findall(r"^\|(.*)\|$", PAGES[page], flags=re.MULTILINE)
    lines = [[cell.strip() for cell in line.split("|")] for line in tables]
    (heads,) = [line for line in lines if "evaluated at" in line]
    rows = [line for line in lines if line[0] in ModelConfig.variants()]
    return {row[0]: dict(zip(heads, row, strict=True)) for row in rows}


def test_tables_of_models():
    rows = rows_of_models("README.md") | rows_of_models("docs/models.md")
    assert set(rows) == set(ModelConfig.variants())
    top1 = {(one.variant, one.weights): one.top1 for one in WEIGHT_SETS.values()}
    for variant, row in rows.items():
        config = ModelConfig.from_name(variant)
        cost = network_cost(config, config.eval_size, 1000)
        assert row["parameters, million"] == f"{cost.trainable / 1e6:.2f}"
        assert row["multiply-adds, billion"] == f"{cost.multiply_adds / 1e9:.2f}"
        assert row["evaluated at"] == str(config.eval_size)
        assert row["top-1"] == str(top1.get((variant, "imagenet"), ""))
        later = top1.get((variant, "imagenet21k-ft1k"))
        assert row.get("top-1, ImageNet-21k first", "") == str(later or "")
