"""A server of an export in a thread or as a process of its own, on free ports; and waiting."""

import contextlib
import re
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import uvicorn

from keras_effnetv2.serve.app import make_app
from keras_effnetv2.serve.server import open_listener
from keras_effnetv2.serve.service import ServerLimits, Service

LINE = re.compile(
    r"Serving (?P<name>.*), version 10, at (?P<address>http://127\.0\.0\.1:(?P<port>\d+)/) "
    r"\(stop with Ctrl-C\)\n"
)


def service_of(model, name, grad_cam=None, **limits):
    """The service of a `ServedModel`."""
    service = Service(name, ServerLimits(**limits))
    service.switch_to({model.version: model}, grad_cam)
    return service


@contextlib.contextmanager
def serving(model, name, token=None, **limits):
    """Give the service of a `ServedModel` and the port where a thread answers for it."""
    service = service_of(model, name, **limits)
    app = make_app(service, token=token)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    with open_listener("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield service, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def running(path, *options):
    """Give a server of version 10 that answers, its path, its name and where it is; and end it."""
    words = ["-m", "keras_effnetv2", "serve", str(path), "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, *words], **pipes) as process:
        try:
            line = process.stdout.readline()
            found = LINE.fullmatch(line)
            assert found, line or process.stderr.read()
            port = int(found["port"])
            yield SimpleNamespace(
                process=process,
                path=path,
                name=found["name"],
                address=found["address"],
                port=port,
            )
        finally:
            process.kill()


def wait_until(condition):
    """Return when the condition is true; fail after half a minute."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
