"""Open-loop load whose every answer is kept, so that each can be checked by itself.

    python -m benchmarks.checked_load URL --load 200:10 --body '{"input":[$N]}'

Arrivals and connections are those of benchmarks.openloop; the request number n carries its
number where the body says $N. A program of its own, that writes first when the load
begins, on the clock of time.monotonic(), and at the end what became of each request.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from benchmarks.arrivals import MODEL, Arrivals, draw_arrivals
from benchmarks.load import JSON, make_request, percentile
from benchmarks.openloop import Connection, Generator, announce, parse_load
from benchmarks.outcome import LoadProcess, Pairs

NUMBER = "$N"  # in a body: the number of the request
CONNECTIONS = 64


class Asked(NamedTuple):
    """One request. Times on the monotonic clock, None where it never was. `kind` is
    "model" for a model's answer, whose `output` is kept; `error` is the body of another."""

    number: int
    due: float
    sent: float | None
    answered: float | None
    kind: str
    output: Any
    error: str

    @property
    def latency(self) -> float | None:
        """Seconds from when it was due."""
        return None if self.answered is None else self.answered - self.due


@dataclass(frozen=True)
class Seen:
    """All of one run."""

    begun: float
    lag_p99: float  # seconds by which the generator looked late at what was due
    asked: list[Asked]
    refused: int = 0  # connections that could not be opened

    @classmethod
    def load(cls, text: str) -> Seen:
        return msgspec.json.decode(text, type=Seen)

    def failures(self, right: Callable[[Asked], bool]) -> Counter[str]:
        """The requests that no model answered, and those that it answered wrongly."""
        found: Counter[str] = Counter()
        for asked in self.asked:
            if asked.kind != MODEL:
                found[
                    f"{asked.kind}: {asked.error[:120]}" if asked.error else asked.kind
                ] += 1
            elif not right(asked):
                found["wrong"] += 1
        return found

    def latency(self, percent: float) -> float:
        """A percentile of all answers, infinite where none came."""
        found = [math.inf if a.latency is None else a.latency for a in self.asked]
        return percentile(sorted(found), percent)


class CheckedLoad(LoadProcess):
    """A load on one URL from a process of its own."""

    def __init__(
        self,
        url: str,
        loads: Pairs,
        body: str,
        *,
        seed: int = 1,
        connections: int = CONNECTIONS,
        fresh: bool = False,
    ) -> None:
        """`fresh`: every request goes over a new connection."""
        command = [sys.executable, "-m", "benchmarks.checked_load", url, "--body", body]
        for rate, seconds in loads:
            command += ["--load", f"{rate:g}:{seconds:g}"]
        command += ["--seed", str(seed), "--connections", str(connections)]
        command += ["--fresh"] if fresh else []
        super().__init__(command, sum(seconds for _, seconds in loads))

    def seen(self) -> Seen:
        """Wait for its end, and what it saw."""
        return Seen.load(self.text())


# -- the program -----------------------------------------------------------------------


class CheckedGenerator(Generator):
    """Keeps the answers; `fresh`: lets every connection carry one request.

    Mutable beside the generator's: `answers`, by arrival, and the connections in use.
    """

    def __init__(
        self, requests: Sequence[bytes], arrivals: Arrivals, *, fresh: bool = False
    ) -> None:
        super().__init__(requests, arrivals)
        self.answers: dict[int, bytes] = {}
        self._fresh = fresh
        self._used: set[Connection] = set()

    def free(self, connection: Connection) -> None:
        if connection in self._used:
            connection.transport.close()
            return
        if self._fresh:
            self._used.add(connection)
        super().free(connection)

    def lost(self, connection: Connection) -> None:
        self._used.discard(connection)
        super().lost(connection)

    def answered(self, index: int, status: int, answer: bytes) -> None:
        super().answered(index, status, answer)
        self.answers[index] = answer.partition(b"\r\n\r\n")[2]

    def seen(self, begun: float) -> Seen:
        arrivals = self.arrivals
        kinds = [arrivals.kinds[code] for code in arrivals.kind]
        lag = sorted(arrivals.lag)
        asked = [self._asked(number, kind) for number, kind in enumerate(kinds)]
        return Seen(begun, percentile(lag, 99), asked, self.refused)

    def _asked(self, number: int, kind: str) -> Asked:
        arrivals, answer = self.arrivals, self.answers.get(number, b"")
        output = json.loads(answer)["output"] if kind == MODEL else None
        error = "" if kind == MODEL else answer.decode(errors="replace")
        sent, answered = arrivals.sent[number], arrivals.answered[number]
        return Asked(
            number,
            arrivals.due[number],
            None if math.isnan(sent) else sent,
            None if math.isnan(answered) else answered,
            kind,
            output,
            error,
        )


def main(arguments: Sequence[str]) -> None:
    chosen = parse(arguments)
    url = urlsplit(chosen.url)
    assert url.hostname is not None and url.port is not None
    due = draw_arrivals(chosen.load, chosen.seed)
    requests = [
        make_request(
            f"{url.hostname}:{url.port}",
            url.path,
            chosen.body.replace(NUMBER, str(number)).encode(),
            JSON,
        )
        for number in range(len(due))
    ]
    generator = CheckedGenerator(requests, Arrivals(due), fresh=chosen.fresh)
    seconds = sum(seconds for _, seconds in chosen.load)
    run = generator.run(url.hostname, url.port, chosen.connections, seconds, announce)
    begun = asyncio.run(run)
    sys.stdout.buffer.write(msgspec.json.encode(generator.seen(begun)) + b"\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.checked_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = options.add_argument
    add("url")
    add("--load", type=parse_load, action="append", required=True, metavar="RATE:SECONDS")
    add("--body", required=True, help=f"{NUMBER} in it becomes the request's number")
    add("--connections", type=int, default=CONNECTIONS)
    add("--fresh", action="store_true", help="a new connection for every request")
    add("--seed", type=int, default=1)
    return options.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
