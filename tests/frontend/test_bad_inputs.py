"""Bad bodies, through both lanes of a running server: a 4xx with a reason each time,
nothing of the server's insides in it, and everybody else served as before."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from polling import eventually

from clipper import Server

from .raw import (
    LANES,
    Answer,
    ask,
    chunked,
    connect,
    is_quiet,
    predict,
    request,
    update,
)
from .routes import Route, ask_all, authorization, routes_of, state_of

LOOPS = ("uvloop",)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.fault("N4")]

DEEP = 50_000


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def all_is_well(
    echo_server: Server, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    """After each test: the echo answers, nothing is left over, nothing was logged."""
    yield
    answer = await ask(echo_server.port, predict("echo", b'{"input": "still here"}'))
    assert answer.value["output"] == "still here"
    await eventually(lambda: is_quiet(echo_server))
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


def check_refusal(answer: Answer, status: int = 400) -> str:
    """An error as it must look; its sentence."""
    assert answer.status == status, (answer.status, answer.body[:300])
    assert answer.value.keys() == {"error", "cause"}
    cause: str = answer.value["cause"]
    assert 0 < len(cause) < 300
    for word in ("Traceback", "File ", "/work", "site-packages", "Error:", "<class",
                 "NoneType", "msgspec", "aiohttp", "numpy", "0x"):  # fmt: skip
        assert word not in cause
    return cause


BAD_JSON: dict[str, tuple[str, bytes]] = {
    "empty": ("doubles", b""),
    "blank": ("doubles", b"  \n"),
    "not json": ("doubles", b"input=1"),
    "truncated": ("doubles", b'{"input": [1, 2'),
    "trailing text": ("doubles", b'{"input": [1]} {"input": [2]}'),
    "byte order mark": ("doubles", b'\xef\xbb\xbf{"input": [1]}'),
    "utf-16": ("doubles", '{"input": [1]}'.encode("utf-16")),
    "not an object": ("doubles", b"[1, 2]"),
    "a string": ("doubles", b'"input"'),
    "null": ("doubles", b"null"),
    "no input": ("doubles", b'{"uid": 1}'),
    "NaN": ("doubles", b'{"input": [NaN]}'),
    "Infinity": ("doubles", b'{"input": [-Infinity]}'),
    "1e999": ("doubles", b'{"input": [1e999]}'),
    "400 digits": ("doubles", b'{"input": [%b]}' % (b"9" * 400)),
    "5000 digits": ("ints", b'{"input": [%b]}' % (b"9" * 5000)),
    "5000 digits in any json": ("json", b'{"input": %b}' % (b"9" * 5000)),
    "2^64": ("ints", b'{"input": [18446744073709551616]}'),
    "2^64 in any json": ("json", b'{"input": 18446744073709551616}'),
    "2^31": ("ints", b'{"input": [2147483648]}'),
    "fraction": ("ints", b'{"input": [1.5]}'),
    "float too large": ("floats", b'{"input": [1e300]}'),
    "bad utf-8": ("strings", b'{"input": "\xc3\x28"}'),
    "overlong utf-8": ("strings", b'{"input": "\xc0\xaf"}'),
    "lone surrogate": ("strings", b'{"input": "\\ud800"}'),
    "raw control": ("strings", b'{"input": "a\x00b"}'),
    "deep": ("json", b'{"input": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "deep objects": ("json", b'{"input": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}"),
    "deep, unclosed": ("doubles", b'{"input": ' + b"[" * DEEP),
    "deep unknown field": ("doubles", b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "a little too deep": ("json", b'{"input": ' + b"[" * 65 + b"]" * 65 + b"}"),
    "deep context": (
        "doubles",
        b'{"input": [1], "context": ' + b"[" * 65 + b"]" * 65 + b"}",
    ),
    "wrong type": ("doubles", b'{"input": ["1"]}'),
    "boolean": ("doubles", b'{"input": [true]}'),
    "nested null": ("doubles", b'{"input": [[1], [null]]}'),
    "ragged": ("doubles", b'{"input": [[1, 2], [3]]}'),
    "scalar": ("doubles", b'{"input": 1}'),
    "not base64": ("bytes", b'{"input": "***"}'),
    "url-safe base64": ("bytes", b'{"input": "-_-_"}'),
    "boolean uid": ("doubles", b'{"input": [1], "uid": true}'),
    "long uid": ("doubles", b'{"input": [1], "uid": "%b"}' % (b"a" * 300)),
    "version is a path": ("doubles", b'{"input": [1], "version": "../../etc/passwd"}'),
    "huge version": ("doubles", b'{"input": [1], "version": %b}' % (b"9" * 400)),
    "no time": ("doubles", b'{"input": [1], "deadline_ms": 0}'),
    "one key of a megabyte": ("strings", b'{"%b": 1, "input": 1}' % (b"a" * (1 << 20))),
}


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("name", BAD_JSON)
async def test_bad_json(echo_server: Server, name: str, lane: str) -> None:
    app, body = BAD_JSON[name]
    check_refusal(await ask(echo_server.port, LANES[lane](predict(app, body))))


@pytest.mark.parametrize("name", BAD_JSON)
async def test_bad_json_says_the_same_in_both_lanes(echo_server: Server, name: str) -> None:
    app, body = BAD_JSON[name]
    answers = [
        (await ask(echo_server.port, send(predict(app, body)))).body
        for send in (*LANES.values(), lambda data: chunked(data, 10_000))
    ]
    assert len(set(answers)) == 1


ID = b'"query_id": "x"'
BAD_FEEDBACK: dict[str, tuple[str, bytes]] = {
    "empty": ("doubles", b""),
    "truncated": ("doubles", b"{" + ID),
    "a list": ("doubles", b"[]"),
    "bad utf-8": ("doubles", b"{" + ID + b', "label": "\xc3\x28"}'),
    "lone surrogate": ("doubles", b'{"query_id": "\\ud800", "label": 1}'),
    "an id of numbers": ("doubles", b'{"query_id": 1, "label": 1}'),
    "long id": ("doubles", b'{"query_id": "%b", "label": 1}' % (b"a" * 129)),
    "long feedback id": ("doubles", b'{%b, "feedback_id": "%b"}' % (ID, b"a" * 129)),
    "reward above 1": ("doubles", b"{" + ID + b', "reward": 1.01}'),
    "reward below 0": ("doubles", b"{" + ID + b', "reward": -0.01}'),
    "reward as text": ("doubles", b"{" + ID + b', "reward": "0.9"}'),
    "boolean reward": ("doubles", b"{" + ID + b', "reward": true}'),
    "NaN reward": ("doubles", b"{" + ID + b', "reward": NaN}'),
    "1e999": ("doubles", b"{" + ID + b', "reward": 1e999}'),
    "deep label": (
        "doubles",
        b"{" + ID + b', "label": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    ),
    "label a little too deep": (
        "doubles",
        b"{" + ID + b', "label": ' + b"[" * 65 + b"]" * 65 + b"}",
    ),
    "deep context": (
        "doubles",
        b"{" + ID + b', "label": 1, "context": ' + b"[" * 65 + b"]" * 65 + b"}",
    ),
    "boolean uid": ("doubles", b"{" + ID + b', "label": 1, "uid": true}'),
    "long uid": ("doubles", b'{%b, "label": 1, "uid": "%b"}' % (ID, b"a" * 300)),
    "no piece": ("doubles", b'{"feedback": {}}'),
    "a piece of text": ("doubles", b'{"feedback": ["x"]}'),
    "a list in a list": ("doubles", b'{"feedback": [{"feedback": []}]}'),
    "list and piece": ("doubles", b"{" + ID + b', "label": 1, "feedback": []}'),
    "input of another type": ("doubles", b'{"input": "text", "label": 1}'),
    "input without a label": ("doubles", b'{"input": [1]}'),
    "not base64": ("bytes", b'{"input": "***", "label": 1}'),
    "5000 digits": ("json", b'{%b, "label": %b}' % (ID, b"9" * 5000)),
}


@pytest.mark.parametrize("name", BAD_FEEDBACK)
async def test_bad_feedback_is_refused_alike_in_both_lanes(
    echo_server: Server, name: str
) -> None:
    app, body = BAD_FEEDBACK[name]
    bodies = set()
    for send in (*LANES.values(), lambda data: chunked(data, 10_000)):
        answer = await ask(echo_server.port, send(update(app, body)))
        check_refusal(answer)
        bodies.add(answer.body)
    assert len(bodies) == 1


@pytest.mark.parametrize("lane", LANES)
async def test_feedback_is_bounded_in_pieces(echo_server: Server, lane: str) -> None:
    most = echo_server.settings.limits.rows_per_request
    body = b'{"feedback": [%b]}' % b",".join(
        [b'{"query_id": "x", "reward": 1}'] * (most + 1)
    )
    answer = await ask(echo_server.port, LANES[lane](update("doubles", body)))
    assert str(most) in check_refusal(answer, 413)


@pytest.mark.parametrize(
    ("app", "body", "path"),
    [
        ("doubles", b'{"input": [1, 2, 3, "x"]}', "$.input[3]"),
        ("doubles", b'{"input_batch": [[1], [2], [1, {}]]}', "$.input_batch[2][1]"),
        ("strings", b'{"input_batch": ["a", "b", 3]}', "$.input_batch[2]"),
        ("doubles", b'{"input": [1], "uid": []}', "$.uid"),
        ("doubles", b'{"input": [1], "deadline_ms": "1"}', "$.deadline_ms"),
    ],
)
@pytest.mark.parametrize("lane", LANES)
async def test_the_path_of_the_fault(
    echo_server: Server, app: str, body: bytes, path: str, lane: str
) -> None:
    assert path in check_refusal(
        await ask(echo_server.port, LANES[lane](predict(app, body)))
    )


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize(
    ("body", "output"),
    [
        (b'{"input": 1, "input": 2}', 2),
        (b'{"input": 2, "unknown": {"a": [1]}}', 2),
        (b'{"input": -0}', 0),
        (b'{"input": "\\u0000\\u2028<script>"}', "\0\u2028<script>"),
        (b'{"input": ' + b"[" * 64 + b"]" * 64 + b"}", None),
        (b'{"input": 18446744073709551615}', 2**64 - 1),
        (b'{"input": 2, %b}' % b",".join(b'"k%d": 0' % i for i in range(100_000)), 2),
    ],
    ids=["last wins", "unknown", "-0", "controls", "64 deep", "2^64-1", "100,000 keys"],
)
async def test_odd_but_good_json(
    echo_server: Server, body: bytes, output: Any, lane: str
) -> None:
    answer = await ask(echo_server.port, LANES[lane](predict("echo", body)))
    assert answer.status == 200, answer.body[:300]
    if output is not None:
        assert answer.value["output"] == output


@pytest.mark.parametrize("lane", LANES)
async def test_one_malformed_row_refuses_the_batch(echo_server: Server, lane: str) -> None:
    body = b'{"input_batch": [[1], [2], "x"]}'
    answer = await ask(echo_server.port, LANES[lane](predict("numbers", body)))
    assert "$.input_batch[2]" in check_refusal(answer)


@pytest.mark.parametrize("lane", LANES)
async def test_batches_are_bounded_in_rows(echo_server: Server, lane: str) -> None:
    rows = echo_server.settings.limits.rows_per_request
    body = b'{"input_batch": [%b]}' % b",".join([b"[1]"] * (rows + 1))
    answer = await ask(echo_server.port, LANES[lane](predict("numbers", body)))
    assert str(rows) in check_refusal(answer, 413)


@pytest.mark.parametrize("lane", LANES)
async def test_batches_of_none_and_one(echo_server: Server, lane: str) -> None:
    for app in ("numbers", "doubles", "bare"):
        data = predict(app, b'{"input_batch": []}')
        answer = await ask(echo_server.port, LANES[lane](data))
        assert answer.value == {"batch_predictions": []}
    data = predict("numbers", b'{"input_batch": [[7]]}')
    (row,) = (await ask(echo_server.port, LANES[lane](data))).value["batch_predictions"]
    assert row["output"] == [7.0]


@pytest.mark.parametrize("lane", LANES)
async def test_rows_keep_their_order(echo_server: Server, lane: str) -> None:
    rows = [[float(i % 97)] for i in range(3000)]
    body = repr({"input_batch": rows}).replace("'", '"').encode()
    answer = await ask(echo_server.port, LANES[lane](predict("numbers", body)))
    found = [row["output"] for row in answer.value["batch_predictions"]]
    assert found == rows


@pytest.mark.parametrize("lane", LANES)
async def test_an_error_keeps_the_connection_where_the_body_was_read(
    echo_server: Server, lane: str
) -> None:
    async with await connect(echo_server.port) as wire:
        for _ in range(3):
            await wire.send(LANES[lane](predict("doubles", b"{")))
            answer = await wire.answer()
            check_refusal(answer)
            assert not answer.closes


@pytest.mark.parametrize("lane", LANES)
async def test_a_model_that_raises_says_nothing_of_itself(
    echo_server: Server, lane: str
) -> None:
    def touchy(rows: Any) -> list[Any]:
        raise ValueError("/secret/path and a password")

    if "touchy" not in echo_server.engine.applications:
        await echo_server.deploy("touchy", 1, touchy, "json")
        await echo_server.register_application(
            "touchy", models=["touchy"], input_type="json", slo_micros=5_000_000
        )
    answer = await ask(echo_server.port, LANES[lane](predict("touchy", b'{"input": 1}')))
    cause = check_refusal(answer, 500)
    assert "secret" not in cause and "ValueError" not in cause
    body = b'{"input_batch": [1, 2]}'
    answer = await ask(echo_server.port, LANES[lane](predict("touchy", body)))
    assert answer.status == 200
    for row in answer.value["batch_predictions"]:
        assert row.keys() == {"query_id", "error", "cause"}
        assert "secret" not in row["cause"] and "ValueError" not in row["cause"]


# -- the admin port ----------------------------------------------------------------------

# Bodies that no route takes, whatever it expects; and the same after a right beginning.
BAD_DOCUMENTS: dict[str, bytes] = {
    "empty": b"",
    "blank": b" \r\n\t",
    "not json": b"name=x",
    "truncated": b'{"name": "x"',
    "trailing text": b"{} {}",
    "byte order mark": b"\xef\xbb\xbf{}",
    "utf-16": "{}".encode("utf-16"),
    "a list": b"[]",
    "a string": b'"x"',
    "null": b"null",
    "bad utf-8": b'{"name": "\xc3\x28", "app_name": "\xc3\x28", "verbose": "\xc3\x28"}',
    "deep": b'{"x": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"x": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "NaN": b'{"x": NaN}',
    "1e999 and more": b'{"x": 1e999, "verbose": Infinity}',
    "single quotes": b"{'verbose': true}",
    "a comment": b"{/* */}",
    "raw control": b'{"verbose\x01": true}',
}
WRONG_TYPES = (1, -1, 1.5, True, None, "", "x" * 300, [], [1], {}, {"a": 1}, 2**64, "\0")


def admin_routes(server: Server) -> list[Route]:
    return [
        route
        for route in routes_of(server)
        if route.admin and route.method == "POST" and route.media == "application/json"
        and not route.path.endswith("/")
    ]  # fmt: skip


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
async def test_bad_bodies_on_the_admin_port(echo_server: Server, name: str) -> None:
    before, token = state_of(echo_server), authorization(echo_server)
    sent = [
        send(route.request(token, body=BAD_DOCUMENTS[name]))
        for route in admin_routes(echo_server)
        for send in (bytes, lambda data: chunked(data, 10_000))
    ]
    assert len(sent) > 40
    for data, answer in zip(
        sent, await ask_all((echo_server.admin_port, data) for data in sent), strict=True
    ):
        assert answer.status == 400, (data[:100], answer)
        check_refusal(answer)
    assert state_of(echo_server) == before


async def test_wrong_types_on_the_admin_port(echo_server: Server) -> None:
    """Every field of every route with a value of every other kind: no 5xx."""
    token = authorization(echo_server)
    sent = [
        route.request(token, body=route.body({**route.content, field: value}))
        for route in admin_routes(echo_server)
        for field in route.content
        for value in WRONG_TYPES
        if route.name not in ("drain", "delete_app")
    ]
    assert len(sent) > 300
    answers = await ask_all((echo_server.admin_port, data) for data in sent)
    for data, answer in zip(sent, answers, strict=True):
        assert answer.status < 500, (data, answer)
        if answer.status >= 400:
            assert answer.value.keys() == {"error", "cause"}
            assert 0 < len(answer.value["cause"]) < 1000


@pytest.mark.parametrize("name", BAD_DOCUMENTS)
async def test_bad_manifests(echo_server: Server, name: str) -> None:
    """A form whose manifest is none; nothing is started for it."""
    before = state_of(echo_server)
    part = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    body = (
        part % (b"manifest", BAD_DOCUMENTS[name]) + part % (b"function", b"\x80") + b"--b--"
    )
    data = request(
        "POST", "/admin/deploy", body, authorization(echo_server),
        media="multipart/form-data; boundary=b",
    )  # fmt: skip
    check_refusal(await ask(echo_server.admin_port, data))
    assert state_of(echo_server) == before


@pytest.mark.parametrize(
    "value", [{"a": {}}, [], {"name": 1}, {"name": "x", "options": []}]
)
async def test_the_path_of_a_fault_on_the_admin_port(
    echo_server: Server, value: Any
) -> None:
    (route,) = [r for r in admin_routes(echo_server) if r.name == "set_policy"]
    body = route.body({"app_name": "echo", "policy": value})
    data = route.request(authorization(echo_server), body=body)
    cause = check_refusal(await ask(echo_server.admin_port, data))
    assert "$.policy" in cause
