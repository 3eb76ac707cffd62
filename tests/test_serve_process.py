"""The server as a process of its own: the page in a browser, the port, the last request."""

import base64
import http.client
import importlib
import json
import re
import shutil
import signal
import socket
import sys
import threading
import time
from dataclasses import replace

import httpx
import pytest
import tensorflow as tf
from helpers.chromium import chromium_tab
from helpers.html_pages import CHROMIUM
from helpers.run_folders import write_export, write_served_run, write_stuck_export
from helpers.served_models import COLOUR, NAMES
from helpers.served_processes import running, serving, wait_until

from keras_effnetv2.cli.main import main
from keras_effnetv2.serve.loaded_model import load_served_model, newest_version
from keras_effnetv2.serve.server import open_listener, serve

DROP = """{
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([], "dropped.txt"));
  part("drop").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = write_served_run(tmp_path_factory.mktemp("trees"))
    with running(folder, "--poll", "0.1") as server:
        yield server


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "good.jpg").write_bytes(COLOUR)
    (folder / "<b>bad.jpg").write_bytes(b"no picture")
    return folder


@pytest.mark.slow  # starts a browser
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
def test_a_person_sees_classes_and_an_overlay(server, pictures, tmp_path):
    with chromium_tab(tmp_path) as tab:
        tab.open(server.address)
        tab.resize(1200)
        tab.choose_file("#file", pictures / "good.jpg")
        tab.wait_for("!part('overlay').hidden && part('overlay').complete")
        buttons = "[...document.querySelectorAll('#classes button')]"
        names = tab.value(f"{buttons}.map(b => b.textContent)")
        assert len(names) == 5
        assert set(names) <= set(NAMES)
        assert tab.value("part('status').textContent") == f"good.jpg: {names[0]}"
        assert names[0] in tab.value("part('overlay').alt")
        # Over the picture as it is, at half strength until the person changes that.
        box = "[...['x', 'y', 'width', 'height'].map(side => {}[side])].join()"
        picture, overlay = (
            tab.value(box.format(f"part('{name}').getBoundingClientRect()"))
            for name in ("picture", "overlay")
        )
        assert picture == overlay
        assert tab.value("part('picture').width === part('picture').naturalWidth")
        assert tab.value("part('picture').src").startswith("blob:")
        assert tab.value("getComputedStyle(part('picture')).filter") == "none"
        assert tab.value("getComputedStyle(part('overlay')).opacity") == "0.5"
        tab.value("part('opacity').value = 25; part('opacity').dispatchEvent(new Event('input'))")
        assert tab.value("getComputedStyle(part('overlay')).opacity") == "0.25"
        assert all(tab.value("[...document.images].map(i => i.alt !== '')"))
        # Another class, by the keyboard alone.
        tab.value(f"{buttons}[1].focus()")
        for kind, text in (("keyDown", "\r"), ("keyUp", "")):
            tab.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key="Enter",
                code="Enter",
                windowsVirtualKeyCode=13,
                text=text,
            )
        tab.wait_for(f"part('overlay').alt.includes({json.dumps(names[1])})")
        # What cannot be read is told in words, and the name of a file is never HTML.
        tab.choose_file("#file", pictures / "<b>bad.jpg")
        tab.wait_for("part('status').classList.contains('failed')")
        assert tab.value("part('status').textContent") == (
            "<b>bad.jpg: not a JPEG, PNG, BMP, GIF or WebP picture"
        )
        assert tab.value("part('answer').hidden")
        tab.value(DROP)
        tab.wait_for("part('status').textContent === 'dropped.txt: the file is empty'")
        for width in (420, 1200):
            for dark in (False, True):
                tab.resize(width, dark=dark)
                assert tab.value("document.documentElement.scrollWidth") == width
                colour = tab.value("getComputedStyle(document.body).backgroundColor")
                assert colour == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")


def test_a_port_in_use_is_one_clear_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"Cannot listen on 127.0.0.1 port {port}: .*--port"):
            serve(tmp_path, port=port)


def test_small_answers_do_not_wait_for_the_network():
    with (
        open_listener("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as connection,
    ):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_impossible_port_is_one_clear_error(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "99999999"]) == 1
    assert (
        "--port must be an integer from 0 to 65535. Received: 99999999" in capsys.readouterr().err
    )


def test_what_cannot_be_served(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "0"]) == 1
    assert "Nothing to serve in" in capsys.readouterr().err


def test_wrong_options_are_told_before_the_model_is_loaded(tmp_path, capsys):
    for words, message in (
        (["--max-requests", "0"], "--max-requests must be a number above 0. Received: 0"),
        (["--max-body-mb", "0"], "--max-body-mb must be a number above 0. Received: 0"),
        (["--allow-host", "http://b.example"], "without scheme and port"),
    ):
        assert main(["serve", str(tmp_path), "--port", "0", *words]) == 1
        assert message in capsys.readouterr().err


def test_a_name_must_fit_in_an_address(tmp_path):
    with pytest.raises(ValueError, match=r"none of / : .*Received: 'a/b'"):
        serve(tmp_path, port=0, name="a/b")


def test_a_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "keras_effnetv2.serve.server")
    message = r'Serving needs the package uvicorn, .* pip install "keras-effnetv2\[serve\]"'
    with pytest.raises(ImportError, match=message):
        importlib.import_module("keras_effnetv2.serve.server")


POST = b"POST /v1/models/trees:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: "


def connected(port, request):
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall(POST + request)
    return connection


def answer(connection):
    with connection, connection.makefile("rb") as file:
        return file.readline().strip()


def test_a_slow_body_takes_no_place_and_is_refused_in_time(tmp_path):
    model = load_served_model(newest_version(write_export(tmp_path)))
    limits = {"max_requests": 1, "max_body_bytes": 10, "receive_timeout": 1.0}
    with serving(model, "trees", **limits) as (service, port):
        slow = connected(port, b"9\r\n\r\n{")
        # "{}" is no request, but there is a place for it.
        assert answer(connected(port, b"2\r\n\r\n{}")) == b"HTTP/1.1 400 Bad Request"
        # All bodies together have room for `max_requests` large ones.
        assert answer(connected(port, b"10\r\n\r\n{        }")) == (
            b"HTTP/1.1 503 Service Unavailable"
        )
        assert answer(slow) == b"HTTP/1.1 408 Request Timeout"
        assert answer(connected(port, b"10\r\n\r\n{        }")) == b"HTTP/1.1 400 Bad Request"
    assert service.active == 0


def test_nothing_is_computed_for_a_client_that_has_gone(tmp_path):
    calls = []
    go = threading.Event()

    def slow(image_bytes):
        calls.append(len(image_bytes))
        assert go.wait(30)
        return {"error": tf.fill(tf.shape(image_bytes), "")}

    model = load_served_model(newest_version(write_export(tmp_path)))
    slow.structured_input_signature = model.signatures["classify_bytes"].structured_input_signature
    model = replace(model, signatures={"classify_bytes": slow})
    body = json.dumps({"signature_name": "classify_bytes", "instances": [""] * 5}).encode()
    with serving(model, "trees", max_batch=2) as (service, port):
        with connected(port, b"%d\r\n\r\n%s" % (len(body), body)):
            wait_until(lambda: calls)
        wait_until(lambda: not service.active)
        go.set()
        assert b"200 OK" in answer(connected(port, b"%d\r\n\r\n%s" % (len(body), body)))
    assert calls == [2, 2, 2, 1]  # the first was left after one part


@pytest.mark.slow  # as long as the promise: the timeout and five seconds
def test_a_stuck_model_does_not_keep_the_process(tmp_path):
    folder = write_stuck_export(tmp_path)
    body = json.dumps({"signature_name": "classify_bytes", "instances": ["stuck"]}).encode()
    with running(folder, "--timeout", "1", "--name", "trees") as server:
        late = connected(server.port, b"%d\r\n\r\n%s" % (len(body), body))
        assert answer(late) == b"HTTP/1.1 504 Gateway Timeout"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=8) == 0


def states(server):
    """Return the versions of a server and their states, the newest first."""
    found = httpx.get(f"{server.address}v1/models/{server.name}").json()
    return [(one["version"], one["state"]) for one in found["model_version_status"]]


def message(server):
    """Return the next line on stderr that says what happens to versions."""
    while "Version" not in (line := server.process.stderr.readline()):
        assert line
    return line


def test_the_command_logs_requests_and_why_a_new_version_is_not_served(server):
    assert states(server) == [("10", "AVAILABLE")]
    while "GET /v1/" not in (line := server.process.stdout.readline()):
        assert line
    assert re.fullmatch(rf"\S+ 127\.0\.0\.1 GET /v1/models/{server.name} 200 .* bytes\n", line)
    (server.path / "saved_model" / "11").mkdir()
    expected = "ERROR Version 11 cannot be served, so version 10 still is: The model in"
    assert expected in message(server)
    assert states(server) == [("11", "END"), ("10", "AVAILABLE")]


@pytest.mark.slow  # loads the network again
def test_a_new_version_is_served_without_a_restart(server):
    versions = server.path / "saved_model"
    shutil.copytree(versions / "10", versions / "12")
    assert "INFO Version 12 is served now" in message(server)
    assert states(server)[0] == ("12", "AVAILABLE")
    body = {
        "signature_name": "classify_bytes",
        "instances": [{"b64": base64.b64encode(COLOUR).decode()}],
    }
    for version, status in (("", 200), ("/versions/12", 200), ("/versions/10", 404)):
        url = f"{server.address}v1/models/{server.name}{version}:predict"
        assert httpx.post(url, json=body).status_code == status


def test_the_last_request_is_answered_and_the_process_ends_well(server):
    """The last test here: it ends the server."""
    body = json.dumps(
        {
            "signature_name": "classify_bytes",
            "instances": [{"b64": base64.b64encode(COLOUR).decode()}],
        }
    ).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", f"/v1/models/{server.name}:predict")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:100])
    time.sleep(0.5)  # so that the server has begun to read
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port), timeout=5)
    connection.send(body[100:])
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["predictions"][0]["error"] == ""
    assert server.process.wait(timeout=30) == 0
