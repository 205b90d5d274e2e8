"""The document describes what the server does, and the page shows the document."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import re
import shlex
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from html.parser import HTMLParser
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec
import numpy as np
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from clipper import errors
from clipper.config import Limits, make_settings
from clipper.engine import Engine
from clipper.errors import ClipperError, InvalidInput
from clipper.frontend.answers import batch_answer, prediction_answer
from clipper.frontend.api import QueryApi
from clipper.frontend.decoding import Decoder
from clipper.frontend.descriptions import ERRORS, FEEDBACK, REQUESTS, Example
from clipper.frontend.docs import curl, render_page
from clipper.frontend.feedback_decoding import decode_feedback
from clipper.frontend.gate import JSON, MSGPACK, NPY
from clipper.frontend.openapi import DOCS_PAGE, make_document, openapi_document
from clipper.frontend.original import AddApplication
from clipper.frontend.update import Update
from clipper.inputs import InputType
from clipper.query import BatchQuery, Query
from clipper.records import ApplicationRecord
from clipper.registration import check_application
from clipper.store.memory import MemoryStore

from .admin_port import open_admin_port

DOCUMENT: dict[str, Any] = msgspec.json.decode(openapi_document())
LIMITS = Limits(rows_per_request=100)
PREDICT = DOCUMENT["paths"]["/{app}/predict"]["post"]
ROUTES = [
    (path, method, item[method])
    for path, item in DOCUMENT["paths"].items()
    for method in ("get", "post")
    if method in item
]

# Errors that no request is answered with.
NEVER_SENT = {"config_error", "deploy_failed", "server_unreachable"}


def validator(schema: Any) -> Draft202012Validator:
    """A validator that finds the document's components."""
    return Draft202012Validator({**schema, "components": DOCUMENT["components"]})


REQUEST = validator({"$ref": "#/components/schemas/PredictionRequest"})


def resolve(value: Any) -> Any:
    while "$ref" in value:
        found = DOCUMENT
        for name in value["$ref"].removeprefix("#/").split("/"):
            found = found[name]
        value = found
    return value


def schema_of(path: str, method: str, status: int) -> Any:
    response = resolve(DOCUMENT["paths"][path][method]["responses"][str(status)])
    return response["content"][JSON]["schema"]


# -- the document ------------------------------------------------------------------------


def test_the_document_is_valid_openapi() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()


def test_every_schema_is_a_valid_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_document_is_made_once() -> None:
    assert openapi_document() is openapi_document()
    assert msgspec.json.decode(openapi_document()) == msgspec.to_builtins(make_document())


def test_the_routes_of_the_query_port_are_there() -> None:
    assert {(method, path) for path, method, _ in ROUTES} == {
        ("post", "/{app}/predict"),
        ("post", "/{app}/update"),
        ("get", "/{app}"),
        ("get", "/health/live"),
        ("get", "/health/ready"),
        ("get", "/metrics"),
        ("get", "/openapi.json"),
        ("get", "/docs"),
    }
    assert len({route["operationId"] for *_, route in ROUTES}) == len(ROUTES)


def test_a_token_is_optional_and_public_routes_have_none() -> None:
    assert DOCUMENT["security"] == [{}, {"bearer": []}]
    public = {path for path, _, route in ROUTES if route.get("security") == []}
    assert public == {"/health/live", "/health/ready", "/metrics"}
    for path, _, route in ROUTES:
        assert ("401" in route["responses"]) is (path not in public)


# -- requests ----------------------------------------------------------------------------


@pytest.mark.parametrize("example", REQUESTS, ids=lambda example: example.name)
@pytest.mark.parametrize("media", [JSON, MSGPACK])
def test_examples_of_requests_decode_and_fit_the_schema(
    example: Example, media: str
) -> None:
    REQUEST.validate(example.body)
    encode = msgspec.json.encode if media == JSON else msgspec.msgpack.encode
    Decoder(example.kind, LIMITS).decode(media, encode(example.body))
    shown = PREDICT["requestBody"]["content"][JSON]["examples"][example.name]
    assert shown["value"] == example.body


