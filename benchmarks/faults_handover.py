"""A server that hands its sockets over to a new one, again and again, under load.

Half of the requests come over connections that stay open, half over a new one each: what
is refused, reset or left unanswered counts as failed.
"""

from __future__ import annotations

from contextlib import closing
from typing import Any

from benchmarks.checked_load import NUMBER, Asked, CheckedLoad, Seen
from benchmarks.command import progress
from benchmarks.faults_run import FaultRun
from benchmarks.faults_server import FaultServer, LogWatch

RATE = 500.0  # requests per second
LEAST = 50_000
PAUSES = (4.0, 1.5)  # seconds from one hand-over to the next, at least; in a short run
SLO_MICROS = 2_000_000


def make_model() -> Any:
    def predict(rows: Any) -> Any:
        return [row[0] + 1.0 for row in rows]

    return predict


def is_right(asked: Asked) -> bool:
    return bool(asked.output == asked.number + 1.0)


def run(run: FaultRun) -> None:
    part, rows = "handover", "S3"
    times = run.pick(25, 2)
    pause = PAUSES[not run.long]
    seconds = max(times * pause + 3.0, LEAST / RATE + 3.0 if run.long else 0.0)
    done = f"{times} hand-overs under {RATE:.0f}/s"
    took: list[float] = []
    with FaultServer(run.directory("handover")) as server:
        with server.client() as client:
            client.deploy_predict_function("echo", 1, make_model(), "doubles")
            client.register_application("echo", "echo", "doubles", None, SLO_MICROS)
        workers = len(server.workers())
        loads = [
            CheckedLoad(
                server.url_of("echo"),
                [(RATE / 2, seconds)],
                f'{{"input":[{NUMBER}]}}',
                seed=run.seed + fresh,
                fresh=bool(fresh),
            )
            for fresh in (0, 1)
        ]
        with loads[0], loads[1], closing(LogWatch(server.log)) as log:
            for number in range(times):
                loads[0].wait_until(1.0 + number * pause)
                took.append(server.hand_over(log))
                if number % 5 == 4:
                    progress(f"handover: {number + 1} of {times}")
            seen = [load.seen() for load in loads]
        left = len(server.workers())
        zombies = server.zombies()
    failures = seen[0].failures(is_right) + seen[1].failures(is_right)
    refused = sum(each.refused for each in seen)
    both = Seen(0.0, max(s.lag_p99 for s in seen), [a for s in seen for a in s.asked])
    run.requests(part, rows, done, both, failures, LEAST)
    run.found(part, rows, done, "connections refused", "<=", 0, refused)
    run.found(part, rows, done, "hand-overs done", ">=", times, len(took))
    run.found(part, rows, done, "workers more than before", "<=", 0, left - workers)
    run.found(part, rows, done, "zombies left", "<=", 0, zombies)
    run.series[f"{part}: {done}: seconds"] = took
    longest = max((a.latency or 0.0 for a in both.asked), default=0.0)
    run.found(
        part,
        rows,
        done,
        "longest answer, s",
        "<=",
        1.0 if run.long else 10.0,
        longest,
        form="{:.2f}",
    )
