"""A client that sends slowly, over a socket: its place is given back, and others are answered."""

import contextlib
import socket

import pytest
from helpers.run_folders import write_export
from helpers.served_processes import serving, wait_until

from keras_effnetv2.serve.loaded_model import load_served_model

POST = b"POST /v1/models/trees:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
CLOSE = b"Connection: close\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return a service that takes one request at a time, and its port."""
    model = load_served_model(write_export(tmp_path_factory.mktemp("trees")))
    with serving(model, "trees", max_requests=1, receive_timeout=0.3) as server:
        yield server


def answer(connection):
    """Return the first line of what comes until the server closes; fail after half a minute."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).partition(b"\r\n")[0]


def test_a_slow_body_holds_its_place_no_longer_than_allowed(server):
    service, port = server
    answers = []

    def is_taken():
        with socket.create_connection(("127.0.0.1", port), timeout=30) as other:
            other.sendall(POST + b"2\r\n" + CLOSE + b"\r\n{}")
            answers.append(answer(other))
        return b"503" not in answers[-1]

    with socket.create_connection(("127.0.0.1", port), timeout=30) as slow:
        slow.sendall(POST + b"9999\r\n\r\n{")
        wait_until(lambda: service.active)
        assert not is_taken()
        wait_until(is_taken)
        assert answer(slow) == b"HTTP/1.1 408 Request Timeout"
    assert answers[-1] == b"HTTP/1.1 400 Bad Request"  # "{}" is no request
    assert service.active == 0
