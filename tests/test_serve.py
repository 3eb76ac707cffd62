"""The server in process: TensorFlow Serving's paths, limits, Grad-CAM, metrics and the page."""

import base64
import contextlib
import io
import json
import math
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from html import unescape

import numpy as np
import pytest
import tensorflow as tf
from fastapi.testclient import TestClient
from helpers.run_folders import write_served_run
from helpers.served_models import COLOUR, GRAY, NAMES, SIZE, pixels
from helpers.served_processes import service_of, wait_until
from PIL import ExifTags, Image

from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.evaluation_crop import resize_for_evaluation, seen_window
from keras_effnetv2.models.grad_cam import grad_cam as grad_cam_of
from keras_effnetv2.runs.run_folder import open_run
from keras_effnetv2.serve.app import make_app
from keras_effnetv2.serve.loaded_model import load_served_model, newest_version
from keras_effnetv2.serve.overlay import overlay_function
from keras_effnetv2.serve.page import page
from keras_effnetv2.serve.server import allowed_hosts
from keras_effnetv2.serve.service import ServerLimits

URL = "/v1/models/trees"
BAD = b"no picture"


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_served_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def model(run_folder):
    return load_served_model(newest_version(run_folder))


@pytest.fixture(scope="module")
def grad_cam(run_folder, model):
    def classify(columns):
        return model.run("classify_bytes", columns)

    return overlay_function(open_run(run_folder), classify)


@contextlib.contextmanager
def asking(model, grad_cam=None, **limits):
    service = service_of(model, "trees", grad_cam, **limits)
    with TestClient(make_app(service)) as client:
        yield client


@pytest.fixture(scope="module")
def client(model, grad_cam):
    with asking(model, grad_cam, max_body_bytes=2**18, timeout=30) as client:
        yield client


def test_the_newest_version_is_served(run_folder, model, tmp_path):
    assert model.version == 10  # not 9, the last one by the alphabet
    assert newest_version(run_folder / "saved_model") == newest_version(run_folder)
    with pytest.raises(ValueError, match="Give the folder that it is in"):
        newest_version(model.folder)
    with pytest.raises(ValueError, match="Nothing to serve"):
        newest_version(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match="keras-effnetv2 export"):
        newest_version(tmp_path)
    (tmp_path / "saved_model" / "1").mkdir(parents=True)
    (tmp_path / "saved_model" / "1" / "saved_model.pb").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be loaded"):
        load_served_model(newest_version(tmp_path))


def test_status_and_metadata_are_those_of_tensorflow_serving(client):
    state = {"error_code": "OK", "error_message": ""}
    expected = [{"version": "10", "state": "AVAILABLE", "status": state}]
    for address in (URL, f"{URL}/versions/10"):
        assert client.get(address).json() == {"model_version_status": expected}
    found = client.get(f"{URL}/metadata").json()
    assert found["model_spec"] == {"name": "trees", "signature_name": "", "version": "10"}
    files = found["metadata"]["signature_def"]["signature_def"]["classify_bytes"]
    assert files["method_name"] == "tensorflow/serving/predict"
    assert files["inputs"]["image_bytes"]["dtype"] == "DT_STRING"
    assert files["inputs"]["image_bytes"]["tensor_shape"] == {
        "dim": [{"size": "-1", "name": ""}],
        "unknown_rank": False,
    }


def test_files_are_classified_as_the_saved_model_does(client, model):
    files = np.array([COLOUR, BAD, GRAY], dtype=object)
    expected = model.run("classify_bytes", {"image_bytes": files})
    request = {"signature_name": "classify_bytes", "instances": [b64(file) for file in files]}
    rows = client.post(f"{URL}:predict", json=request).json()["predictions"]
    assert [row["error"] for row in rows] == ["", "not a JPEG, PNG, BMP, GIF or WebP picture", ""]
    for row, classes, scores in zip(rows, expected["classes"], expected["scores"], strict=True):
        assert [name.encode() for name in row["classes"]] == classes.tolist()
        # The same but for the order of additions: here three pictures are one batch, too.
        np.testing.assert_allclose(row["scores"], scores, rtol=1e-6)
    request = {"signature_name": "classify_bytes", "inputs": {"image_bytes": [b64(COLOUR)]}}
    outputs = client.post(f"{URL}/versions/10:predict", json=request).json()["outputs"]
    assert outputs["classes"] == [rows[0]["classes"]]


def test_pixels_are_the_default_signature(client, model):
    images = pixels(2)
    expected = model.run("serving_default", {"images": images})["probabilities"]
    answer = client.post(f"{URL}:predict", json={"instances": images.tolist()}).json()
    np.testing.assert_allclose(answer["predictions"], expected, rtol=1e-6)
    assert expected.shape == (2, len(NAMES))


