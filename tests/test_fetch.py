"""Fetching published files: cache, mirror, broken transfers, two at once, and what is said then.

Bodies are made here; the hashes are those of hashlib, computed over the whole body at once.
"""

import concurrent.futures
import contextlib
import hashlib
import io
import os
import re
import subprocess
import sys
import threading

import pytest
from helpers.http_server import (
    announced,
    held,
    redirect,
    serving,
    status,
    truncated,
    whole,
    without_length,
)

from keras_effnetv2.pretrained import fetch as module
from keras_effnetv2.pretrained.fetch import MIRROR, fetch, local_path
from keras_effnetv2.pretrained.registry import PublishedFile

BODY = bytes(range(256)) * 1024  # 256 KiB
WRONG = BODY[::-1]
PATH = "/b0.h5"
SUBJECT = "efficientnetv2-b0/imagenet"
REFUSED = "http://127.0.0.1:9"  # "discard", which nothing listens to

# fetch in a process of its own: URL HASH MAX_FILE_SIZE
FETCH = f"""
import resource, sys
from keras_effnetv2.pretrained.fetch import fetch
from keras_effnetv2.pretrained.registry import PublishedFile

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
file = PublishedFile("keras-applications", sys.argv[1], sys.argv[2], True)
try:
    print(fetch([file], {SUBJECT!r})[0])
except OSError as error:
    print(type(error).__name__, error)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keras' cache in a folder of the test, no mirror, and no proxy before the local server."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.delenv(MIRROR, raising=False)
    return tmp_path / "keras" / "models"


def published(url, body=BODY, algorithm="md5"):
    digest = hashlib.new(algorithm, body).hexdigest()
    return PublishedFile("keras-applications", url, f"{algorithm}:{digest}", True)


def fetch_from(server, path=PATH):
    return fetch([published(f"{server.url}{path}")], SUBJECT)[0]


def put(path, body=BODY):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def start_fetch(server, max_file_size=-1):
    pytest.importorskip("resource")  # FETCH limits the size of files with it
    file = published(f"{server.url}{PATH}")
    command = [sys.executable, "-c", FETCH, file.url, file.hash, str(max_file_size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- cache --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_is_downloaded_into_the_cache_and_found_there_again(cache, algorithm, capfd):
    with serving({PATH: [whole(BODY)]}) as server:
        file = published(f"{server.url}{PATH}?download=1", algorithm=algorithm)
        for _ in range(2):
            assert fetch([file], SUBJECT) == (cache / "b0.h5", file)
        assert server.requests == [f"{PATH}?download=1"]
    assert (cache / "b0.h5").read_bytes() == BODY
    assert sorted(path.name for path in cache.iterdir()) == ["b0.h5", "b0.h5.checked"]
    assert capfd.readouterr() == ("", "")  # no bar where stderr is no terminal


def test_a_cached_file_is_hashed_once_and_again_when_it_has_changed(cache):
    put(cache / "b0.h5")
    file = published(f"{REFUSED}{PATH}")
    fetch([file], SUBJECT)
    before = (cache / "b0.h5").stat()
    put(cache / "b0.h5", WRONG)
    os.utime(cache / "b0.h5", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert fetch([file], SUBJECT)[0] == cache / "b0.h5"  # not hashed: nobody changes a file so
    os.utime(cache / "b0.h5", ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(ConnectionError):
        fetch([file], SUBJECT)


def test_what_keras_fetched_is_found(tmp_path, monkeypatch):
    put(tmp_path / "published" / "b0.h5")
    program = "import sys, keras; keras.utils.get_file(origin=sys.argv[1], cache_subdir='models')"
    origin = (tmp_path / "published" / "b0.h5").as_uri()
    monkeypatch.delenv("KERAS_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))  # so that ~/.keras is in the folder of the test
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    subprocess.run([sys.executable, "-c", program, origin], check=True, capture_output=True)
    path, _ = fetch([published(f"{REFUSED}/b0.h5")], SUBJECT)
    assert path == tmp_path / ".keras" / "models" / "b0.h5"


def test_a_later_alternative_in_the_cache_comes_before_a_download(cache):
    second = published(f"{REFUSED}/second.h5")
    put(cache / "second.h5")
    with serving({PATH: [status(503)], "/third.h5": [whole(BODY)]}) as server:
        files = [published(f"{server.url}{path}") for path in (PATH, "/third.h5")]
        assert fetch([*files, second], SUBJECT) == (cache / "second.h5", second)
        assert server.requests == []
        # After an error of a server comes the next one.
        files.insert(0, published(f"{REFUSED}/first.h5"))
        assert fetch(files, SUBJECT) == (cache / "third.h5", files[2])
        assert server.requests == [PATH, "/third.h5"]


def test_a_wrong_file_in_the_cache_is_replaced_by_the_right_one(cache, caplog):
    file = published("https://host/b0.h5?download=1")
    assert local_path(file) is None
    put(cache / "b0.h5", WRONG)
    assert local_path(file) == cache / "b0.h5"  # right or not
    with serving({PATH: [status(500)]}) as server, pytest.raises(ConnectionError):
        fetch_from(server)
    assert (cache / "b0.h5").read_bytes() == WRONG  # stays while there is no right one
    caplog.clear()
    with serving({PATH: [whole(BODY)]}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert len(server.requests) == 1
    (record,) = caplog.records
    assert record.name == "keras_effnetv2"
    wrong, right = (hashlib.md5(body).hexdigest() for body in (WRONG, BODY))
    assert f"{cache / 'b0.h5'} is not used and will be downloaded again" in record.getMessage()
    assert f"its hash is md5:{wrong} instead of md5:{right}" in record.getMessage()


# --- mirrors and alternatives -------------------------------------------------------------------


@pytest.mark.parametrize("as_address", [False, True])
def test_a_folder_as_mirror_is_used_where_it_lies(tmp_path, cache, monkeypatch, as_address):
    mirror = tmp_path / "my mirror"
    monkeypatch.setenv(MIRROR, mirror.as_uri() if as_address else str(mirror))
    put(mirror / "b0.h5")
    with serving({PATH: [whole(BODY)]}) as server:
        assert fetch_from(server) == mirror / "b0.h5"
        assert server.requests == []
        put(mirror / "b0.h5", WRONG)
        assert fetch_from(server) == cache / "b0.h5"
    assert (mirror / "b0.h5").read_bytes() == WRONG


def test_a_mirror_is_asked_for_every_alternative_first_then_the_addresses(cache, monkeypatch):
    with serving({"/kept/second.h5": [whole(BODY)], PATH: [whole(BODY)]}) as server:
        monkeypatch.setenv(MIRROR, f"{server.url}/kept/")
        files = [published(f"{server.url}{PATH}"), published(f"{REFUSED}/second.h5")]
        assert fetch(files, SUBJECT) == (cache / "second.h5", files[1])
        assert fetch(files[:1], SUBJECT) == (cache / "b0.h5", files[0])
        assert server.requests == ["/kept/b0.h5", "/kept/second.h5", "/kept/b0.h5", PATH]


def test_a_mirror_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv(MIRROR, "ftp://host/files")
    text = r"KERAS_EFFNETV2_MIRROR must be an http\(s\) address, a folder.*'ftp://host/files'"
    with pytest.raises(ValueError, match=text):
        fetch([published(f"{REFUSED}/b0.h5")], SUBJECT)


@pytest.mark.parametrize(
    "path",
    ["", "/", "/a/..", "/.h5", "/?b0.h5", "/a%2F..%2Fb.h5", r"/a\b.h5", "/c:b.h5", "/a/b.h5/"],
)
def test_an_address_without_a_plain_file_name_is_refused(path):
    with pytest.raises(ValueError, match="must end in a file name"):
        fetch([published(f"https://host{path}")], SUBJECT)


def test_nothing_can_be_had_is_one_error_with_the_ways_out(cache, monkeypatch, tmp_path):
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    with serving({PATH: [status(404)]}) as server:
        files = [published(f"{server.url}{PATH}"), published(f"{REFUSED}/b0-imagenet.h5")]
        with pytest.raises(ConnectionError) as caught:
            fetch(files, SUBJECT)
    md5 = hashlib.md5(BODY).hexdigest()
    lines = str(caught.value).splitlines()
    assert "404 Client Error: Not Found" in lines.pop(4)
    refused = re.escape(f"  {REFUSED}/b0-imagenet.h5: Failed to establish a new connection: [Errno")
    assert re.fullmatch(rf"{refused} \d+\] Connection refused", lines.pop(4))
    assert lines == [
        f"The weights of {SUBJECT} are not in the cache and could not be downloaded.",
        "Tried:",
        f"  {tmp_path}/mirror/b0.h5: No such file or directory",
        f"  {tmp_path}/mirror/b0-imagenet.h5: No such file or directory",
        "Download a file on another machine and put it there by hand:",
        f"  {server.url}/b0.h5 (md5:{md5}) as {cache}/b0.h5",
        f"  {REFUSED}/b0-imagenet.h5 (md5:{md5}) as {cache}/b0-imagenet.h5",
        "or set the environment variable KERAS_EFFNETV2_MIRROR to an http(s) address or a folder "
        "that has it.",
    ]


# --- Python packages ----------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that must not be imported, in a folder on the path; its folder of models."""
    root = tmp_path / "site"
    put(root / "some_lite_model" / "__init__.py", b"raise AssertionError('imported')")
    monkeypatch.syspath_prepend(root)
    return root / "some_lite_model" / "models"


