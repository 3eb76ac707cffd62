"""The gRPC interface of a server process, by TensorFlow Serving's own stubs."""

import signal
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from helpers.run_folders import write_export
from helpers.served_models import COLOUR, GRAY
from helpers.served_processes import running, wait_until
from helpers.served_requests import CHECKS, PREDICT, Endpoint, arrays
from tensorflow_serving.apis import predict_pb2

from keras_effnetv2.cli.main import main
from keras_effnetv2.serve.loaded_model import load_served_model


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("trees"))


@pytest.fixture(scope="module")
def model(export):
    return load_served_model(export)


@pytest.fixture(scope="module")
def server(export):
    with running(export, "--grpc-port", "0") as server:
        yield server


@pytest.fixture(scope="module")
def endpoint(server, model):
    with grpc.insecure_channel(server.grpc) as channel:
        yield Endpoint(server.name, f"{server.address}v1/models/{server.name}", channel, model)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_requests(endpoint, check):
    check(endpoint)


def test_a_bad_picture_hurts_no_client_computed_with_it(endpoint, model):
    files = [COLOUR, b"no picture", GRAY] * 8
    expected = model.run("classify_bytes", {"image_bytes": np.array(files[:3], object)})

    def ask(file):
        return arrays(endpoint.predict("classify_bytes", {"image_bytes": [file]}))

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, files))
    for number, answer in enumerate(answers):
        assert answer["error"][0] == expected["error"][number % 3]
        np.testing.assert_allclose(answer["scores"][0], expected["scores"][number % 3], rtol=1e-5)


def test_a_port_in_use_is_one_clear_error(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", str(tmp_path), "--port", "0", "--grpc-port", str(port)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: Cannot listen on 127.0.0.1 port {port}: ")
    assert "Choose another port with --grpc-port" in error


def test_a_missing_package_names_the_extra():
    program = textwrap.dedent("""
        import sys
        import keras_effnetv2.serve.server
        for package in ("grpc", "tensorflow_serving"):
            assert package not in sys.modules  # the server needs neither
            sys.modules[package] = None
            try:
                import keras_effnetv2.serve.grpc_service
            except ImportError as error:
                print(error)
            del sys.modules[package]
    """)
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    for package, line in zip(
        ("grpc", "tensorflow_serving"), finished.stdout.splitlines(), strict=True
    ):
        assert line.startswith(f"Serving by gRPC needs the package {package}, ")
        assert line.endswith("pip install 'keras-effnetv2[serve,grpc]'")


def test_the_last_request_is_answered_and_the_process_ends_well(server, endpoint):
    """The last test here: it ends the server."""
    request = endpoint.predict_request("classify_bytes", {"image_bytes": [COLOUR]})
    go = threading.Event()

    def slowly():
        assert go.wait(30)
        yield request.SerializeToString()

    def is_active():
        with urllib.request.urlopen(f"{server.address}metrics") as numbers:
            return b"requests_active 1\n" in numbers.read()

    def refuses_others():
        with grpc.insecure_channel(server.grpc) as channel:
            call = channel.unary_unary(PREDICT).future(request.SerializeToString(), timeout=30)
            return call.code() is grpc.StatusCode.UNAVAILABLE

    late = endpoint.channel.stream_unary(PREDICT).future(slowly(), timeout=60)
    wait_until(is_active)
    server.process.send_signal(signal.SIGTERM)
    wait_until(refuses_others)
    go.set()
    answer = arrays(predict_pb2.PredictResponse.FromString(late.result()))
    assert answer["error"].tolist() == [b""]
    assert server.process.wait(timeout=30) == 0
