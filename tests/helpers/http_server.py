"""A local HTTP server whose answers are a script, well-behaved or not, and that records requests.

with serving({"/b0.h5": [truncated(BODY, 1000), whole(BODY)]}) as server:
    ...                                   # get f"{server.url}/b0.h5"
    assert server.requests == [("/b0.h5", None), ("/b0.h5", "bytes=1000-")]
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

Answer = Callable[[BaseHTTPRequestHandler], None]


class Request(NamedTuple):
    """A request that came in: its path, and its header Range if there was one."""

    path: str
    range: str | None


class ScriptedServer(ThreadingHTTPServer):
    """Answers each path by its script; the last answer is repeated, no script is a 404.

    Attributes:
        requests: what came in, in this order.
        released: set to let the answers of `held` end; so it is when the server closes.
    """

    def __init__(self, answers: Mapping[str, Sequence[Answer]]):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = {path: list(script) for path, script in answers.items()}
        self.requests: list[Request] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def next_answer(self, path: str) -> Answer:
        script = self.answers.get(path.partition("?")[0], [status(404)])
        return script.pop(0) if len(script) > 1 else script[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # so that answers may be chunked
    server: ScriptedServer

    def do_GET(self):
        self.server.requests.append(Request(self.path, self.headers["Range"]))
        self.close_connection = True
        # A client under test hangs up in the middle of an answer.
        with contextlib.suppress(ConnectionError):
            self.server.next_answer(self.path)(self)

    def log_message(self, format, *arguments):
        pass


@contextlib.contextmanager
def serving(answers: Mapping[str, Sequence[Answer]]) -> Iterator[ScriptedServer]:
    """Runs a server on a free port of this machine."""
    with ScriptedServer(answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()


def _send(
    handler: BaseHTTPRequestHandler,
    code: int,
    headers: Mapping[str, object],
    body: Iterable[bytes] = (),
) -> None:
    handler.send_response(code)
    for name, value in {"Connection": "close", **headers}.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    for piece in body:
        handler.wfile.write(piece)
        handler.wfile.flush()


def whole(body: bytes) -> Answer:
    """All of the file, whether or not a part of it was asked for."""
    return truncated(body, len(body))


def truncated(body: bytes, sent: int) -> Answer:
    """Announces all of the file, sends `sent` bytes of it and hangs up; ignores Range."""
    return lambda handler: _send(handler, 200, {"Content-Length": len(body)}, [body[:sent]])


def ranged(body: bytes, sent: int | None = None) -> Answer:
    """The part that was asked for, of which `sent` bytes are sent; 416 if nothing is left."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        start = int((handler.headers["Range"] or "bytes=0-")[len("bytes=") : -1])
        rest = body[start:]
        if not rest:
            _send(handler, 416, {"Content-Range": f"bytes */{len(body)}", "Content-Length": 0})
            return
        part = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if start else {}
        headers = {"Content-Length": len(rest), **part}
        _send(handler, 206 if start else 200, headers, [rest[:sent]])

    return answer


def other_range(body: bytes) -> Answer:
    """Status 206, but from the first byte on, whatever was asked for."""
    last = len(body) - 1
    headers = {"Content-Length": len(body), "Content-Range": f"bytes 0-{last}/{len(body)}"}
    return lambda handler: _send(handler, 206, headers, [body])


def held(body: bytes, sent: int) -> Answer:
    """Sends `sent` bytes; the rest only when the test releases it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _send(handler, 200, {"Content-Length": len(body)}, [body[:sent]])
        handler.server.released.wait(60)
        handler.wfile.write(body[sent:])

    return answer


def without_length(body: Iterable[bytes]) -> Answer:
    """No Content-Length: the body ends when the connection does."""
    return lambda handler: _send(handler, 200, {}, body)


def chunked(pieces: Sequence[bytes], ends: bool = True) -> Answer:
    """Chunked transfer; `ends=False` hangs up without the last, empty chunk."""
    body = [b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces]
    last = [b"0\r\n\r\n"] if ends else []
    return lambda handler: _send(handler, 200, {"Transfer-Encoding": "chunked"}, body + last)


def announced(length: int) -> Answer:
    """Announces a body of that length and sends none of it."""
    return lambda handler: _send(handler, 200, {"Content-Length": length})


def status(code: int) -> Answer:
    """That status and an empty body."""
    return lambda handler: _send(handler, code, {"Content-Length": 0})


def redirect(location: str) -> Answer:
    """Status 302 to another address, absolute or of this server."""
    return lambda handler: _send(handler, 302, {"Location": location, "Content-Length": 0})