def in_package(module="some_lite_model"):
    url = "https://host/project/some-lite-model/1.0/"
    return published(url, algorithm="sha256")._replace(package=f"{module}/models/lite.pth")


def test_a_file_in_an_installed_package_is_used_where_it_is(package, cache):
    path = put(package / "lite.pth")
    assert fetch([in_package()], SUBJECT) == (path, in_package())
    assert local_path(in_package()) == path
    assert list(package.iterdir()) == [path]
    assert not cache.exists()


@pytest.mark.parametrize(
    ("body", "flaw"),
    [(WRONG, "its hash is sha256:[0-9a-f]{64} instead of"), (None, "No such file")],
)
def test_a_package_with_another_file_is_an_error(package, body, flaw):
    if body is not None:
        put(package / "lite.pth", body)
    with pytest.raises(
        ValueError, match=rf"lite\.pth is not the published file of .*{flaw}"
    ) as caught:
        fetch([in_package()], SUBJECT)
    assert "install the version at https://host/project/some-lite-model/1.0/" in str(caught.value)


def test_a_package_that_is_missing_is_named_with_the_way_to_install_it(
    cache, monkeypatch, tmp_path
):
    missing = in_package("other_lite_model")
    with pytest.raises(ImportError, match="other-lite-model, which is not installed") as caught:
        fetch([missing], SUBJECT)
    assert 'pip install "keras-effnetv2[lite]"' in str(caught.value)
    monkeypatch.setenv(MIRROR, str(tmp_path / "mirror"))
    at_mirror = put(tmp_path / "mirror" / "lite.pth")
    assert fetch([missing], SUBJECT)[0] == at_mirror
    in_cache = put(cache / "lite.pth")
    assert fetch([missing], SUBJECT)[0] == in_cache