def test_every_input_type_has_an_example() -> None:
    assert {example.kind for example in REQUESTS} == set(InputType)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"uid": 0},
        {"input": [1.0], "uid": True},
        {"input": [1.0], "uid": 2**63},
        {"input": [1.0], "uid": "x" * 257},
        {"input": [1.0], "uid": 0},
        {"input": [1.0], "version": 1},
        {"input": [1.0], "version": 1.5},
        {"input": [1.0], "version": "v" * 65},
        {"input": [1.0], "deadline_ms": 0},
        {"input": [1.0], "deadline_ms": 0.5},
        {"input": [1.0], "deadline_ms": None},
        {"input": [1.0], "cache": "no"},
        {"input": [1.0], "cache": None, "context": None, "uid": None},
        {"input_batch": [[1.0], [2.0]]},
        {"input_batch": []},
        {"input": [1.0], "something": "else"},
        [],
        "input",
    ],
    ids=str,
)
def test_the_schema_takes_what_the_decoder_takes(body: Any) -> None:
    try:
        Decoder(InputType.DOUBLES, LIMITS).decode(JSON, msgspec.json.encode(body))
    except InvalidInput:
        assert not REQUEST.is_valid(body)
    else:
        REQUEST.validate(body)


def npy(values: list[list[float]]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array(values))
    return stream.getvalue()


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def test_the_query_parameters_say_what_the_fields_say() -> None:
    decoder = Decoder(InputType.DOUBLES, LIMITS)
    options = next(example for example in REQUESTS if example.name == "options")
    parameters = {}
    for parameter in PREDICT["parameters"]:
        holder = parameter.get("content", {}).get(JSON, parameter)
        validator(holder["schema"]).validate(holder["example"])
        parameters[parameter["name"]] = text_of(holder["example"])
    _, *by_query = decoder.decode(NPY, npy([[1.1]]), urlencode(parameters))
    _, *by_field = decoder.decode(JSON, msgspec.json.encode(options.body))
    assert by_query == by_field


def test_the_sample_for_numpy_is_a_request() -> None:
    [sample] = PREDICT["x-codeSamples"]
    _, line = sample["source"].split("\n", 1)
    words = shlex.split(line)
    parts = urlsplit(words[1])
    assert words[words.index("-H") + 1] == f"Content-Type: {NPY}"
    request = Decoder(InputType.DOUBLES, LIMITS).decode(NPY, npy([[1.0, 2.0]]), parts.query)
    assert request.deadline_ms == float(dict(parse_qsl(parts.query))["deadline_ms"])


# -- answers -----------------------------------------------------------------------------


def answers() -> Iterator[tuple[str, Any, Any]]:
    for path, method, route in ROUTES:
        for status, response in route["responses"].items():
            for media in resolve(response)["content"].values():
                for name, example in media.get("examples", {}).items():
                    yield f"{method} {path} {status} {name}", media["schema"], example


@pytest.mark.parametrize(
    ("schema", "example"),
    [pytest.param(schema, example, id=name) for name, schema, example in answers()],
)
def test_examples_of_answers_fit_their_schema(schema: Any, example: Any) -> None:
    validator(schema).validate(example["value"])


class Receiver:
    """Keeps the bodies of the answers."""

    def __init__(self, told: asyncio.Event | None = None) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.told = told

    def query_settled(self, query: Query) -> None:
        status, body = prediction_answer(query)
        self.answers.append((status, msgspec.json.decode(body)))

    def batch_settled(self, batch: BatchQuery) -> None:
        self.answers.append((200, msgspec.json.decode(batch_answer(batch))))

    def update_settled(self, update: Update) -> None:
        status, body = update.answer()
        self.answers.append((status, msgspec.json.decode(body)))
        if self.told is not None:
            self.told.set()


@pytest.fixture
async def api() -> AsyncIterator[QueryApi]:
    """Two applications without models: `safe` has a default output, `strict` none."""
    engine = Engine(make_settings({"ephemeral": True}), MemoryStore())
    await engine.start()
    for name, default in (("safe", "-1.0"), ("strict", None)):
        await engine.register_application(
            ApplicationRecord(name, 0, "doubles", 20_000, default, ["sum"])
        )
    yield QueryApi(engine)
    await engine.drain(0)
    await engine.close()


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/safe", "/{app}"),
        ("/strict", "/{app}"),
        ("/health/live", "/health/live"),
        ("/health/ready", "/health/ready"),
    ],
)
async def test_real_answers_to_get_fit_the_schema(
    api: QueryApi, path: str, route: str
) -> None:
    answer = api.get(path)
    assert answer is not None
    status, body = answer
    validator(schema_of(route, "get", status)).validate(msgspec.json.decode(body))


