"""How a replica starts, step by step, and what it says when it does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from clipper.values import RowError
from clipper.workers import wire
from clipper.workers.spec import Patience, ReplicaFailed, ReplicaState

from .marionette import BLOB, HELLO, Booth, Marionette, turns

LOADED = wire.Loaded(0.25)
DIED = "the model's worker process died"
STOPPED = "the worker was stopped before it could answer"


async def why_not(task: asyncio.Task[None]) -> tuple[str, str]:
    """Cause and detail of a start that fails."""
    with pytest.raises(ReplicaFailed) as caught:
        async with asyncio.timeout(5):
            await task
    return caught.value.cause, caught.value.detail


def begin(booth: Booth) -> asyncio.Task[None]:
    """A start that nobody hears of."""
    return asyncio.create_task(booth.replica.start(booth.load))


async def test_a_start_goes_through_its_stages() -> None:
    booth = Booth(example=[1.0, 2.0])
    replica = booth.replica
    task = await booth.begin()
    process = booth.process
    assert process.made_of == ({"A": "b"}, 99)
    assert replica.state is ReplicaState.STARTING
    process.say(HELLO)
    await turns()
    assert replica.hello == HELLO
    assert booth.given == ["loading"]
    assert process.got == [(wire.Load("doubles"), BLOB)]
    assert (replica.state, booth.stages) == (ReplicaState.LOADING, [])
    process.say(LOADED)
    await turns()
    assert (replica.state, booth.stages) == (ReplicaState.EXAMPLE, [("loading", 0.25)])
    call, body = process.got[1]
    assert isinstance(call, wire.Call)
    assert (call.rows, call.layout, len(body)) == (1, (None, None), 16)
    booth.clock.move(0.5)
    process.answer(b"1")
    await task
    assert booth.stages == [("loading", 0.25), ("example", 0.5)]
    statistics = replica.statistics()
    assert (statistics.state, statistics.first) == (ReplicaState.READY, None)
    assert (statistics.batches, statistics.rows) == (0, 0)
    assert repr(statistics.busy_seconds) == "0.0"
    assert process.did == []


async def test_a_start_needs_nobody_to_report_to() -> None:
    booth = Booth(example=[1.0])
    task = begin(booth)
    await turns()
    for message in (HELLO, LOADED):
        booth.process.say(message)
        await turns()
    booth.process.answer(b"1")
    await task
    assert booth.replica.room


async def test_a_worker_may_speak_before_it_is_connected() -> None:
    class Hasty(Marionette):
        async def connect(self, protocol: Any) -> Marionette:
            await super().connect(protocol)
            self.say(HELLO)
            return self

    booth = Booth(make_process=Hasty)
    task = await booth.begin()
    assert booth.given == ["loading"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_no_process() -> None:
    def refuse(environment: Any, memory_limit: Any) -> Any:
        raise OSError("no more processes")

    booth = Booth(make_process=refuse)
    told = "the worker could not be started: no more processes"
    assert await why_not(begin(booth)) == (told, "")
    assert booth.replica.state is ReplicaState.STOPPED

    def fail(environment: Any, memory_limit: Any) -> Any:
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        await Booth(make_process=fail).replica.start(booth.load)


@pytest.mark.parametrize(
    ("messages", "cause", "detail"),
    [
        ([LOADED], "the worker did not say hello", ""),
        ([HELLO, HELLO], "the worker did not answer to the function", ""),
        ([HELLO, wire.Refused("no function", "trace")], "no function", "trace"),
    ],
)
async def test_wrong_words(messages: list[Any], cause: str, detail: str) -> None:
    booth = Booth()
    task = await booth.begin(*messages)
    assert await why_not(task) == (cause, detail)
    assert booth.replica.state is ReplicaState.STOPPED
    assert booth.process.did[0] == ("stop", 0.5)
    assert booth.stages == []


@pytest.mark.parametrize(
    ("messages", "what"), [([], "start"), ([HELLO], "load the function")]
)
async def test_silence(messages: list[Any], what: str) -> None:
    seconds = {"start": 60.0, "load": 60.0}
    seconds["load" if messages else "start"] = 0.05
    booth = Booth(patience=Patience(**seconds))
    task = await booth.begin(*messages)
    booth.process.printed = "words"
    told = f"the worker did not {what} within 0.05 seconds"
    assert await why_not(task) == (told, "words")


async def test_a_package_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wire._CAPS, wire.Load, (1000, len(BLOB) - 1))
    cause, detail = await why_not(await Booth().begin(HELLO))
    assert cause.startswith("the package is too large: a message of ")
    assert detail == ""


@pytest.mark.parametrize("messages", [[], [HELLO], [HELLO, LOADED]])
async def test_a_death_on_the_way(messages: list[Any]) -> None:
    booth = Booth(example=[1.0])
    task = await booth.begin(*messages)
    booth.process.printed = "last words"
    booth.process.end(7)
    where = "on the example, " if len(messages) == 2 else ""
    told = f"{where}{DIED} (exited with status 7)"
    assert await why_not(task) == (told, "last words")
    assert booth.replica.state is ReplicaState.FAILED
    assert booth.ends == [booth.replica]


@pytest.mark.parametrize("messages", [[HELLO], [HELLO, LOADED]])
async def test_a_death_right_after_a_word(messages: list[Any]) -> None:
    booth = Booth()
    task = await booth.begin(*messages[:-1])
    booth.process.say(messages[-1])
    booth.process.printed = "last words"
    booth.process.end(-6)
    assert await why_not(task) == (f"{DIED} (killed by SIGABRT)", "last words")
    assert booth.replica.state is ReplicaState.FAILED


async def test_a_kill_while_the_function_is_fetched() -> None:
    booth = Booth()

    async def load() -> bytes:
        booth.replica.kill()
        return BLOB

    booth.load = load  # type: ignore[method-assign]
    task = await booth.begin(HELLO)
    booth.process.returncode = -9
    cause, _ = await why_not(task)
    assert cause.startswith(STOPPED)
    assert booth.process.got == []
    assert booth.replica.state is ReplicaState.STOPPED


async def test_a_stop_while_the_function_is_fetched() -> None:
    booth, fetched = Booth(), asyncio.Event()

    async def load() -> bytes:
        await fetched.wait()
        return BLOB

    booth.load = load  # type: ignore[method-assign]
    task = await booth.begin(HELLO)
    booth.process.gate = asyncio.Event()
    stop = asyncio.create_task(booth.replica.stop(0))
    await turns()
    assert booth.replica.state is ReplicaState.DRAINING
    booth.process.say(HELLO)  # a start that was given up may still speak
    fetched.set()
    await turns()
    booth.process.gate.set()
    await stop
    assert await why_not(task) == (STOPPED, "")
    assert booth.process.got == []


async def test_an_example_that_fails() -> None:
    booth = Booth(example=[1.0])
    task = await booth.begin(HELLO, LOADED)
    booth.process.fail("the model raised an exception", "trace")
    told = "on the example, the model raised an exception"
    assert await why_not(task) == (told, "trace")
    booth = Booth(example=[1.0])
    task = await booth.begin(HELLO, LOADED)
    booth.process.printed = "words"
    booth.process.answer(RowError("invalid_output", "not a number"))
    assert await why_not(task) == ("on the example, not a number", "words")
    assert booth.stages == [("loading", 0.25)]


async def test_a_start_given_up_in_its_example_does_not_wait_for_it() -> None:
    booth = Booth(example=[1.0])
    task = await booth.begin(HELLO, LOADED)
    task.cancel()
    await turns()
    assert task.done() and task.cancelled()
    assert booth.process.did == [("stop", 0.5), "abort", "kill"]
    assert booth.replica.state is ReplicaState.STOPPED
    assert booth.hands.due == []
