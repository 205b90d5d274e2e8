from __future__ import annotations

import asyncio
import itertools
import math
from pathlib import Path

import pytest

from benchmarks.arrivals import Arrivals, classify, draw_arrivals
from benchmarks.load import LoadError, Target, write_bodies
from benchmarks.openloop import Generator, parse
from benchmarks.outcome import BUCKET, OpenLoad, Outcome, dump, make_outcome
from benchmarks.process import free_ports
from benchmarks.servers import FloorServer

LATE = b"Failed to retrieve a prediction response within the specified latency SLO"


def answer_of(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


def test_arrivals_are_poisson_and_drawn_from_the_seed() -> None:
    due = draw_arrivals([(1000.0, 2.0), (0.0, 1.0), (100.0, 3.0)], seed=7)
    assert due == draw_arrivals([(1000.0, 2.0), (0.0, 1.0), (100.0, 3.0)], seed=7)
    assert due != draw_arrivals([(1000.0, 2.0), (0.0, 1.0), (100.0, 3.0)], seed=8)
    assert due == sorted(due)
    assert not [at for at in due if 2.0 <= at < 3.0]
    first = [at for at in due if at < 2.0]
    assert abs(len(first) - 2000) < 5 * math.sqrt(2000)
    assert abs(len(due) - len(first) - 300) < 5 * math.sqrt(300)
    gaps = [later - at for at, later in itertools.pairwise(first)]
    mean = sum(gaps) / len(gaps)
    spread = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert math.sqrt(spread) == pytest.approx(mean, rel=0.15)  # as of an exponential


def test_answers_are_told_apart_without_parsing() -> None:
    good = b'{"query_id":"q","output":6.6,"default":false}'
    assert classify(200, answer_of(good)) == "model"
    assert classify(200, answer_of(b'{"output":0.0}')) == "model"
    told = b'{"query_id":"q","output":-1.0,"default":true,"default_explanation":"%b"}'
    assert classify(200, answer_of(told % LATE)) == LATE
    assert classify(200, answer_of(b'{"output":1,"default":true}')) == b""
    assert classify(503, answer_of(b"{}", 503)) == 503


def arrivals_of(*rows: tuple[float, float | None, str | int | bytes | None]) -> Arrivals:
    """From (due, seconds to the answer or None, kind), sent a millisecond late."""
    arrivals = Arrivals([due for due, _, _ in rows])
    arrivals.shift(100.0)
    for index, (due, latency, kind) in enumerate(rows):
        arrivals.lag[index] = 0.001
        if kind is not None:
            arrivals.settle(index, kind)
        if latency is not None:
            arrivals.sent[index] = 100.0 + due + 0.001
            arrivals.answered[index] = 100.0 + due + latency
    return arrivals


def test_an_outcome_counts_every_arrival() -> None:
    arrivals = arrivals_of(
        (0.00, 0.010, "model"),
        (0.01, 0.0199, "model"),
        (0.02, 0.024, "model"),  # late by little
        (0.03, 0.050, "model"),
        (0.04, 0.002, b"Overloaded"),
        (0.051, 0.022, LATE),
        (0.06, 0.0195, LATE),  # before the objective had passed
        (0.07, 0.040, LATE),  # too late to be of use
        (0.11, 0.001, 503),
        (0.12, None, "broken"),
        (0.13, None, "unsent"),
        (0.14, None, None),
    )
    loads = [(80.0, 0.1), (40.0, 0.1)]
    outcome = Outcome.load(dump(make_outcome(arrivals, 100.0, loads, 0.02, cpu=0.5)))
    first, second = outcome.parts
    assert (first.offered, first.good, first.late, first.barely) == (8, 2, 2, 1)
    assert first.told == 3
    assert first.told_share == 3 / 6
    assert first.explanations["Overloaded"].count == 1
    late = first.explanations[LATE.decode()]
    assert (late.count, late.in_time, late.premature) == (3, 2, 1)
    assert first.p50 == pytest.approx(0.010)
    assert first.p99 == pytest.approx(0.0199)
    assert first.p99_all == pytest.approx(0.050)
    assert first.goodput == pytest.approx(20.0)
    assert second.kinds == {"refused 503": 1, "broken": 1, "unsent": 1, "unanswered": 1}
    assert (second.offered, second.good, second.told_share) == (4, 0, 0.0)
    assert second.p99_all is None
    assert outcome.offered == [5, 3, 4, 0] and len(outcome.offered) * BUCKET == 0.2
    assert outcome.good == [2, 0, 0, 0]
    assert (outcome.lag_p99, outcome.limited) == (0.001, False)
    assert outcome.end == pytest.approx(100.2)


def test_kinds_are_bounded() -> None:
    arrivals = Arrivals([0.0])
    for number in range(1000):
        arrivals.settle(0, b"%d" % number)
    assert len(arrivals.kinds) <= 200
    assert arrivals.kinds[arrivals.kind[0]] == "other"


def test_an_empty_load_is_no_error() -> None:
    outcome = make_outcome(Arrivals([]), 0.0, [(0.0, 0.1)], 0.02, cpu=0.0)
    assert (outcome.part.offered, outcome.part.told_share) == (0, None)


class Peer(asyncio.Protocol):
    """Answers a request in two pieces, holds its tongue, or hangs up, in turn."""

    requests = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        Peer.requests += 1
        assert isinstance(self.transport, asyncio.Transport)
        if Peer.requests % 4 == 0:
            self.transport.abort()
        elif Peer.requests % 4 != 1:
            answer = answer_of(b'{"output":1}')
            self.transport.write(answer[:20])
            asyncio.get_running_loop().call_soon(self.transport.write, answer[20:])


async def test_every_arrival_is_settled_whatever_the_server_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("benchmarks.openloop.PATIENCE", 0.2)
    Peer.requests = 0
    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    arrivals = Arrivals([index * 1e-4 for index in range(40)])
    generator = Generator([b"POST / HTTP/1.1\r\n\r\n"], arrivals)
    begun: list[float] = []
    await generator.run("127.0.0.1", port, 12, 0.004, begun.append)
    server.close()
    outcome = make_outcome(arrivals, begun[0], [(10_000.0, 0.004)], 1.0, generator.cpu)
    kinds = outcome.part.kinds
    assert outcome.part.good + sum(kinds.values()) == 40
    assert outcome.part.good >= 10 and kinds["broken"] >= 5
    # twelve connections, on each of which an unanswered request stays
    assert kinds["unanswered"] <= 12
    assert set(kinds) <= {"broken", "unanswered", "unsent"}


class Refuser(Peer):
    """Refuses each request three times."""

    def data_received(self, data: bytes) -> None:
        Peer.requests += 1
        assert isinstance(self.transport, asyncio.Transport)
        if Peer.requests % 4:
            head = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\n"
            self.transport.write(head + b"{}")
        else:
            self.transport.write(answer_of(b'{"output":1}'))


@pytest.mark.parametrize(("retries", "good"), [(0, 2), (2, 2), (3, 8)])
async def test_who_is_refused_asks_again(retries: int, good: int) -> None:
    Peer.requests = 0
    server = await asyncio.get_running_loop().create_server(Refuser, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    arrivals = Arrivals([index * 1e-4 for index in range(8)])
    generator = Generator([b"POST / HTTP/1.1\r\n\r\n"], arrivals, retries)
    begun: list[float] = []
    await generator.run("127.0.0.1", port, 1, 0.004, begun.append)
    server.close()
    outcome = make_outcome(arrivals, begun[0], [(2000.0, 0.004)], 5.0, generator.cpu)
    assert outcome.part.good >= good
    assert outcome.part.good + outcome.part.kinds.get("refused 503", 0) == 8


def test_load_on_the_floor(tmp_path: Path) -> None:
    bodies = [b'{"input":[1.5]}', b'{"input":[2.5,3.5]}']
    listing = write_bodies(bodies, tmp_path / "bodies")
    with FloorServer(tmp_path) as floor:
        target = Target(floor.port, floor.path, bodies, listing)
        loads = [(500.0, 0.3), (100.0, 0.2)]
        with OpenLoad(target, loads, slo=5.0, connections=8) as load:
            load.wait_until(0.0)
            outcome = load.outcome()
    assert outcome.begun == load.begun
    assert [part.offered for part in outcome.parts] == [part.good for part in outcome.parts]
    assert outcome.answers == sum(outcome.good) > 50
    assert 0 <= outcome.lag_p50 <= outcome.lag_p99 <= outcome.lag_max
    assert outcome.cpu > 0


def test_a_server_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    listing = write_bodies([b"{}"], tmp_path / "bodies")
    target = Target(free_ports(1)[0], "/predict", [b"{}"], listing)
    with pytest.raises(LoadError, match="the generator failed"):
        OpenLoad(target, [(10.0, 0.1)], slo=1.0)


@pytest.mark.parametrize("load", ["fast:1", "10", ":"])
def test_a_load_is_a_rate_and_seconds(
    load: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["http://127.0.0.1:1/p", "--bodies", "list", "--load", load])
    assert "--load" in capsys.readouterr().err
