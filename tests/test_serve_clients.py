"""A running server as its clients see it: uploads, paths, the token, the log."""

import base64
import json
import re
import socket
from dataclasses import replace

import httpx
import pytest
from fastapi.openapi.models import OpenAPI
from helpers.served_models import echoing_model
from helpers.served_processes import service_of, serving, wait_until

from keras_effnetv2.cli.main import main
from keras_effnetv2.export.metadata import Metadata
from keras_effnetv2.serve.access_log import logged
from keras_effnetv2.serve.openapi import openapi

NAME = "old oaks"  # a space in a path
URL = "/v1/models/old%20oaks"
FILE = bytes(range(256)) + b"\r\n--x\r\n\r\n\n\r--"
TOKEN = "a-Secret.1="


@pytest.fixture(scope="module")
def server():
    with serving(echoing_model(), NAME, max_rows=3, max_body_bytes=2**20) as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server) as client:
        yield client


@pytest.fixture(scope="module")
def guarded():
    with (
        serving(echoing_model(), NAME, TOKEN) as (_, port),
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        yield client


def echoed(*files):
    """Return the rows of the answer for files."""
    return [
        {
            "classes": [base64.urlsafe_b64encode(file).decode()],
            "scores": [1.0],
            "error": "" if file else "the file is empty",
        }
        for file in files
    ]


@pytest.mark.parametrize("kind", ["image/jpeg", "image/webp; q=1", "Application/Octet-Stream"])
def test_a_file_can_be_the_body(client, kind):
    answer = client.post(f"{URL}:predict", content=FILE, headers={"Content-Type": kind})
    assert answer.json() == {"predictions": echoed(FILE)}
    answer = client.post(
        f"{URL}/versions/10:classify", content=FILE, headers={"Content-Type": kind}
    )
    assert answer.json() == {"results": [[[echoed(FILE)[0]["classes"][0], 1.0]]]}


def test_files_come_in_forms(client):
    sent = [("file", ("a.jpg", FILE)), ("file", ("b.png", b"")), ("other", ("Küste.gif", b"\r\n"))]
    answer = client.post(f"{URL}:predict", files=sent, data={"note": "not a file"})
    assert answer.json() == {"predictions": echoed(FILE, b"", b"\r\n")}
    for method in ("predict", "classify"):
        alone = client.post(f"{URL}:{method}", files=sent[1:2])
        assert (alone.status_code, "file is empty" in alone.json()["error"]) == (400, True)
    too_many = client.post(f"{URL}:classify", files=sent + sent)
    assert too_many.status_code == 413
    assert "3 rows at most" in too_many.json()["error"]


def form(*parts, boundary="x", end=b"--x--\r\n"):
    """Return the body and the header of a form of (head, content)."""
    body = b"".join(b"--x\r\n%s\r\n\r\n%s\r\n" % part for part in parts) + end
    return {
        "content": body,
        "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    }


HEAD = b'Content-Disposition: form-data; name="f"; filename="a"'


@pytest.mark.parametrize(
    ("request_", "files"),
    [
        (form((HEAD, b"1"), (HEAD, b"2\r\n--xy\r\n"), boundary='"x"'), [b"1", b"2\r\n--xy\r\n"]),
        (form((HEAD, b"1"), end=b"--x--"), [b"1"]),
        (form((b"Content-Disposition: form-data\r\nContent-Type: image/png", b"1")), [b"1"]),
    ],
)
def test_forms_of_other_programs(client, request_, files):
    assert client.post(f"{URL}:predict", **request_).json() == {"predictions": echoed(*files)}


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (form((b'Content-Disposition: form-data; name="f"', b"1")), "It has no file$"),
        (form(), "It has no file$"),
        (form((HEAD, b"1"), end=b""), "no end"),
        (form((HEAD, b"1"), boundary="other"), "no end, too many fields, or no boundary"),
        (form((HEAD, b"1"), boundary=""), "no end, too many fields, or no boundary"),
        (form((HEAD, b"1"), *[(b"Content-Disposition: form-data", b"")] * 200), "too many fields"),
    ],
)
def test_forms_that_cannot_be_read(client, request_, message):
    answer = client.post(f"{URL}:predict", **request_)
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert re.search(f"curl -F file=@cat.jpg .*{message}", answer.json()["error"])


def test_every_described_path_is_answered(client):
    document = client.get("/openapi.json").json()
    OpenAPI(**document)  # FastAPI's model of the format
    assert "/grad_cam" not in document["paths"]  # this server has no run
    assert "security" not in document
    predict = document["components"]["schemas"]["Predict"]["properties"]
    assert predict["signature_name"]["enum"] == ["classify_bytes"]
    for path, item in document["paths"].items():
        for method in {"get", "post"} & set(item):
            content = {"files": {"file": FILE}} if method == "post" else {}
            answer = client.request(method, path.format(version=10), **content)
            assert answer.status_code == 200, path
    assert len(document["paths"]) == 12
    example = document["paths"][f"{URL}:predict"]["post"]["responses"]["200"]["content"]
    assert example["application/json"]["example"]["predictions"][0]["classes"] == ["cat", "dog"]
    assert client.get("/v1/models").json() == {"models": [NAME]}


