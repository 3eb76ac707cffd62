"""The command line: the main job in words, exit codes, and one clear error for each bad input."""

import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from helpers.command_line import command
from helpers.photos import COLOURS, write_colour_run, write_photos, write_picture
from helpers.quick_runs import dark_and_light, leave_out_operations, step_eagerly, two_blocks
from helpers.run_folders import recorded_settings

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.main import main, parse
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.runs.run_folder import read_settings, write_settings

COMMANDS = (
    *("train", "evaluate", "predict", "export", "serve", "benchmark", "search", "search show"),
    *("info", "weights", "weights fetch", "weights convert", "weights verify", "pack"),
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    return write_colour_run(tmp_path_factory.mktemp("runs") / "colours", photos)


TRAIN = "train --epochs 1 --image-size 32 --model net.json"
SAID = (
    "1 stage instead of 4: every stage needs an epoch.",
    "warning: The 29 training pictures do not fill one batch of 32.",
    "29 for training, 7 for validation",
    "3: blue, green, red",
    "Judging the network and writing the run folder ...",
    "report.html",
)
RUN_FILES = {
    *("model.keras", "saved_model", "labels.txt"),
    *("recipe.json", "history.csv", "pictures.csv", "confusion.csv", "report.html"),
}


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The current folder, with a network to train."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.json").write_text(two_blocks().to_json(), encoding="utf-8")
    return tmp_path


def test_train_on_a_folder(photos, scratch, capsys, monkeypatch):
    """The main job."""
    leave_out_operations(monkeypatch)
    step_eagerly(monkeypatch)
    output = scratch / "a run"
    code, out, err = command(capsys, *TRAIN.split(), "--data", photos, "--output", output)
    assert code == 0, err
    assert [line for line in SAID if line not in out] == []
    assert {path.name for path in output.iterdir()} == RUN_FILES


def run_afresh(*words):
    """The output of a command as a person types it: a process of its own, TensorFlow as it is."""
    # What Keras and TensorFlow would import for parts of theirs that no command uses.
    program = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('in vain:', {'jax', 'sklearn'} & set(sys.modules)))\n"
        "runpy.run_module('keras_effnetv2', run_name='__main__')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    command = [sys.executable, "-c", program, *words]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "in vain: set()" in result.stdout
    assert "Traceback" not in result.stderr
    assert "WARNING" not in result.stderr
    return result.stdout


@pytest.mark.slow  # a process that trains; the next test has one that predicts
def test_train_on_a_folder_in_a_fresh_process(photos, scratch):
    said = run_afresh(*TRAIN.split(), "--data", photos, "--output", "a run")
    assert [line for line in SAID if line not in said] == []
    assert {path.name for path in (scratch / "a run").iterdir()} == RUN_FILES


def test_predict_in_a_fresh_process(run, photos):
    assert " red\n" in run_afresh("predict", run, photos / "red" / "0.png")


