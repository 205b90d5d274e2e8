"""Trials: a server with the sleeping model on it, under one open load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import cases, work
from benchmarks.cases import CHECKED, check_answers
from benchmarks.command import progress, write_json
from benchmarks.load import LoadError, Target, post, write_bodies
from benchmarks.outcome import OpenLoad, Outcome, Pairs
from benchmarks.process import busy_seconds
from benchmarks.servers import ClipperServer, PeerServer, Server

WORK = "sleep"
SLO = 0.02  # seconds
ROWS = 256  # different bodies, sent in turn
DEFAULT_OUTPUT = "-1.0"

# Peers as an operator who knows the model would set them: batches of which two fit the
# objective, one that runs and one that waits, and requests older than it given up. Mosec
# once more with the batch and the bound of its queue, and no timeout, that kept the most
# goodput of some ten settings that were tried under this very load.
PATIENT = {"PEER_MAX_BATCH_SIZE": "22", "PEER_TIMEOUT_MS": "20"}
PEER_LANES = {
    "mosec": ("mosec", PATIENT),
    "mosec_tuned": ("mosec", {"PEER_MAX_BATCH_SIZE": "16", "MOSEC_CAPACITY": "16"}),
    "litserve": ("litserve", PATIENT),
}

OWN = ("aimd", "goodput")
BASELINES = ("plain_aimd", "paper_aimd")
CLIPPER_LANES = (*OWN, *BASELINES)

CHECK_SECONDS = 10.0  # in which the answers must once be right and all in time
QUIET_SECONDS = 20.0  # for a server to work off what an overload has left
# Mosec 0.9.8 answers 500 for good once all requests of a batch have timed out before its
# worker saw them, as the first ones do that come before it is up.
BOOT_SECONDS = 3.0


def bound(
    slo: float = SLO, batch: float = work.SLEEP_BATCH, row: float = work.SLEEP_ROW
) -> float:
    """Rows per second of batches that last as long as the objective: no more is possible
    with one replica."""
    rows = int((slo - batch) / row)
    return rows / (batch + row * rows)


@dataclass(frozen=True)
class Trial:
    """One load on one server. `load` tells its size as the part's tables count it."""

    part: str
    lane: str
    load: float
    round: int
    outcome: Outcome
    front_cpu: float  # CPU seconds of the server's own process, per answer
    worker_cpu: float  # and of those that run the model
    other_cores: float  # CPU that neither server nor generator used
    caps: list[tuple[float, float]] = field(default_factory=list)  # second -> rows
    facts: dict[str, float] = field(default_factory=dict)


@dataclass
class Trials:
    """The options of one run, its scratch directory and what it has found so far."""

    scratch: Path
    about: dict[str, Any]
    runs: int = 3
    seconds: float = 5.0
    short: bool = False
    lanes: Sequence[str] = CLIPPER_LANES
    peers: dict[str, str] = field(default_factory=dict)  # name -> interpreter
    capacity: float = 0.0  # of Clipper with its default controller; 0 while not known
    trials: list[Trial] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False

    def __post_init__(self) -> None:
        rows = work.make_rows(WORK, ROWS)
        self.bodies = [work.to_json(input=row) for row in rows]
        self.expected = work.predict(work.make_model("sum"), rows[:CHECKED])
        self._listing = write_bodies(self.bodies, self.scratch / "bodies")

    @property
    def all_lanes(self) -> list[str]:
        """Clipper's lanes and those of the peers that are there."""
        there = [lane for lane, (peer, _) in PEER_LANES.items() if peer in self.peers]
        return [*self.lanes, *there]

    def of(self, part: str, lane: str | None = None) -> list[Trial]:
        return [
            trial
            for trial in self.trials
            if trial.part == part and lane in (None, trial.lane)
        ]

    def target(self, server: Server, path: str) -> Target:
        return Target(server.port, path, self.bodies, self._listing)

    def directory(self, name: str) -> Path:
        path = self.scratch / name
        path.mkdir()
        return path

    def fail(self, text: str) -> None:
        """Note that something that was asked for could not be measured."""
        self.failed = True
        self.note(text)

    def note(self, text: str) -> None:
        self.notes.append(text)
        progress(text)

    def write(self, path: Path) -> None:
        fields = {
            "about": self.about,
            "capacity": self.capacity,
            "notes": self.notes,
            "trials": [asdict(trial) for trial in self.trials],
        }
        write_json(path, fields)


@dataclass(frozen=True)
class Lane(cases.Lane):
    """A server with one application, whose model is called WORK."""

    slo: float = SLO

    @property
    def cap(self) -> float:
        """Rows that the next batch would get at most."""
        return self.gauge("clipper_model_batch_cap_rows")

    def gauge(self, name: str) -> float:
        assert isinstance(self.server, ClipperServer)
        return self.server.gauge(name, WORK)


# -- starting --------------------------------------------------------------------------


def start_clipper(
    bench: Trials,
    stack: ExitStack,
    scratch: Path,
    name: str,
    *,
    model: work.Model | None = None,
    controller: str = "aimd",
    replicas: int = 1,
    slo: float = SLO,
    environment: dict[str, str] | None = None,
) -> Lane:
    """A server of its own with the sleeping model, or another in its place."""
    plain = controller in OWN and environment is None
    server = ClipperServer(
        scratch,
        name=name,
        program="clipper" if plain else "benchmarks.clipper_app",
        environment=environment,
    )
    stack.enter_context(server)
    function = model or work.make_model(WORK)
    server.deploy(WORK, function, batching=controller, num_replicas=replicas)
    register(server, WORK, slo)
    return Lane(name, server, bench.target(server, server.path_of(WORK)), slo)


