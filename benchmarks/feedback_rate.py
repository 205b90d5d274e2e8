"""How many pieces of feedback per second a server makes durable, through HTTP."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.feedback_app import VARIABLE, Commits
from benchmarks.feedback_load import FeedbackLoad, FeedbackSeen, Said
from benchmarks.load import LoadError
from benchmarks.process import TICK, busy_seconds
from benchmarks.servers import ClipperServer
from benchmarks.work import make_rows

POLICIES = ("static", "epsilon_greedy", "exp3", "hedge")
MODELS = 4
SLO_MICROS = 5_000_000  # nothing here is about deadlines
QUICK_IDS, FIRST_IDS, MOST_IDS = 10_000, 20_000, 200_000
MARGIN = 1.3  # times as many ids as the last round needed


@dataclass(frozen=True)
class Form:
    """How feedback comes: pieces in a request, connections, and what a piece says."""

    pieces: int
    connections: int
    says: str = "label"  # or "reward"

    @property
    def text(self) -> str:
        many = "one piece" if self.pieces == 1 else f"lists of {self.pieces}"
        return f"{many}, {self.connections} connections, {self.says}"


FORMS = (
    Form(1, 64),
    Form(1, 256),
    Form(1, 256, "reward"),
    Form(10, 64),
    Form(100, 16),
    Form(100, 16, "reward"),
)


@dataclass(frozen=True)
class RateSample:
    """One load. CPU in seconds per piece: of the server's loop, of its other threads, and
    of the workers. Latencies in seconds, of requests."""

    lane: str  # a policy; in the part "join" a way to give feedback
    form: Form
    round: int
    rate: float  # pieces accepted per second
    pieces: int
    p50: float
    p99: float
    loop_cpu: float
    store_cpu: float
    worker_cpu: float
    commits: float  # per second
    commit_pieces: float  # pieces in each
    commit_seconds: float  # of each
    faults: int  # duplicates and refusals, of which there must be none
    generator: float  # share of a core that the generator used
    other_cores: float  # CPU of everybody else
    exhausted: bool

    @property
    def cpu(self) -> float:
        return self.loop_cpu + self.store_cpu


class LearningServer(ClipperServer):
    """`clipper serve` with the commits of its store counted."""

    def __init__(self, scratch: Path, name: str) -> None:
        self._counts = scratch / f"{name}-commits"
        super().__init__(
            scratch,
            name=name,
            program="benchmarks.feedback_app",
            environment={VARIABLE: str(self._counts)},
        )

    def register_policy(
        self, application: str, models: Sequence[str], policy: str, *, cache: bool = True
    ) -> None:
        wanted = {
            "name": application,
            "input_type": "doubles",
            "default_output": None,
            "latency_slo_micros": SLO_MICROS,
            "models": list(models),
            "policy": policy,
            "cache": cache,
        }
        status, answer = self.change("/admin/add_app", json.dumps(wanted).encode())
        if status != 200:
            raise LoadError(f"{self.name} refused the application: {answer.decode()}")

    def commits(self) -> Commits:
        return Commits.read(self._counts)

    def usage(self) -> tuple[float, float, float]:
        """CPU seconds so far: of the loop, of the other threads, and of the workers."""
        assert self.process is not None
        pid = self.process.pid
        threads = {
            int(task): _thread_cpu(pid, task) for task in os.listdir(f"/proc/{pid}/task")
        }
        loop = threads.pop(pid)
        return loop, sum(threads.values()), self.process.cpu().workers


def _thread_cpu(pid: int, task: str) -> float:
    text = Path(f"/proc/{pid}/task/{task}/stat").read_text()
    fields = text[text.rindex(")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) * TICK


# -- one load --------------------------------------------------------------------------


def measure(
    server: LearningServer,
    application: str,
    lane: str,
    form: Form,
    rows: Path,
    *,
    ids: int,
    seconds: float,
    round_: int,
    options: Sequence[Any] = (),
) -> RateSample:
    """Load one application. LoadError unless something was accepted."""
    asked = ["--ids", ids, "--pieces", form.pieces, "--connections", form.connections]
    asked += ["--seconds", seconds, *options]
    if form.says == "reward":
        asked.append("--reward")
    with FeedbackLoad(server.port, application, rows, asked) as load:
        before, counts, busy = server.usage(), server.commits(), busy_seconds()
        begun = time.perf_counter()
        seen = load.seen()
        after, busy = server.usage(), busy_seconds() - busy
        commits, took = server.commits().since(counts), time.perf_counter() - begun
    if not seen.accepted:
        raise LoadError(f"{lane}, {form.text}: no feedback was accepted")
    used = [now - then for now, then in zip(after, before, strict=True)]
    return _sample(lane, form, round_, seen, used, commits, busy, took)


def _sample(
    lane: str,
    form: Form,
    round_: int,
    seen: FeedbackSeen,
    used: Sequence[float],
    commits: Commits,
    busy: float,
    took: float,
) -> RateSample:
    loop, store, workers = (cpu / seen.accepted for cpu in used)
    groups = max(1.0, commits.groups)
    return RateSample(
        lane=lane,
        form=form,
        round=round_,
        rate=seen.accepted / seen.seconds,
        pieces=seen.accepted,
        p50=seen.p50,
        p99=seen.p99,
        loop_cpu=loop,
        store_cpu=store,
        worker_cpu=workers,
        commits=commits.groups / took,
        commit_pieces=seen.accepted / groups,
        commit_seconds=commits.seconds / groups,
        faults=seen.duplicates + seen.refused,
        generator=seen.cpu / seen.seconds,
        other_cores=max(0.0, (busy - sum(used) - seen.cpu) / took),
        exhausted=seen.exhausted,
    )


class Ids:
    """How many ids a load is given: somewhat more than it used up the last time."""

    def __init__(self, seconds: float, quick: bool) -> None:
        self._seconds = seconds
        self._quick = quick
        self._rates: dict[object, float] = {}  # all mutable state: the best rate of each

    def wanted(self, lane: object) -> int:
        if self._quick:
            return QUICK_IDS
        rate = self._rates.get(lane)
        if rate is None:
            return FIRST_IDS
        return min(MOST_IDS, int(MARGIN * rate * self._seconds) + 2_000)

    def saw(self, lane: object, sample: RateSample) -> None:
        self._rates[lane] = max(sample.rate, self._rates.get(lane, 0.0))


# -- the parts -------------------------------------------------------------------------


def make_noisy(model: int) -> Callable[[Any], Any]:
    """Tells the parity of a row's sum in thousandths, and errs the more often the higher
    its number: model k on k tenths of the rows."""

    def predict(rows: Any) -> Any:
        sums = rows.sum(axis=1)
        wrong = (sums * 1e6).round().astype(int) % 10 < model
        return ((sums * 1e3).astype(int) + wrong) % 2

    return predict


def make_said(count: int = 2_000) -> Said:
    rows = make_rows("sum", count)
    return Said([json.dumps(row) for row in rows], [int(sum(r) * 1e3) % 2 for r in rows])


def run_rate(
    scratch: Path, runs: int, seconds: float, quick: bool, say: Callable[[str], None]
) -> Iterator[RateSample]:
    """Feedback by query id: every policy in every form, in turn, round by round."""
    rows = scratch / "rate-rows"
    make_said().write(rows)
    forms = FORMS if not quick else (FORMS[1], FORMS[4])
    lanes = [(policy, form) for form in forms for policy in POLICIES]
    ids = Ids(seconds, quick)
    with LearningServer(scratch, "rate") as server:
        models = [f"noisy{number}" for number in range(MODELS)]
        for number, model in enumerate(models):
            server.deploy(model, make_noisy(number))
        for policy in POLICIES:
            server.register_policy(policy, models, policy)
        if not quick:  # how many ids each needs
            for policy, form in lanes:
                found = measure(
                    server, policy, policy, form, rows, ids=FIRST_IDS,
                    seconds=min(1.0, seconds), round_=-1,
                )  # fmt: skip
                ids.saw((policy, form), found)
        for round_ in range(runs):
            for policy, form in lanes if round_ % 2 == 0 else lanes[::-1]:
                sample = measure(
                    server, policy, policy, form, rows, ids=ids.wanted((policy, form)),
                    seconds=seconds, round_=round_,
                )  # fmt: skip
                ids.saw((policy, form), sample)
                say(f"rate {round_}: {policy}, {form.text}: {sample.rate:,.0f}/s")
                yield sample


# ways to give feedback -> what the generator is told, and whether there is a cache
JOINS: dict[str, tuple[list[str], bool]] = {
    "by query id": ([], True),
    "by input, cached": (["--input"], True),
    "by input, evaluated": (["--input"], False),
}


def run_join(
    scratch: Path, runs: int, seconds: float, quick: bool, say: Callable[[str], None]
) -> Iterator[RateSample]:
    """The paper's experiment: an ensemble of four classifiers of MNIST images."""
    from benchmarks.mnist import load_images, make_model

    images = load_images()
    names = ["forest", "linear-svm", "logistic", "linear-svm-2"]
    rows = scratch / "join-rows"
    inputs = [json.dumps([round(x, 4) for x in row]) for row in images.asked.tolist()]
    Said(inputs, images.asked_labels.tolist()).write(rows)
    form = Form(1, 64)
    ids = Ids(seconds, quick)
    with LearningServer(scratch, "join") as server:
        for name in names:
            server.deploy(name, make_model(name.removesuffix("-2"), images).predict)
        for lane, (_, cache) in JOINS.items():
            server.register_policy(_application(lane), names, "hedge", cache=cache)
        for round_ in range(-1 if not quick else 0, runs):  # the first is no round
            lanes = list(JOINS) if round_ % 2 == 0 else list(JOINS)[::-1]
            for lane in lanes:
                sample = measure(
                    server, _application(lane), lane, form, rows, ids=ids.wanted(lane),
                    seconds=seconds, round_=round_, options=JOINS[lane][0],
                )  # fmt: skip
                ids.saw(lane, sample)
                if round_ >= 0:
                    say(f"join {round_}: {lane}: {sample.rate:,.0f}/s")
                    yield sample


def _application(lane: str) -> str:
    return lane.replace(",", "").replace(" ", "-")