def test_examples_are_classified(client, model):
    files = np.array([COLOUR, BAD], dtype=object)
    expected = model.run("classify_bytes", {"image_bytes": files})
    request = {"examples": [{"image/encoded": b64(file)} for file in files]}
    results = client.post(f"{URL}:classify", json=request).json()["results"]
    named = client.post(f"{URL}:classify", json={**request, "signature_name": "classify"})
    assert named.json()["results"] == results
    assert [name for name, _ in results[0]] == [name.decode() for name in expected["classes"][0]]
    np.testing.assert_allclose([score for _, score in results[0]], expected["scores"][0], rtol=1e-6)
    assert results[1] == [["", 0.0]] * 5


def test_wrong_requests_are_answered_with_one_message(client):
    for method, path, body, status, message in (
        ("GET", "/v1/models/oaks", None, 404, "no such model .* 'trees', version 10.* 'oaks'$"),
        ("GET", f"{URL}/versions/9", None, 404, "no such .*version. .*: 'trees', version 9$"),
        ("GET", f"{URL}/versions/9/metadata", None, 404, "no such model or version"),
        ("GET", f"{URL}/labels/stable", None, 400, "Unrecognized servable version label: 'stable'"),
        ("POST", f"{URL}/labels/stable:predict", "{}", 400, "no labels. Use /versions/10"),
        ("POST", f"{URL}/versions/9:classify", "{}", 404, "no such model or version"),
        ("POST", "/v1/models/oaks:predict", "{}", 404, "no such model"),
        ("GET", f"{URL}:predict", None, 400, "Malformed request: GET /v1/models/trees:predict"),
        ("POST", f"{URL}:guess", "{}", 400, "Malformed request"),
        ("POST", f"{URL}:regress", "{}", 400, "This model is a classifier"),
        ("POST", f"{URL}:predict", "", 400, "must be JSON: .*curl -F file=@cat.jpg"),
        ("POST", f"{URL}:predict", '{"instances": [NaN]}', 400, "NaN is not a JSON number"),
        ("POST", f"{URL}:predict", '{"signature_name": "x"}', 400, "classify_bytes, .*: 'x'"),
        ("POST", f"{URL}:classify", '{"signature_name": "classify_bytes"}', 400, "one of classify"),
        ("GET", "/redoc", None, 404, "Not Found. See /docs"),
        ("DELETE", URL, None, 405, "Method Not Allowed"),
        ("POST", "/grad_cam", "no picture", 400, "not a JPEG"),
    ):
        answer = client.request(method, path, content=body)
        assert answer.status_code == status, path
        assert list(answer.json()) == ["error"]
        assert re.search(message, answer.json()["error"])
        assert answer.headers["content-type"] == "application/json"


def test_large_bodies_are_refused_whether_declared_or_not(client):
    parts = [b"x" * 60_000] * 5
    declared = client.post(f"{URL}:predict", content=b"".join(parts))
    chunked = client.post(f"{URL}:predict", content=iter(parts))
    for answer in (declared, chunked):
        assert answer.status_code == 413
        assert answer.json() == {
            "error": "The body is larger than 0.25 MB, the most that this server takes "
            "(--max-body-mb)"
        }


def test_clients_are_sent_away_when_there_are_too_many(model):
    asked, go = threading.Event(), threading.Event()

    def slow(file, class_name):
        asked.set()
        assert go.wait(30)
        raise OSError("a secret of the server")

    with asking(model, slow, max_requests=1) as client, ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/grad_cam", content=GRAY)
        assert asked.wait(30)
        busy = client.post(f"{URL}:predict", content=b"{}")
        go.set()
        assert busy.status_code == 503
        assert busy.headers["Retry-After"] == "1"
        assert "Try again later" in busy.json()["error"]
        # What fails inside is in the log, not in the answer.
        assert first.result().status_code == 500
        assert first.result().json() == {"error": "Internal error; see the server's log"}
        assert client.post(f"{URL}:predict", content=b"{}").status_code == 400


def test_a_request_that_takes_too_long_is_given_up(model):
    go = threading.Event()

    def slow(file, class_name):
        go.wait(30)
        return {}

    with asking(model, slow, timeout=0.2) as client:
        late = client.post("/grad_cam", content=GRAY)
        wait_until(lambda: client.get("/healthz").status_code == 503)  # begun after it was asked
        ill = client.get("/healthz")
        go.set()
        wait_until(lambda: client.get("/healthz").status_code == 200)
    assert late.status_code == 504
    assert late.json() == {"error": "No answer within 0.2 seconds"}
    assert ill.status_code == 503
    assert ill.json() == {"error": "The model has been busy for more than 0.2 seconds"}


