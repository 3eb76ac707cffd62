"""Waits until no pipeline works in the background any more."""

import sys
import time

WINDOW = 0.1  # seconds that are looked at
IDLE_SHARE = 0.1  # of one core; tf.data's own book-keeping stays below
PATIENCE = 60.0  # seconds; a batch of the slowest peer takes three


def wait_for_rest() -> None:
    """Returns when this process computes nothing; tf.data fills its buffers without being asked."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        start = time.process_time()  # of all threads
        time.sleep(WINDOW)
        if time.process_time() - start < IDLE_SHARE * WINDOW:
            return
    print(f"still busy after {PATIENCE:.0f} s: going on all the same", file=sys.stderr, flush=True)
