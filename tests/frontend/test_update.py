"""What a request with feedback is answered, whatever becomes of its pieces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from clipper import Server
from clipper.appending import FeedbackDone
from clipper.errors import ClipperError, DiskFull, NotFound, StoreError
from clipper.frontend.update import Update
from clipper.pieces import Item

TAKEN = {"accepted": True, "duplicate": False}
KNOWN = {"accepted": True, "duplicate": True}


class Receiver:
    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []

    def update_settled(self, update: Update) -> None:
        status, body = update.answer()
        self.answers.append((status, msgspec.json.decode(body)))


class Taker:
    """Keeps the pieces until the test says what becomes of each; raises what it was told
    to raise at once."""

    def __init__(self, *errors: ClipperError | None) -> None:
        self.errors = list(errors)
        self.waiting: list[FeedbackDone] = []

    def take(self, item: Item, done: FeedbackDone) -> None:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.waiting.append(done)


def begin(taker: Taker, count: int, single: bool = False) -> tuple[Update, Receiver]:
    receiver = Receiver()
    feedback: Any = taker
    update = Update(count, single, receiver)
    assert update.begin(feedback, [Item(str(n), 1) for n in range(count)]) is update
    return update, receiver


def test_one_piece() -> None:
    for duplicate, answer in ((False, TAKEN), (True, KNOWN)):
        taker = Taker()
        _, receiver = begin(taker, 1, single=True)
        assert receiver.answers == []
        taker.waiting[0](duplicate, None)
        assert receiver.answers == [(200, answer)]


@pytest.mark.parametrize("late", [False, True])
def test_one_piece_that_is_refused(late: bool) -> None:
    error = NotFound("no such query id")
    taker = Taker(None if late else error)
    _, receiver = begin(taker, 1, single=True)
    if late:
        taker.waiting[0](False, error)
    assert receiver.answers == [(404, error.body())]


def test_several_are_answered_together_in_order() -> None:
    taker = Taker(None, NotFound("no such query id"), None)
    _, receiver = begin(taker, 3)
    second, first = taker.waiting[1], taker.waiting[0]
    second(True, None)
    assert receiver.answers == []
    first(False, None)
    refused = {"error": "not_found", "cause": "no such query id"}
    assert receiver.answers == [(200, {"feedback": [TAKEN, refused, KNOWN]})]


def test_none_at_all() -> None:
    _, receiver = begin(Taker(), 0)
    assert receiver.answers == [(200, {"feedback": []})]


def test_a_client_that_is_gone_is_told_nothing() -> None:
    taker = Taker()
    update, receiver = begin(taker, 2)
    update.cancel()
    for done in taker.waiting:
        done(False, None)
    assert receiver.answers == []


# -- a disk that fails -------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with Server() as server:
        await server.register_application(
            "app", input_type="json", default_output="0", policy="ucb1"
        )
        yield server


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DiskFull("the disk is full; nothing was changed"), "disk_full"),
        (StoreError("/var/lib/clipper/clipper.db is damaged"), "store_error"),
    ],
)
async def test_predictions_go_on_and_feedback_says_why_not(
    server: Server, monkeypatch: pytest.MonkeyPatch, error: ClipperError, code: str
) -> None:
    """No path of the server is in the answer."""

    def append(entries: Any, persons: Any, done: Any) -> None:
        asyncio.get_running_loop().call_soon(done, None, error)

    query_id = (await server.predict("app", 1)).query_id
    with monkeypatch.context() as patch:
        patch.setattr(server.engine.store, "append", append)
        with pytest.raises(type(error)) as caught:
            await server.update("app", query_id, reward=1)
        assert (caught.value.code, "/var" in caught.value.cause) == (code, False)
        async with asyncio.timeout(60):
            await server.set_policy("app", "hedge")  # it is kept, and will be followed
        assert server.engine.applications["app"].learner.policy.name == "ucb1"
        assert (await server.predict("app", 2)).default
    assert not await server.update("app", query_id, reward=1)
    await server.set_policy("app", "hedge")
    assert server.engine.applications["app"].learner.policy.name == "hedge"
    assert server.engine.applications["app"].stats.refused == {code: 1}
