from __future__ import annotations

import pytest
from fakes import FakeReplica

from clipper.batching.admission import Admission
from clipper.batching.load import ReplicaLoad

from .contract import Blind, Known
from .test_load import NOW, at, known, send

NEVER = float("-inf")
WAY_BACK = 0.002
RATE = 100 / 0.11  # rows per second of a replica that takes 10 ms and 1 ms for each row


def renewed(*loads: ReplicaLoad, now: float = NOW) -> Admission:
    admission = Admission()
    admission.changed = now
    admission.renew(loads, WAY_BACK)
    assert admission.changed is None
    return admission


def busy(rows: int = 10) -> ReplicaLoad:
    load = known(cap=100)
    assert load.rate == pytest.approx(RATE, rel=0.01)
    send(load, rows)
    return load


def refuses_nothing(admission: Admission) -> bool:
    return admission.earliest == NEVER


def test_before_anything_is_known_nothing_is_refused() -> None:
    assert refuses_nothing(Admission())
    assert refuses_nothing(renewed())


def test_the_first_row_is_answered_after_what_runs_and_its_own_batch() -> None:
    admission = renewed(busy(rows=10))
    assert admission.earliest == at(0.020 + 0.011 + WAY_BACK)
    assert admission.per_row == pytest.approx(1 / RATE, rel=0.01)


def test_what_is_in_the_pipe_comes_first() -> None:
    load = busy(rows=10)
    send(load, 5)
    assert renewed(load).earliest == at(0.035 + 0.011 + WAY_BACK)


def test_a_batch_that_is_late_delays_those_that_come() -> None:
    admission = renewed(busy(rows=10), now=NOW + 0.05)
    assert admission.earliest == at(0.08 + 0.011 + WAY_BACK)


def test_the_replica_that_is_free_first_begins_and_all_of_them_work() -> None:
    admission = renewed(busy(rows=50), busy(rows=10), busy(rows=20))
    assert admission.earliest == at(0.020 + 0.011 + WAY_BACK)
    assert admission.per_row == pytest.approx(1 / (3 * RATE), rel=0.01)


def test_while_a_replica_is_idle_nothing_is_refused() -> None:
    idle = known(cap=100)
    assert refuses_nothing(renewed(busy(), idle))
    assert refuses_nothing(renewed(idle, busy()))
    send(idle, 1)
    assert not refuses_nothing(renewed(busy(), idle))


@pytest.mark.parametrize("controller", [Blind(), Known()])
def test_where_a_speed_is_unknown_nothing_is_refused(controller: Known) -> None:
    load = ReplicaLoad(FakeReplica(), controller)  # that of Known was never recorded
    send(load, 10)
    assert refuses_nothing(renewed(load))
    if controller.latency is None:
        assert refuses_nothing(renewed(busy(), load))


def test_what_was_known_is_forgotten_with_the_work() -> None:
    admission = renewed(busy())
    assert not refuses_nothing(admission)
    admission.changed = NOW + 1.0
    admission.renew([known()], WAY_BACK)
    assert refuses_nothing(admission)
