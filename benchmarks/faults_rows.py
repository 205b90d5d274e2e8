"""One bad row in a batch of 32: what it costs the others, the worker and the model."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.command import progress
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import FaultServer, wait_for
from benchmarks.load import post

ROWS = 32
SLO_MICROS = 10_000_000
MOST_CALLS = 10  # 2 log2(32): of the model beyond the first, where nothing dies
MOST_DEATHS = 2
RECOVERY_SECONDS = 40.0  # longer than a version that has failed waits for a new try

# What a row does, by its first number, and the row of the fault table that is of it.
GOOD = 0
FAULTS = {
    "raises": (1, "W6"),
    "segfaults": (2, "W3"),
    "sleeps forever": (3, "W2"),
    "loops in C and holds the interpreter": (4, "W2"),
}


def make_model(calls: str) -> Any:
    """Every call leaves a line with the number of its rows, before anything else."""

    def predict(rows: Any) -> Any:
        import ctypes
        import itertools
        import os
        import time

        file = os.open(calls, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(file, b"%d\n" % len(rows))
        os.close(file)
        for kind, number in rows:
            if kind == 1:
                raise ValueError(f"row {number}")
            if kind == 2:
                ctypes.string_at(0)
            if kind == 3:
                time.sleep(1e9)
            if kind == 4:
                sum(itertools.repeat(0))
        return [number + 1.0 for _, number in rows]

    return predict


class Round(NamedTuple):
    """What one batch with a bad row cost."""

    right: int
    wrong: int  # rows with an output that is not theirs
    errors: int
    whole: bool  # all rows came in one call first, where there is one replica
    calls: int
    deaths: float
    seconds: float
    said: str


@dataclass
class Place:
    """A server with the model on so many replicas. Mutable: the number of batches."""

    server: FaultServer
    calls: Path
    replicas: int
    batches: int = field(default=0)

    def ask(self, kind: int) -> Round:
        self.batches += 1
        base = self.batches * 1000
        bad = (self.batches * 7) % ROWS
        rows = [[kind if row == bad else GOOD, float(base + row)] for row in range(ROWS)]
        self.calls.write_bytes(b"")
        deaths = self.deaths()
        begun = time.monotonic()
        body = json.dumps({"input_batch": rows}).encode()
        status, answer = post(self.server.port, self.server.path_of("rows"), body)
        seconds = time.monotonic() - begun
        wait_for("full strength", self.at_full_strength, RECOVERY_SECONDS)
        calls = [int(line) for line in self.calls.read_text().split()]
        # several idle replicas may share a batch, as the model has come to be fitted
        whole = ROWS in calls or self.replicas > 1
        deaths = self.deaths() - deaths
        if status != 200:
            said = f"status {status}: {answer[:200]!r}"
            return Round(0, 0, ROWS, whole, len(calls), deaths, seconds, said)
        answers = json.loads(answer)["batch_predictions"]
        errors = [row for row, one in enumerate(answers) if "error" in one]
        right = sum(
            "error" not in one and one["output"] == base + row + 1.0
            for row, one in enumerate(answers)
        )
        said = str(answers[errors[0]]["error"]) if errors else "no error"
        return Round(
            right,
            ROWS - right - len(errors),
            len(errors),
            whole,
            len(calls),
            deaths,
            seconds,
            said,
        )

    def deaths(self) -> float:
        return self.server.total("clipper_model_replica_deaths_total", model="rows")

    def at_full_strength(self) -> bool:
        return (
            self.server.total("clipper_model_replicas_live", model="rows") == self.replicas
        )


def run(run: FaultRun) -> None:
    for replicas in (1, 2) if run.long else (1,):
        scratch = run.directory(f"rows-{replicas}")
        with FaultServer(scratch) as server:
            place = Place(server, scratch / "calls", replicas)
            deploy(place)
            plural = "s" if replicas > 1 else ""
            for name, (kind, row) in FAULTS.items():
                done = f"1 of {ROWS} rows {name}, {replicas} replica{plural}"
                progress(f"rows: {done}")
                rounds = [place.ask(kind) for _ in range(run.pick(5, 1))]
                judge(run, row, done, rounds, replicas=replicas, dies=kind > 1)
            healthy = place.ask(GOOD)
            run.found(
                "rows",
                "W2, W3, W6",
                f"{ROWS} good rows afterwards, {replicas} replica{plural}",
                "right answers",
                ">=",
                ROWS,
                healthy.right,
            )


def deploy(place: Place) -> None:
    with place.server.client() as client:
        client.deploy_predict_function(
            "rows",
            1,
            make_model(str(place.calls)),
            "doubles",
            num_replicas=place.replicas,
            batching="fixed",
            max_batch_size=ROWS,
            example=[0.0, 0.0],
        )
        client.register_application("rows", "rows", "doubles", None, SLO_MICROS)


def judge(
    run: FaultRun,
    row: str,
    done: str,
    rounds: Sequence[Round],
    *,
    replicas: int,
    dies: bool,
) -> None:
    """The worst round decides."""
    part = "rows"
    many = f"in {len(rounds)} batches" if len(rounds) > 1 else ""
    worst = min(each.right for each in rounds)
    run.found(part, row, done, "right answers", ">=", ROWS - 1, worst, beside=many)
    run.found(part, row, done, "wrong", "<=", 0, max(each.wrong for each in rounds))
    run.found(part, row, done, "errors", "<=", 1, max(each.errors for each in rounds))
    deaths = max(each.deaths for each in rounds)
    run.found(part, row, done, "deaths", "<=", MOST_DEATHS if dies else 0, deaths)
    if not dies:
        calls = max(each.calls - 1 for each in rounds)
        # a replica that was idle for a second gets a copy of one row, faults or none
        most = MOST_CALLS + (replicas > 1)
        run.found(part, row, done, "model calls beyond the first", "<=", most, calls)
    longest = max(each.seconds for each in rounds)
    beside = ", ".join(sorted({each.said for each in rounds}))
    run.found(
        part, row, done, "answered, s", "<=", 10.0, longest, beside=beside, form="{:.2f}"
    )
    if not all(each.whole for each in rounds):
        run.fail(f"rows: {done}: not all rows came in one batch")
