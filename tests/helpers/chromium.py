"""Drives a headless Chromium by its DevTools protocol, over a pipe and without other packages."""

import base64
import contextlib
import json
import os
import subprocess
import sys
import time

from helpers.html_pages import CHROMIUM, CHROMIUM_OPTIONS

# --remote-debugging-pipe reads from the file 3 and writes to the file 4.
PLACE_PIPES = """
import os, sys
for place, number in enumerate(sys.argv[1:3], start=100):  # away from 3 and 4 first
    os.dup2(int(number), place)
os.dup2(100, 3)
os.dup2(101, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Tab:
    """A page in the browser."""

    def __init__(self, write, read):
        self._write, self._read, self._count, self._session = write, read, 0, None

    def ask(self, method, **parameters):
        """Sends a command and returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = json.loads(self._next_message())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]

    def _next_message(self):
        letters = []
        while (letter := self._read.read(1)) != b"\0":
            assert letter, "the browser has ended"
            letters.append(letter)
        return b"".join(letters)

    def open(self, address):
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        self.ask(
            "Page.navigate", url=address
        )  # answers once the page has taken the empty one's place
        self.wait_for("document.readyState == 'complete'")

    def resize(self, width, height=900, dark=False):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def value(self, expression):
        """The value of a JavaScript expression."""
        return self.ask("Runtime.evaluate", expression=expression, returnByValue=True)[
            "result"
        ].get("value")

    def wait_for(self, expression, seconds=60):
        """Waits until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"))
            time.sleep(0.1)

    def choose_file(self, selector, path):
        root = self.ask("DOM.getDocument")["root"]["nodeId"]
        node = self.ask("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.ask("DOM.setFileInputFiles", nodeId=node, files=[str(path)])

    def screenshot(self, path):
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextlib.contextmanager
def chromium_tab(profile):
    """A tab of a browser that is ended afterwards; `profile` is an empty folder of its own."""
    (their_in, our_out), (our_in, their_out) = os.pipe(), os.pipe()
    browser = subprocess.Popen(
        [
            *(sys.executable, "-S", "-c", PLACE_PIPES, str(their_in), str(their_out)),
            *(CHROMIUM, *CHROMIUM_OPTIONS, "--remote-debugging-pipe"),
            f"--user-data-dir={profile}",
        ],
        pass_fds=(their_in, their_out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_in)
    os.close(their_out)
    with open(our_out, "wb") as write, open(our_in, "rb") as read:
        try:
            yield Tab(write, read)
        finally:
            browser.terminate()
            browser.wait(timeout=30)
