"""Two hundred admin operations, good ones and failing ones, under load.

Each answer tells which version gave it; the driver keeps when which version was live, from
before the call that changed it until after its answer, when both may be.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchmarks.checked_load import NUMBER, Asked, CheckedLoad, Seen
from benchmarks.command import progress
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import FaultServer, marked, wait_for
from benchmarks.load import LoadError
from clipper import Clipper
from clipper.errors import ClipperError, DeployFailed

RATE = 200.0  # requests per second, of both applications together
SLO_MICROS = 2_000_000
LEAST = 40_000  # requests
PAUSE = 1.0  # seconds from the begin of one operation to that of the next, about
SCALE = 10.0**6  # what a version's number is multiplied with in its answers
KEPT = 3  # versions of a model that stay deployed
HANG_SECONDS = 2.0  # that a load hangs before its worker is killed

APPLICATIONS = ("one", "two")
MODELS = ("first", "second")  # of which the application "two" may have both
MARK = "CLIPPER_FAULTS_MARK"

Live = frozenset[int]  # codes of the versions that may answer an application


# -- models ----------------------------------------------------------------------------


def make_model(code: int) -> Any:
    """It tells its code beside the input."""

    def predict(rows: Any) -> Any:
        return [code * 10.0**6 + row[0] for row in rows]

    return predict


def make_importing() -> Any:
    def predict(rows: Any) -> Any:
        import no_such_module_anywhere

        return [no_such_module_anywhere.f(row) for row in rows]

    return predict


class _Trap:
    """What happens when it is unpickled in the worker."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


def make_trapped(code: str) -> Any:
    """A function that runs `code` where it is loaded."""
    trap = _Trap(code)

    def predict(rows: Any) -> Any:
        return [str(trap) for _ in rows]

    return predict


def make_failing() -> Any:
    def predict(rows: Any) -> Any:
        raise ValueError("wrong weights")

    return predict


def make_crashing() -> Any:
    def predict(rows: Any) -> Any:
        import ctypes

        return ctypes.string_at(0)

    return predict


# -- what is live ----------------------------------------------------------------------


class Change(NamedTuple):
    """What may answer an application from `begin` on; until `end` what did before may,
    too. Moments of the monotonic clock."""

    begin: float
    end: float
    live: Live


@dataclass
class Timeline:
    """Who could answer one application, and when. Mutable: the changes, in order."""

    changes: list[Change] = field(default_factory=list)

    def live(self, begin: float, end: float) -> Live:
        """Who could at any moment between these two."""
        found: Live = frozenset()
        for change, after in zip(self.changes, [*self.changes[1:], None], strict=True):
            until = math.inf if after is None else after.end
            if change.begin <= end and begin <= until:
                found |= change.live
        return found

    def right(self, asked: Asked) -> bool:
        """Whether the answer is its input's, from a version that was live."""
        assert asked.sent is not None and asked.answered is not None
        code, number = divmod(asked.output, SCALE)
        return number == asked.number and int(code) in self.live(asked.sent, asked.answered)


# -- operations ------------------------------------------------------------------------


