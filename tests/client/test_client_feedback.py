"""Feedback and what was learned, as the clients send and receive it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes_http import TOKEN, Answer, FakeServer

from clipper.client import AsyncClipper, Clipper, async_client
from clipper.errors import (
    ClipperError,
    Conflict,
    InvalidInput,
    NotFound,
    Overloaded,
    ResendInput,
)

TAKEN = {"accepted": True, "duplicate": False}
KNOWN = {"accepted": True, "duplicate": True}


@pytest.fixture(autouse=True)
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CLIPPER_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.answers["/a/update"] = Answer(TAKEN)
        yield server


@pytest.fixture
def clipper(server: FakeServer) -> Iterator[Clipper]:
    clipper = Clipper(
        "127.0.0.1", port=server.port, admin_port=server.admin_port, token=TOKEN
    )
    yield clipper
    clipper.close()


@pytest.mark.parametrize(
    ("arguments", "fields", "body"),
    [
        (["q"], {"label": 1.0}, {"query_id": "q", "label": 1.0}),
        (["q", 1.0], {}, {"query_id": "q", "label": 1.0}),
        (["q"], {"label": None}, {"query_id": "q", "label": None}),
        (["q"], {"reward": 0.5, "uid": 0}, {"query_id": "q", "reward": 0.5, "uid": 0}),
        (
            [],
            {"input": [1.0], "label": "x", "uid": "al", "feedback_id": "f"},
            {"input": [1.0], "label": "x", "uid": "al", "feedback_id": "f"},
        ),
        (
            ["q"],
            {"label": 1, "input": [2.0], "context": [3]},
            {"query_id": "q", "label": 1, "input": [2.0], "context": [3]},
        ),
        (["q"], {"label": np.int64(3)}, {"query_id": "q", "label": 3}),
        (["q"], {"label": np.array([1.0, 2.0])}, {"query_id": "q", "label": [1.0, 2.0]}),
        (["q"], {"reward": np.float32(0.5)}, {"query_id": "q", "reward": 0.5}),
        (
            [],
            {"input": np.array([1.0]), "label": np.float64(2)},
            {"input": [1.0], "label": 2.0},
        ),
    ],
)
def test_what_is_sent(
    server: FakeServer,
    clipper: Clipper,
    arguments: list[Any],
    fields: dict[str, Any],
    body: dict[str, Any],
) -> None:
    assert clipper.update("a", *arguments, **fields) is False
    assert (server.last.method, server.last.path) == ("POST", "/a/update")
    assert server.last.body == body


def test_a_duplicate(server: FakeServer, clipper: Clipper) -> None:
    server.answers["/a/update"] = Answer(KNOWN)
    assert clipper.update("a", "q", label=1) is True


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("resend_input", 409, ResendInput),
        ("conflict", 409, Conflict),
        ("not_found", 404, NotFound),
    ],
)
def test_errors(
    server: FakeServer, clipper: Clipper, code: str, status: int, kind: type[ClipperError]
) -> None:
    server.answers["/a/update"] = Answer({"error": code, "cause": "so it is"}, status)
    with pytest.raises(kind, match="so it is"):
        clipper.update("a", "q", label=1)
    assert len(server.requests) == 1


def test_what_counts_once_is_sent_again(
    server: FakeServer, clipper: Clipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipper.client.insistence.WAITS", (0.0, 0.0))
    monkeypatch.setattr("clipper.client.insistence.LONGEST_WAIT", 0.0)
    server.answers["/a/update"] = Answer(
        {"error": "overloaded", "cause": "too much"}, 503, {"Retry-After": "1"}
    )
    for fields, tries in (
        ({"query_id": "q"}, 3),
        ({"input": [1.0], "feedback_id": "f"}, 3),
        ({"input": [1.0]}, 1),
    ):
        server.requests.clear()
        with pytest.raises(Overloaded):
            clipper.update("a", label=1, **fields)  # type: ignore[arg-type]
        assert len(server.requests) == tries


def test_many(
    server: FakeServer, clipper: Clipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_client, "_FEEDBACK_AT_ONCE", 2)
    refused = {"error": "not_found", "cause": "no such query id"}
    server.answers["/a/update"] = Answer({"feedback": [TAKEN, refused]})
    items = [{"query_id": str(n), "reward": 1} for n in range(4)]
    outcomes = clipper.update_many("a", iter(items), return_exceptions=True)
    assert [request.body for request in server.requests] == [
        {"feedback": items[:2]},
        {"feedback": items[2:]},
    ]
    assert outcomes[::2] == [False, False]
    assert all(isinstance(outcome, NotFound) for outcome in outcomes[1::2])
    with pytest.raises(NotFound, match="no such query id"):
        clipper.update_many("a", items)
    assert clipper.update_many("a", []) == []


def test_of_many_those_that_were_too_much_are_sent_again(
    server: FakeServer, clipper: Clipper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipper.client.insistence.WAITS", (0.0, 0.0))
    busy = {"error": "overloaded", "cause": "too much waits for the disk"}
    answers = iter([[TAKEN, busy, busy], [TAKEN, busy], [busy]])

    async def post(app: str, verb: str, body: dict[str, Any]) -> Any:
        found = next(answers)
        assert len(body["feedback"]) == len(found)
        return {"feedback": found}

    monkeypatch.setattr(clipper._client, "_post", post)
    monkeypatch.setattr("clipper.client.insistence.LONGEST_WAIT", 0.0)
    items = [{"query_id": str(n), "reward": 1} for n in range(3)]
    first, second, third = clipper.update_many("a", items, return_exceptions=True)
    assert (first, second) == (False, False)
    assert isinstance(third, Overloaded)


def test_an_unknown_field_of_an_item(clipper: Clipper) -> None:
    with pytest.raises(InvalidInput, match="lable"):
        clipper.update_many("a", [{"query_id": "q", "lable": 1}])


# -- policies and states -----------------------------------------------------------------


def test_setting_a_policy(server: FakeServer, clipper: Clipper) -> None:
    server.answers["/admin/set_policy"] = Answer({"app_name": "a", "policy": {}})
    clipper.set_policy("a", "hedge", eta=0.5)
    assert server.last.body == {
        "app_name": "a",
        "policy": {"name": "hedge", "options": {"eta": 0.5}},
    }


def test_states(server: FakeServer, clipper: Clipper) -> None:
    assert clipper.get_state("nowhere") is None
    server.answers["/admin/get_state"] = Answer({"policy": "hedge"})
    assert clipper.get_state("a") == {"policy": "hedge"}
    assert server.last.body == {"app_name": "a"}
    clipper.get_state("a", 0)
    assert server.last.body == {"app_name": "a", "uid": 0}


def test_forgetting(server: FakeServer, clipper: Clipper) -> None:
    clipper.forget_user("a", "alice")
    assert server.last.path == "/admin/forget_user"
    assert server.last.body == {"app_name": "a", "uid": "alice"}


# -- the logs ----------------------------------------------------------------------------


def test_the_log_entry_by_entry(server: FakeServer, clipper: Clipper) -> None:
    lines = [{"seq": n, "kind": "feedback"} for n in range(1000)]
    server.answers["/admin/feedback/a"] = Answer(lines=lines)
    assert list(clipper.export_feedback("a", after=7)) == lines
    assert server.last.token == TOKEN
    entries = clipper.export_feedback("a", kind="decisions")
    assert next(entries) == lines[0]
    entries.close()  # type: ignore[attr-defined]


async def test_the_log_in_ones_own_loop(server: FakeServer) -> None:
    server.answers["/admin/feedback/a"] = Answer(lines=[{"seq": 1}, {"seq": 2}])
    async with AsyncClipper(
        "127.0.0.1", port=server.port, admin_port=server.admin_port, token=TOKEN
    ) as clipper:
        async with asyncio.timeout(60):
            found = [entry["seq"] async for entry in clipper.export_feedback("a")]
    assert found == [1, 2]


def test_a_log_that_breaks_off(server: FakeServer, clipper: Clipper) -> None:
    server.answers["/admin/feedback/a"] = Answer(
        lines=[{"seq": 1}, {"error": "store_error", "cause": "the disk is gone"}]
    )
    with pytest.raises(ClipperError, match="the disk is gone"):
        list(clipper.export_feedback("a"))
