"""Fetching published files: cache, mirror, broken transfers, two at once, and what is said then.

Bodies are made here; the hashes are those of hashlib, computed over the whole body at once.
"""

import concurrent.futures
import errno
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import pytest
from helpers.http_server import (
    announced,
    chunked,
    held,
    other_range,
    ranged,
    redirect,
    serving,
    status,
    whole,
    without_length,
)

from keras_effnetv2.pretrained import fetch as module
from keras_effnetv2.pretrained.fetch import DownloadLimits, cached_path, fetch
from keras_effnetv2.pretrained.registry import PublishedFile

BODY = bytes(range(256)) * 1024  # 256 KiB
WRONG = BODY[::-1]
PATH = "/b0.h5"
SUBJECT = "efficientnetv2-b0, imagenet"
QUICK = DownloadLimits(timeout=20, tries=3, pause=0)
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
    monkeypatch.delenv(module.MIRROR, raising=False)
    return tmp_path / "keras" / "models"


def published(url, body=BODY, algorithm="md5"):
    digest = hashlib.new(algorithm, body).hexdigest()
    return PublishedFile("keras-applications", url, f"{algorithm}:{digest}", True)


def fetch_from(server, path=PATH, limits=QUICK):
    return fetch([published(f"{server.url}{path}")], SUBJECT, limits=limits)[0]


def put(path, body=BODY):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    return path


def ranges(server):
    return [request.range for request in server.requests]


def start_fetch(server, log, max_file_size=-1):
    """Starts a process that fetches PATH; what it says on stderr goes to the file `log`."""
    file = published(f"{server.url}{PATH}")
    command = [sys.executable, "-c", FETCH, file.url, file.hash, str(max_file_size)]
    with log.open("w") as errors:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)


def wait_until(condition):
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("30 seconds have passed")


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_is_downloaded_into_the_cache_and_found_there_again(cache, algorithm):
    with serving({PATH: [whole(BODY)]}) as server:
        file = published(f"{server.url}{PATH}?download=1", algorithm=algorithm)
        for _ in range(2):
            assert fetch([file], SUBJECT, limits=QUICK) == (cache / "b0.h5", file)
        assert server.requests == [(f"{PATH}?download=1", None)]
    assert (cache / "b0.h5").read_bytes() == BODY
    assert not (cache / "b0.h5.part").exists()


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
    with serving({PATH: [whole(BODY)]}) as server:
        files = [published(f"{server.url}{PATH}"), second]
        assert fetch(files, SUBJECT) == (cache / "second.h5", second)
        assert server.requests == []


def test_a_folder_that_cannot_be_written_is_read_and_tmp_is_written(tmp_path, monkeypatch):
    # As keras.utils.get_file, which goes to /tmp/.keras; here another folder stands for /tmp.
    monkeypatch.setattr(module, "_TEMPORARY", str(tmp_path / "tmp"))
    put(tmp_path / "keras" / "models" / "b0.h5")
    access = os.access  # nothing is unwritable for root
    monkeypatch.setattr(os, "access", lambda path, mode: "keras" not in path and access(path, mode))
    with serving({PATH: [whole(BODY)], "/b1.h5": [whole(BODY)]}) as server:
        assert fetch_from(server) == tmp_path / "keras" / "models" / "b0.h5"
        assert fetch_from(server, "/b1.h5") == tmp_path / "tmp" / ".keras" / "models" / "b1.h5"
        assert server.requests == [("/b1.h5", None)]


def test_cached_path_is_where_a_file_lies_right_or_not(cache):
    assert cached_path("https://host/b0.h5?download=1") is None
    put(cache / "b0.h5", WRONG)
    assert cached_path("https://host/b0.h5?download=1") == cache / "b0.h5"


