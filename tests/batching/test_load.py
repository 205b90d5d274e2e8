from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from fakes import FakeReplica

from clipper.batching.controller import BatchController
from clipper.batching.fixed import Fixed
from clipper.batching.load import NEW, RENEWAL, Flight, ReplicaLoad
from clipper.values import UNIFORM

from .contract import Blind, Known

NOW = 1000.0


def flight(load: ReplicaLoad, rows: int) -> Flight:
    return Flight(rows, [], UNIFORM, lambda batch, result: None, [], load)


def send(load: ReplicaLoad, rows: int, now: float = NOW) -> Flight:
    sent = flight(load, rows)
    load.sent(sent, now)
    return sent


def known(cap: int = 10, objective: float = 1.0) -> ReplicaLoad:
    """The load of a replica that takes 10 ms and 1 ms for each row, its rate known too."""
    load = ReplicaLoad(FakeReplica(), Known(cap=cap, objective=objective))
    load.record(1, 0.011, NOW)
    return load


def at(seconds: float) -> Any:
    return pytest.approx(NOW + seconds, abs=1e-6)


def test_of_an_unknown_replica_everything_is_expected_at_once() -> None:
    load = ReplicaLoad(FakeReplica(), Fixed(1.0, 4))
    assert (load.predicted(4), load.spread, load.rate) == (0.0, 0.0, 0.0)
    assert load.finish(NOW, 4) == NOW


def test_a_controller_without_a_latency_model_predicts_nothing() -> None:
    load = ReplicaLoad(FakeReplica(), Blind())
    load.record(4, 1.0, NOW)
    assert (load.predicted(4), load.spread, load.rate) == (0.0, 0.0, 0.0)


def test_an_idle_replica_begins_at_once_with_no_more_than_its_cap() -> None:
    load = known(cap=10)
    assert load.start(NOW) == NOW
    assert load.finish(NOW, 5) == at(0.015)
    assert load.finish(NOW, 500) == at(0.020)


def test_batches_are_answered_one_after_another() -> None:
    load = known()
    first, second = send(load, 10), send(load, 5, NOW + 0.001)
    assert (first.due, second.due, load.free_at) == (at(0.020), at(0.035), at(0.035))
    assert load.start(NOW + 0.002) == at(0.035)
    assert load.finish(NOW + 0.002, 1) == at(0.046)
    load.answered(first, NOW + 0.012)  # sooner than expected
    assert list(load.flights) == [second]
    assert second.due == load.free_at == at(0.027)
    load.answered(second, NOW + 0.1)
    assert load.start(NOW + 0.1) == at(0.1)
    assert load.used_at == NOW + 0.1


def test_what_is_late_is_expected_to_be_as_late_again() -> None:
    load = known()
    send(load, 10)
    assert load.start(NOW + 0.019) == at(0.020)
    assert load.start(NOW + 0.050) == at(0.080)
    send(load, 10)
    assert load.start(NOW + 0.030) == at(0.050)  # 10 ms late, the second one's 20 ms after


@pytest.mark.parametrize(
    ("objective", "rate"), [(0.06, 50 / 0.06), (0.0205, 10 / 0.02), (9.0, 100 / 0.11)]
)
def test_the_rate_is_that_of_the_largest_batches_in_time(
    objective: float, rate: float
) -> None:
    load = known(cap=100, objective=objective)
    assert load.rate == pytest.approx(rate, rel=0.03)


def test_the_rate_is_renewed_with_every_batch_at_first_and_then_seldom() -> None:
    controller = Fixed(1.0, 1)
    load = ReplicaLoad(FakeReplica(), controller)
    seen = []
    for step in range(NEW + 3 * RENEWAL):
        load.record(1, 0.01 + step * 1e-5, NOW)
        seen.append(load.rate)
    changes = sum(a != b for a, b in pairwise(seen))
    assert seen[0] == pytest.approx(100.0)
    assert changes == NEW - 2 + 4


def test_a_controller_fits_the_protocol() -> None:
    controller: BatchController = Known()
    assert controller.latency is not None
    assert controller.latency.seconds(10) == pytest.approx(0.02)