@dataclass
class Operator:
    """Does operations on a server, one after the other, and knows what they change.

    Mutable: versions by model, newest last, with the current ones and those before them;
    what is linked to the application "two"; the timelines; threads whose deploys hang, and
    what went otherwise than it should have.
    """

    server: FaultServer
    client: Clipper
    rng: random.Random
    versions: dict[str, list[int]] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)
    before: dict[str, list[int]] = field(default_factory=dict)
    linked: set[str] = field(default_factory=lambda: {MODELS[0]})
    timelines: dict[str, Timeline] = field(default_factory=dict)
    hanging: list[threading.Thread] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    odd: Counter[str] = field(default_factory=Counter)
    codes: int = 0
    turn: list[str] = field(default_factory=list)  # kinds that are left of this round

    def begin(self) -> None:
        """Applications with a version each."""
        for model in MODELS:
            code = self._new_code()
            self.client.deploy_predict_function(model, code, make_model(code), "doubles")
            self.versions[model], self.before[model] = [code], []
            self.current[model] = code
        for name in APPLICATIONS:
            # nothing is cached: an old answer would be right, but could not be told so
            self.client.register_application(
                name, MODELS[0], "doubles", None, SLO_MICROS, cache=False
            )
            now = time.monotonic()
            live = self._live(name)
            self.timelines[name] = Timeline([Change(now, now, live)])

    def operate(self) -> None:
        """One operation: each kind once in every round, in an order of its own."""
        if not self.turn:
            self.turn = list(OPERATIONS)
            self.rng.shuffle(self.turn)
        kind = self.turn.pop()
        self.done[kind] += 1
        try:
            OPERATIONS[kind](self)
        except ClipperError as error:
            self.odd[f"{kind}: {error.cause[:120]}"] += 1

    def end(self) -> None:
        for thread in self.hanging:
            thread.join(60)

    # -- good ones -------------------------------------------------------------------------

    def deploy(self) -> None:
        model = self.rng.choice(MODELS)
        code = self._new_code()
        with self._changing():
            self.client.deploy_predict_function(model, code, make_model(code), "doubles")
            self.versions[model].append(code)
            self._make_current(model, code)
        if len(self.versions[model]) > KEPT + 2:
            self.undeploy(model)

    def roll_back(self) -> None:
        model = self.rng.choice(MODELS)
        if not self.before[model]:
            return self.set_version()
        with self._changing():
            self.current[model] = int(self.client.rollback(model))
            self.before[model].pop()
        return None

    def set_version(self) -> None:
        model = self.rng.choice(MODELS)
        version = self.rng.choice(self.versions[model])
        with self._changing():
            self.client.set_model_version(model, version)
            self._make_current(model, version)

    def scale_up(self) -> None:
        self.client.set_num_replicas(self.rng.choice(MODELS), 2)

    def scale_down(self) -> None:
        self.client.set_num_replicas(self.rng.choice(MODELS), 1)

    def undeploy(self, model: str | None = None) -> None:
        """An old version."""
        model = model or self.rng.choice(MODELS)
        old = [v for v in self.versions[model] if v != self.current[model]]
        if not old:
            return
        self.client.undeploy(model, old[0])
        self.versions[model].remove(old[0])
        self.before[model] = [v for v in self.before[model] if v != old[0]]

    def set_policy(self) -> None:
        name, options = self.rng.choice(
            [("static", {}), ("thompson", {}), ("epsilon_greedy", {"epsilon": 0.3})]
        )
        with self._changing("two"):
            self.client.set_policy("two", name, **options)

    def link(self) -> None:
        other = MODELS[1]
        with self._changing("two"):
            if other in self.linked:
                self.client.unlink_model_from_app("two", other)
                self.linked.discard(other)
            else:
                self.client.link_model_to_app("two", other)
                self.linked.add(other)

    # -- failing ones ----------------------------------------------------------------------

    def fail_pickle(self) -> None:
        self._fail(make_trapped("raise EOFError('Ran out of input')"))

    def fail_bytes(self) -> None:
        """Bytes that are no function, as a client of its own making may send them."""
        status, answer = self._upload(b"\x80\x04not a pickle", python="")
        if status == 200 and b'"error"' not in answer:
            self.odd[f"bytes that are no function were taken: {answer[-120:]!r}"] += 1

    def fail_python(self) -> None:
        status, answer = self._upload(_packed_by("2.7"), python="2.7")
        if status == 200 and b'"error"' not in answer:
            self.odd[f"a function of Python 2.7 was taken: {answer[-120:]!r}"] += 1

    def fail_import(self) -> None:
        self._fail(make_importing())

    def fail_load(self) -> None:
        self._fail(make_trapped("raise RuntimeError('no weights')"))

    def fail_exit(self) -> None:
        self._fail(make_trapped("import os; os._exit(1)"))

    def fail_example(self) -> None:
        self._fail(make_failing())

    def fail_crash(self) -> None:
        self._fail(make_crashing())

    def fail_hang(self) -> None:
        """In the background, of a model of its own; its worker is killed in the end."""
        name = f"hangs-{self._new_code()}"
        thread = threading.Thread(target=self._hang, args=(name,), daemon=True)
        self.hanging.append(thread)
        thread.start()

    # -- pieces ----------------------------------------------------------------------------

    def _fail(self, function: Any) -> None:
        try:
            self.client.deploy_predict_function(
                self.rng.choice(MODELS),
                self._new_code(),
                function,
                "doubles",
                example=[1.0],
                progress=False,
            )
        except DeployFailed:
            return
        self.odd["a deploy that had to fail did not"] += 1

    def _hang(self, name: str) -> None:
        mark = {MARK: name}

        def kill() -> None:
            try:
                wait_for("a worker that hangs", lambda: marked(mark))
            except LoadError:
                return  # the deploy was refused, which is told below
            time.sleep(HANG_SECONDS)
            for pid in marked(mark):
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill, daemon=True)
        killer.start()
        with self.server.client() as client:
            try:
                client.deploy_predict_function(
                    name,
                    1,
                    make_trapped("import time; time.sleep(1e6)"),
                    "doubles",
                    environment=mark,
                    progress=False,
                )
                self.odd["a load that hung went live"] += 1
            except DeployFailed:
                pass
            except ClipperError as error:
                self.odd[f"a load that hung: {error.cause[:120]}"] += 1
        killer.join(60)

    def _upload(self, function: bytes, python: str) -> tuple[int, bytes]:
        return self.server.upload(
            {
                "model_name": self.rng.choice(MODELS),
                "model_version": str(self._new_code()),
                "input_type": "doubles",
                "python": python,
            },
            function,
        )

    def _make_current(self, model: str, version: int) -> None:
        """As the server remembers it: a version is in its history at most once."""
        old = self.current[model]
        before = [v for v in self.before[model] if v != version]
        self.before[model] = before if old == version else [*before, old]
        self.current[model] = version

    def _new_code(self) -> int:
        self.codes += 1
        return self.codes

    def _live(self, application: str) -> Live:
        models = {MODELS[0]} if application == "one" else self.linked
        return frozenset(self.current[model] for model in models)

    @contextmanager
    def _changing(self, *names: str) -> Iterator[None]:
        """Around a call after which others may be live."""
        begin = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            for name in names or APPLICATIONS:
                change = Change(begin, end, self._live(name))
                self.timelines[name].changes.append(change)