def register(server: ClipperServer, model: str, slo: float) -> None:
    """An application of the same name, with a default output and no cache."""
    server.register(
        model, model, cache=False, slo_seconds=slo, default_output=DEFAULT_OUTPUT
    )


def start_peer(bench: Trials, stack: ExitStack, scratch: Path, name: str) -> Lane:
    peer, settings = PEER_LANES[name]
    server = PeerServer(
        peer,
        bench.peers[peer],
        WORK,
        bench.bodies[0],
        scratch,
        lane=name,
        settings=settings,
        boot_seconds=BOOT_SECONDS,
    )
    stack.enter_context(server)
    return Lane(name, server, bench.target(server, server.path))


def start_lanes(
    bench: Trials, stack: ExitStack, scratch: Path, names: Sequence[str]
) -> Iterator[Lane]:
    """The servers called `names`, up, checked and warm. One that fails leaves a note."""
    for name in names:
        try:
            with ExitStack() as starting:
                if name in PEER_LANES:
                    lane = start_peer(bench, starting, scratch, name)
                else:
                    lane = start_clipper(bench, starting, scratch, name, controller=name)
                check(bench, lane)
                warm(bench, lane)
                stack.push(starting.pop_all())
        except LoadError as error:
            bench.fail(f"{name}: {error}")
            continue
        progress(f"{name} is up")
        yield lane


def check(bench: Trials, lane: Lane) -> None:
    """LoadError unless the server predicts what the model does."""
    give_up = time.monotonic() + CHECK_SECONDS
    while True:
        try:
            check_answers(lane, 1, bench.expected)
            return
        except LoadError:
            if time.monotonic() > give_up:
                raise
        time.sleep(0.1)


def warm(bench: Trials, lane: Lane) -> None:
    seconds = 0.5 if bench.short else 2.0
    measure(bench, "warm", lane, 0.9, [(0.9 * bound(lane.slo), seconds)], 0)


# -- measuring -------------------------------------------------------------------------


def measure(
    bench: Trials,
    part: str,
    lane: Lane,
    load: float,
    loads: Pairs,
    round_: int,
    *,
    during: Callable[[OpenLoad], list[tuple[float, float]]] | None = None,
    facts: dict[str, float] | None = None,
    cold: bool = False,
    retries: int = 0,
) -> Trial:
    """One load on one lane, with the CPU it took. `during` runs beside it, and returns
    the caps it saw. With `cold` nothing is asked before the load. What the model did not
    answer is asked again at once, `retries` times. The arrivals are the same for all
    lanes."""
    lane.server.resume()
    if not cold and not wait_until_quiet(lane):
        bench.note(f"{part}: {lane.name} did not come to itself and was started anew.")
        lane.server.stop()
        lane.server.start()
    process = lane.server.process
    assert process is not None
    busy, began, cpu, children = busy_seconds(), time.monotonic(), process.cpu(), _spent()
    seed = round_ * 1000 + round(load * 100)
    load_ = OpenLoad(lane.target, loads, slo=lane.slo, seed=seed, retries=retries)
    with load_ as running:
        caps = during(running) if during is not None else []
        outcome = running.outcome()
    if not process.alive:
        raise LoadError(f"{lane.name} ended under load:\n{process.log_tail()}")
    used = process.cpu().since(cpu)
    took = time.monotonic() - began
    other = busy_seconds() - busy - used.front - used.workers - (_spent() - children)
    lane.server.pause()
    answers = max(1, outcome.answers)
    trial = Trial(
        part=part,
        lane=lane.name,
        load=load,
        round=round_,
        outcome=outcome,
        front_cpu=used.front / answers,
        worker_cpu=used.workers / answers,
        other_cores=max(0.0, other / took),
        caps=caps,
        facts=facts if facts is not None else {},
    )
    progress(describe(trial))
    if part != "warm":
        bench.trials.append(trial)
    return trial


def _spent() -> float:
    """CPU seconds of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def wait_until_quiet(lane: Lane) -> bool:
    """Until what an earlier load has left is worked off, and a request is answered
    within half the objective; false if it ended, or is not there after QUIET_SECONDS."""
    process, target = lane.server.process, lane.target
    assert process is not None
    give_up = time.monotonic() + QUIET_SECONDS
    while process.alive and time.monotonic() < give_up:
        begun, status = time.monotonic(), 0
        with suppress(OSError):
            status, _ = post(target.port, target.path, target.bodies[0])
        if status == 200 and time.monotonic() - begun < lane.slo / 2:
            return True
        time.sleep(0.02)
    return False


def describe(trial: Trial) -> str:
    outcome = trial.outcome
    shares = "  ".join(
        f"{part.rate:,.0f}/s: {part.goodput:,.0f} good" for part in outcome.parts
    )
    late = ", GENERATOR TOO LATE" if outcome.limited else ""
    return (
        f"{trial.part} round {trial.round + 1}, {trial.lane:10} {shares}  "
        f"lag p99 {outcome.lag_p99 * 1e3:.2f} ms{late}"
    )
