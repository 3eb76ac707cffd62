"""Classify picture files by TensorFlow Serving's gRPC interface, without starting TensorFlow.

    pip install tensorflow-serving-api
    python examples/tf_serving/grpc_client.py cat.jpg dog.png
    python examples/tf_serving/grpc_client.py --server localhost:8500 --model photos cat.jpg

Takes as long as the server; see README.md beside this file for how to start one.
Expected: one line per picture with its best class and its score; for one that the server refused or
that is no file, the reason, and exit code 1.
"""

import argparse
import importlib.util
import sys
import types
from pathlib import Path


def bypass_tensorflow() -> None:
    """Make `tensorflow.core...` importable without running `tensorflow/__init__.py`, for seconds.

    The messages are modules in there that need nothing else of TensorFlow.
    """
    found = importlib.util.find_spec("tensorflow")
    if found is None:
        sys.exit("error: install the messages of the interface: pip install tensorflow-serving-api")
    package = types.ModuleType("tensorflow")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["tensorflow"] = package


def make_request(model: str, picture: bytes):
    """A PredictRequest for one picture."""
    from tensorflow.core.framework.tensor_pb2 import TensorProto
    from tensorflow.core.framework.types_pb2 import DT_STRING
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    tensor = TensorProto(dtype=DT_STRING, string_val=[picture])
    tensor.tensor_shape.dim.add(size=1)
    request = PredictRequest(inputs={"image_bytes": tensor})
    request.model_spec.name, request.model_spec.signature_name = model, "classify_bytes"
    return request


def main() -> int:
    """Prints a line for each picture and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", default="localhost:8500", help="its gRPC address")
    parser.add_argument("--model", default="photos", help="its name on the server")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds for each picture")
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    arguments = parser.parse_args()
    bypass_tensorflow()
    import grpc
    from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

    failed = False
    with grpc.insecure_channel(arguments.server) as channel:
        stub = PredictionServiceStub(channel)
        for path in arguments.pictures:
            try:
                request = make_request(arguments.model, path.read_bytes())
                outputs = stub.Predict(request, timeout=arguments.timeout).outputs
            except OSError as error:
                print(f"{path}  error: {error.strerror}")
                failed = True
                continue
            except grpc.RpcError as error:  # nobody listens, no such model, a large file, ...
                sys.exit(f"error: {arguments.server}: {error.code().name}: {error.details()}")
            if reason := outputs["error"].string_val[0].decode():
                print(f"{path}  refused: {reason}")
                failed = True
            else:
                name = outputs["classes"].string_val[0].decode()
                print(f"{path}  {outputs['scores'].float_val[0]:7.2%}  {name}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