OPERATIONS: dict[str, Callable[[Operator], None]] = {
    "deploy": Operator.deploy,
    "deploy again": Operator.deploy,
    "roll back": Operator.roll_back,
    "set version": Operator.set_version,
    "scale up": Operator.scale_up,
    "scale down": Operator.scale_down,
    "undeploy": Operator.undeploy,
    "set policy": Operator.set_policy,
    "link or unlink": Operator.link,
    "bad pickle": Operator.fail_pickle,
    "no function": Operator.fail_bytes,
    "wrong Python": Operator.fail_python,
    "import error": Operator.fail_import,
    "raises at load": Operator.fail_load,
    "exits at load": Operator.fail_exit,
    "raises at the example": Operator.fail_example,
    "crashes at the example": Operator.fail_crash,
    "hangs at load": Operator.fail_hang,
}


def _packed_by(python: str) -> bytes:
    """A function packed as by another version of Python."""
    from clipper.workers import packaging

    own = packaging.python_version
    try:
        packaging.python_version = lambda: python
        return packaging.pack(make_model(0)).blob
    finally:
        packaging.python_version = own


# -- the part --------------------------------------------------------------------------


def run(run: FaultRun) -> None:
    operations = run.pick(200, len(OPERATIONS))
    pause = PAUSE if run.long else 0.35
    seconds = max(operations * pause + 2.0, LEAST / RATE + 5.0 if run.long else 0.0)
    with FaultServer(run.directory("operations")) as server, server.client() as client:
        operator = Operator(server, client, random.Random(run.seed))
        operator.begin()
        loads = [
            CheckedLoad(
                server.url_of(name),
                [(RATE / len(APPLICATIONS), seconds)],
                f'{{"input":[{NUMBER}]}}',
                seed=run.seed + number,
            )
            for number, name in enumerate(APPLICATIONS)
        ]
        pid = server.pid
        with loads[0], loads[1]:
            for number in range(operations):
                loads[0].wait_until(0.5 + number * pause)
                operator.operate()
                if number % 50 == 49:
                    progress(f"operations: {number + 1} of {operations}")
            operator.end()
            seen = {
                name: load.seen() for name, load in zip(APPLICATIONS, loads, strict=True)
            }
        process = server.process
        if process is None or not process.alive or server.pid != pid:
            run.fail("operations: the server ended")
        zombies = server.zombies()
    judge(run, operator, seen, operations, zombies)


def judge(
    run: FaultRun, operator: Operator, seen: dict[str, Seen], operations: int, zombies: int
) -> None:
    part, rows = "operations", "A1, A2"
    done = f"{operations} admin operations under {RATE:.0f}/s"
    failures: Counter[str] = Counter()
    for name, each in seen.items():
        failures += each.failures(operator.timelines[name].right)
    both = [asked for each in seen.values() for asked in each.asked]
    lag = max(each.lag_p99 for each in seen.values())
    run.requests(part, rows, done, Seen(0.0, lag, both), failures, LEAST)
    run.found(part, rows, done, "operations done", ">=", operations, operator.done.total())
    odd = operator.odd.total()
    run.found(part, rows, done, "operations that went otherwise", "<=", 0, odd)
    for what, times in operator.odd.most_common(5):
        run.note(f"operations: {times} x {what}")
    run.found(part, rows, done, "zombies left", "<=", 0, zombies)
    for asked in _wrong(operator, seen)[:3]:
        run.note(f"operations: wrong: {asked}")


def _wrong(operator: Operator, seen: dict[str, Seen]) -> list[Asked]:
    return [
        asked
        for name, each in seen.items()
        for asked in each.asked
        if asked.kind == "model" and not operator.timelines[name].right(asked)
    ]