@pytest.mark.slow  # a process that trains
def test_a_failure_while_training_ends_the_process(tmp_path):
    """Threads that still read must not keep it; a scheduler would wait for ever."""
    photos = dark_and_light(tmp_path / "photos", 400)
    (tmp_path / "net.json").write_text(two_blocks().to_json(), encoding="utf-8")
    words = "-m keras_effnetv2 train --epochs 3 --stages 1 --image-size 32 --batch-size 4 --no-scan"
    words += f" --set randaugment_magnitude=off --model net.json --data {photos} --output run"
    process = subprocess.Popen(
        [sys.executable, *words.split()],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "run/backup/after-0-epochs.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    for path in sorted(photos.rglob("*.png"))[::40]:
        path.unlink()
    error = process.communicate(timeout=200)[1]
    assert process.returncode == 1
    assert re.search("^error: [1-4] pictures? cannot be used", error, re.MULTILINE)
    assert "--skip-bad" in error.splitlines()[-1]


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "Train a classifier on pictures"),  # all of the help
        (["retrain"], "Did you mean 'train'?"),
        (["trian"], "Did you mean 'train'?"),
        (["weights", "convrt", "x"], "Did you mean 'convert'?"),
        (["train", "--dat", "digits"], "--data"),
        (["train", "--data", "digits"], "Missing option '--output'"),
        (["train", "--data", "digits", "--output", "--overwrite"], "--output: a value is missing"),
        (["train", "--data", "digits", "--output", "x", "--preview", "--resume"], "--preview"),
        (["weights", "--variant", "eficientnetv2-xl"], 'Did you mean "efficientnetv2-xl"?'),
        (["predict", "run"], "PICTURE"),
        (["export", "run", "--format", "pickle"], "openvino"),
        (["pack", "--data", "x", "--verify", "x"], "one of the two"),
        (["pack"], "one of the two"),
        (["benchmark", "b0", "--batch-sizes"], "--batch-sizes"),
        (["weights", "fetch"], "NAME"),
        (["weights", "convert", "x"], "OUTPUT"),
    ],
)
def test_wrong_usage_exits_with_2(words, expected, capsys):
    code, out, err = command(capsys, *words)
    assert (code, out) == (2, "")
    assert "Usage:" in err or "requires an argument" in err
    assert expected in err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["search", "redis://:secret@host"], 2),
        (["info", "redis://:secret@host"], 1),
    ],
)
def test_errors_have_no_passwords(words, code, capsys):
    found, out, err = command(capsys, *words)
    assert (found, out) == (code, "")
    assert "redis://:***@host" in err


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_fits_into_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = command(capsys, *name.split(), "--help")
    assert (code, out) == command(capsys, *name.split(), "-h")[:2]
    assert code == 0
    _, _, examples = out.partition("\nExample:\n")
    for line in re.sub(r"\s*\\\n\s*", " ", examples).splitlines():
        words = line.partition("#")[0].partition(">")[0].split()
        assert parse(words[1:]).command_path.startswith(f"keras-effnetv2 {name.split()[0]}")
    assert max(map(len, out.splitlines())) <= 80
    assert "\x1b" not in out


def test_version_and_help_name_the_program(capsys):
    assert command(capsys, "--version")[1].startswith("keras-effnetv2 ")
    _, out, _ = command(capsys, "--help")
    assert {line.split()[0] for line in out.splitlines() if line.startswith("  ")} >= {
        name for name in COMMANDS if " " not in name
    }


def test_help_of_train_has_every_preset_and_the_values_of_the_default_one(capsys):
    text = re.sub(r"\s+", " ", re.sub(r"-\n +", "-", command(capsys, "train", "--help")[1]))
    assert all(name in text for name in PRESETS)
    assert "pixels, or one number. [finetune: auto]" in text
    assert f"training pictures. [finetune: {PRESETS['finetune']['epochs']}]" in text


def test_options_take_several_words_and_stand_on_either_side_of_an_action():
    words = "benchmark all --formats onnx litert:int8 --batch-sizes 1 --threads 2"
    values = parse(words.split()).params
    assert (values["formats"], values["batch_sizes"]) == (["onnx", "litert:int8"], [1])
    words = "search --layer-offsets -1 0 1 --trials 3 --no-scan"
    values = parse(words.split()).params
    assert (values["layer_offsets"], values["trials"], values["scan"]) == ([-1, 0, 1], 3, False)
    before, after = "weights --variant efficientnetv2-s --json", "convert a b"
    assert parse([*before.split(), *after.split()]).params["variant"] == "efficientnetv2-s"
    words = "search --storage journal:x show mine"
    assert parse(words.split()).params["storage"] == "journal:x"


def test_completion_knows_commands_and_options():
    def complete(words):
        settings = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        result = subprocess.run(
            [sys.executable, "-c", "from keras_effnetv2.cli.main import main; main([])"],
            env={**os.environ, **settings, "_KERAS_EFFNETV2_COMPLETE": "complete_bash"},
            capture_output=True,
            text=True,
        )
        return result.stdout.split()

    assert complete("keras-effnetv2 ev") == ["evaluate"]
    assert complete("keras-effnetv2 train --mix") == ["--mixup-alpha"]