@pytest.mark.parametrize("name", ["safe", "strict"])
@pytest.mark.parametrize("body", [{"input": [1.0]}, {"input_batch": [[1.0], [2.0]]}])
async def test_real_predictions_fit_the_schema(
    api: QueryApi, name: str, body: dict[str, Any]
) -> None:
    receiver = Receiver()
    api.predict(name, JSON, msgspec.json.encode(body), "", receiver)
    [(status, answer)] = receiver.answers
    validator(schema_of("/{app}/predict", "post", status)).validate(answer)
    fields = answer.get("batch_predictions", [answer])[0].keys()
    assert fields <= known_fields(), "the schema names every field that is sent"


def known_fields() -> set[str]:
    schemas = DOCUMENT["components"]["schemas"]
    names = ("PredictionAnswer", "RowFailure", "ErrorAnswer")
    return {field for name in names for field in schemas[name]["properties"]}


@pytest.mark.parametrize("example", FEEDBACK, ids=lambda example: example.name)
def test_the_examples_of_feedback_are_taken(example: Example) -> None:
    validator({"$ref": "#/components/schemas/UpdateRequest"}).validate(example.body)
    body = msgspec.json.encode(example.body)
    items, single = decode_feedback(example.kind, JSON, body, LIMITS)
    assert single is ("feedback" not in example.body)
    assert all(item.query_id or item.row for item in items)


async def test_real_answers_to_feedback_fit_the_schema(api: QueryApi) -> None:
    asked = Receiver()
    api.predict("safe", JSON, b'{"input": [1.0]}', "", asked)
    one = {"query_id": asked.answers[0][1]["query_id"], "reward": 1}
    many = {"feedback": [one, {"query_id": "forged", "label": 1}]}
    for body in (one, one, many):
        told = asyncio.Event()
        receiver = Receiver(told)
        api.update("safe", JSON, msgspec.json.encode(body), "", receiver)
        await told.wait()
        [(status, answer)] = receiver.answers
        assert status == 200
        schema = schema_of("/{app}/update", "post", status)
        validator(schema).validate(answer)
    assert [set(each) for each in answer["feedback"]] == [
        {"accepted", "duplicate"},
        {"error", "cause"},
    ]


async def test_errors_that_feedback_meets_are_among_its_responses(api: QueryApi) -> None:
    bodies = [
        ("nowhere", b'{"query_id": "a", "label": 1}'),
        ("safe", b"{"),
        ("safe", b'{"query_id": "a", "reward": "0.9"}'),
        ("safe", msgspec.json.encode({"feedback": [{"input": [], "label": 1}] * 10_001})),
    ]
    for name, body in bodies:
        with pytest.raises(ClipperError) as caught:
            api.update(name, JSON, body, "", Receiver())
        status = caught.value.status
        validator(schema_of("/{app}/update", "post", status)).validate(caught.value.body())


# -- errors ------------------------------------------------------------------------------


def test_every_error_that_is_sent_is_described() -> None:
    assert {note.error.code for note in ERRORS} == errors.BY_CODE.keys() - NEVER_SENT
    assert {int(name[5:]) for name in DOCUMENT["components"]["responses"]} >= {
        *(400, 401, 403, 404, 405, 408, 409, 410, 413, 415, 429, 500, 503, 504, 507)
    }


def test_an_error_response_has_the_codes_of_its_status_and_their_headers() -> None:
    for name, response in DOCUMENT["components"]["responses"].items():
        status = int(name.removeprefix("Error"))
        assert response["content"][JSON]["schema"]["$ref"].endswith("/ErrorAnswer")
        kinds = [errors.BY_CODE[code] for code in response["content"][JSON]["examples"]]
        assert {kind.status for kind in kinds} == {status}
        retry = any(kind.retry_after is not None for kind in kinds)
        headers = response.get("headers", {})
        assert ("Retry-After" in headers) is retry
        assert ("WWW-Authenticate" in headers) is (status == 401)


async def test_errors_that_predictions_meet_are_among_their_responses(
    api: QueryApi,
) -> None:
    bodies = [
        ("nowhere", JSON, b'{"input": [1.0]}'),
        ("safe", JSON, b"{"),
        ("safe", JSON, b'{"input": "text"}'),
        ("safe", JSON, msgspec.json.encode({"input_batch": [[1.0]] * 10_001})),
    ]
    for name, media, body in bodies:
        with pytest.raises(ClipperError) as caught:
            api.predict(name, media, body, "", Receiver())
        status = caught.value.status
        validator(schema_of("/{app}/predict", "post", status)).validate(caught.value.body())


