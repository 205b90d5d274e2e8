from __future__ import annotations

import math

import pytest
from fakes import FakeReplica

from clipper.batching.fixed import Fixed
from clipper.batching.hedging import BUDGET, BURST, PATIENCE, Hedging
from clipper.batching.load import ReplicaLoad

from .contract import Blind, Known
from .test_load import NOW, at, known, send
from .test_queue import job

LATE = NOW + 1.0


def rich(rows: int = 100) -> Hedging:
    """One that may hedge so many rows."""
    hedging = Hedging()
    hedging.sent(math.ceil(rows / BUDGET), rows)
    return hedging


# -- when ------------------------------------------------------------------------------


def test_a_flight_is_overdue_a_little_after_its_answer_was_expected() -> None:
    load = known()
    flight, hedging = send(load, 1), rich()
    due = NOW + 0.011 + PATIENCE
    assert hedging.next_due([load], NOW) == pytest.approx(due, abs=1e-6)
    hedging.watch([load], due - 0.0001)
    assert not hedging.waiting and not flight.hedged
    hedging.watch([load], due + 0.0001)
    assert list(hedging.waiting) == [flight] and flight.hedged


def test_the_more_a_model_varies_the_longer_it_is_waited_for() -> None:
    load = ReplicaLoad(FakeReplica(), Known(noise=0.04))
    send(load, 1)
    assert load.spread > 0.02
    due = load.flights[0].due + load.spread
    assert rich().next_due([load], NOW) == pytest.approx(due, abs=1e-6)
    hedging = rich()
    hedging.watch([load], due - 0.0001)
    assert not hedging.waiting


def test_the_next_due_is_the_earliest_that_is_still_to_come() -> None:
    first, second = known(), known()
    send(first, 1)
    send(second, 5)
    send(second, 1)
    send(first, 1)
    send(first, 1)
    hedging, loads = rich(), [first, second]
    dues = [(NOW, 0.011), (NOW + 0.0131, 0.022), (NOW + 0.0241, 0.026), (NOW + 0.03, 0.033)]
    for now, seconds in dues:
        assert hedging.next_due(loads, now) == at(seconds + PATIENCE)
    assert hedging.next_due(loads, LATE) == math.inf
    second.flights[1].hedged = True
    assert hedging.next_due(loads, NOW + 0.0241) == at(0.033 + PATIENCE)


@pytest.mark.parametrize("controller", [Blind(), Fixed(1.0, 4)])
def test_where_nothing_is_known_nothing_is_overdue(controller: Blind | Fixed) -> None:
    load, hedging = ReplicaLoad(FakeReplica(), controller), rich()
    send(load, 1)
    hedging.watch([load], LATE)
    assert not hedging.waiting and hedging.next_due([load], NOW) == math.inf
    assert hedging.next_due([], NOW) == math.inf


def test_a_flight_is_hedged_once() -> None:
    load, hedging = known(), rich()
    send(load, 1)
    for _ in range(3):
        hedging.watch([load], LATE)
    assert len(hedging.waiting) == 1


def test_a_batch_of_several_rows_is_not_hedged() -> None:
    load, hedging = known(), rich()
    send(load, 2)
    assert hedging.next_due([load], NOW) == math.inf
    hedging.watch([load], LATE)
    assert not hedging.waiting and not load.flights[0].hedged


# -- the budget ------------------------------------------------------------------------


def hedged(hedging: Hedging, batches: int, rows: int, cap: int) -> int:
    """The rows hedged after so many batches, with a row alone that takes too long beside
    each."""
    for _ in range(batches):
        load = known()
        hedging.sent(rows, cap)
        send(load, 1)
        hedging.watch([load], LATE)
    return len(hedging.waiting)


@pytest.mark.parametrize("rows", [1, 7, 20])
def test_of_all_rows_only_a_small_part_is_evaluated_twice(rows: int) -> None:
    batches = 2000
    twice = hedged(Hedging(), batches, rows, cap=20)
    assert 0.025 <= twice / (batches * rows) <= 0.03


def test_before_anything_was_sent_nothing_is_hedged() -> None:
    load, hedging = known(), Hedging()
    send(load, 1)
    hedging.watch([load], LATE)
    assert not hedging.waiting and not load.flights[0].hedged


def test_no_more_than_two_large_batches_can_be_saved_up() -> None:
    hedging = Hedging()
    hedging.sent(10**9, 10)
    load = known()
    flights = [send(load, 1) for _ in range(23)]
    hedging.watch([load], LATE)
    assert BURST == 2
    assert [flight.hedged for flight in flights] == [True] * 20 + [False] * 3


# -- copies ----------------------------------------------------------------------------


def test_a_part_is_counted_until_its_last_flight_lands() -> None:
    hedging, part, other = Hedging(), job(5.0), job(5.0)
    assert not hedging.land(part)  # never copied
    hedging.copied([part, other])
    hedging.copied([part])
    assert len(hedging) == 2
    assert [hedging.land(part) for _ in range(3)] == [True, True, False]
    assert len(hedging) == 1
    assert hedging.land(other)
    assert len(hedging) == 0  # nothing is in two flights any more
    assert not hedging.land(other)
