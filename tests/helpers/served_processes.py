"""A server of an export in a thread or as a process of its own, on free ports; and waiting."""

import contextlib
import re
import socket
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import uvicorn

from keras_effnetv2.serve.app import make_app
from keras_effnetv2.serve.service import ServerLimits, Service

LINE = re.compile(
    r"Serving (?P<name>.*), version 10, at (?P<address>http://127\.0\.0\.1:(?P<port>\d+)/) "
    r"\(stop with Ctrl-C\)\n"
)


@contextlib.contextmanager
def serving(model, name, **limits):
    """Give the service of a `ServedModel` and the port where a thread answers for it."""
    service = Service(model, name, ServerLimits(**limits))
    server = uvicorn.Server(uvicorn.Config(make_app(service), log_level="critical"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield service, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def running(path, *options):
    """Give a server of version 10 that answers: its process, name, address and port; and end it."""
    words = ["-m", "keras_effnetv2", "serve", str(path), "--port", "0", *options]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            line = process.stdout.readline()
            found = LINE.fullmatch(line)
            assert found, line
            port = int(found["port"])
            yield SimpleNamespace(
                process=process, name=found["name"], address=found["address"], port=port
            )
        finally:
            process.kill()


def wait_until(condition):
    """Return when the condition is true; fail after half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
