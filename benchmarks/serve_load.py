"""Puts the local server under load: mixed good and bad pictures from several clients.

    python benchmarks/serve_load.py --variant efficientnetv2-b0 --clients 4 --minutes 10

Exports the variant (fresh weights), starts the server on a free loopback port as a process of its
own, and prints the latencies of good requests (p50, p95, p99), good requests that failed, the
memory of the server at the start and at the end, and the time of the same SavedModel called in
this process, one picture at a time. Needs the extra `serve`, and Linux for the memory.
"""

import argparse
import base64
import http.client
import itertools
import json
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from export_bad_picture import bad_files, photo

import keras_effnetv2 as kev2

EVERY = 5  # of so many requests one has a bad picture
WARM_SECONDS = 3  # before the memory is looked at


def body_of(file: bytes) -> bytes:
    """A request for one picture, as TensorFlow Serving takes it."""
    encoded = {"b64": base64.b64encode(file).decode("ascii")}
    return json.dumps({"signature_name": "classify_bytes", "instances": [encoded]}).encode()


def resident_mb(process: int) -> float:
    """Memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


class Client(threading.Thread):
    """Sends one request after the other until a time."""

    def __init__(self, port: int, number: int, good: list[bytes], bad: list[bytes], end: float):
        super().__init__()
        self.seconds: list[float] = []
        self.failed: list[str] = []
        self.wrong_bad = 0
        self._port, self._number, self._end = port, number, end
        self._good, self._bad = good, bad

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)
        for count in itertools.count(self._number):
            if time.monotonic() > self._end:
                break
            is_good = count % EVERY != 0
            bodies = self._good if is_good else self._bad
            start = time.perf_counter()
            try:
                error = self._ask(connection, bodies[count % len(bodies)])
            except (OSError, http.client.HTTPException) as problem:
                connection.close()
                error = repr(problem)
            if not is_good:
                self.wrong_bad += error == ""
            elif error:
                self.failed.append(error)
            else:
                self.seconds.append(time.perf_counter() - start)
        connection.close()

    def _ask(self, connection: http.client.HTTPConnection, body: bytes) -> str:
        """What the answer has in `error`."""
        connection.request("POST", "/v1/models/model:predict", body)
        answer = json.loads(connection.getresponse().read())
        return answer["predictions"][0]["error"] if "predictions" in answer else answer["error"]


def percentiles(seconds: list[float]) -> str:
    values = 1000 * np.percentile(seconds, (50, 95, 99))
    return "p50 {:.1f}, p95 {:.1f}, p99 {:.1f} ms".format(*values)


def load(port: int, process: int, files: list[bytes], clients: int, minutes: float) -> None:
    """Runs the clients and prints what they saw."""
    good = [body_of(file) for file in files]
    bad = [body_of(file) for file in bad_files(files[0]).values()]
    start = time.monotonic()
    threads = [Client(port, n, good, bad, start + 60 * minutes) for n in range(clients)]
    for thread in threads:
        thread.start()
    time.sleep(WARM_SECONDS)
    before = resident_mb(process)
    for thread in threads:
        thread.join()
    seconds = [value for thread in threads for value in thread.seconds]
    failed = [error for thread in threads for error in thread.failed]
    print(f"server, {clients} clients: {percentiles(seconds)}")
    print(
        f"good requests: {len(seconds)}, {len(seconds) / (time.monotonic() - start):.1f} a second"
    )
    print(f"good requests that failed: {len(failed)} {failed[:3]}")
    print(f"bad pictures without an error: {sum(thread.wrong_bad for thread in threads)}")
    print(f"memory of the server: {before:.0f} MB at the start, {resident_mb(process):.0f} MB now")


def in_process(folder: Path, files: list[bytes], count: int) -> None:
    """Prints the time of the same model without a server."""
    classify = tf.saved_model.load(str(folder)).signatures["classify_bytes"]
    seconds = []
    for number in range(count + 1):
        start = time.perf_counter()
        classify(image_bytes=tf.constant([files[number % len(files)]]))["scores"].numpy()
        seconds.append(time.perf_counter() - start)
    print(f"in this process, one at a time: {percentiles(seconds[1:])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="efficientnetv2-b0")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--side", type=int, default=500, help="of the photos, pixels")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()

    files = [photo(arguments.side, seed) for seed in range(8)]
    with tempfile.TemporaryDirectory() as scratch:
        model = kev2.build_model(kev2.ModelConfig.from_name(arguments.variant))
        folder = kev2.export_saved_model(model, scratch, image_size=arguments.image_size)
        in_process(folder, files, count=50)
        command = [sys.executable, "-m", "keras_effnetv2", "serve", scratch]
        server = subprocess.Popen(
            [*command, "--port", "0", "--name", "model"], stdout=subprocess.PIPE, text=True
        )
        port = int(re.search(r":(\d+)/", server.stdout.readline())[1])
        load(port, server.pid, files, arguments.clients, arguments.minutes)
        server.send_signal(signal.SIGTERM)
        print(f"the server ended with {server.wait()}")


if __name__ == "__main__":
    main()
