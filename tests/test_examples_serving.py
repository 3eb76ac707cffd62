"""The commands of examples/tf_serving/README.md, as printed there.

REST is asked of our own server, gRPC of a stand-in for TensorFlow Serving that hands the tensors of
a real `PredictRequest` to the signatures of an export and their answer back.
"""

import contextlib
import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from helpers.run_folders import write_export
from helpers.served_models import COLOUR, GRAY, NAMES
from helpers.served_processes import serving
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from keras_effnetv2.cli.main import parse
from keras_effnetv2.serve.loaded_model import load_served_model, newest_version

FOLDER = Path(__file__).parent.parent / "examples" / "tf_serving"
BLOCKS = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text("utf-8"), flags=re.DOTALL)
BAD = "refused: not a JPEG, PNG, BMP, GIF or WebP picture"


def commands(program):
    """Return the blocks that run a program, alone in a line or at the end of a pipe."""
    return [block for block in BLOCKS if re.search(rf"(^|\| ){program} ", block, re.MULTILINE)]


CURL = commands("curl")
CLIENTS = commands("python")
KINDS = pytest.mark.parametrize("command", CLIENTS, ids=["REST", "gRPC"])


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers `Predict` with the signatures of a SavedModel, as TensorFlow Serving does."""

    def __init__(self, model):
        self.model = model

    def Predict(self, request, context):
        spec = request.model_spec
        if spec.name != "photos":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found: Latest({spec.name})")
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        answer = self.model.run(spec.signature_name or "serving_default", inputs)
        outputs = {name: tf.make_tensor_proto(values) for name, values in answer.items()}
        for output in outputs.values():  # as the server sends them: no packed numbers
            if output.dtype == tf.float32.as_datatype_enum:
                output.float_val.extend(tf.make_ndarray(output).ravel())
        return predict_pb2.PredictResponse(model_spec=spec, outputs=outputs)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_export(tmp_path_factory.mktemp("served") / "photos")
    return load_served_model(newest_version(folder))


@pytest.fixture(scope="module")
def ports(model):
    """Return the ports of a server for REST, and of one for gRPC."""
    with (
        serving(model, "photos") as (_, rest),
        ThreadPoolExecutor(1) as pool,
        stopped(grpc.server(pool)) as server,
    ):
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(model), server
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield rest, port


@contextlib.contextmanager
def stopped(server):
    try:
        yield server
    finally:
        server.stop(0)


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "cat.jpg").write_bytes(COLOUR)
    (tmp_path / "dog.png").write_bytes(GRAY)
    return tmp_path


def run(block, ports, folder):
    """Run a block of the README in a folder with pictures, at the ports of a server."""
    for old, new in {
        "localhost:8501": f"127.0.0.1:{ports[0]}",
        "localhost:8500": f"127.0.0.1:{ports[1]}",
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
    assert (len(CURL), len(CLIENTS), len(others)) == (4, 2, 3)
    ours = [block for block in others if block.startswith("keras-effnetv2 ")]
    for block in ours:
        parse(shlex.split(block)[1:])
    (docker,) = (shlex.split(block) for block in others if block not in ours)
    assert docker[:2] == ["docker", "run"]
    assert "MODEL_NAME=photos" in docker


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl on this machine")
def test_curl(ports, pictures):
    description, predict, classify, upload = (run(block, ports, pictures) for block in CURL)
    for finished in (description, predict, classify, upload):
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
    cat, dog = json.loads(upload.stdout)["predictions"]
    assert (cat["classes"], dog["error"]) == (row["classes"], "")


@KINDS
def test_clients_name_classes_and_tell_of_bad_pictures(ports, pictures, command, model):
    (pictures / "bad.jpg").write_bytes(b"no picture")
    finished = run(f"{command.rstrip()} missing.jpg bad.jpg dog.png", ports, pictures)
    assert (finished.returncode, finished.stderr) == (1, "")
    cat, dog, *rest, again = finished.stdout.splitlines()
    assert rest == ["missing.jpg  error: No such file or directory", f"bad.jpg  {BAD}"]
    assert again == dog
    answer = model.run("classify_bytes", {"image_bytes": np.array([COLOUR, GRAY], object)})
    for name, line, classes, scores in zip(
        ("cat.jpg", "dog.png"), (cat, dog), answer["classes"], answer["scores"], strict=True
    ):
        assert line == f"{name}  {scores[0]:7.2%}  {classes[0].decode()}"
    assert run(command, ports, pictures).returncode == 0


@KINDS
def test_clients_tell_of_a_wrong_name_and_that_nobody_answers(ports, pictures, command):
    wrong = run(command.replace("photos", "oaks"), ports, pictures)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        late = run(f"{command.rstrip()} --timeout 0.3", (port, port), pictures)
    nobody = run(command, (port, port), pictures)
    for finished, reason in (
        (wrong, "oaks"),
        (late, "timed out|DEADLINE_EXCEEDED"),
        (nobody, "refused"),
    ):
        assert (finished.returncode, finished.stdout) == (1, "")
        assert finished.stderr.startswith("error: ")
        assert re.search(reason, finished.stderr)
        assert "Traceback" not in finished.stderr
