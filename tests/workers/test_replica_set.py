"""The supervisor: starting, restarting, giving up, scaling, stopping."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from polling import eventually

from clipper.clock import SystemClock
from clipper.errors import DeployFailed, StoreError
from clipper.inputs import InputType, encode_python
from clipper.values import BatchFailure, FailureKind
from clipper.workers.packaging import pack
from clipper.workers.replica_set import ReplicaSet, Restarts, State, WorkerSpec
from clipper.workers.spec import ReplicaState

from .conftest import Worker, is_running
from .puppets import Troupe

pytestmark = pytest.mark.usefixtures("no_leaks")

EXAMPLE = encode_python(InputType.STRINGS, "example")
FAST = Restarts(first_pause=0.01, last_pause=0.05, deaths=3, window=5.0, retry=0.3)


def model(xs: Any) -> Any:
    import os
    import time

    match xs[0]:
        case "die":
            os._exit(1)
        case "sleep":
            print("asleep")  # noqa: T201
            time.sleep(1000)
        case "nap":
            time.sleep(0.1)
    return xs


class Heard:
    """What a set told the outside."""

    def __init__(self) -> None:
        self.states: list[tuple[State, int]] = []


MakeSet = Callable[..., ReplicaSet]


@pytest.fixture
async def make_set(no_leaks: None) -> AsyncIterator[MakeSet]:
    made: list[ReplicaSet] = []

    def make(
        function: Any = model, restarts: Restarts = FAST, environment: Any = None
    ) -> ReplicaSet:
        heard = Heard()
        blob = pack(function).blob

        async def load() -> bytes:
            return blob

        def on_change() -> None:
            heard.states.append((replicas.state, replicas.live))

        replicas = ReplicaSet(
            WorkerSpec("model", "1", InputType.STRINGS, EXAMPLE, environment or {}),
            load,
            clock=SystemClock(),
            on_change=on_change,
            restarts=restarts,
        )
        replicas.heard = heard  # type: ignore[attr-defined]
        made.append(replicas)
        return replicas

    yield make
    await asyncio.gather(*(replicas.stop(0) for replicas in made))


def heard(replicas: ReplicaSet) -> Heard:
    found = replicas.heard  # type: ignore[attr-defined]
    assert isinstance(found, Heard)
    return found


def picked(replicas: ReplicaSet) -> Worker:
    """The replica with the fewest batches in flight."""
    replica = min(replicas.ready, key=lambda replica: replica.in_flight)
    return Worker(replica, InputType.STRINGS)


async def test_starts_and_tells_of_it(make_set: MakeSet) -> None:
    replicas = make_set()
    stages: list[tuple[str, dict[str, Any]]] = []
    assert replicas.state is State.STARTING
    assert replicas.ready == ()
    await replicas.start(2, lambda stage, details: stages.append((stage, details)))
    assert [stage for stage, _ in stages] == ["loading", "example", "ready", "ready"]
    assert 0 < stages[1][1]["seconds"] < 5
    assert stages[3][1] == {"replicas": 2, "of": 2}
    assert (replicas.state, replicas.live) == (State.LIVE, 2)
    assert heard(replicas).states == [(State.LIVE, 2)]
    assert await picked(replicas).call("hello") == [b'"hello"']
    assert "live 2/2" in repr(replicas)


async def test_the_log_tells_how_many_are_ready_when_that_changes(
    make_set: MakeSet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "clipper")
    replicas = make_set()
    await replicas.start(2)
    os.kill(picked(replicas).replica.pid or 0, signal.SIGKILL)
    await eventually(lambda: replicas.live == 1)
    await eventually(lambda: replicas.live == 2)
    told = [text for text in caplog.messages if "are ready" in text]
    assert told == [f"model:1: {n} of 2 replicas are ready" for n in (2, 1, 2)]


async def test_the_ready_are_the_same_sequence_until_that_changes(
    make_set: MakeSet,
) -> None:
    replicas = make_set()
    await replicas.start(2)
    ready = replicas.ready
    assert list(ready) == replicas.replicas
    await asyncio.gather(*(picked(replicas).send("nap") for _ in range(4)))
    assert replicas.ready is ready
    await replicas.scale(1)
    assert replicas.ready == ready[:1]


def fails_on_example(xs: Any) -> Any:
    print("before it fails")  # noqa: T201
    raise ValueError("wrong weights")


def fails_to_start_twice(xs: Any) -> Any:
    """The second worker to come by finds the directory taken."""
    import os

    os.mkdir(os.environ["PLACE"])
    return xs


async def test_a_failed_deploy_says_why_and_stops_everything(
    make_set: MakeSet, tmp_path: Path
) -> None:
    replicas = make_set(fails_on_example)
    with pytest.raises(DeployFailed) as caught:
        await replicas.start(2)
    assert caught.value.cause.startswith("on the example, the model raised an exception\n")
    assert caught.value.cause.endswith("ValueError: wrong weights")
    assert replicas.state is State.STOPPED
    assert replicas.replicas == []
    assert "before it fails" in replicas.log_tail()
    replicas = make_set(fails_to_start_twice, environment={"PLACE": str(tmp_path / "x")})
    with pytest.raises(DeployFailed, match="FileExistsError"):
        await replicas.start(3)


async def test_a_blob_that_cannot_be_read(make_set: MakeSet) -> None:
    async def load() -> bytes:
        raise StoreError("the blob is damaged")

    replicas = make_set()
    replicas._ward.load_blob = load
    with pytest.raises(StoreError, match="damaged"):
        await replicas.start(1)
    again = make_set()
    again._ward.load_blob = load
    again.restore(1)
    await eventually(lambda: again.state is State.FAILED)
    assert "because the blob is damaged" in again.reason


async def test_a_dead_replica_is_started_again(make_set: MakeSet) -> None:
    replicas = make_set()
    await replicas.start(2)
    victim, survivor = replicas.replicas
    finished = Worker(victim, InputType.STRINGS).send("sleep")
    await eventually(lambda: "asleep" in victim.output())
    os.kill(victim.pid or 0, signal.SIGKILL)
    failure = await finished
    assert isinstance(failure, BatchFailure)
    assert failure.kind is FailureKind.CRASHED
    assert (replicas.state, replicas.live) == (State.LIVE, 1)
    assert replicas.ready == (survivor,)
    await eventually(lambda: replicas.live == 2)
    statistics = replicas.statistics()
    assert (statistics.deaths, statistics.restarts, statistics.reason) == (1, 1, "")
    assert statistics.wanted == len(statistics.replicas) == 2
    assert "asleep" in replicas.log_tail()
    assert survivor in replicas.replicas
    assert victim not in replicas.replicas


async def test_a_lone_replica_comes_back(make_set: MakeSet) -> None:
    replicas = make_set()
    await replicas.start(1)
    failure = await picked(replicas).call("die")
    assert isinstance(failure, BatchFailure)
    assert replicas.ready == ()
    await eventually(lambda: replicas.state is State.LIVE)
    states = [state for state, _ in heard(replicas).states]
    assert states[0] is State.LIVE
    assert State.STARTING in states
    assert State.FAILED not in states
    assert await picked(replicas).call("fine") == [b'"fine"']


async def test_a_crash_loop_takes_the_version_out_and_it_heals(make_set: MakeSet) -> None:
    replicas = make_set()
    await replicas.start(1)
    for _ in range(3):
        await eventually(lambda: replicas.live)
        await picked(replicas).call("die")
    await eventually(lambda: replicas.state is State.FAILED)
    assert replicas.reason.startswith(
        "workers keep ending, the last one because the model's"
    )
    assert "exited with status 1" in replicas.reason
    assert replicas.ready == ()
    assert replicas.replicas == []
    await eventually(lambda: replicas.state is State.LIVE)  # the half-open try
    assert replicas.reason == ""
    await picked(replicas).call("die")  # on trial: one death is enough
    await eventually(lambda: replicas.state is State.FAILED)
    await eventually(lambda: replicas.state is State.LIVE)
    assert await picked(replicas).call("fine") == [b'"fine"']


async def test_one_that_is_killed_is_no_part_of_a_crash_loop(make_set: MakeSet) -> None:
    """Killing workers again and again takes no version out of service."""
    replicas = make_set()
    await replicas.start(1)
    for _ in range(6):
        await eventually(lambda: replicas.live)
        assert await picked(replicas).call("fine") == [b'"fine"']
        os.kill(replicas.replicas[0].pid or 0, signal.SIGKILL)
        await eventually(lambda: not replicas.live)
        assert replicas.state is not State.FAILED
    await eventually(lambda: replicas.live)
    assert replicas.statistics().deaths == 6


def counts_and_dies(xs: Any) -> Any:
    import os

    with open(os.environ["PLACE"], "a") as file:
        file.write("x")
    os._exit(4)


async def test_a_failed_version_tries_seldom_and_one_at_a_time(
    make_set: MakeSet, tmp_path: Path
) -> None:
    place = tmp_path / "starts"
    replicas = make_set(counts_and_dies, environment={"PLACE": str(place)})
    replicas.restore(3)
    await eventually(lambda: replicas.state is State.FAILED)
    assert "exited with status 4" in replicas.reason
    await eventually(lambda: replicas.replicas == [])
    before = len(place.read_text())
    assert before <= 6  # those that were on their way when the fourth one died
    begin = asyncio.get_running_loop().time()
    most = 0

    def tried_again() -> bool:
        nonlocal most
        most = max(most, len(replicas.replicas))
        return len(place.read_text()) >= before + 3

    await eventually(tried_again)
    assert most == 1
    assert asyncio.get_running_loop().time() - begin > FAST.retry


async def test_survivors_go_on_while_restarts_fail(make_set: MakeSet) -> None:
    replicas = make_set(restarts=Restarts(0.01, 0.05, deaths=1, window=5.0, retry=60.0))
    await replicas.start(2)
    await picked(replicas).call("die")
    await eventually(lambda: "keep ending" in replicas.reason)
    assert (replicas.state, replicas.live) == (State.LIVE, 1)
    assert await picked(replicas).call("fine") == [b'"fine"']
    await picked(replicas).call("die")
    await eventually(lambda: replicas.state is State.FAILED)


async def test_restore_never_raises(make_set: MakeSet) -> None:
    replicas = make_set()
    replicas.restore(2)
    assert replicas.state is State.STARTING
    await eventually(lambda: replicas.live == 2)
    bad = make_set(fails_on_example)
    bad.restore(1)
    await eventually(lambda: bad.state is State.FAILED)
    assert "the model raised an exception" in bad.reason
    assert replicas.live == 2


async def test_scale(make_set: MakeSet) -> None:
    replicas = make_set()
    await replicas.start(1)
    first = replicas.replicas[0]
    await replicas.scale(3)
    assert (replicas.live, len(replicas.replicas)) == (3, 3)
    leaving = replicas.replicas[2]
    finished = Worker(leaving, InputType.STRINGS).send("nap")
    await replicas.scale(1)
    assert await finished == [b'"nap"']
    assert replicas.replicas == [first]
    assert not is_running(leaving.pid or 0)
    await replicas.scale(1)
    await replicas.scale(0)
    assert replicas.ready == ()
    await replicas.scale(1)
    assert await picked(replicas).call("fine") == [b'"fine"']


async def test_a_scale_that_fails_leaves_what_was(
    make_set: MakeSet, tmp_path: Path
) -> None:
    replicas = make_set(fails_to_start_twice, environment={"PLACE": str(tmp_path / "x")})
    await replicas.start(1)
    with pytest.raises(DeployFailed, match="FileExistsError"):
        await replicas.scale(2)
    assert (replicas.state, replicas.live) == (State.LIVE, 1)


async def test_stop_drains_and_ends_everything(make_set: MakeSet) -> None:
    replicas = make_set()
    await replicas.start(2)
    pids = [replica.pid or 0 for replica in replicas.replicas]
    sent = [picked(replicas).send("nap") for _ in range(4)]
    await replicas.stop(5)
    assert [finished.result() for finished in sent] == [[b'"nap"']] * 4
    assert not any(map(is_running, pids))
    assert (replicas.state, replicas.live) == (State.STOPPED, 0)
    assert replicas.ready == ()
    await replicas.stop(5)
    with pytest.raises(DeployFailed, match="was stopped"):
        await replicas.scale(1)


async def test_stop_during_start_restart_and_scale(make_set: MakeSet) -> None:
    for steps in (0, 1, 3):
        replicas = make_set()
        starting = asyncio.create_task(replicas.start(2))
        for _ in range(steps):
            await asyncio.sleep(0.02)
        await replicas.stop(0)
        with pytest.raises(DeployFailed, match="stopped"):
            await starting
        assert replicas.state is State.STOPPED
    replicas = make_set()
    await replicas.start(1)
    await picked(replicas).call("die")
    await replicas.stop(0)
    assert replicas.replicas == []
    replicas = make_set()
    await replicas.start(2)
    finished = Worker(replicas.replicas[1], InputType.STRINGS).send("nap")
    scaling = asyncio.create_task(replicas.scale(1))
    await asyncio.sleep(0)
    await replicas.stop(5)
    await scaling
    assert await finished == [b'"nap"']


async def test_a_cancelled_stop_leaves_no_process(make_set: MakeSet) -> None:
    replicas = make_set()
    await replicas.start(2)
    worker = picked(replicas)
    finished = worker.send("sleep")
    await eventually(lambda: "asleep" in worker.replica.output())
    stopping = asyncio.create_task(replicas.stop(60))
    await eventually(lambda: worker.replica.state is ReplicaState.DRAINING)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert isinstance(await finished, BatchFailure)
    await eventually(lambda: not is_running(worker.replica.pid or 0))


async def test_callbacks_that_raise_change_nothing(
    make_set: MakeSet, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ValueError("not my day")

    replicas = make_set()
    replicas._on_change = fail
    await replicas.start(1)
    assert await picked(replicas).call("fine") == [b'"fine"']
    await picked(replicas).call("die")
    await eventually(lambda: replicas.live)
    assert "not my day" in caplog.text


async def test_versions_are_independent(make_set: MakeSet) -> None:
    good, bad = make_set(), make_set(fails_on_example)
    await good.start(1)
    bad.restore(2)
    for _ in range(20):
        assert await picked(good).call("fine") == [b'"fine"']
    await eventually(lambda: bad.state is State.FAILED)
    assert good.state is State.LIVE


async def test_the_replicas_may_be_of_another_making() -> None:
    """As a simulator does it; everything else is as with real ones."""
    troupe = Troupe()

    async def load() -> bytes:
        return b""

    replicas = ReplicaSet(
        WorkerSpec("model", "1", InputType.STRINGS),
        load,
        clock=SystemClock(),
        on_change=lambda: None,
        make_replica=troupe,
    )
    replicas.restore(2)
    await eventually(lambda: replicas.live == 2)
    troupe.all[0].die()
    assert replicas.ready == (troupe.all[1],)
    await eventually(lambda: replicas.live == 2)
    assert set(replicas.ready) == {troupe.all[1], troupe.all[2]}
    await replicas.stop(0)
    assert [puppet.state for puppet in troupe.all[1:]] == [ReplicaState.STOPPED] * 2
