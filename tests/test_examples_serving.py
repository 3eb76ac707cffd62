"""The commands of examples/tf_serving/README.md, as printed there, against our own server."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.run_folders import write_export
from helpers.served_models import COLOUR, GRAY, NAMES
from helpers.served_processes import running

from keras_effnetv2.cli.parser import make_parser

FOLDER = Path(__file__).parent.parent / "examples" / "tf_serving"
BLOCKS = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text("utf-8"), flags=re.DOTALL)
BAD = "refused: not a JPEG, PNG, BMP, GIF or WebP picture"


def commands(program):
    """Return the blocks that run a program, alone in a line or at the end of a pipe."""
    return [block for block in BLOCKS if re.search(rf"(^|\| ){program} ", block, re.MULTILINE)]


CURL = commands("curl")
CLIENTS = commands("python")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = write_export(tmp_path_factory.mktemp("served") / "photos")
    with running(folder, "--grpc-port", "0") as server:
        yield server


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(COLOUR)
    (tmp_path / "dog.png").write_bytes(GRAY)
    return tmp_path


def run(block, server, folder):
    """Run a block of the README in a folder with pictures, at the ports of a server."""
    for old, new in {
        "localhost:8501": f"localhost:{server.port}",
        "localhost:8500": server.grpc,
        "python examples/tf_serving": f"{shlex.quote(sys.executable)} {shlex.quote(str(FOLDER))}",
        "curl ": "curl --silent --show-error --fail-with-body --noproxy '*' ",
    }.items():
        block = block.replace(old, new)
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", block], capture_output=True, text=True, cwd=folder
    )


def test_every_block_is_looked_at():
    """By the tests below; docker is not there."""
    others = [block for block in BLOCKS if block not in (*CURL, *CLIENTS)]
    assert (len(CURL), len(CLIENTS), len(others)) == (3, 2, 3)
    ours = [block for block in others if block.startswith("keras-effnetv2 ")]
    for block in ours:
        make_parser().parse_args(shlex.split(block)[1:])
    (docker,) = (shlex.split(block) for block in others if block not in ours)
    assert docker[:2] == ["docker", "run"]
    assert "MODEL_NAME=photos" in docker


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_curl(server, pictures):
    description, predict, classify = (run(block, server, pictures) for block in CURL)
    for finished in (description, predict, classify):
        assert finished.returncode == 0, finished.stderr
    status, end = json.JSONDecoder().raw_decode(description.stdout)
    metadata = json.loads(description.stdout[end:])
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert metadata["model_spec"]["name"] == "photos"
    (row,) = json.loads(predict.stdout)["predictions"]
    assert row["error"] == ""
    assert set(row["classes"]) < set(NAMES)
    (pairs,) = json.loads(classify.stdout)["results"]
    assert [name for name, _ in pairs] == row["classes"]


@pytest.mark.parametrize("command", CLIENTS, ids=["REST", "gRPC"])
def test_clients(server, pictures, command):
    finished = run(command, server, pictures)
    assert (finished.returncode, finished.stderr) == (0, "")
    cat, dog = finished.stdout.splitlines()
    pattern = rf"  +\d+\.\d\d%  ({'|'.join(NAMES)})"
    assert re.fullmatch(r"cat\.jpg" + pattern, cat)
    assert re.fullmatch(r"dog\.png" + pattern, dog)


@pytest.mark.parametrize("command", CLIENTS, ids=["REST", "gRPC"])
def test_clients_tell_of_bad_pictures_and_go_on(server, pictures, command):
    (pictures / "cat.jpg").write_bytes(b"no picture")
    finished = run(f"{command.rstrip()} missing.jpg cat.jpg dog.png", server, pictures)
    assert (finished.returncode, finished.stderr) == (1, "")
    lines = finished.stdout.splitlines()
    assert [line for line in lines if "%" not in line] == [
        f"cat.jpg  {BAD}",
        "missing.jpg  error: No such file or directory",
        f"cat.jpg  {BAD}",
    ]
    assert len(lines) == 5


@pytest.mark.parametrize("command", CLIENTS, ids=["REST", "gRPC"])
def test_clients_tell_of_a_wrong_name_and_that_nobody_listens(server, pictures, command):
    wrong = run(command.replace("photos", "oaks"), server, pictures)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "Servable not found for request: Latest(oaks)" in wrong.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = run(re.sub("localhost:85..", f"127.0.0.1:{port}", command), server, pictures)
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr.startswith("error: ")
    assert "refused" in nobody.stderr
    assert "Traceback" not in nobody.stderr


@pytest.mark.parametrize("command", CLIENTS, ids=["REST", "gRPC"])
def test_clients_do_not_wait_for_ever(server, pictures, command):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        words = re.sub("localhost:85..", address, command).rstrip()
        finished = run(f"{words} --timeout 0.3", server, pictures)
    assert (finished.returncode, finished.stdout) == (1, "")
    assert re.search("timed out|DEADLINE_EXCEEDED", finished.stderr)
    assert "Traceback" not in finished.stderr