def test_a_request_may_have_so_many_rows(model):
    with asking(model, max_rows=2) as client:
        for method, body in (
            ("predict", {"signature_name": "classify_bytes", "instances": [""] * 3}),
            ("predict", {"signature_name": "classify", "inputs": [""] * 3}),
            ("predict", {"instances": pixels(3).tolist()}),
            ("classify", {"examples": [{}] * 3}),
        ):
            answer = client.post(f"{URL}:{method}", json=body)
            assert answer.status_code == 413
            assert "2 rows at most (the server's --max-rows)" in answer.json()["error"]
        assert client.post(f"{URL}:classify", json={"examples": [{}] * 2}).status_code == 200


@pytest.mark.parametrize("field", fields(ServerLimits), ids=lambda field: field.name)
def test_limits_must_be_possible(field):
    impossible = -1 if field.name == "max_delay" else 0
    with pytest.raises(ValueError, match=f"`{field.name}` must be .* Received: {impossible}"):
        ServerLimits(**{field.name: impossible})


def test_an_answer_that_is_no_json_is_an_error_of_the_server(model):
    def not_a_number(images):
        return {"probabilities": tf.fill([len(images), len(NAMES)], np.nan)}

    specs = model.signatures["serving_default"].structured_input_signature
    not_a_number.structured_input_signature = specs
    broken = replace(model, signatures={"serving_default": not_a_number})
    with asking(broken) as client:
        answer = client.post(f"{URL}:predict", json={"instances": pixels(1).tolist()})
    assert answer.status_code == 500
    assert answer.json() == {"error": "The model's answer contains NaN or Infinity"}


def decoded(address):
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return tf.io.decode_png(base64.b64decode(data)).numpy()


def test_grad_cam_is_an_overlay_of_the_whole_picture(client, run_folder):
    answer = client.post("/grad_cam", content=COLOUR, params={"class_name": NAMES[3]}).json()
    assert set(answer) == {"class_name", "overlay"}
    assert answer["class_name"] == NAMES[3]
    overlay = decoded(answer["overlay"])
    picture = decode_image(COLOUR)
    assert overlay.shape == (*picture.shape[:2], 4)
    run = open_run(run_folder)
    heat = grad_cam_of(run.model, resize_for_evaluation(picture, SIZE, run.style), 3)
    expected = tf.image.resize(heat[..., np.newaxis], picture.shape[:2])[..., 0] * 255
    np.testing.assert_allclose(overlay[..., 3], np.minimum(3 * expected, 255), atol=3)
    hottest, coldest = (
        overlay[np.unravel_index(at, expected.shape)].astype(int)
        for at in (expected.numpy().argmax(), expected.numpy().argmin())
    )
    assert hottest[:3].sum() > coldest[:3].sum() + 100  # brighter
    best = client.post("/grad_cam", content=COLOUR).json()
    request = {"signature_name": "classify_bytes", "instances": [b64(COLOUR)]}
    rows = client.post(f"{URL}:predict", json=request).json()["predictions"]
    assert best["class_name"] == rows[0]["classes"][0]
    unknown = client.post("/grad_cam", content=COLOUR, params={"class_name": "fern"})
    assert unknown.json() == {"error": "The model has no class with this name"}


@pytest.mark.parametrize("shape", [(300, 1200), (1, 3000), (40, 30)])
def test_an_overlay_is_small_and_empty_where_the_network_does_not_look(run_folder, shape):
    run = open_run(run_folder)
    cropping = replace(run.settings, recipe=replace(run.recipe, evaluation_style="v1"))

    def classify(columns):
        return {"error": [b""], "classes": [[NAMES[0].encode()]]}

    explain = overlay_function(replace(run, settings=cropping), classify)
    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    file = tf.io.encode_png(pixels).numpy()
    hot = max((explain(file, name) for name in NAMES), key=lambda one: len(one.overlay))
    heat = tf.io.decode_png(hot.overlay).numpy()[..., 3]
    scale = min(1, 512 / max(shape))
    assert heat.shape == tuple(math.ceil(side * scale) for side in shape)
    top, left, height, width = (scale * part for part in seen_window(*shape, SIZE, "v1"))
    rows, columns = np.nonzero(heat)
    assert (rows.min() >= int(top)) & (rows.max() <= top + height)
    assert (columns.min() >= int(left)) & (columns.max() <= left + width)
    assert heat.max() == 255


def test_an_overlay_is_turned_as_browsers_turn_the_picture(grad_cam):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # a quarter turn
    file = io.BytesIO()
    Image.new("RGB", (60, 30), "red").save(file, "jpeg", exif=exif)
    overlay = tf.io.decode_png(grad_cam(file.getvalue(), NAMES[0]).overlay)
    assert overlay.shape == (60, 30, 4)


