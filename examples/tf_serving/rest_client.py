"""Classify picture files by TensorFlow Serving's REST interface, with Python alone.

    python examples/tf_serving/rest_client.py cat.jpg dog.png
    python examples/tf_serving/rest_client.py --url http://localhost:8501/v1/models/photos cat.jpg

Takes as long as the server; see README.md beside this file for how to start one.
Expected: one line per picture with its best class and its score; for one that the server refused or
that is no file, the reason, and exit code 1.
"""

import argparse
import base64
import json
import sys
import urllib.error
import urllib.request
from pathlib import Path


def classify(url: str, picture: bytes, timeout: float) -> dict:
    """What the server says of a picture: {"classes": [...], "scores": [...], "error": "..."}."""
    instance = {"b64": base64.b64encode(picture).decode("ascii")}
    body = json.dumps({"signature_name": "classify_bytes", "instances": [instance]}).encode()
    request = urllib.request.Request(f"{url}:predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as response:
        return json.load(response)["predictions"][0]


def main() -> int:
    """Prints a line for each picture and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="http://localhost:8501/v1/models/photos", help="a model's")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each picture")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    arguments = parser.parse_args()
    failed = False
    for path in arguments.pictures:
        try:
            picture = path.read_bytes()
        except OSError as error:
            print(f"{path}  error: {error.strerror}")
            failed = True
            continue
        try:
            answer = classify(arguments.url, picture, arguments.timeout)
        except urllib.error.HTTPError as error:  # 404 for a wrong name, 413 for a large file, ...
            sys.exit(f"error: {arguments.url} answers {error.code}: {error.read(500).decode()}")
        except OSError as error:  # nobody listens, or the answer does not come
            reason = getattr(error, "reason", error)
            sys.exit(f"error: no answer from {arguments.url}: {reason}. Is a server running there?")
        if answer["error"]:
            print(f"{path}  refused: {answer['error']}")
            failed = True
        else:
            print(f"{path}  {answer['scores'][0]:7.2%}  {answer['classes'][0]}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
