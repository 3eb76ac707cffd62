"""A local HTTP server whose answers are a script, well-behaved or not, and that records requests.

with serving({"/b0.h5": [truncated(BODY, 1000), whole(BODY)]}) as server:
    ...                                   # get f"{server.url}/b0.h5"
    assert server.requests == ["/b0.h5", "/b0.h5"]
"""

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ScriptedServer(ThreadingHTTPServer):
    """Answers each path by its script; the last answer is repeated, no script is a 404.

    Attributes:
        requests: the paths that were asked for, in this order.
        released: set to let the answers of `held` end; so it is when the server closes.
    """

    def __init__(self, answers):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = {path: list(script) for path, script in answers.items()}
        self.requests = []
        self.released = threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def next_answer(self, path):
        script = self.answers.get(path.partition("?")[0], [status(404)])
        return script.pop(0) if len(script) > 1 else script[0]

    def wait_for_requests(self, count):
        for _ in range(3000):
            if len(self.requests) >= count:
                return True
            time.sleep(0.02)
        return False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.requests.append(self.path)
        self.close_connection = True
        # A client under test hangs up in the middle of an answer.
        with contextlib.suppress(ConnectionError):
            self.server.next_answer(self.path)(self)

    def log_message(self, format, *arguments):
        pass


@contextlib.contextmanager
def serving(answers):
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


def _send(handler, code, headers, body=()):
    handler.send_response(code)
    for name, value in {"Connection": "close", **headers}.items():
        handler.send_header(name, str(value))
    handler.end_headers()
    for piece in body:
        handler.wfile.write(piece)
        handler.wfile.flush()


def truncated(body, sent=None):
    """Announces all of the file, sends `sent` bytes of it (None: all) and hangs up."""
    return lambda handler: _send(handler, 200, {"Content-Length": len(body)}, [body[:sent]])


whole = truncated


def held(body, sent):
    """Sends `sent` bytes; the rest only when the test releases it."""

    def answer(handler):
        _send(handler, 200, {"Content-Length": len(body)}, [body[:sent]])
        handler.server.released.wait(60)
        handler.wfile.write(body[sent:])

    return answer


def without_length(body):
    """No Content-Length: the body ends when the connection does."""
    return lambda handler: _send(handler, 200, {}, body)


def announced(length):
    """Announces a body of that length, sends its beginning and goes on when the test is over."""

    def answer(handler):
        _send(handler, 200, {"Content-Length": length}, [bytes(2**20)])
        handler.server.released.wait(60)

    return answer


def status(code):
    """That status and an empty body."""
    return lambda handler: _send(handler, code, {"Content-Length": 0})


def redirect(location):
    """Status 302 to another address."""
    return lambda handler: _send(handler, 302, {"Location": location, "Content-Length": 0})


def typed(kind, body):
    """A body of a content type."""
    headers = {"Content-Type": kind, "Content-Length": len(body)}
    return lambda handler: _send(handler, 200, headers, [body])


def dripping(body):
    """Sends a byte at a time, with pauses."""

    def answer(handler):
        _send(handler, 200, {"Content-Length": len(body)})
        for byte in body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            handler.server.released.wait(0.02)

    return answer