def test_examples_have_the_classes_of_the_model():
    described = Metadata(class_names=("sea", "sky", "dog"), thresholds=(0.2, 0.3, 0.4))
    model = replace(echoing_model(), described=described)
    document = openapi(service_of(model, NAME), needs_token=False)
    examples = [
        document["paths"][f"{URL}:{method}"]["post"]["responses"]["200"]["content"]
        for method in ("predict", "classify")
    ]
    assert [one["application/json"]["example"] for one in examples] == [
        {
            "predictions": [
                {
                    "classes": ["sea", "sky"],
                    "scores": [0.93, 0.07],
                    "error": "",
                    "thresholds": [0.5, 0.5],
                    "named": ["sea"],
                }
            ]
        },
        {"results": [[["sea", 0.93]]]},
    ]


def test_the_page_of_paths_has_commands_and_loads_nothing(server, client):
    answer = client.get("/docs")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "<script" not in answer.text
    assert f"curl -F file=@cat.jpg {server}{URL}:predict" in answer.text
    assert "$TOKEN" not in answer.text
    assert not re.search(f"https?://(?!{re.escape(server[7:])})", answer.text)


def test_metrics_are_at_both_paths_with_help_and_type(client):
    client.post(f"{URL}:predict", files={"file": FILE})
    texts = {client.get(path).text for path in ("/metrics", "/monitoring/prometheus/metrics")}
    for text in texts:
        named = set(re.findall("^([a-z0-9_]+)", text, re.MULTILINE))
        for name in named:
            # Of a counter and a histogram the names of the lines are longer.
            family = re.sub("_(bucket|sum|count|created)$", "", name)
            assert f"# TYPE {family} " in text or f"# TYPE {name} " in text
            assert f"# HELP {family} " in text or f"# HELP {name} " in text
        assert 'keras_effnetv2_model_version{model="old oaks"} 10.0' in text


def test_only_clients_with_the_token_are_answered(guarded):
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    for sent in (f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"Basic {basic}"):
        assert guarded.get(URL, headers={"Authorization": sent}).status_code == 200
    wrong = base64.b64encode(b"anyone:wrong").decode()
    for sent in (
        "",
        TOKEN,
        "Bearer",
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        f"Basic {wrong}",
        "Basic é",
    ):
        headers = {"Authorization": sent.encode("latin-1")} if sent else {}
        for method, path in (("GET", "/"), ("GET", "/metrics"), ("POST", f"{URL}:predict")):
            answer = guarded.request(method, path, headers=headers)
            assert answer.status_code == 401
            assert answer.json() == {
                "error": "Send this server's token: Authorization: Bearer TOKEN"
            }
            challenges = answer.headers.get_list("www-authenticate")
            assert [one.partition(" ")[0] for one in challenges] == ["Bearer", "Basic"]
    assert guarded.get("/healthz").status_code == guarded.head("/healthz").status_code == 200
    document = guarded.get("/openapi.json", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert document["security"] == [{"token": []}, {"password": []}]
    page = guarded.get("/docs", headers={"Authorization": f"Bearer {TOKEN}"}).text
    assert "Authorization: Bearer $TOKEN" in page
    assert TOKEN not in page


def test_a_large_body_without_the_token_is_refused_with_an_answer(guarded):
    """As programs send it: all of the body, and only then do they look for an answer."""
    answer = guarded.post(f"{URL}:predict", content=bytes(8 * 2**20))
    assert answer.status_code == 401


def test_the_command_takes_a_token_from_a_file_or_the_environment(tmp_path, monkeypatch, capsys):
    file = tmp_path / "token"
    words = ["serve", str(tmp_path), "--port", "0"]
    for token, message in (("", "Received: nothing"), ("a b", "3 characters"), ("é", "1 char")):
        file.write_text(f"{token}\n", "utf-8")
        assert main([*words, "--token-file", str(file)]) == 1
        assert message in capsys.readouterr().err
        monkeypatch.setenv("KERAS_EFFNETV2_TOKEN", token)
        assert main(words) == 1
        assert message in capsys.readouterr().err
    assert main([*words, "--token-file", str(tmp_path / "none")]) == 1
    assert "--token-file: " in capsys.readouterr().err


def printed(capsys, count):
    """Return lines of standard output; the server prints them after it has answered."""
    text = ""

    def are_there():
        nonlocal text
        text += capsys.readouterr().out
        return text.count("\n") >= count

    wait_until(are_there)
    return text.splitlines()


def test_a_line_of_text_for_each_request(client, capsys):
    with logged("text"):
        client.post(f"{URL}:predict", content=b"{}", params={"secret": 1})
        size = len(client.get(URL).content)
        lines = printed(capsys, 2)
    assert len(lines) == 2
    date = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d 127\.0\.0\.1"
    assert re.fullmatch(rf"{date} POST {URL}:predict 400 \d+\.\d ms \d+ bytes", lines[0])
    assert re.fullmatch(rf"{date} GET {URL} 200 \d+\.\d ms {size} bytes", lines[1])


def test_a_line_of_json_for_each_request(client, capsys):
    with logged("json"):
        answer = client.get("/nothing")
        (line,) = printed(capsys, 1)
    request = json.loads(line)
    assert list(request) == ["time", "address", "method", "path", "status", "milliseconds", "bytes"]
    assert request["status"] == 404
    assert request["path"] == "/nothing"
    assert request["bytes"] == len(answer.content)
    assert request["milliseconds"] > 0


def test_the_log_can_be_off_and_is_off_in_python(client, capsys):
    with logged("off"):
        client.get("/healthz")
    client.get("/healthz")
    assert capsys.readouterr().out == ""


def test_a_client_that_leaves_is_logged_as_such(server, capsys):
    host, port = server[7:].split(":")
    with logged("text"):
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/models/a:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{"
            )
        (line,) = printed(capsys, 1)
    assert "POST /v1/models/a:predict 499" in line
