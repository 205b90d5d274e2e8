"""The server killed again and again: nothing is lost, and it soon answers again.

Kills under load are those of the tests of the log (tests/learner_storm.py), which know what
was acknowledged. How soon the server is back is measured with ten applications, ten numpy
models and a million rows in the feedback log.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.command import progress
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import FaultServer, is_alive, wait_for
from benchmarks.load import LoadError, post
from benchmarks.process import ROOT
from clipper.learning import events
from clipper.selection.policy import Arm
from clipper.store.base import Entry
from clipper.store.sqlite import SQLiteStore

APPLICATIONS = 10
POLICIES = ("epsilon_greedy", "thompson", "hedge", "exp3", "ucb1")
LOG_ROWS = 1_000_000
UNSAVED = 1_000  # pieces of feedback per application since its last snapshot
USERS = 1_000
GROUP = 5_000  # entries that are written together
READY = 1.0  # seconds until the first application is right again
ORPHANS = 1.0  # seconds until no worker of the killed server is left
START_SECONDS = 300.0  # in which the first start may fold the whole log
SLO_MICROS = 5_000_000


def run(run: FaultRun) -> None:
    run_kills(run)
    run_starts(run)


# -- nothing is lost -------------------------------------------------------------------


def run_kills(run: FaultRun) -> None:
    part, rows = "server_kills", "S1"
    kills = run.pick(200, 2)
    done = f"{kills} server kills under deploys, feedback and predictions"
    storm = _storm()
    progress(f"server_kills: {done}")
    lost = 0
    try:
        ended = asyncio.run(
            storm.kill_often(run.directory("server-kills"), kills, seed=run.seed)
        )
    except AssertionError as error:
        lost = 1
        run.note(f"server_kills: {str(error)[:1000]}")
    text = "lost, doubled or made up"
    run.found(part, rows, done, text, "<=", 0, lost)
    if lost:
        return
    counts = ended.ledger.counts
    run.found(part, rows, done, "kills done", ">=", kills, counts["kills"])
    for what in ("acknowledged", "queries", "deploys"):
        least = 1 if run.long else 0
        run.found(part, rows, done, what, ">=", least, counts[what])


def _storm() -> Any:
    """The machinery of the tests, which live beside the benchmarks."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.insert(0, tests)
    import learner_storm

    return learner_storm


# -- how soon it is back ---------------------------------------------------------------


