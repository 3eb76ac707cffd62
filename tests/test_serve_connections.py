"""Clients that send slowly, over sockets: their connections end, and others are answered."""

import contextlib
import socket
import threading

import pytest
import uvicorn
from helpers.run_folders import write_export
from helpers.served_processes import wait_until

from keras_effnetv2.serve.app import make_app
from keras_effnetv2.serve.connections import bounded_protocol
from keras_effnetv2.serve.loaded_model import load_served_model
from keras_effnetv2.serve.service import ServerLimits, Service

LIMIT = 0.3  # seconds
DRIP = 0.05  # seconds between two bytes: as long as they come, uvicorn alone keeps a connection
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/models/trees:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    model = load_served_model(write_export(tmp_path_factory.mktemp("trees")))
    limits = ServerLimits(max_requests=1, receive_timeout=LIMIT)
    service = Service(model, "trees", limits)
    with service.computing():
        yield service


@pytest.fixture(scope="module")
def address(service):
    config = uvicorn.Config(make_app(service), http=bounded_protocol(LIMIT), log_level="critical")
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def connected(address):
    with socket.create_connection(address, timeout=30) as connection:
        yield connection


def drip(connection, stop):
    """Send a byte now and then until told to stop, or until the server has closed."""
    with contextlib.suppress(OSError):
        while not stop.wait(DRIP):
            connection.sendall(b"a")


def received(connection):
    """Return all that comes until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("sent", "drips", "answers"),
    [
        (b"", False, b""),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ", False, b""),
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Long: ", True, b""),
        (GET + b"GET /healthz HTTP/1.1\r\nX-Long: ", True, b"HTTP/1.1 200 OK"),
        (POST, False, b"HTTP/1.1 408 Request Timeout"),
        (POST, True, b"HTTP/1.1 408 Request Timeout"),
        # Answered at once; the rest of the body must not keep the connection.
        (POST.replace(b"predict", b"guess"), True, b"HTTP/1.1 400 Bad Request"),
        (POST.replace(b"POST", b"GET"), True, b"HTTP/1.1 400 Bad Request"),
    ],
)
def test_a_slow_client_is_not_waited_for(address, sent, drips, answers):
    stop = threading.Event()
    with connected(address) as connection:
        connection.sendall(sent)
        if drips:
            threading.Thread(target=drip, args=(connection, stop)).start()
        found = received(connection)  # fails after 30 seconds if the server does not close
        stop.set()
    assert found.partition(b"\r\n")[0] == answers


def test_a_slow_body_holds_its_place_no_longer(address, service):
    """Where one request is taken at a time, the next ones are refused until its time is over."""
    body = POST.replace(b"9999", b"2").replace(b"Host", b"Connection: close\r\nHost") + b"{}"
    answers = []

    def is_taken():
        with connected(address) as other:
            other.sendall(body)
            answers.append(received(other).partition(b"\r\n")[0])
        return b"503" not in answers[-1]

    with connected(address) as slow:
        slow.sendall(POST)
        wait_until(lambda: service.active)
        wait_until(is_taken)
    assert answers[-1] == b"HTTP/1.1 400 Bad Request"  # "{}" is no request
    assert service.active == 0
