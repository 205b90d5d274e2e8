"""The served OpenAPI documents, made narrower where they must leave open what a server
has: which applications and models there are, and what each takes.

A narrow route is only asked for what it must accept, a wide one only for what it must
refuse: of a request that the wide one calls valid, an application may still refuse the
input, and what the narrow one does not speak of may still be taken.
"""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]

_NUMBER: Json = {"type": "number", "minimum": -1e30, "maximum": 1e30}
_INTEGER: Json = {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1}
_TEXT: Json = {"type": "string", "maxLength": 300}
_VALUE: Json = {
    "anyOf": [
        {"type": ["null", "boolean"]},
        _INTEGER,
        _NUMBER,
        _TEXT,
        {"type": "array", "items": _NUMBER},
        {"type": "object", "additionalProperties": _TEXT},
    ]
}
_BASE64: Json = {"type": "string", "pattern": "^([A-Za-z0-9+/]{4}){0,20}$"}

INPUTS: dict[str, Json] = {
    "ints": {"type": "array", "items": _INTEGER},
    "floats": {"type": "array", "items": _NUMBER},
    "doubles": {"type": "array", "items": _NUMBER},
    "strings": _TEXT,
    "bytes": _BASE64,
    "json": _VALUE,
}
NUMERIC = ("ints", "floats", "doubles")

# What every prediction may carry, where there is a version 1 of one model.
_ENVELOPE: Json = {
    "uid": {
        "anyOf": [
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            {"type": "string", "pattern": "^[ -~]{0,256}$"},
            {"type": "null"},
        ]
    },
    "context": _VALUE,
    "version": {"enum": [1, "1", None]},
    "deadline_ms": {"type": ["number", "null"], "exclusiveMinimum": 0},
    "cache": {"type": ["boolean", "null"]},
}
_NPY = "application/x-npy"


class Kind:
    """What an application of the target takes. `models` counts those it is linked to;
    `labels`, whether it learns from inputs with their labels."""

    def __init__(self, input_type: str, models: int, labels: bool) -> None:
        self.input_type = input_type
        self.models = models
        self.labels = labels

    def envelope(self) -> Json:
        if self.models == 1:
            return _ENVELOPE
        return {**_ENVELOPE, "version": {"type": "null"}}

    def request(self) -> Json:
        value = INPUTS[self.input_type]
        batch = {"type": "array", "items": value, "maxItems": 50}
        inputs = ({"input": value}, {"input_batch": batch})
        return {
            "anyOf": [
                {
                    "type": "object",
                    "properties": {**self.envelope(), **each},
                    "required": [*each],
                    "additionalProperties": False,
                }
                for each in inputs
            ]
        }

    def feedback(self) -> Json:
        """One piece. The query ids are nobody's, or those of links."""
        on_query: Json = {"query_id": {"type": "string", "maxLength": 128}}
        on_input: Json = {
            "input": INPUTS[self.input_type],
            "label": _NUMBER,
            "feedback_id": {"type": "string", "pattern": "^[ -~]{1,128}$"},
        }
        forms = [
            {**on_query, "label": _NUMBER},
            {**on_query, "reward": {"type": "number", "minimum": 0, "maximum": 1}},
            *([on_input] if self.labels else []),
        ]
        return {
            "anyOf": [
                {
                    "type": "object",
                    "properties": form,
                    "required": [*form],
                    "additionalProperties": False,
                }
                for form in forms
            ]
        }