def test_what_is_missing_is_said_before_tensorflow_is_imported(tmp_path):
    """And in the words of the command line."""
    for name, finished in (("run", True), ("half", False)):
        (tmp_path / name).mkdir()
        write_settings(tmp_path / name, recorded_settings(finished=finished))
    for name in ("cat/cat", "two/been", "two/gone", "empty", "run/saved_model/1"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("cat/cat", "two/been", "two/gone"):
        (tmp_path / name / "1.jpg").touch()
    (tmp_path / "table.csv").write_text("picture,kind\n1.jpg,cat\n")
    commands = {
        "train --output x --data empty": "empty",
        "train --output x --data cat": "only one class",
        "search --trials 30 --data cat": "only one class",
        "evaluate efficientnetv2-b0 --data cat/cat": "no class folders",
        "train --output x --data csv:table.csv": "path",
        "train --output cat --data digits": "cat exists and is not the folder of a run",
        "train --output half --data digits": "half already holds a run",
        "train --output run --data digits --resume": "nothing to resume",
        "train --output half --data digits --resume --overwrite": "not both",
        "train --output x --data nowhere": "--data",
        "train --output x --data csv:nowhere.csv": "nowhere.csv",
        "train --output x --data digits --model eficientnetv2-xl": '"efficientnetv2-xl"?',
        "info resnet50": "VARIANT_OR_FILE",
        "search --data digits --trials 30 --backbone b9": "--backbone",
        "train --output x --data digits --preset quikstart": "--preset",
        "train --output x --data digits --weights nowhere.h5": "--weights",
        "train --output x --data digits --recipe nowhere.json": "--recipe",
        "train --output x --data digits --recipe run/recipe.json --preset probe": "Choose one",
        "train --output x --data digits --recipe table.csv": "--recipe: table.csv is not",
        "train --output x --data two --class-weights bee=2": 'have. Did you mean "been"?',
        **{
            f"train --output x --data digits {words}": expected
            for words, expected in {
                "--epochs 0": "--epochs must be an integer of at least 1. Received: 0",
                "--batch-size 16:0": "--batch-size must",
                "--learning-rate -1": "--learning-rate must be a number above 0. Received: -1.0",
                "--image-size 7": "--image-size must be an integer of at least 8. Received: 7",
                "--image-size 64:32": "--image-size must be one size or (first stage, last stage)",
                "--evaluation-size 7": "--evaluation-size must",
                "--dropout-rate 1": "--dropout-rate must",
                "--crop-area 0:2": "--crop-area must",
                "--preset imagenet-paper": "has the rows of the paper",
                "--weights imagenet --batch-size 16:32": "needs the same batch size",
                "--validation-fraction 1": "--validation-fraction must be a number above 0",
                "--max-train-examples 0": "--max-train-examples must",
                "--class-weights balanced --balanced": "Choose one of them",
                "--class-weights 1=2,1": "--class-weights coat=2,dress=0.5, or a JSON file",
                "--class-weights 1=2,1=3": "Received: '1=2,1=3'",
                "--set class_weights=no.json": "'no.json' cannot be read",
                "--class-weights 1=0": '--class-weights must be "balanced", or a number from 1e-6',
                "--patience 0": "--patience must be an integer of at least 1, or None. Received: 0",
                "--max-minutes 0": "--max-minutes must be a number above 0",
            }.items()
        },
        "evaluate nowhere --data digits": "There is no folder 'nowhere'. A network is",
        "predict eficientnetv2-b0 x.png": '"efficientnetv2-b0"?',
        "evaluate empty --data digits": "empty is not the folder of a run: it has no recipe.json",
        "predict table x.png": "There is no folder 'table'",
        "predict gone.onnx x.png": "There is no file 'gone.onnx'",
        "predict run x.png --min-score 2": "--min-score must be a number from 0 to 1",
        "predict run x.png --csv x.txt": "--csv must be a file that ends in .csv",
        "predict run --from-file gone.txt": "--from-file: There is no file 'gone.txt'",
        "evaluate run --data nowhere": "--data",
        "evaluate run --data digits --weights imagenet": "--weights is for a variant only",
        "evaluate run --data digits --protocol timm": "--protocol is for a variant only",
        "evaluate efficientnetv2-xl --data digits": "'imagenet21k', 'imagenet21k-ft1k'",
        "predict efficientnetv2-b0 x.png --weights imagenet22k": '"imagenet21k"?',
        "predict efficientnetv2-b0 x.png --embeddings x.npy": "--embeddings",
        "export nowhere": "There is no folder 'nowhere'. A network is",
        "export run --version 1": "run/saved_model/1 exists, and a version that may be served",
        "export run --version 0": "--version must be an integer of at least 1, or None",
        "export run --format onnx --output table.csv": "The path must end in .onnx",
        "export run --pictures nowhere": "--pictures",
        **{
            f"{words} half{rest}": "The run in half is not finished. Resume it: keras-effnetv2"
            for words, rest in (
                ("evaluate --data digits", ""),
                *(("predict", " x.png"), ("export", ""), ("serve", ""), ("push", " hf://a/b")),
            )
        },
        "push empty hf://a/b": "empty is not the folder of a run",
        "serve nowhere": "RUN must be the folder of a finished run, or the FOLDER of",
        "search --trials 3": "--data",
        "search --data digits --trials 3": "3 trials would all be random",
        "search --data digits --trials 30 --image-size 7": "--image-size must",
        "pack --data nowhere --output x": "--data",
        "pack --data foo:bar --output x": "Unknown kind of source 'foo:'",
        "pack --data digits --output x --shards 0": "--shards must",
        "train --data tfds: --output x": "'tfds:' does not name any data",
        "train --data digits --output x --workers 0": "--workers must",
        "evaluate run --data digits --batch-size 0": "--batch-size must",
        "serve run --port 65536": "--port must be an integer from 0 to 65535",
    }
    program = (
        "import sys, json\nfrom keras_effnetv2.cli.main import main\n"
        f"codes = [main(words.split()) for words in {list(commands)}]\n"
        "print(set(codes), {'tensorflow', 'keras', 'jax'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stdout == "{1} set()\n"
    lines = result.stderr.splitlines()
    assert len(lines) == len(commands)
    for line, expected in zip(lines, commands.values(), strict=True):
        assert line.startswith("error: ")
        assert expected in line
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {"run", "half", "cat", "two", "empty", "table.csv"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("info efficientnetv2-s", "21.46 million trainable, 21,612,360 in all"),
        ("info efficientnet-lite0 --image-size 224 --classes 10", "0.38 billion at 224 x 224"),
        ("weights --variant efficientnetv2-s", "efficientnetv2-s/imagenet21k"),
        ("predict --help", "--embeddings FILE.npz"),
        ("train --help", "--max-train-examples"),
    ],
)
def test_what_is_known_is_said_without_keras(words, expected):
    program = (
        "import sys, atexit\nfrom keras_effnetv2.cli.main import main\n"
        "slow = {'tensorflow', 'keras', 'jax', 'numpy', 'h5py', 'matplotlib', 'requests'}\n"
        "atexit.register(lambda: print(slow & set(sys.modules)))\n"
        f"main({words.split()})"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert expected in result.stdout
    assert result.stdout.endswith("\nset()\n")


@pytest.mark.parametrize("option", ["--image-size", "--classes"])
def test_info_refuses_a_size_of_0(option, capsys):
    code, out, err = command(capsys, "info", "efficientnetv2-b0", option, 0)
    assert (code, out) == (1, "")
    assert err == f"error: {option} must be an integer of at least 1. Received: 0\n"


def test_predict_says_what_is_no_picture_file_before_tensorflow_is_imported(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "hole.jpg").touch()
    os.truncate(tmp_path / "hole.jpg", 6 * 10**9)
    program = (
        "import sys\nfrom keras_effnetv2.cli.main import main\n"
        "words = 'predict b0 no*.jpg missing.jpg pipe.jpg /dev/zero hole.jpg s3://a/b.jpg'\n"
        "print(main(words.split()), {'tensorflow', 'keras', 'numpy'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.stderr.startswith("error: 6 of 6 pictures cannot be read:\n  'no*.jpg': no file")
    assert [line.split(maxsplit=1) for line in result.stdout.splitlines()] == [
        ["no*.jpg", "error: no file matches this pattern"],
        ["missing.jpg", "error: cannot be read: No such file or directory"],
        ["pipe.jpg", "error: not a regular file"],
        ["/dev/zero", "error: not a regular file"],
        [
            "hole.jpg",
            "error: 6,000,000,000 bytes are too many for a picture: at most 268,435,456 are read",
        ],
        ["s3://a/b.jpg", "error: an address must begin with http:// or https://"],
        ["1", "set()"],
    ]


@pytest.mark.parametrize(
    "words",
    ["evaluate . --data digits --debug", "weights --debug fetch x", "weights fetch x --debug"],
)
def test_debug_shows_the_traceback(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.json|VARIANT/SET"):
        main(words.split())


# --- commands on a run --------------------------------------------------------------------------


def test_evaluate_uses_what_the_run_held_back(run, photos, capsys):
    code, out, err = command(capsys, "evaluate", run, "--data", photos)
    assert code == 0, err
    figures = dict(line.split() for line in out.splitlines() if len(line.split()) == 2)
    assert (figures["run"], figures["split"]) == (str(run), "validation")
    assert (figures["pictures"], figures["accuracy"]) == ("7", "1.0000")
    assert {line.split()[0] for line in out.splitlines()[-3:]} == set(COLOURS)


def test_evaluate_other_data_wholly_and_a_test_folder_by_itself(run, tmp_path, capsys):
    other = write_photos(tmp_path / "other", count=2)
    (other / "red" / "broken.png").write_bytes(b"hello")
    words = ("evaluate", run, "--data", other, "--json")
    code, _, err = command(capsys, *words)
    assert code == 1
    assert "--skip-bad" in err
    _, out, err = command(capsys, *words, "--skip-bad")
    result = json.loads(out)
    assert (result["split"], result["pictures"], result["left_out"]) == ("all", 6, 1)
    assert "broken.png" in err
    table = tmp_path / "table.csv"
    rows = ["path,label,split", "other/red/broken.png,red,test", "other/red/0.png,red,predict"]
    table.write_text("\n".join(rows))
    _, _, err = command(capsys, "evaluate", run, "--data", f"csv:{table}")
    assert re.match(r"note: Not used: 1 row of .*\nerror: .*cannot be used", err)
    split = tmp_path / "split"
    write_photos(split / "train", count=3)
    write_photos(split / "test", count=1)
    _, out, _ = command(capsys, "evaluate", run, "--data", split, "--json")
    assert (json.loads(out)["split"], json.loads(out)["pictures"]) == ("test", 3)
    write_picture(other / "violet" / "1.png", (200, 0, 200))
    code, _, err = command(capsys, "evaluate", run, "--data", other)
    assert code == 1
    assert "'violet'" in err


def test_predict_a_table_and_one_bad_picture_that_does_not_hide_the_others(
    run, photos, tmp_path, capsys
):
    pictures = [photos / name / "0.png" for name in COLOURS]
    code, out, _ = command(capsys, "predict", run, *pictures, "--top", 2)
    assert code == 0
    assert len(out.splitlines()) == 6
    assert [line.split()[-1] for line in out.splitlines()[::2]] == list(COLOURS)
    (tmp_path / "text.jpg").write_text("no picture")
    words = ("predict", run, tmp_path / "text.jpg", tmp_path / "missing.png", pictures[0])
    code, out, _ = command(capsys, *words, "--json")
    bad, missing, good = map(json.loads, out.splitlines())
    assert code == 1
    assert "not a JPEG" in bad["error"]
    assert missing["error"] == "cannot be read: No such file or directory"
    assert good["picture"] == str(pictures[0])
    assert sum(found["score"] for found in good["classes"]) == pytest.approx(1, abs=1e-5)


def test_names_cannot_steer_the_terminal(photos, tmp_path, capsys):
    run = write_colour_run(tmp_path / "run", photos)
    red = "r\x1b[2J\u202eé"
    (run / "labels.txt").write_text(f"blue\ngreen\n{red}\n", encoding="utf-8")
    write_settings(run, replace(read_settings(run), class_names=("blue", "green", red)))
    picture = tmp_path / "a\n\x1b]0;x\x07.png"
    picture.write_bytes(tf.io.encode_png(np.full((8, 8, 3), (255, 0, 0), np.uint8)).numpy())
    missing = tmp_path / "b\nerror: c"
    code, out, err = command(capsys, "predict", run, picture, missing, "--top", 1)
    assert code == 1
    name = r"b\nerror: c"
    assert err == (
        "error: 1 of 2 pictures cannot be read:\n"
        f"  '{tmp_path}/{name}': cannot be read: No such file or directory\n"
    )
    shown = rf"{tmp_path}/a\n\u001b]0;x\u0007.png"
    other = rf"{tmp_path}/b\nerror: c".ljust(len(shown))
    score, name = "96.47%", r"r\u001b[2J\u202eé"
    assert out.splitlines() == [
        f"{shown}   {score}  {name}",
        f"{other}  error: cannot be read: No such file or directory",
    ]
    code, out, _ = command(capsys, "predict", run, picture, "--top", 1, "--json")
    assert out.isascii()
    found = json.loads(out)
    assert (found["picture"], found["classes"][0]["class"]) == (str(picture), red)
    code, out, err = command(capsys, "evaluate", missing, "--data", photos)
    assert (code, out) == (1, "")
    assert all(line.startswith(("error: ", "  ")) for line in err.splitlines())


def test_export_into_another_folder_and_predict_as_the_export_does(run, photos, tmp_path, capsys):
    words = ("export", run, "--output", tmp_path / "served", "--version", 7)
    code, out, _ = command(capsys, *words)
    assert code == 0
    assert out.splitlines()[0] == str(tmp_path / "served" / "7")
    path = photos / "red" / "3.png"
    _, out, _ = command(capsys, "predict", run, path, "--json")
    mine = json.loads(out)
    served = tf.saved_model.load(str(tmp_path / "served" / "7")).signatures["classify_bytes"]
    theirs = served(image_bytes=tf.constant([path.read_bytes()]))
    assert [c["class"] for c in mine["classes"]] == [
        name.decode() for name in theirs["classes"].numpy()[0]
    ]
    np.testing.assert_allclose(
        [c["score"] for c in mine["classes"]], theirs["scores"].numpy()[0], atol=1e-6
    )
    code, _, err = command(capsys, *words)
    assert code == 1
    assert "exists, and a version that may be served is not overwritten" in err


def test_info(capsys):
    code, out, _ = command(capsys, "info", "efficientnetv2-b0")
    assert code == 0
    assert "7.14 million trainable" in out
    assert "0.72 billion at 224 x 224" in out
    assert "Fused-MBConv4, k3x3" in out
    assert "swish" in out
    _, out, _ = command(capsys, "info", "efficientnetv2-b0", "--json")
    assert ModelConfig.from_json(out) == ModelConfig.from_name("efficientnetv2-b0")


# --- what cannot be trained on ------------------------------------------------------------------


def bad_folders(root):
    """Name -> (a source that cannot be trained on, what the error must say)."""
    (root / "empty").mkdir()
    write_picture(root / "one class" / "red" / "1.png", (255, 0, 0))
    write_picture(root / "one class" / "red" / "2.png", (255, 0, 0))
    write_photos(root / "single", count=3)
    write_picture(root / "single" / "violet" / "1.png", (255, 0, 255))
    write_photos(root / "loop", count=3)
    (root / "loop" / "red" / "again").symlink_to(root / "loop")
    write_photos(root / "broken", count=6)
    whole = (root / "broken" / "red" / "0.png").read_bytes()
    (root / "broken" / "red" / "cut 'quoted'.png").write_bytes(whole[: len(whole) // 2])
    (root / "broken" / "red" / "nothing.jpg").write_bytes(b"")
    (root / "broken" / "red" / "text.jpg").write_bytes(b"hello")
    (root / "label.csv").write_text("path,label\nloop/red/0.png,red\n,blue\n")
    bad = "3 pictures cannot be used", "cut 'quoted'.png", "nothing.jpg", "empty", "text.jpg"
    return {
        str(root / "empty"): ["no class folders"],
        str(root / "missing"): ["missing"],
        str(root / "one class"): ["one class"],
        str(root / "single"): ["violet"],
        str(root / "loop"): ["loop"],
        str(root / "broken"): [*bad, "--skip-bad"],
        f"csv:{root / 'label.csv'}": ["line 3"],
        "webdav:photos": ["Unknown kind of source"],
        "tfds:no_such_set_anywhere": ["no_such_set_anywhere"],
    }


def test_every_bad_source_is_one_clear_error(tmp_path, capsys):
    for spec, expected in bad_folders(tmp_path).items():
        output = tmp_path / "out"
        code, _, err = command(capsys, "train", "--data", spec, "--output", output)
        assert code == 1, spec
        assert err.startswith("error: "), err
        for words in expected:
            assert words in err, (spec, err)
        assert "Traceback" not in err
        assert not output.exists()


def test_wrong_settings_are_one_clear_error(photos, tmp_path, capsys):
    for name, text in (("deep", "[" * 10**5), ("other", '{"flour": 1}'), ("bad", '{"recipe": 5}')):
        (tmp_path / f"{name}.json").write_text(text)
    for words, expected in (
        (("--preset", "slow"), "quickstart"),
        (("--recipe", tmp_path / "deep.json"), "deep.json is not a recipe: its brackets are"),
        (("--recipe", tmp_path / "other.json"), "other.json is not a recipe: It has unknown names"),
        (("--recipe", tmp_path / "bad.json"), "bad.json is not a recipe: A recipe must be an"),
        (("--stages", "0"), "--stages must be"),
        (("--validation-fraction", "0.01"), "--validation-fraction"),
        (("--max-train-examples", "2"), "3 (one picture per class)"),
        (("--image-size", "7:64"), "--image-size must"),
        (("--evaluation-size", "7"), "--evaluation-size must"),
        (("--recipe", photos / "red" / "0.png"), "0.png is not a recipe"),
    ):
        output = tmp_path / "out"
        code, out, err = command(capsys, "train", "--data", photos, "--output", output, *words)
        assert code == 1, words
        assert expected in err, (words, err)
        assert "weights" not in out or words[0] in ("--validation-fraction", "--max-train-examples")
        assert not output.exists()


def test_an_existing_run_is_not_touched(run, photos, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    for words, expected in (((), "--overwrite"), (("--resume",), "finished")):
        code, _, err = command(capsys, "train", "--data", photos, "--output", run, *words)
        assert code == 1
        assert expected in err
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_variant_whose_weights_cannot_be_fetched_says_so(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_EFFNETV2_MIRROR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://localhost:9")  # refuses, so nothing leaves here
    code, out, err = command(capsys, "predict", "efficientnetv2-b0", photos / "red" / "0.png")
    assert (code, out) == (1, "")
    assert "efficientnetv2-b0/imagenet are not in the cache and could not be downloaded" in err