# -- the admin port's --------------------------------------------------------------------


@pytest.fixture
async def admin_document() -> AsyncIterator[tuple[dict[str, Any], set[tuple[str, str]]]]:
    """The document as it is served, and the routes that there are."""
    async with open_admin_port() as admin:
        answer = await admin.get("openapi.json")
        assert answer.status == 200
        assert (await admin.session.get(f"{admin.url}/admin/openapi.json")).status == 401
        yield answer.value, admin.routes


Admin = tuple[dict[str, Any], set[tuple[str, str]]]


def test_a_uid_has_the_same_bounds_wherever_it_is_sent(admin_document: Admin) -> None:
    schemas = admin_document[0]["components"]["schemas"] | DOCUMENT["components"]["schemas"]
    bounded = {
        name: (kind["minimum"], kind["maximum"])
        for name in ("StateOf", "ForgetUser", "AnyRequest", "UpdateRequest")
        for kind in schemas[name]["properties"]["uid"]["anyOf"]
        if kind.get("type") == "integer"
    }
    assert len(bounded) == 4
    assert {*bounded.values()} == {(-(2**63), 2**63 - 1)}


def test_the_admin_document_is_valid_and_describes_every_route(
    admin_document: Admin,
) -> None:
    document, routes = admin_document
    OpenAPIV31SpecValidator(document).validate()
    described = {
        (method.upper(), path)
        for path, item in document["paths"].items()
        for method in item.keys() & {"get", "post"}
    }
    assert described == routes
    assert document["security"] == [{"bearer": []}]


def test_what_is_only_described_is_checked(admin_document: Admin) -> None:
    document, _ = admin_document
    schemas = document["components"]["schemas"]
    good = {
        "name": "app",
        "input_type": "doubles",
        "default_output": "-1",
        "latency_slo_micros": 20_000,
        "models": ["sum"],
    }

    def is_valid(body: dict[str, Any]) -> bool:
        schema = {"$ref": "#/components/schemas/AddApplication", "components": {}}
        schema["components"] = {"schemas": schemas}
        return Draft202012Validator(schema).is_valid(body)

    def is_taken(body: dict[str, Any]) -> bool:
        try:
            decoded = msgspec.convert(body, AddApplication)
            check_application(
                ApplicationRecord(
                    decoded.name,
                    0,
                    decoded.input_type,
                    decoded.latency_slo_micros,
                    decoded.default_output,
                    decoded.models or [],
                    cache_ttl_seconds=decoded.cache_ttl_seconds,
                    on_overload=decoded.on_overload,
                )
            )
        except (msgspec.ValidationError, InvalidInput):
            return False
        return True

    assert is_valid(good)
    assert is_taken(good)
    for change in (
        {"name": ""},
        {"name": "docs"},
        {"input_type": "numbers"},
        {"default_output": "x" * 70_000},
        {"latency_slo_micros": 0},
        {"latency_slo_micros": 10**12},
        {"models": ["sum", "sum"]},
        {"models": ["m m"]},
        {"models": [f"m{i}" for i in range(65)]},
        {"cache_ttl_seconds": 0},
        {"on_overload": "drop"},
    ):
        assert not is_valid(good | change), change
        assert not is_taken(good | change), change


@pytest.mark.parametrize(
    "body",
    [
        {"query_id": "a", "label": 1},
        {"query_id": "a", "reward": 1},
        {"query_id": "a", "label": 1, "reward": 1},
        {"query_id": "a", "label": 1, "reward": None},
        {"query_id": "a", "reward": None},
        {"query_id": None, "label": 1},
        {"input": [1.0], "label": 1},
        {"input": [1.0], "label": 1, "query_id": None},
        {"label": 1},
        {},
        {"feedback": []},
        {"feedback": [{"query_id": "a", "label": 1}]},
        {"feedback": [{"query_id": "a"}]},
        {"feedback": [], "uid": None},
        {"feedback": [], "uid": 1},
        {"feedback": [], "label": 1},
        {"feedback": [], "query_id": "a", "label": 1},
        {"something": "else", "query_id": "a", "label": 1},
    ],
    ids=str,
)
def test_the_schema_of_feedback_takes_what_the_decoder_takes(body: Any) -> None:
    schema = validator({"$ref": "#/components/schemas/UpdateRequest"})
    try:
        decode_feedback(InputType.DOUBLES, JSON, msgspec.json.encode(body), LIMITS)
    except InvalidInput:
        assert not schema.is_valid(body)
    else:
        schema.validate(body)