def test_metrics_count_requests_and_pictures(model):
    with asking(model) as client:
        request = {"signature_name": "classify_bytes", "instances": [b64(GRAY), b64(BAD)]}
        client.post(f"{URL}:predict", json=request)
        client.post(f"{URL}:classify", content=b"")
        assert client.get("/healthz").json() == {"status": "ok"}
        answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = answer.text.splitlines()
    for expected in (
        'keras_effnetv2_requests_total{method="predict",outcome="ok"} 1.0',
        'keras_effnetv2_requests_total{method="classify",outcome="bad_request"} 1.0',
        'keras_effnetv2_pictures_total{outcome="answered"} 1.0',
        'keras_effnetv2_pictures_total{outcome="refused"} 1.0',
        'keras_effnetv2_request_seconds_bucket{le="+Inf",method="predict"} 1.0',
        'keras_effnetv2_request_seconds_count{method="predict"} 1.0',
        "keras_effnetv2_requests_active 0.0",
        "keras_effnetv2_jobs_waiting 0.0",
        'keras_effnetv2_model_version{model="trees"} 10.0',
    ):
        assert expected in lines


def test_the_page_needs_nothing_from_the_network_and_a_hostile_name_stays_text(client):
    answer = client.get("/")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert not re.search("https?://", answer.text)
    name = "<script>'\"&"
    html = page(name, 1, has_grad_cam=False)
    assert name not in html
    settings = re.search('data-settings="([^"]*)"', html)[1]
    assert json.loads(unescape(settings)) == {"name": name, "grad_cam": False}


@pytest.mark.parametrize(
    ("headers", "is_answered"),
    [
        ({}, True),
        ({"Origin": "http://localhost:8501"}, True),
        ({"Origin": "HTTPS://LocalHost:8501", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Origin": "https://photos.example"}, True),
        ({"Origin": "https://photos.example:8443", "Sec-Fetch-Site": "cross-site"}, True),
        ({"Origin": "https://behind.a.proxy", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "https://evil.example"}, False),
        ({"Origin": "https://photos.example.evil.example"}, False),
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, False),
        ({"Origin": "http://localhost"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
    ],
)
def test_pages_of_other_sites_cannot_ask(model, headers, is_answered):
    app = make_app(service_of(model, "trees"), ["localhost"], ["photos.example"])
    client = TestClient(app, headers={"Host": "localhost:8501"})
    for path in (f"{URL}:predict", "/grad_cam"):
        answer = client.post(path, content="{}", headers=headers)
        assert (answer.status_code != 403) == is_answered
    assert is_answered or "--allow-host" in answer.json()["error"]
    # A link of another page leads here; its scripts do not.
    seen = client.get("/", headers=headers).status_code
    assert seen == (200 if is_answered or "Origin" not in headers else 403)
    preflight = {**headers, "Access-Control-Request-Method": "POST"}
    for one in (answer, client.options(f"{URL}:predict", headers=preflight)):
        assert not [name for name in one.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("address", "host", "names", "further"),
    [
        ("127.0.0.1", "127.0.0.1", [], "127.0.0.1"),
        ("::1", "::1", [], "[::1]"),
        ("127.0.0.1", "localhost", ["Photos.example"], "photos.example"),
        ("::", "::", ["photos.example", "2001:db8::1"], "[2001:db8::1]"),
    ],
)
def test_which_hosts_are_allowed(address, host, names, further):
    found = allowed_hosts(address, host, names)
    assert {"localhost", "127.0.0.1", "[::1]", further} <= set(found)
    assert "*" not in found


def test_every_host_is_allowed_where_other_machines_may_ask():
    assert allowed_hosts("0.0.0.0", "0.0.0.0", []) == ["*"]


@pytest.mark.parametrize("name", ["", "http://photos.example", "photos.example:80", "a b", "*"])
def test_what_is_no_host(name):
    with pytest.raises(ValueError, match="a name or an address without scheme and port"):
        allowed_hosts("127.0.0.1", "localhost", [name])


def test_only_allowed_hosts_are_answered(model):
    """Against pages that have a name of their own resolve to this machine."""
    service = service_of(model, "trees")
    client = TestClient(
        make_app(service, allowed_hosts("127.0.0.1", "127.0.0.1", ["photos.example"]))
    )
    good = ["localhost:8501", "LOCALHOST", "127.0.0.1:1", "[::1]:8501", "[::1]", "photos.example"]
    bad = ["evil.example:8501", "localhost.evil.example", "127.0.0.1.evil.example", "0.0.0.0", ""]
    for host in (*good, *bad, "evil.example@localhost", "::1"):
        answer = client.get(URL, headers={"Host": host})
        assert answer.status_code == (200 if host in good else 400), host
