"""The command `keras-effnetv2 serve` as a process of its own, on free ports; and waiting."""

import contextlib
import re
import subprocess
import sys
import time

LINE = re.compile(
    r"Serving (?P<name>.*), version 10, at (?P<rest>http://127\.0\.0\.1:(?P<port>\d+)/)"
    r"(?: and grpc://(?P<grpc>127\.0\.0\.1:\d+))? \(end with Ctrl-C\)\n"
)


class ServerProcess:
    """A server of version 10 that answers.

    Attributes:
        process: its process.
        name: of the model.
        address: of HTTP, "http://127.0.0.1:PORT/".
        port: of HTTP.
        grpc: address of gRPC, "127.0.0.1:PORT"; None without `--grpc-port`.
    """

    def __init__(self, path, *options):
        words = ["serve", str(path), "--port", "0", *options]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "keras_effnetv2", *words], stdout=subprocess.PIPE, text=True
        )
        line = self.process.stdout.readline()
        found = LINE.fullmatch(line)
        assert found, line
        self.name, self.grpc = found["name"], found["grpc"]
        self.address, self.port = found["rest"], int(found["port"])


@contextlib.contextmanager
def running(path, *options):
    """Give a `ServerProcess`, and end it."""
    server = ServerProcess(path, *options)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.process.stdout.close()


def wait_until(condition):
    """Return when the condition is true; fail after half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
