"""The server as a process of its own: the page in a browser, the port, the last request."""

import base64
import http.client
import importlib
import json
import signal
import socket
import sys
import time

import pytest
from helpers.chromium import chromium_tab
from helpers.html_pages import CHROMIUM
from helpers.run_folders import write_export, write_served_run
from helpers.served_models import COLOUR, NAMES
from helpers.served_processes import running, serving, wait_until

from keras_effnetv2.cli.main import main
from keras_effnetv2.serve.loaded_model import load_served_model
from keras_effnetv2.serve.server import serve

DROP = """{
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([], "dropped.txt"));
  part("drop").dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true}));
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(write_served_run(tmp_path_factory.mktemp("trees"))) as server:
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
        assert tab.value("part('overlay').naturalWidth === part('picture').naturalWidth")
        # All colour is the overlay's, as strong as the person sets it.
        assert tab.value("getComputedStyle(part('picture')).filter") == "grayscale(1)"
        tab.value("part('opacity').value = 25; part('opacity').dispatchEvent(new Event('input'))")
        assert tab.value("getComputedStyle(part('picture')).filter") == "grayscale(0.25)"
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


def test_an_impossible_port_is_one_sentence_and_a_way_out(tmp_path, capsys):
    assert main(["serve", str(tmp_path), "--port", "99999999"]) == 1
    assert "port must be 0-65535. Choose another port (--port" in capsys.readouterr().err


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


def test_a_slow_body_holds_its_place_no_longer_than_allowed(tmp_path):
    def ask(request):
        connection = socket.create_connection(("127.0.0.1", port), timeout=30)
        connection.sendall(POST + request)
        return connection

    def answer(connection):
        with connection, connection.makefile("rb") as file:
            return file.readline().strip()

    def is_taken():
        answers.append(answer(ask(b"2\r\n\r\n{}")))
        return b"503" not in answers[-1]

    answers = []
    model = load_served_model(write_export(tmp_path))
    with serving(model, "trees", max_requests=1, receive_timeout=0.3) as (service, port):
        slow = ask(b"9999\r\n\r\n{")
        wait_until(lambda: service.active)
        assert not is_taken()
        wait_until(is_taken)
        assert answer(slow) == b"HTTP/1.1 408 Request Timeout"
    assert answers[-1] == b"HTTP/1.1 400 Bad Request"  # "{}" is no request
    assert service.active == 0


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