def test_a_wrong_file_in_the_cache_is_replaced_by_the_right_one(cache, caplog):
    put(cache / "b0.h5", WRONG)
    with serving({PATH: [whole(BODY)]}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert len(server.requests) == 1
    (record,) = caplog.records
    assert record.name == "keras_effnetv2"
    wrong, right = (hashlib.md5(body).hexdigest() for body in (WRONG, BODY))
    assert f"{cache / 'b0.h5'} is not used but fetched again" in record.getMessage()
    assert f"its hash is md5:{wrong} instead of md5:{right}" in record.getMessage()


def test_a_wrong_file_in_the_cache_stays_while_there_is_no_right_one(cache):
    put(cache / "b0.h5", WRONG)
    with serving({PATH: [status(500)]}) as server, pytest.raises(ConnectionError):
        fetch_from(server)
    assert (cache / "b0.h5").read_bytes() == WRONG


@pytest.mark.parametrize("as_address", [False, True])
def test_a_folder_as_mirror_is_used_where_it_lies(tmp_path, cache, monkeypatch, as_address):
    mirror = tmp_path / "my mirror"
    monkeypatch.setenv(module.MIRROR, mirror.as_uri() if as_address else str(mirror))
    put(mirror / "b0.h5")
    with serving({PATH: [whole(BODY)]}) as server:
        assert fetch_from(server) == mirror / "b0.h5"
        assert server.requests == []
        put(mirror / "b0.h5", WRONG)
        assert fetch_from(server) == cache / "b0.h5"
    assert (mirror / "b0.h5").read_bytes() == WRONG


def test_a_mirror_is_asked_for_every_alternative_first(cache, monkeypatch):
    with serving({"/kept/second.h5": [whole(BODY)], PATH: [whole(BODY)]}) as server:
        monkeypatch.setenv(module.MIRROR, f"{server.url}/kept/")
        files = [published(f"{server.url}{PATH}"), published(f"{REFUSED}/second.h5")]
        assert fetch(files, SUBJECT, limits=QUICK) == (cache / "second.h5", files[1])
        assert [request.path for request in server.requests] == ["/kept/b0.h5", "/kept/second.h5"]


def test_without_luck_at_the_mirror_the_address_itself_is_asked(monkeypatch):
    with serving({PATH: [whole(BODY)]}) as server:
        monkeypatch.setenv(module.MIRROR, f"{server.url}/kept")
        fetch_from(server)
        assert [request.path for request in server.requests] == ["/kept/b0.h5", PATH]


def test_a_mirror_of_another_kind_is_refused(monkeypatch):
    monkeypatch.setenv(module.MIRROR, "ftp://host/files")
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


@pytest.mark.parametrize("code", [403, 404, 500, 503])
def test_after_an_error_of_the_server_comes_the_next_alternative(cache, code):
    with serving({PATH: [status(code)], "/second.h5": [whole(BODY)]}) as server:
        files = [published(f"{server.url}{path}") for path in (PATH, "/second.h5")]
        files.insert(0, published(f"{REFUSED}/first.h5"))
        assert fetch(files, SUBJECT, limits=QUICK) == (cache / "second.h5", files[2])
        assert [request.path for request in server.requests] == [PATH, "/second.h5"]


def test_nothing_can_be_had_is_one_error_with_the_ways_out(cache, monkeypatch, tmp_path):
    monkeypatch.setenv(module.MIRROR, str(tmp_path / "mirror"))
    with serving({PATH: [status(404)]}) as server:
        files = [published(f"{server.url}{PATH}"), published(f"{REFUSED}/b0-imagenet.h5")]
        with pytest.raises(ConnectionError) as caught:
            fetch(files, SUBJECT, limits=QUICK)
    md5 = hashlib.md5(BODY).hexdigest()
    assert str(caught.value).splitlines() == [
        f"The weights of {SUBJECT} are not in the cache and could not be fetched. Tried:",
        f"  {tmp_path}/mirror/b0.h5: No such file or directory",
        f"  {tmp_path}/mirror/b0-imagenet.h5: No such file or directory",
        f"  {server.url}/b0.h5: HTTP 404 Not Found",
        f"  {REFUSED}/b0-imagenet.h5: [Errno {errno.ECONNREFUSED}] Connection refused",
        "Way out: download a file elsewhere and put it there by hand:",
        f"  {server.url}/b0.h5 (md5:{md5}) as {cache}/b0.h5",
        f"  {REFUSED}/b0-imagenet.h5 (md5:{md5}) as {cache}/b0-imagenet.h5",
        "or set the environment variable KERAS_EFFNETV2_MIRROR to an http(s) address or a folder "
        "that has it.",
    ]


def test_a_transfer_that_breaks_off_goes_on_where_it_was():
    answers = [ranged(BODY, 100_000), ranged(BODY, 50_000), ranged(BODY)]
    with serving({PATH: answers}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert ranges(server) == [None, "bytes=100000-", "bytes=150000-"]


def test_after_some_tries_the_next_call_goes_on(cache, monkeypatch):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    with serving({PATH: [ranged(BODY, 1000)]}) as server:
        with pytest.raises(ConnectionError, match=f"broke off after 3,000 of {len(BODY):,} bytes"):
            fetch_from(server, limits=DownloadLimits(tries=3, pause=7))
        assert len(server.requests) == 3
        assert pauses == [7, 7]
        assert not (cache / "b0.h5").exists()
        assert (cache / "b0.h5.part").read_bytes() == BODY[:3000]
        server.answers[PATH] = [ranged(BODY)]
        assert fetch_from(server).read_bytes() == BODY
        assert ranges(server)[3:] == ["bytes=3000-"]


def test_a_transfer_that_stalls_goes_on():
    with serving({PATH: [held(BODY, 100_000), ranged(BODY)]}) as server:
        limits = DownloadLimits(timeout=1, tries=2, pause=0)
        assert fetch_from(server, limits=limits).read_bytes() == BODY
        assert ranges(server) == [None, "bytes=100000-"]


def test_a_server_that_does_not_answer_is_given_up():
    with serving({PATH: [lambda handler: handler.server.released.wait(60)]}) as server:
        with pytest.raises(ConnectionError, match=r"b0\.h5: timed out"):
            fetch_from(server, limits=DownloadLimits(timeout=0.2))
        assert len(server.requests) == 1


def test_a_part_that_is_complete_is_not_asked_for_again(cache):
    put(cache / "b0.h5.part")
    with serving({PATH: [whole(BODY)]}) as server:
        assert fetch_from(server) == cache / "b0.h5"
        assert server.requests == []


def test_a_server_that_ignores_range_sends_everything(cache):
    put(cache / "b0.h5.part", BODY[:1000])
    with serving({PATH: [whole(BODY)]}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert ranges(server) == ["bytes=1000-"]


@pytest.mark.parametrize(
    ("part", "answer"),
    [
        (WRONG[:1000], ranged(BODY)),  # the whole then has a wrong hash
        (WRONG, ranged(BODY)),  # 416: the server has nothing after it
        (BODY[:1000], other_range(BODY)),
    ],
)
def test_an_unusable_part_is_dropped_and_the_file_asked_for_once_more(cache, part, answer):
    put(cache / "b0.h5.part", part)
    with serving({PATH: [answer]}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert ranges(server) == [f"bytes={len(part)}-", None]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (whole(WRONG), f"its hash is md5:{hashlib.md5(WRONG).hexdigest()} instead of md5:"),
        (status(416), "HTTP 416"),
    ],
)
def test_what_stays_unusable_is_an_error(cache, answer, text):
    put(cache / "b0.h5.part", BODY[:1000])
    with serving({PATH: [answer]}) as server:
        with pytest.raises(ConnectionError, match=text):
            fetch_from(server)
        assert ranges(server) == ["bytes=1000-", None]
    assert sorted(path.name for path in cache.iterdir()) == ["b0.h5.lock"]


def test_a_body_without_length_ends_with_the_connection():
    with serving({PATH: [without_length([BODY])]}) as server:
        assert fetch_from(server).read_bytes() == BODY


def test_a_chunked_body_goes_on_after_its_break():
    pieces = [BODY[:1000], BODY[1000:1001], BODY[1001:]]
    with serving({PATH: [chunked(pieces[:2], ends=False), ranged(BODY)]}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert ranges(server) == [None, "bytes=1001-"]
    with serving({"/b1.h5": [chunked(pieces)]}) as server:
        assert fetch_from(server, "/b1.h5").read_bytes() == BODY


def test_a_redirect_is_followed_with_the_range(cache):
    put(cache / "b0.h5.part", BODY[:1000])
    with serving({PATH: [redirect("/elsewhere")], "/elsewhere": [ranged(BODY)]}) as server:
        assert fetch_from(server).read_bytes() == BODY
        assert server.requests == [(PATH, "bytes=1000-"), ("/elsewhere", "bytes=1000-")]


@pytest.mark.parametrize(
    ("location", "text"),
    [
        (PATH, "HTTP 302 .*infinite loop"),
        ("file:///etc/hostname", "HTTP 302 .*'file:///etc/hostname' is not allowed"),
        ("ftp://127.0.0.1/b0.h5", "unknown url type: ftp"),
        ("data:,b0", "HTTP 302 .*'data:,b0' is not allowed"),
    ],
)
def test_a_redirect_in_a_loop_or_out_of_http_is_an_error(location, text):
    with (
        serving({PATH: [redirect(location)]}) as server,
        pytest.raises(ConnectionError, match=text),
    ):
        fetch_from(server)


def test_a_file_address_is_never_opened(tmp_path):
    url = put(tmp_path / "b0.h5").as_uri()
    with pytest.raises(ConnectionError, match="unknown url type: file"):
        fetch([published(url)], SUBJECT, limits=QUICK)


def test_a_body_that_is_announced_too_long_is_not_taken(cache):
    with serving({PATH: [announced(4 * 10**9 + 1)]}) as server:
        text = "it announces 4,000,000,001 bytes, more than the 4,000,000,000 allowed"
        with pytest.raises(ConnectionError, match=text):
            fetch_from(server)
        assert len(server.requests) == 1
        # The limit is for the file, not for the rest of it.
        put(cache / "b0.h5.part", BODY[:1000])
        server.answers[PATH] = [ranged(BODY)]
        with pytest.raises(ConnectionError, match=f"it announces {len(BODY):,} bytes"):
            fetch_from(server, limits=DownloadLimits(max_bytes=len(BODY) - 1))


def test_a_body_without_end_is_cut_off_and_leaves_nothing(cache):
    def endless():
        while True:
            yield BODY

    with serving({PATH: [without_length(endless())]}) as server:
        with pytest.raises(ConnectionError, match="it does not end after the 3,000,000 bytes"):
            fetch_from(server, limits=DownloadLimits(max_bytes=3_000_000))
        assert len(server.requests) == 1
    assert (cache / "b0.h5.part").stat().st_size == 0


def test_a_file_is_never_held_in_memory():
    pieces = 160  # 40 MiB
    digest = hashlib.md5()
    for _ in range(pieces):
        digest.update(BODY)
    with serving({PATH: [without_length(BODY for _ in range(pieces))]}) as server:
        file = PublishedFile("", f"{server.url}{PATH}", f"md5:{digest.hexdigest()}", True)
        tracemalloc.start()
        try:
            path, _ = fetch([file], SUBJECT, limits=QUICK)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert path.stat().st_size == pieces * len(BODY)
    assert peak < 8 * 2**20


def test_the_file_is_on_the_disk_before_it_gets_its_name(cache, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def spy_fsync(descriptor):
        calls.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def spy_replace(source, target):
        calls.append(("replace", Path(source), Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "replace", spy_replace)
    body = BODY[:1000]  # which fits into the buffer of the open file
    with serving({PATH: [whole(body)]}) as server:
        fetch([published(f"{server.url}{PATH}", body)], SUBJECT, limits=QUICK)
    part, target = cache / "b0.h5.part", cache / "b0.h5"
    assert calls == [("fsync", len(body)), ("replace", part, target)]


def test_two_processes_download_once(cache, tmp_path):
    with serving({PATH: [held(BODY, 1000)]}) as server:
        logs = [tmp_path / "first.txt", tmp_path / "second.txt"]
        processes = [start_fetch(server, log) for log in logs]
        wait_until(lambda: any("Waiting for another process" in log.read_text() for log in logs))
        server.released.set()
        for process in processes:
            assert process.communicate(timeout=60) == (f"{cache / 'b0.h5'}\n", None)
        assert len(server.requests) == 1
    assert (cache / "b0.h5").read_bytes() == BODY


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


def test_a_killed_process_leaves_its_part_and_no_lock(cache, tmp_path):
    part = cache / "b0.h5.part"
    sent = len(BODY) // 2
    with serving({PATH: [held(BODY, sent), ranged(BODY)]}) as server:
        process = start_fetch(server, tmp_path / "log.txt")
        # The last bytes may be in the memory of the process.
        wait_until(lambda: part.exists() and part.stat().st_size > sent - 2**14)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = part.stat().st_size
        assert fetch_from(server).read_bytes() == BODY
        assert ranges(server) == [None, f"bytes={kept}-"]


def test_a_full_disk_is_one_error_with_the_way_out(cache, tmp_path):
    with serving({PATH: [whole(BODY)]}) as server:
        # A file that may not grow fails in the same call as one on a full disk.
        process = start_fetch(server, tmp_path / "log.txt", max_file_size=1000)
        said, _ = process.communicate(timeout=60)
        assert len(server.requests) == 1
    assert said == (
        f"OSError b0.h5 cannot be written to the folder {cache}: File too large. Make room there, "
        "make it writable, or set the environment variable KERAS_HOME to another folder.\n"
    )


def test_a_cache_that_is_no_folder_is_an_error_before_any_request(cache):
    put(cache, b"a file where the folder should be")
    with serving({PATH: [whole(BODY)]}) as server:
        with pytest.raises(OSError, match=f"the folder {cache}.*KERAS_HOME"):
            fetch_from(server)
        assert server.requests == []


def test_progress_is_shown_on_a_terminal_only(cache, capsys, monkeypatch):
    with serving({PATH: [whole(BODY)]}) as server:
        said = f"Downloading {SUBJECT} from {server.url}{PATH} to {cache / 'b0.h5'}\n"
        fetch_from(server)
        assert capsys.readouterr() == ("", said)
        (cache / "b0.h5").unlink()
        terminal = io.StringIO()
        terminal.isatty = lambda: True
        monkeypatch.setattr(sys, "stderr", terminal)
        fetch_from(server)
    shown = terminal.getvalue().removeprefix(said)
    assert shown.startswith("\r")
    assert shown.endswith("\r0.3 of 0.3 MB\n")
    assert capsys.readouterr().out == ""
