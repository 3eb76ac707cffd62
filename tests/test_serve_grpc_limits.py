"""What the gRPC interface does not take: too much, too slow, too many, or what is no tensor."""

import asyncio
import contextlib
import socket
import threading
from dataclasses import replace

import grpc
import numpy as np
import pytest
import tensorflow as tf
from helpers.run_folders import write_export
from helpers.served_models import pixels
from helpers.served_processes import wait_until
from helpers.served_requests import PREDICT, Endpoint, arrays, refused
from tensorflow.core.framework import tensor_pb2

from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.grpc_messages import parse_inputs
from keras_effnetv2.serve.grpc_service import GrpcServer
from keras_effnetv2.serve.loaded_model import load_served_model
from keras_effnetv2.serve.service import ServerLimits, Service

Code = grpc.StatusCode
IMAGES = {"images": pixels(1)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_served_model(write_export(tmp_path_factory.mktemp("trees")))


class Running:
    """A server in a thread of its own.

    Attributes:
        service: what answers.
        endpoint: by which it is asked.
    """

    def __init__(self, service, call, server, channel):
        self.service = service
        self.call, self.server = call, server
        self.endpoint = Endpoint(service.name, "", channel, service.model)

    @property
    def counts(self):
        lines = self.service.metrics_text().splitlines()
        prefix = "keras_effnetv2_requests_total"
        return [line.removeprefix(prefix) for line in lines if line.startswith(prefix)]


@contextlib.contextmanager
def running(model, **limits):
    service = Service(model, "trees", ServerLimits(**limits))
    with asyncio.Runner() as runner, service.computing():
        loop = runner.get_loop()

        async def bind():
            server = GrpcServer("127.0.0.1:0", service.limits)
            await server.start(service)
            return server

        server = runner.run(bind())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        def call(coroutine):
            return asyncio.run_coroutine_threadsafe(coroutine, loop)

        try:
            with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
                yield Running(service, call, server, channel)
            call(server.stop(0)).result(30)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()


def with_pixels(model, function):
    """Return a model that answers pixels by another function."""
    function.structured_input_signature = model.signatures[
        "serving_default"
    ].structured_input_signature
    return replace(model, signatures={**model.signatures, "serving_default": function})


@pytest.fixture
def held(model):
    """Return a model that answers pixels only when told, and what tells it."""
    asked, go = threading.Event(), threading.Event()

    def wait(images):
        asked.set()
        assert go.wait(30)
        return {"probabilities": tf.zeros([len(images), 6])}

    yield with_pixels(model, wait), asked, go
    go.set()


def test_a_message_that_is_too_large(model):
    with running(model, max_body_bytes=5000) as server:
        details = refused(Code.RESOURCE_EXHAUSTED, server.endpoint.predict, "", IMAGES)
        assert "larger than max" in details or "more than the 5000 bytes" in details
        wait_until(lambda: server.counts == ['{method="predict",outcome="too_large"} 1'])
        assert server.service.active == 0


def test_compressed_messages_are_not_taken(model):
    """Else these zeros would pass any limit."""
    with running(model) as server:
        request = server.endpoint.predict_request("", {"images": np.zeros([9, 24, 24, 3])})
        zipped = {"compression": grpc.Compression.Gzip}
        refused(Code.UNIMPLEMENTED, server.endpoint.prediction.Predict, request, **zipped)


def test_a_connection_that_says_nothing_ends(model):
    with (
        running(model, receive_timeout=0.3) as server,
        socket.create_connection(("127.0.0.1", server.server.port), timeout=30) as silent,
    ):
        while silent.recv(1000):  # the server's settings
            pass


def test_a_port_has_one_server(model):
    with running(model) as server:

        async def bind_again():
            return GrpcServer(f"127.0.0.1:{server.server.port}", ServerLimits())

        with pytest.raises(RuntimeError, match="Failed to bind"):
            server.call(bind_again()).result(30)


def test_clients_are_sent_away_when_there_are_too_many(held):
    model, asked, go = held
    with running(model, max_requests=1) as server:
        request = server.endpoint.predict_request("", IMAGES)
        first = server.endpoint.prediction.Predict.future(request)
        assert asked.wait(30)
        details = refused(Code.RESOURCE_EXHAUSTED, server.endpoint.predict, "", IMAGES)
        assert details == "The server is busy with 1 requests. Try again later"
        go.set()
        assert arrays(first.result(30))["probabilities"].shape == (1, 6)
        assert '{method="predict",outcome="busy"} 1' in server.counts
        server.endpoint.predict("", IMAGES)


def test_a_request_that_takes_too_long_is_given_up(held):
    model, _, go = held
    with running(model, timeout=0.2) as server:
        details = refused(Code.DEADLINE_EXCEEDED, server.endpoint.predict, "", IMAGES)
        go.set()
    assert details == "No answer within 0.2 seconds"


def test_a_message_that_comes_too_slowly_holds_no_place(model):
    go = threading.Event()

    def never():
        go.wait(30)
        yield b""

    with running(model, max_requests=1, receive_timeout=0.2) as server:
        slow = server.endpoint.channel.stream_unary(PREDICT).future(never())
        details = refused(Code.DEADLINE_EXCEEDED, slow.result, 30)
        go.set()
        assert details == "The request was not here within 0.2 seconds"
        server.endpoint.predict("", IMAGES)


def test_who_has_gone_leaves_the_queue(held):
    model, asked, go = held
    with running(model) as server:
        request = server.endpoint.predict_request("", IMAGES)
        first = server.endpoint.prediction.Predict.future(request)
        assert asked.wait(30)
        refused(Code.DEADLINE_EXCEEDED, server.endpoint.prediction.Predict, request, timeout=0.2)
        wait_until(lambda: '{method="predict",outcome="disconnected"} 1' in server.counts)
        assert server.service.active == 1
        go.set()
        first.result(30)


def test_what_fails_inside_is_in_the_log_alone(model):
    def fail(images):
        raise OSError("a secret of the server")

    with running(with_pixels(model, fail)) as server:
        details = refused(Code.INTERNAL, server.endpoint.predict, "", IMAGES)
    assert details == "Internal error; see the server's log"


def test_stopping_answers_who_is_there_and_takes_no_more(held):
    model, asked, go = held
    with running(model) as server:
        request = server.endpoint.predict_request("", IMAGES)
        first = server.endpoint.prediction.Predict.future(request)
        assert asked.wait(30)
        stopped = server.call(server.server.stop(30))

        def is_refused():
            with grpc.insecure_channel(f"127.0.0.1:{server.server.port}") as other:
                late = other.unary_unary(PREDICT).future(request.SerializeToString(), timeout=1)
                return late.code() is Code.UNAVAILABLE

        wait_until(is_refused)
        assert not stopped.done()
        go.set()
        assert arrays(first.result(30))["probabilities"].shape == (1, 6)
        stopped.result(30)


def test_messages_that_are_none(model):
    with running(model) as server:
        raw = server.endpoint.channel.unary_unary(PREDICT)
        details = refused(Code.INVALID_ARGUMENT, raw, b"\xff\xff")
        assert details == "The message is no tensorflow.serving.PredictRequest"
        unknown = server.endpoint.channel.unary_unary(PREDICT.replace("Predict", "Regress"))
        refused(Code.UNIMPLEMENTED, unknown, b"")


PIXELS = tf.TensorSpec([None, 1, 2, 3], tf.float32)
STRINGS = tf.TensorSpec([None], tf.string)


def tensor(dtype, *sizes, unknown_rank=False, **content):
    proto = tensor_pb2.TensorProto(dtype=dtype, **content)
    proto.tensor_shape.unknown_rank = unknown_rank
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


FLOAT, STRING = tf.float32.as_datatype_enum, tf.string.as_datatype_enum


@pytest.mark.parametrize(
    ("proto", "spec", "message"),
    [
        (tensor(FLOAT, 2**40, 1, 2, 3, float_val=[0]), PIXELS, "unpacks to more than the 1000"),
        (tensor(FLOAT, 2**62, 1, 2, 3, float_val=[0]), PIXELS, "unpacks to more than the 1000"),
        (tensor(FLOAT, -1, 1, 2, 3, tensor_content=bytes(24)), PIXELS, r"the shape \(rows, 1, 2"),
        (tensor(FLOAT, 1, 1, 2, 3, tensor_content=bytes(23)), PIXELS, "not the values of its"),
        (tensor(FLOAT, 1, 1, 2, 3, tensor_content=bytes(48)), PIXELS, "not the values of its"),
        (tensor(FLOAT, 1, 1, 2, 3, float_val=range(7)), PIXELS, "not the values of its shape"),
        (tensor(FLOAT, 1, 2, 2, 3, tensor_content=bytes(48)), PIXELS, r"float32 and .* 1, 2, 3\)"),
        (tensor(FLOAT, 6, tensor_content=bytes(24)), PIXELS, r"Received: DT_FLOAT and .* \(6,\)"),
        (tensor(FLOAT, unknown_rank=True, float_val=[0]), PIXELS, "must be a tensor of float32"),
        (tensor(999, 1, 1, 2, 3, tensor_content=bytes(24)), PIXELS, r"Received: \? and"),
        (tensor(FLOAT, *[1] * 300), PIXELS, r"shape \((1, ){8}1\)$"),
        (tensor(STRING, 1, 1, 2, 3, string_val=[b"a"] * 6), PIXELS, "Received: DT_STRING"),
        (tensor(STRING, 2**40, string_val=[b"a"]), STRINGS, "has 1 strings for"),
        (tensor(STRING, 2, string_val=[b"a"] * 3), STRINGS, "has 3 strings for 2 places"),
        (tensor(STRING, 1, tensor_content=b"\1a"), STRINGS, "has 0 strings for 1 places"),
        (tensor(STRING, string_val=[b"a"]), STRINGS, r"shape \(rows\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(proto, spec, message):
    with pytest.raises(RequestError, match=message) as error:
        parse_inputs({"x": proto}, {"x": spec}, max_bytes=1000)
    assert error.value.status in (400, 413)
    assert len(error.value.message) < 400


def test_equal_numbers_may_be_sent_once():
    """As TensorFlow sends them, and reads them."""
    short = tensor(FLOAT, 2, 1, 2, 3, float_val=[7])
    found = parse_inputs({"x": short}, {"x": PIXELS}, max_bytes=1000)
    assert found["x"].tolist() == np.full([2, 1, 2, 3], 7.0).tolist()
    none = parse_inputs({"x": tensor(STRING, 0)}, {"x": STRINGS}, max_bytes=1000)
    assert none["x"].shape == (0,)


def test_inputs_have_the_same_number_of_rows():
    specs = {"a": STRINGS, "b": STRINGS}
    rows = {
        "a": tensor(STRING, 1, string_val=[b"x"]),
        "b": tensor(STRING, 2, string_val=[b"x"] * 2),
    }
    with pytest.raises(RequestError, match="same number of rows"):
        parse_inputs(rows, specs, max_bytes=1000)