async def test_parameters_with_a_body_that_has_fields_are_refused(api: QueryApi) -> None:
    with pytest.raises(InvalidInput, match="query parameters"):
        api.predict("safe", JSON, b'{"input": [1.0]}', "deadline_ms=1", Receiver())


# -- the page ----------------------------------------------------------------------------

VOID = {"meta", "link", "br"}


class Reader(HTMLParser):
    """Collects tags, attributes and texts, and checks that tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.blocks: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag == "pre":
            self.blocks.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "pre" in self._open:
            self.blocks[-1] += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


PAGE = DOCS_PAGE.decode()
READER = Reader(PAGE)


def test_the_page_shows_every_route_field_and_code() -> None:
    for path, _, route in ROUTES:
        assert f"<code>{path}</code>" in PAGE
        assert f'<section id="{route["operationId"]}">' in PAGE
    for name in ("AnyRequest", "PredictionAnswer", "BatchAnswer", "RowFailure"):
        for field in DOCUMENT["components"]["schemas"][name]["properties"]:
            assert f"<code>{field}</code>" in PAGE
    used = {status for *_, route in ROUTES for status in route["responses"]}
    for note in ERRORS:
        shown = f"<code>{note.error.code}</code>" in PAGE
        assert shown is (str(note.error.status) in used)


def test_the_page_needs_nothing_else() -> None:
    for tag in ("script", "iframe", "object", "form", "img", "base"):
        assert tag not in READER.tags
    assert not READER.values("src")
    assert not READER.values("style")
    assert not [name for _, name, _ in READER.attributes if name.startswith("on")]
    for link in READER.values("href"):
        assert re.match(r"#|/|data:image/svg", link), link
    [style] = re.findall(r"<style>(.*?)</style>", PAGE, re.DOTALL)
    assert "url(" not in style and "@import" not in style


def test_the_policy_allows_the_style_sheet_and_nothing_else() -> None:
    [style] = re.findall(r"<style>(.*?)</style>", PAGE, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    [policy] = [value for value in READER.values("content") if "default-src" in value]
    assert "default-src 'none'" in policy
    assert f"style-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy


def test_links_inside_the_page_lead_somewhere() -> None:
    anchors = READER.values("id")
    assert len(anchors) == len(set(anchors))
    for link in READER.values("href"):
        assert not link.startswith("#") or link[1:] in anchors, link


def test_the_page_follows_light_and_dark_and_leaves_no_placeholder() -> None:
    assert "prefers-color-scheme: dark" in PAGE
    assert "$" not in PAGE


def test_curl_lines_carry_the_examples() -> None:
    sent = []
    for block in READER.blocks:
        words = shlex.split(block) if block.startswith("curl ") else []
        if "-d" in words:
            assert words[words.index("-H") + 1] == f"Content-Type: {JSON}"
            sent.append(msgspec.json.decode(words[words.index("-d") + 1]))
    assert sent == [example.body for example in (*REQUESTS, *FEEDBACK)]


@pytest.mark.parametrize("text", ["it's", 'a "b"', "$(id) `id` \\", "two\nlines"])
def test_a_curl_line_survives_the_shell(text: str) -> None:
    words = shlex.split(curl("http://localhost/a'b/predict", {"input": text}))
    assert words[1] == "http://localhost/a'b/predict"
    assert msgspec.json.decode(words[-1]) == {"input": text}


def test_texts_are_escaped() -> None:
    document = make_document()
    hostile = "<script>alert(1)</script>"
    document["info"]["description"] = hostile
    document["info"]["title"] = hostile
    route = document["paths"]["/{app}/predict"]["post"]
    route["summary"] = route["description"] = hostile
    examples = route["requestBody"]["content"][JSON]["examples"]
    examples["doubles"] = {"summary": hostile, "value": {"input": hostile}}
    reader = Reader(render_page(document, f"http://{hostile}").decode())
    assert "script" not in reader.tags
