"""By which names a server may be asked, against pages that give it a name of their own."""

import pytest
from fastapi.testclient import TestClient

from keras_effnetv2.serve.hosts import HostCheck, allowed_hosts

LOOPBACK = {"localhost", "127.0.0.1", "::1"}


async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answer"})


@pytest.mark.parametrize(
    ("address", "host", "names", "expected"),
    [
        ("127.0.0.1", "127.0.0.1", [], LOOPBACK),
        ("::1", "::1", [], LOOPBACK),
        ("127.0.0.1", "localhost", ["Photos.example"], LOOPBACK | {"photos.example"}),
        ("127.0.1.1", "MyMachine", [], LOOPBACK | {"mymachine"}),
        ("0.0.0.0", "0.0.0.0", [], None),
        ("192.0.2.7", "192.0.2.7", [], None),
        ("::", "::", ["photos.example", "2001:db8::1"], {"photos.example", "2001:db8::1", "::"}),
    ],
)
def test_which_hosts_are_allowed(address, host, names, expected):
    found = allowed_hosts(address, host, names)
    assert found is None if expected is None else found == expected | LOOPBACK


@pytest.mark.parametrize("name", ["", "http://photos.example", "photos.example:80", "a b", "*"])
def test_what_is_no_host(name):
    with pytest.raises(ValueError, match="a name or an address, without scheme and port"):
        allowed_hosts("127.0.0.1", "localhost", [name])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8501", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8501", 200),
        ("[::1]", 200),
        ("photos.example", 200),
        ("evil.example:8501", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("evil.example@localhost", 421),
        ("0.0.0.0:8501", 421),
        ("::1", 421),  # no valid Host: an address of IPv6 has brackets
        ("", 421),
    ],
)
def test_only_these_hosts_are_answered(host, status):
    allowed = allowed_hosts("127.0.0.1", "127.0.0.1", ["photos.example"])
    client = TestClient(HostCheck(app, allowed))
    answer = client.get("/", headers={"Host": host})
    assert answer.status_code == status
    if status == 421:
        error = answer.json()["error"]
        assert repr(host) in error
        assert "127.0.0.1, ::1, localhost, photos.example" in error
        assert "--allow-host NAME" in error