def run_starts(run: FaultRun) -> None:
    part, rows = "server_kills", "S1"
    log_rows, starts = run.pick(LOG_ROWS, 20_000), run.pick(20, 1)
    done = f"{starts} kills with {APPLICATIONS} applications, {log_rows:,} log rows"
    progress(f"server_kills: {done}")
    first: list[float] = []
    every: list[float] = []
    orphans: list[float] = []
    server = FaultServer(run.directory("starts"))
    with server:
        register(server)
        server.stop()
        asyncio.run(fill(server, log_rows // APPLICATIONS))
        fold_once(server)
        rng = random.Random(run.seed)
        for number in range(starts):
            learn(server, UNSAVED if run.long else 20, rng)
            workers = server.workers()
            server.kill()
            orphans.append(wait_gone(workers))
            seconds = start(server)
            first.append(seconds[0])
            every.append(max(seconds))
            if number % 5 == 4:
                progress(f"server_kills: {number + 1} of {starts}")
    run.duration(part, rows, done, "first application right again", READY, first)
    run.duration(part, "W13", done, "workers of the killed gone", ORPHANS, orphans)
    run.series[f"{part}: {done}: all applications right again"] = every
    slowest = max(every)
    run.note(f"{part}: all {APPLICATIONS} applications were right after {slowest:.2f} s")


def wait_gone(workers: list[int]) -> float:
    """Seconds from now until no such process is left."""
    begun = time.monotonic()
    wait_for("the end of all workers", lambda: not any(map(is_alive, workers)))
    return time.monotonic() - begun


def make_model(number: int) -> Any:
    def predict(rows: Any) -> Any:
        import numpy as np

        return np.asarray(rows).sum(axis=1) + number

    return predict


def register(server: FaultServer) -> None:
    """Ten applications, each with a model of its own and that of the next one."""
    with server.client() as client:
        for number in range(APPLICATIONS):
            client.deploy_predict_function(
                _model(number), 1, make_model(number), "doubles", progress=False
            )
        for number in range(APPLICATIONS):
            client.register_application(
                _application(number),
                None,
                "doubles",
                None,
                SLO_MICROS,
                models=_models(number),
                policy=POLICIES[number % len(POLICIES)],
            )


def _application(number: int) -> str:
    return f"app-{number}"


def _model(number: int) -> str:
    return f"model-{number % APPLICATIONS}"


def _models(number: int) -> list[str]:
    return [_model(number), _model(number + 1)]


async def fill(server: FaultServer, rows: int) -> None:
    """So many entries for each application, as its server would have written them."""
    store = SQLiteStore(server.data)
    state = await store.open()
    try:
        for number in range(APPLICATIONS):
            record = state.applications[_application(number)]
            arms = tuple(Arm(f"{name}:1") for name in _models(number))
            entries = _entries(record.number, arms, rows)
            for _ in range(0, rows, GROUP):
                group = [entry for _, entry in zip(range(GROUP), entries, strict=False)]
                appended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

                def done(_: Any, error: Exception | None, to: Any = appended) -> None:
                    if error is None:
                        to.set_result(None)
                    else:
                        to.set_exception(error)

                store.append(group, [], done)
                await appended
    finally:
        await store.close()


def _entries(application: int, arms: tuple[Arm, ...], rows: int) -> Iterator[Entry]:
    now = time.time()
    for number in range(rows):
        chosen = arms[number % 2]
        loss = float(number % 3 == 0)
        event = events.Feedback(
            arms=arms,
            losses={chosen: loss},
            chosen=(chosen,),
            propensity=0.5,
            loss=loss,
            reward=1.0 - loss,
            policy=1,
            decided=now,
        )
        uid = f"u{number % USERS}" if number % 2 else None
        yield Entry(application, f"f:{number:x}", uid, now, events.encode(event))


def fold_once(server: FaultServer) -> None:
    """The first start folds the whole log; its end keeps a snapshot."""
    begun = time.monotonic()
    server.spawn()
    pending = set(range(APPLICATIONS))
    while pending:
        if time.monotonic() - begun > START_SECONDS:
            raise LoadError("the server did not come up over a log without snapshots")
        pending = {number for number in pending if not is_right(server, number)}
        time.sleep(0.05)
    progress(f"server_kills: the whole log was folded in {time.monotonic() - begun:.1f} s")
    process = server.process
    assert process is not None
    os.kill(process.pid, signal.SIGTERM)
    wait_for("the end of the server", lambda: not process.alive, START_SECONDS)
    server.stop()
    start(server)


def start(server: FaultServer) -> list[float]:
    """Start it; seconds from then until each application was right, in order."""
    begun = time.monotonic()
    server.spawn()
    seconds = []
    for number in range(APPLICATIONS):
        while not is_right(server, number):
            if time.monotonic() - begun > 60:
                assert server.process is not None
                raise LoadError(f"not right again:\n{server.process.log_tail()}")
            time.sleep(0.002)
        seconds.append(time.monotonic() - begun)
    return seconds


def is_right(server: FaultServer, number: int) -> bool:
    """Whether the application answers, with an output of one of its models."""
    body = json.dumps({"input": [1.0, 2.0], "cache": False}).encode()
    try:
        status, answer = post(server.port, server.path_of(_application(number)), body)
    except OSError:
        return False
    if status != 200:
        return False
    wanted = {3.0 + number, 3.0 + (number + 1) % APPLICATIONS}
    return json.loads(answer)["output"] in wanted


def learn(server: FaultServer, pieces: int, rng: random.Random) -> None:
    """So many pieces of feedback for each application."""
    for number in range(APPLICATIONS):
        path = f"/{_application(number)}"
        for begin in range(0, pieces, 100):
            several = min(100, pieces - begin)
            rows = [[rng.random(), rng.random()] for _ in range(several)]
            body = json.dumps({"input_batch": rows}).encode()
            status, answer = post(server.port, f"{path}/predict", body)
            if status != 200:
                raise LoadError(f"no predictions: {answer[:300]!r}")
            answers = json.loads(answer)["batch_predictions"]
            feedback = [
                {"query_id": one["query_id"], "reward": rng.randrange(2)} for one in answers
            ]
            body = json.dumps({"feedback": feedback}).encode()
            status, answer = post(server.port, f"{path}/update", body)
            if status != 200:
                raise LoadError(f"no feedback: {answer[:300]!r}")
