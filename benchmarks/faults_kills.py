"""Workers killed in the middle of batches, under load."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.checked_load import NUMBER, Asked, CheckedLoad
from benchmarks.command import progress
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import FaultServer, LogWatch, is_alive, wait_for
from benchmarks.load import LoadError

RATE = 200.0  # requests per second
SLO_MICROS = 2_000_000
REPLICAS = 2
BATCH_SECONDS = 0.05
# From one kill to the next. The rows of the batch that died are evaluated one by one, so
# that the one to blame, if any, can be told: half a second here. One that dies again then
# is taken for poison, which is right for a row and would be bad luck under a second kill.
PAUSE = 1.2
QUIET_SECONDS = 0.2  # without a line of the log: the work after the last kill is over
PATIENCE = 20.0  # seconds for the server to be at full strength again
DETECTED, FULL, FULL_SPARE = 0.005, 0.3, 0.05  # seconds

_READY = re.compile(r"echo:1: (\d+) of (\d+) replicas")


def make_model(mark: str) -> Any:
    """A numpy model whose batches last 50 ms; a process that served leaves its pid."""

    def predict(rows: Any) -> Any:
        import os
        import time
        from pathlib import Path

        import numpy as np

        Path(mark, str(os.getpid())).touch()
        time.sleep(0.05)
        return np.asarray(rows)[:, 0] + 1.0

    return predict


@dataclass
class Kills:
    """What the kills of one run took, in seconds from the kill."""

    detected: list[float] = field(default_factory=list)
    full: list[float] = field(default_factory=list)


def run(run: FaultRun) -> None:
    for spares in (0, 1):
        run_kills(run, spares)


def run_kills(run: FaultRun, spares: int) -> None:
    kills, tail = run.pick(100, 2), run.pick(3, 1)
    done = f"{kills} worker kills, {REPLICAS} replicas"
    done += ", a warm spare" if spares else ""
    scratch = run.directory(f"kills-{spares}")
    marks = scratch / "pids"
    marks.mkdir()
    with FaultServer(scratch) as server:
        if not deploy(server, marks, spares):
            run.note("kills: this version knows no warm spares")
            if run.long:
                run.duration("kills", "W1", done, "full strength", FULL_SPARE, [])
            return
        warm(server, 1.5 if run.long else 0.5)
        load = CheckedLoad(
            server.url_of("echo"),
            [(RATE, kills * PAUSE + tail)],
            f'{{"input":[{NUMBER}]}}',
            seed=run.seed,
        )
        pid = server.pid
        with load:
            found = kill_often(server, load, marks, kills, random.Random(run.seed))
            seen = load.seen()
        assert server.process is not None
        if not server.process.alive or server.pid != pid:
            raise LoadError(f"the server ended:\n{server.process.log_tail()}")
        deaths = server.total("clipper_model_replica_deaths_total")
        zombies = server.zombies()
    failures = seen.failures(is_right)
    run.requests("kills", "W1", done, seen, failures, 10_000)
    run.found("kills", "W1", done, "kills done", ">=", kills, len(found.full))
    run.duration("kills", "W1", done, "noticed", DETECTED, found.detected)
    bound = FULL_SPARE if spares else FULL
    run.duration("kills", "W1", done, "full strength", bound, found.full)
    run.found("kills", "W1", done, "deaths beside the kills", "<=", 0, deaths - kills)
    run.found("kills", "W1", done, "zombies left", "<=", 0, zombies)
    if seen.lag_p99 > 0.1:
        run.note(f"kills: the generator was {seen.lag_p99:.2f} s late (p99)")


def deploy(server: FaultServer, marks: Path, spares: int) -> bool:
    """False where `spares` is not an option of this version."""
    options: dict[str, Any] = {"spares": spares} if spares else {}
    with server.client() as client:
        try:
            client.deploy_predict_function(
                "echo",
                1,
                make_model(str(marks)),
                "doubles",
                num_replicas=REPLICAS,
                **options,
            )
        except TypeError:
            return False
        client.register_application("echo", "echo", "doubles", None, SLO_MICROS)
    return True


def warm(server: FaultServer, seconds: float) -> None:
    """Until the batches are as large as they have to be."""
    url = server.url_of("echo")
    with CheckedLoad(url, [(RATE, seconds)], f'{{"input":[{NUMBER}]}}') as load:
        load.seen()


def is_right(asked: Asked) -> bool:
    return bool(asked.output == asked.number + 1.0)


def kill_often(
    server: FaultServer, load: CheckedLoad, marks: Path, kills: int, rng: random.Random
) -> Kills:
    found = Kills()
    with closing(LogWatch(server.log)) as log:
        for number in range(kills):
            load.wait_until(number * PAUSE + rng.uniform(0.2, 0.2 + BATCH_SECONDS))
            wait_quiet(log)
            victim = oldest_worker(marks)
            begun = time.monotonic()
            os.kill(victim, signal.SIGKILL)
            noticed = log.wait(_fewer, begun, PATIENCE)
            back = noticed
            if noticed is not None and not _follows(noticed.text):
                back = log.wait(_all, noticed.seen, PATIENCE)
            if noticed is None or back is None:
                raise LoadError(f"kill {number} was not made good:\n{tail(log)}")
            found.detected.append(noticed.seen - begun)
            found.full.append(back.seen - begun)
            if number % 20 == 19:
                progress(f"kills: {number + 1} of {kills}")
    return found


def oldest_worker(marks: Path) -> int:
    """The worker that has served longest: so none dies before it has proved itself."""
    wait_for("a worker that serves", lambda: _serving(marks))
    return _serving(marks)[0]


def _serving(marks: Path) -> list[int]:
    alive = [path for path in marks.iterdir() if is_alive(int(path.name))]
    if len(alive) < REPLICAS:  # one that is new has served no batch yet
        return []
    return [int(path.name) for path in sorted(alive, key=_born)]


def _born(path: Path) -> float:
    return os.stat(f"/proc/{path.name}").st_ctime


def wait_quiet(log: LogWatch) -> None:
    """Until nothing was logged for a while: a spare takes its time to be replaced."""
    while log.wait(lambda _: True, time.monotonic(), QUIET_SECONDS) is not None:
        pass


def _fewer(line: str) -> bool:
    match = _READY.search(line)
    return _follows(line) or (match is not None and match[1] != match[2])


def _follows(line: str) -> bool:
    """Whether a spare was there at once, so that there never were fewer."""
    return "a spare takes batches" in line


def _all(line: str) -> bool:
    match = _READY.search(line)
    return match is not None and match[1] == match[2]


def tail(log: LogWatch) -> str:
    return "\n".join(line.text for line in log.lines[-12:])
