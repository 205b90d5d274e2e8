"""GET /admin/feedback/{app}: both logs as JSON lines, over an admin port on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from polling import eventually

from clipper.application import NOBODY
from clipper.errors import ClipperError, StoreError
from clipper.frontend import log_export
from clipper.inputs import InputType, encode_json_value
from clipper.pieces import Item
from clipper.selection.policy import Subject
from clipper.store.base import Chunk, Logged

from .admin_port import AdminPort, open_admin_port
from .raw import PATIENCE, connect, request, serving

APP = {
    "name": "digits",
    "input_type": "doubles",
    "default_output": "0",
    "latency_slo_micros": 20_000,
    "models": ["sum", "mean"],
    "policy": {"name": "ucb1", "options": {}},
}


class Receiver:
    def query_settled(self, query: Any) -> None:
        self.query_id: str = query.issue_id().decode()


@pytest.fixture
async def admin() -> AsyncIterator[AdminPort]:
    async with open_admin_port() as admin:
        await admin.post("add_app", APP)
        for name in ("sum", "mean"):
            body = {"model_name": name, "model_version": 1, "input_type": "doubles"}
            await admin.post("add_model", body)
        yield admin


def ask(admin: AdminPort, name: str = "digits", uid: str | None = None) -> str:
    """The id of a query that no worker was there for."""
    receiver = Receiver()
    row = encode_json_value(InputType.DOUBLES, [1.0])
    subject = NOBODY if uid is None else Subject(uid)
    admin.engine.application(name).submit(row, receiver, subject)
    return receiver.query_id


async def tell(admin: AdminPort, name: str = "digits", **fields: Any) -> None:
    """Feedback, until it is in the log."""
    told: asyncio.Future[ClipperError | None] = asyncio.get_running_loop().create_future()
    uid = fields.get("uid")
    item = Item(query_id=ask(admin, name, uid), **{"reward": 1.0, **fields})
    admin.engine.feedback[name].take(item, lambda _, error: told.set_result(error))
    assert await told is None


async def decide(admin: AdminPort, count: int, name: str = "digits") -> None:
    """Decisions, until they are in the log."""
    decisions = admin.engine.learning.decisions
    before = decisions.written
    for _ in range(count):
        ask(admin, name)
    decisions.flush()
    await written(admin, before + count)


async def written(admin: AdminPort, count: int) -> None:
    for _ in range(10_000):
        if admin.engine.learning.decisions.written >= count:
            return
        await asyncio.sleep(0)
    raise AssertionError("decisions were not written")


async def test_feedback_as_lines(admin: AdminPort) -> None:
    await tell(admin, uid="alice")
    await tell(admin, reward=0.25)
    answer = await admin.get("feedback/digits")
    assert (answer.status, answer.media) == (200, "application/x-ndjson")
    first, second = answer.lines
    assert first.items() >= {"kind": "feedback", "uid": "alice", "reward": 1.0}.items()
    assert second.items() >= {"kind": "feedback", "uid": None, "reward": 0.25}.items()
    assert first["seq"] < second["seq"]
    assert first["key"] != second["key"]
    assert first["at"] == pytest.approx(admin.engine.clock.wall(), abs=60)


async def test_changes_of_policy_are_in_it(admin: AdminPort) -> None:
    body = {"app_name": "digits", "policy": {"name": "hedge", "options": {"eta": 0.5}}}
    assert (await admin.post("set_policy", body)).status == 200
    [line] = (await admin.get("feedback/digits")).lines
    assert line["kind"] == "policy"
    assert line["settings"] == {"name": "hedge", "options": {"eta": 0.5}}


async def test_after_goes_on_behind_an_entry(
    admin: AdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_export, "PAGE", 3)
    for _ in range(8):
        await tell(admin)
    numbers = [line["seq"] for line in (await admin.get("feedback/digits")).lines]
    assert len(numbers) == 8 and numbers == sorted(set(numbers))
    answer = await admin.get(f"feedback/digits?after={numbers[4]}&kind=feedback")
    assert [line["seq"] for line in answer.lines] == numbers[5:]
    assert (await admin.get(f"feedback/digits?after={numbers[-1]}")).lines == []


async def test_it_ends_with_what_there_was_when_it_began(
    admin: AdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_export, "PAGE", 1)
    for _ in range(3):
        await tell(admin)
    log = admin.engine.learning.log
    read = log.entries

    async def entries(application: int, after: int, limit: int) -> list[Logged]:
        await tell(admin)  # as fast as they are read
        return await read(application, after, limit)

    monkeypatch.setattr(log, "entries", entries)
    assert len((await admin.get("feedback/digits")).lines) == 3


async def test_every_application_has_its_own(admin: AdminPort) -> None:
    await admin.post("add_app", APP | {"name": "other"})
    await tell(admin)
    await decide(admin, 2)
    await decide(admin, 1, "other")
    assert (await admin.get("feedback/other")).lines == []
    assert len((await admin.get("feedback/other?kind=decisions")).lines) == 1


async def test_decisions_as_lines(
    admin: AdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_export, "LINES", 2)
    await decide(admin, 5)
    await decide(admin, 1)
    lines = (await admin.get("feedback/digits?kind=decisions")).lines
    assert len({line["key"] for line in lines}) == 6
    assert {line["kind"] for line in lines} == {"decision"}
    assert lines[0].keys() == {
        "seq", "at", "uid", "key", "kind", "policy", "ensemble", "arms", "odds", "chosen",
        "propensity", "context", "outputs", "answer", "failed",
    }  # fmt: skip
    seqs = [line["seq"] for line in lines]
    assert seqs == sorted(seqs) and len(set(seqs)) == 2
    answer = await admin.get(f"feedback/digits?kind=decisions&after={seqs[0]}")
    assert answer.lines == lines[5:]


async def test_feedback_has_the_key_of_its_decision(admin: AdminPort) -> None:
    await tell(admin)
    admin.engine.learning.decisions.flush()
    await written(admin, 1)
    [said] = (await admin.get("feedback/digits")).lines
    [decided] = (await admin.get("feedback/digits?kind=decisions")).lines
    assert said["key"] == decided["key"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("kind=all", "kind must be one of"),
        ("after=-1", "after must be"),
        ("after=x", "after must be"),
        ("after=" + "9" * 30, "after must be"),
        ("limit=1", "no parameter 'limit'"),
    ],
)
async def test_parameters_that_are_refused(
    admin: AdminPort, query: str, words: str
) -> None:
    answer = await admin.get(f"feedback/digits?{query}")
    assert answer.status == 400
    assert words in answer.value["cause"]


async def test_an_unknown_application(admin: AdminPort) -> None:
    assert (await admin.get("feedback/nowhere")).status == 404


async def test_the_token_is_needed(admin: AdminPort) -> None:
    url = f"{admin.url}/admin/feedback/digits"
    async with admin.session.get(url) as response:
        assert response.status == 401


async def test_a_log_that_fails_before_the_first_line_is_an_error(
    admin: AdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def chunks(after: int, limit: int) -> list[tuple[int, Chunk]]:
        raise StoreError("the disk is gone")

    monkeypatch.setattr(admin.engine.learning.log, "chunks", chunks)
    answer = await admin.get("feedback/digits?kind=decisions")
    assert (answer.status, answer.value["error"]) == (503, "store_error")


async def test_a_log_that_fails_half_way_says_so_in_the_last_line(
    admin: AdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_export, "PAGE", 1)
    await tell(admin)
    await tell(admin)
    log = admin.engine.learning.log
    read = log.entries

    async def entries(application: int, after: int, limit: int) -> list[Logged]:
        if after:
            raise StoreError("the disk is gone")
        return await read(application, after, limit)

    monkeypatch.setattr(log, "entries", entries)
    first, last = (await admin.get("feedback/digits")).lines
    assert first["kind"] == "feedback"
    assert last == {"error": "store_error", "cause": "the disk is gone"}


@pytest.mark.fault("N2")
async def test_a_client_that_takes_nothing_is_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The log is read no further than it is taken, and not for ever."""
    pages, ended = 0, asyncio.Event()

    async def endless(route: Any, application: Any, after: int) -> Any:
        nonlocal pages
        try:
            while True:
                pages += 1
                yield [b'"%b"' % (b"x" * 1000)] * 1000
        finally:
            ended.set()

    monkeypatch.setattr(log_export.LogRoute, "_entries", endless)
    async with serving({"write_seconds": 0.3}) as server:
        token = f"Authorization: Bearer {server.token}"
        async with await connect(server.admin_port) as wire:
            wire.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await wire.send(request("GET", "/admin/feedback/json", None, token))
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
        assert pages < 30
        ports: Any = server._ports
        await eventually(lambda: not ports._admin_door.inside)
