"""Millions of mixed requests: whether anything grows that should not."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from benchmarks.command import progress
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import FaultServer, wait_for
from benchmarks.load import LoadError
from benchmarks.process import ROOT
from benchmarks.soak_load import BANDIT, ENSEMBLE, PLAIN

REQUESTS = 8_000_000  # of which five after the warm part
# Requests in which all that is bounded fills up; what users know of versions that are gone
# does so last, after as many deploys as they keep versions.
WARM = 3_000_000
REPORT = 100_000  # requests from one sample to the next
SLOPE = 1.0  # MB per million requests
SLOPE_SHORT = 2_000.0  # of a short run, which never gets warm
RATE = 5_000.0  # requests per second, for a long run to take a quarter of an hour
TOLERANCE = 2  # descriptors and tasks that may be left: of the store, opened when needed
SLO_MICROS = 5_000_000
MODELS = ("sum", "mean", "largest")
MB = 1e6

# Everything that is bounded reaches its bound in the warm part: full tables are the state
# that a server lives in.
SETTINGS = """
cache_bytes = 8388608

[learning]
users_in_memory = 2000
decision_bytes = 33554432
feedback_bytes = 67108864
"""


class Sample(NamedTuple):
    """What the server's own process holds after so many requests."""

    requests: int
    resident: int  # bytes
    descriptors: int
    tasks: float


def run(run: FaultRun) -> None:
    requests, report = run.pick(REQUESTS, 20_000), run.pick(REPORT, 2_000)
    part, row, done = "soak", "M1", f"{requests:,} mixed requests"
    scratch = run.directory("soak")
    settings = scratch / "clipper.toml"
    settings.write_text(SETTINGS)
    samples: list[Sample] = []
    last: dict[str, Any] = {}
    with FaultServer(scratch, arguments=["--config", str(settings)]) as server:
        register(server)
        workers, before = len(server.workers()), sample(server, 0)
        with soaking(server, requests, report, run.seed) as lines:
            for line in lines:
                last = line
                samples.append(sample(server, line["done"]))
                if len(samples) % run.pick(2, 5) == 0:
                    deploy(server, MODELS[0], len(samples))
                if line["done"] % 1_000_000 == 0:
                    told = f"{samples[-1].resident / MB:.1f} MB, "
                    told += f"{line['done'] / line['seconds']:,.0f} requests/s"
                    progress(f"soak: {line['done']:,}: {told}")
        with suppress(LoadError):  # the last version may be on its way out
            wait_for("workers", lambda: len(server.workers()) <= workers)
        after = resting(server, before)
        left = len(server.workers()) - workers
        zombies = server.zombies()
    if not last:
        raise LoadError("no requests were made")
    warm = [each for each in samples if each.requests > min(WARM, requests // 2)]
    odd = sum(last["odd"].values())
    run.found(part, row, done, "answers that are not what they should be", "<=", 0, odd)
    for what, times in list(last["odd"].items())[:5]:
        run.note(f"soak: {times} x {what}")
    judge_memory(run, done, warm)
    judge_rest(run, done, before, after)
    run.found(part, row, done, "workers more than before", "<=", 0, left)
    run.found(part, row, done, "zombies left", "<=", 0, zombies)
    rate = last["done"] / last["seconds"]
    least = RATE if run.long else 100.0
    run.found(part, row, done, "requests/s", ">=", least, rate)
    run.series[f"{part}: requests"] = [float(each.requests) for each in samples]
    run.series[f"{part}: resident bytes"] = [float(each.resident) for each in samples]
    run.series[f"{part}: descriptors"] = [float(each.descriptors) for each in samples]
    run.series[f"{part}: tasks"] = [each.tasks for each in samples]


def judge_memory(run: FaultRun, done: str, warm: Sequence[Sample]) -> None:
    found = slope(warm)
    first, last = (each.resident / MB for each in (warm[0], warm[-1]))
    run.found(
        "soak",
        "M1",
        done,
        "memory, MB per million requests",
        "<=",
        SLOPE if run.long else SLOPE_SHORT,
        found,
        beside=f"{first:.1f} MB to {last:.1f} MB",
        form="{:.2f}",
    )


def judge_rest(run: FaultRun, done: str, before: Sample, after: Sample) -> None:
    """Descriptors and tasks come and go with the work of the moment; what leaked is there
    when it is over."""
    for what in ("descriptors", "tasks"):
        then, now = getattr(before, what), getattr(after, what)
        beside = f"{then:.0f} before, {now:.0f} after"
        text = f"{what} at rest, more than before"
        run.found("soak", "M1", done, text, "<=", TOLERANCE, now - then, beside=beside)


def resting(server: FaultServer, before: Sample) -> Sample:
    """What is there once the work is over, some of which may be on its way out."""

    def is_over() -> bool:
        now = sample(server, 0)
        return (
            now.descriptors <= before.descriptors + TOLERANCE
            and now.tasks <= before.tasks + TOLERANCE
        )

    with suppress(LoadError):
        wait_for("rest", is_over)
    return sample(server, 0)


def slope(samples: Sequence[Sample]) -> float:
    """Least squares: MB of resident memory per million requests."""
    xs = [each.requests / 1e6 for each in samples]
    ys = [each.resident / MB for each in samples]
    return statistics.linear_regression(xs, ys).slope


def sample(server: FaultServer, requests: int) -> Sample:
    return Sample(
        requests,
        server.resident(),
        server.descriptors(),
        server.total("clipper_event_loop_tasks"),
    )


# -- the server ------------------------------------------------------------------------


def make_model(name: str) -> Any:
    def predict(rows: Any) -> Any:
        import numpy as np

        rows = np.asarray(rows)
        of = {"sum": rows.sum, "mean": rows.mean, "largest": rows.max}
        return of[name](axis=1)

    return predict


def register(server: FaultServer) -> None:
    for name in MODELS:
        deploy(server, name, 0)
    policies = {
        PLAIN: (MODELS[:1], "static"),
        BANDIT: (MODELS, "thompson"),
        ENSEMBLE: (MODELS, "hedge"),
    }
    with server.client() as client:
        for name, (models, policy) in policies.items():
            client.register_application(
                name, None, "doubles", None, SLO_MICROS, models=models, policy=policy
            )


def deploy(server: FaultServer, name: str, version: int) -> None:
    """A new version; the one before goes."""
    with server.client() as client:
        client.deploy_predict_function(
            name, version, make_model(name), "doubles", progress=False
        )
        if version:
            old = [each for each in client.get_all_models() if each.startswith(f"{name}:")]
            for each in old:
                if each != f"{name}:{version}":
                    client.undeploy(name, each.partition(":")[2])


# -- the load --------------------------------------------------------------------------


@contextmanager
def soaking(
    server: FaultServer, requests: int, report: int, seed: int
) -> Iterator[Iterator[dict[str, Any]]]:
    """What the load tells of itself while it is made."""
    command = [sys.executable, "-m", "benchmarks.soak_load", str(server.port)]
    command += ["--requests", str(requests), "--report", str(report), "--seed", str(seed)]
    errors = server.log.with_name("soak-load.log")
    with errors.open("wb") as log:
        load = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert load.stdout is not None
        yield (json.loads(line) for line in load.stdout)
        if load.wait(60) != 0:
            raise LoadError(f"the load failed: {errors.read_text()[-1000:]}")
    finally:
        load.kill()
        load.communicate()