# --- transfers ----------------------------------------------------------------------------------


def test_a_transfer_that_breaks_off_is_begun_once_more(cache):
    with serving({PATH: [truncated(BODY, 100_000), whole(BODY)]}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert len(server.requests) == 2
    with serving({"/b1.h5": [truncated(BODY, 100_000)]}) as server:
        with pytest.raises(ConnectionError, match=r"b1\.h5: .*IncompleteRead"):
            fetch_from(server, "/b1.h5")
        assert len(server.requests) == 2
    assert [path.name for path in cache.iterdir()] == ["b0.h5"]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (whole(WRONG), f"its hash is md5:{hashlib.md5(WRONG).hexdigest()} instead of md5:"),
        (redirect(PATH), "Exceeded 30 redirects"),
        (redirect("file:///etc/hostname"), "No connection adapters were found for 'file:"),
        (redirect("ftp://127.0.0.1/b0.h5"), "No connection adapters were found for 'ftp:"),
        (announced(4 * 10**9 + 1), "it is larger than the 4,000,000,000 bytes allowed"),
        (lambda handler: handler.server.released.wait(60), r"b0\.h5: .*timed out"),
    ],
    ids=["wrong", "loop", "file", "ftp", "long", "silent"],
)
def test_what_a_server_may_not_do(answer, text, cache, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    with (
        serving({PATH: [answer]}) as server,
        pytest.raises(ConnectionError, match=text),
    ):
        fetch_from(server)
    assert list(cache.iterdir()) == []


def test_a_redirect_is_followed_and_a_body_without_length_ends_with_the_connection():
    answers = {PATH: [redirect("/elsewhere")], "/elsewhere": [without_length([BODY])]}
    with serving(answers) as server:
        assert fetch_from(server).read_bytes() == BODY


def test_a_body_without_end_is_cut_off_and_leaves_nothing(cache, monkeypatch):
    def endless():
        while True:
            yield BODY

    monkeypatch.setattr(module, "MAX_BYTES", 3_000_000)
    with serving({PATH: [without_length(endless())]}) as server:
        with pytest.raises(ConnectionError, match="it is larger than the 3,000,000 bytes allowed"):
            fetch_from(server)
        assert len(server.requests) == 1
    assert list(cache.iterdir()) == []


# --- several at once, and trouble with the disk -------------------------------------------------


def test_two_processes_at_once_do_not_disturb_each_other(cache):
    with serving({PATH: [held(BODY, 1000), whole(BODY)]}) as server:
        slow = start_fetch(server)
        assert server.wait_for_requests(1)
        fast = start_fetch(server)
        assert fast.communicate(timeout=60) == (f"{cache / 'b0.h5'}\n", "")
        server.released.set()
        assert slow.communicate(timeout=60) == (f"{cache / 'b0.h5'}\n", "")
    assert (cache / "b0.h5").read_bytes() == BODY
    assert [path.name for path in cache.iterdir()] == ["b0.h5"]


def test_two_threads_download_once(cache):
    together = threading.Barrier(2)

    def run():
        together.wait()
        return fetch_from(server)

    with serving({PATH: [held(BODY, 1000)]}) as server:
        threading.Timer(0.5, server.released.set).start()
        with concurrent.futures.ThreadPoolExecutor() as pool:
            paths = [pool.submit(run) for _ in range(2)]
            assert [path.result(timeout=60) for path in paths] == [cache / "b0.h5"] * 2
        assert len(server.requests) == 1


def test_a_full_disk_is_one_error_with_the_way_out(cache):
    with serving({PATH: [whole(BODY)]}) as server:
        # A file that may not grow fails in the same call as one on a full disk.
        said, _ = start_fetch(server, max_file_size=1000).communicate(timeout=60)
        assert len(server.requests) == 1
    assert said == (
        f"OSError b0.h5 cannot be written to the folder {cache}: File too large. Free some space "
        "there, make it writable, or set the environment variable KERAS_HOME to another folder.\n"
    )


def test_a_cache_that_is_no_folder_is_an_error_before_any_request(cache):
    put(cache, b"a file where the folder should be")
    with serving({PATH: [whole(BODY)]}) as server:
        with pytest.raises(OSError, match=f"the folder {cache}.*KERAS_HOME"):
            fetch_from(server)
        assert server.requests == []


def test_a_bar_is_drawn_on_a_terminal(capsys):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    with serving({PATH: [whole(BODY)]}) as server, contextlib.redirect_stderr(terminal):
        fetch_from(server)
    assert f"downloading {SUBJECT}" in terminal.getvalue()
    assert capsys.readouterr().out == ""
