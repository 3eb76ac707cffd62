"""The requests of `served_requests.py` against TensorFlow Serving itself, where it is there.

KEV2_MODEL_SERVER=/usr/bin/tensorflow_model_server python -m pytest tests/test_model_server.py
"""

import os
import re
import socket
import subprocess

import grpc
import pytest
from helpers.run_folders import write_export
from helpers.served_processes import wait_until
from helpers.served_requests import CHECKS, Endpoint, rest

from keras_effnetv2.serve.loaded_model import load_served_model

PROGRAM = os.environ.get("KEV2_MODEL_SERVER")

pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="KEV2_MODEL_SERVER does not name a tensorflow_model_server"
)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "model_server.txt"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory, log):
    folder = write_export(tmp_path_factory.mktemp("trees"))
    grpc_port, rest_port = free_ports(2)
    options = {
        "--port": grpc_port,
        "--rest_api_port": rest_port,
        "--model_name": "trees",
        "--model_base_path": folder,
    }
    words = [PROGRAM, *(f"{name}={value}" for name, value in options.items())]
    with (
        log.open("w") as lines,
        subprocess.Popen(words, stdout=lines, stderr=subprocess.STDOUT) as process,
        grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel,
    ):
        try:
            url = f"http://127.0.0.1:{rest_port}/v1/models/trees"

            def is_available():
                assert process.poll() is None, log.read_text()
                try:
                    return "AVAILABLE" in str(rest(url))
                except OSError:
                    return False

            wait_until(is_available)
            yield Endpoint("trees", url, channel, load_served_model(folder))
        finally:
            process.terminate()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_requests(endpoint, check):
    check(endpoint)


def test_the_warm_up_requests_were_run(endpoint, log):
    found = re.search(r"Number of warmup records read: (\d+)", log.read_text())
    assert found, log.read_text()
    assert found[1] == "3"
