"""The description of the server's paths for programs, in the format OpenAPI 3.0."""

import json
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from keras_effnetv2._version import __version__
from keras_effnetv2.export.metadata import Metadata
from keras_effnetv2.serve.service import Service

_TEMPLATE = (files("keras_effnetv2.serve") / "static" / "openapi.json").read_text("utf-8")


def openapi(service: Service, *, needs_token: bool) -> dict[str, Any]:
    """Return the document for the served model.

    The field `x-curl` of an operation has arguments for curl, one text for each example.
    """
    document: dict[str, Any] = json.loads(_TEMPLATE)
    document["info"]["version"] = __version__
    if needs_token:
        document["security"] = [{"token": []}, {"password": []}]
    names = sorted(service.model.signatures)
    predict = document["components"]["schemas"]["Predict"]["properties"]
    predict["signature_name"]["enum"] = names
    for method, example in _examples(service.model.described).items():
        answer = document["paths"][f"/v1/models/{{model}}:{method}"]["post"]["responses"]["200"]
        answer["content"]["application/json"]["example"] = example
    name, paths = quote(service.name, safe=""), {}
    for path, operations in document["paths"].items():
        paths[path.replace("{model}", name)] = operations
        if "{model}" in path:
            version = {"parameters": [{"$ref": "#/components/parameters/version"}]}
            of_version = path.replace("{model}", name + "/versions/{version}")
            paths[of_version] = {**operations, **version}
    if not service.has_grad_cam:
        del paths["/grad_cam"]
    document["paths"] = paths
    return document


def _examples(described: Metadata) -> dict[str, Any]:
    """Return an answer of each method, with classes of the model."""
    classes, scores = list((described.class_names or ("cat", "dog"))[:2]), [0.93, 0.07]
    pairs = [[*pair] for pair in zip(classes, scores, strict=False)]
    row: dict[str, Any] = {"classes": classes, "scores": scores[: len(classes)], "error": ""}
    if described.thresholds is not None:
        row |= {"thresholds": [0.5] * len(classes), "named": classes[:1]}
        pairs = pairs[:1]
    return {"predict": {"predictions": [row]}, "classify": {"results": [pairs]}}