def for_applications(document: Json, kinds: dict[str, Kind]) -> Json:
    """The document of the query port, with narrow routes for each application."""
    narrow = copy.deepcopy(document)
    narrow["components"]["parameters"]["app"]["schema"] = {"enum": sorted(kinds)}
    for name, kind in kinds.items():
        predict = _alone(narrow, document, "predict", f"/{name}/predict")
        predict["parameters"] = []
        _fill(predict, kind.request())
        links = predict["responses"]["200"]["links"]
        links["feedback"]["operationId"] = f"/{name}/update"
        del links["feedback"]["parameters"]
        update = _alone(narrow, document, "update", f"/{name}/update")
        piece = kind.feedback()
        many = {"type": "array", "items": piece, "maxItems": 20}
        several = {
            "type": "object",
            "properties": {"feedback": many},
            "required": ["feedback"],
            "additionalProperties": False,
        }
        _fill(update, {"anyOf": [piece, several]})
        if kind.input_type in NUMERIC:
            # by the other spelling of the path, for parameters go with arrays alone
            arrays = _alone(narrow, document, "predict", f"/{name}/predict/")
            content = arrays["requestBody"]["content"]
            arrays["requestBody"]["content"] = {_NPY: content[_NPY]}
            if kind.models > 1:
                arrays["parameters"] = [
                    each for each in arrays["parameters"] if each["name"] != "version"
                ]
            for parameter in arrays["parameters"]:
                parameter.pop("content", None)
                parameter.pop("example", None)
                parameter["schema"] = _as_text(kind.envelope()[parameter["name"]])
            del arrays["responses"]["200"]["links"]
    return narrow


# Policies that need no options.
_POLICIES: Json = {"enum": ["static", "exp3", "ucb1", "thompson", "hedge", "majority"]}
_POLICY: Json = {
    "anyOf": [
        _POLICIES,
        {
            "type": "object",
            "properties": {
                "name": _POLICIES,
                "options": {"type": "object", "maxProperties": 0},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    ]
}


def for_admin(document: Json, applications: list[str], models: list[str]) -> Json:
    """The document of the admin port without what ends the server, with names that are
    there beside any others."""
    narrow = copy.deepcopy(document)
    del narrow["paths"]["/admin/drain"]
    structs = narrow["components"]["schemas"]
    del structs["AddApplication"]["properties"]["candidate_model_names"]
    structs["AddApplication"]["properties"]["loss"] = {"enum": ["zero_one", "absolute"]}
    structs["Manifest"]["properties"] |= {
        "batching": {"enum": [{}]},
        "example": {"type": "null"},  # it must fit the input type
        "environment": {"enum": [{}, {"OMP_NUM_THREADS": "1"}]},
        "num_replicas": {"enum": [1, 2]},
    }
    for name, struct in structs.items():
        fields = struct.get("properties", {})
        if "policy" in fields and name != "LearnedAnswer":
            fields["policy"] = _POLICY
        for field, known in (
            ("app_name", applications),
            ("model_name", models),
            ("model_names", models),
        ):
            if field in fields and name not in ("AddModel", "Manifest"):
                fields[field] = _known(fields[field], known)
    structs["Scale"]["properties"]["num_replicas"]["maximum"] = 3
    return narrow


def _known(schema: Json, names: list[str]) -> Json:
    if schema.get("type") == "array":
        return {**schema, "items": {"enum": names}}
    return {"anyOf": [{"enum": names}, schema]}


def _alone(narrow: Json, document: Json, verb: str, path: str) -> Json:
    item = copy.deepcopy(document["paths"][f"/{{app}}/{verb}"])
    del item["parameters"]
    item["post"]["operationId"] = path
    narrow["paths"][path] = item
    operation: Json = item["post"]
    return operation


def _fill(operation: Json, schema: Json) -> None:
    content = operation["requestBody"]["content"]
    content.pop(_NPY, None)
    for body in content.values():
        body["schema"] = schema
        body.pop("examples", None)


def _as_text(schema: Json) -> Json:
    """A field as a parameter of the query: without null, which has no form of its own."""
    if schema is _VALUE:
        return {"enum": ["null", "[1.5, 2]", '{"hour": 9}', "true"]}
    if "anyOf" in schema:
        return {"anyOf": [each for each in schema["anyOf"] if each != {"type": "null"}]}
    if "enum" in schema:
        return {"enum": ["1"]}
    return {**schema, "type": schema["type"][0]}
