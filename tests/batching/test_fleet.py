from __future__ import annotations

import pytest
from fakes import FakeReplica

from clipper.batching.aimd import AIMD
from clipper.batching.fleet import IDLE_BETWEEN, TRIAL_SECONDS, Fleet
from clipper.batching.load import ReplicaLoad

from .contract import Blind, FakeBacklog, Known, serve
from .test_load import NOW, at, send

FAST, SLOW = 0.001, 0.01


def fleet_of(*controllers: Known) -> tuple[Fleet, list[ReplicaLoad]]:
    """Replicas of these speeds, all of them just used and their rates known."""
    fleet = Fleet(controllers[0])
    fleet.renew([FakeReplica() for _ in controllers])
    for load, controller in zip(fleet.loads, controllers, strict=True):
        load.controller = controller
        load.record(1, 0.0, 0.0)
        load.used_at = NOW
    return fleet, fleet.loads


def rows(count: int, slack: float = 9.0) -> FakeBacklog:
    return FakeBacklog([NOW + slack] * count)


def fill(load: ReplicaLoad) -> None:
    load.replica.capacity = 0  # type: ignore[attr-defined]


# -- one replica -----------------------------------------------------------------------


def test_an_idle_replica_gets_whatever_waits() -> None:
    fleet, (load,) = fleet_of(Known())
    assert fleet.choose(NOW, rows(1)) is load
    fill(load)
    assert fleet.choose(NOW, rows(1)) is None


@pytest.mark.parametrize("others", [0, 1])
def test_a_second_batch_goes_ahead_only_when_it_is_full(others: int) -> None:
    fleet, loads = fleet_of(*[Known(cap=10)] * (1 + others))
    for load in loads:
        send(load, 10)
    assert fleet.choose(NOW, rows(9)) is None
    assert fleet.choose(NOW, rows(10)) is loads[0]


def test_where_batches_cost_next_to_nothing_beside_rows_any_goes_ahead() -> None:
    fleet, (load,) = fleet_of(Known(fixed=0.8 * IDLE_BETWEEN))
    send(load, 10)
    assert fleet.choose(NOW, rows(1)) is load
    fleet, (load,) = fleet_of(Known(fixed=1.5 * IDLE_BETWEEN))
    send(load, 10)
    assert fleet.choose(NOW, rows(1)) is None


def test_where_nothing_is_predicted_any_goes_ahead() -> None:
    fleet, (load,) = fleet_of(Blind(cap=10))
    send(load, 10)
    assert fleet.choose(NOW, rows(1)) is load


def test_without_replicas_nothing_is_chosen() -> None:
    fleet = Fleet(Known())
    assert fleet.choose(NOW, rows(1)) is None
    assert fleet.idle() is None and fleet.neglected(NOW) is None


# -- the choice ------------------------------------------------------------------------


def test_the_replica_that_is_done_first_is_chosen() -> None:
    fleet, (slow, fast) = fleet_of(Known(SLOW), Known(FAST))
    assert fleet.choose(NOW, rows(5)) is fast
    send(fast, 10)  # until 20 ms; then 11 ms for one row, where the slow one takes 20 ms
    assert fleet.choose(NOW, rows(1)) is slow


def test_among_equals_the_one_with_less_to_do_is_chosen() -> None:
    fleet, (busy, idle) = fleet_of(Blind(), Blind())
    send(busy, 1)
    busy.free_at = NOW
    assert fleet.choose(NOW, rows(1)) is idle


def test_a_running_batch_that_is_late_makes_others_the_better_choice() -> None:
    fleet, (late, busy) = fleet_of(Known(cap=1), Known(cap=1))
    send(late, 1, NOW - 0.5)
    send(busy, 5)
    assert fleet.choose(NOW, rows(1)) is busy


def test_a_replica_that_takes_no_more_because_it_ends_is_passed_over() -> None:
    fleet, (ending, slow) = fleet_of(Known(FAST), Known(SLOW))
    fill(ending)
    assert fleet.choose(NOW, rows(3)) is slow


def test_a_slow_replica_gets_nothing_that_the_fast_one_would_do_sooner() -> None:
    """10 rows are with the fast one; the slow one would take 60 ms for what waits, the
    fast one is done with all of it after 35 ms."""
    fleet, (fast, slow) = fleet_of(Known(FAST, cap=50), Known(SLOW, cap=50))
    send(fast, 10)
    assert fleet.choose(NOW, rows(5)) is None
    assert slow.finish(NOW, 5) > fast.finish(NOW, 5)


def test_a_slow_replica_gets_work_when_the_fast_one_has_enough_for_longer() -> None:
    fleet, (fast, slow) = fleet_of(Known(FAST, cap=10), Known(SLOW, cap=3))
    send(fast, 10)
    send(fast, 10)  # its pipe is full: free at 40 ms, and 500 rows a second after that
    fill(fast)
    assert slow.finish(NOW, 50) == at(0.04)
    assert fleet.choose(NOW, rows(50)) is slow
    slow.controller = Known(
        SLOW, cap=10
    )  # 110 ms, where the fast one has done 50 after 160
    assert fleet.choose(NOW, rows(50)) is slow
    assert fleet.choose(NOW, rows(10)) is None  # after 80


def test_a_slow_replica_gets_nothing_that_it_would_do_too_late() -> None:
    fleet, (fast, _) = fleet_of(Known(FAST, cap=10), Known(SLOW, cap=10, noise=0.02))
    send(fast, 10)
    send(fast, 10)
    fill(fast)
    assert fleet.choose(NOW, rows(50, slack=0.135)) is not None
    assert fleet.choose(NOW, rows(50, slack=0.120)) is None  # some batches take longer
    assert fleet.choose(NOW, rows(50, slack=0.100)) is None


# -- replicas that come and go ---------------------------------------------------------


def test_what_was_learned_outlives_a_replica() -> None:
    controller = AIMD(0.1, 4096)
    fleet = Fleet(controller)
    assert fleet.controller is controller
    fleet.renew([FakeReplica()])
    assert fleet.loads[0].controller is controller
    serve(fleet.loads[0].controller, lambda size: 0.001 * size, 100, 1000)
    learned = fleet.loads[0].controller.cap
    assert learned > 50
    fleet.renew([])
    assert fleet.loads == [] and fleet.controller.cap == learned
    fleet.renew([FakeReplica(), FakeReplica()])
    assert [load.controller.cap for load in fleet.loads] == [learned, learned]


def test_new_replicas_begin_with_a_copy_of_what_the_first_has_learned() -> None:
    first, second, third = FakeReplica(), FakeReplica(), FakeReplica()
    fleet = Fleet(AIMD(0.1, 4096))
    fleet.renew([first])
    kept = fleet.loads[0]
    serve(kept.controller, lambda size: 0.001 * size, 100, 1000)
    learned = kept.controller.cap
    ready = [second, first, third]
    fleet.renew(ready)
    assert fleet.replicas is ready
    assert [load.replica for load in fleet.loads] == ready and fleet.loads[1] is kept
    assert {load.controller.cap for load in fleet.loads} == {learned}
    assert len({id(load.controller) for load in fleet.loads}) == 3
    serve(fleet.loads[0].controller, lambda size: 9.0, 100, 1000)
    assert kept.controller.cap == fleet.loads[2].controller.cap == learned


def test_new_replicas_are_like_those_that_stay_not_like_those_that_went() -> None:
    fleet, (_, second) = fleet_of(Known(cap=10), Known(cap=20))
    fleet.renew([FakeReplica(), second.replica])
    assert [load.controller.cap for load in fleet.loads] == [20, 20]


def test_a_replica_that_stays_keeps_its_flights() -> None:
    fleet, (first, second) = fleet_of(Known(), Known())
    sent = send(second, 3)
    fleet.renew([second.replica])
    assert fleet.loads == [second] and list(second.flights) == [sent]
    assert fleet.controller is second.controller
    assert first not in fleet.loads


def test_the_objective_is_that_of_all_replicas_that_are_and_will_be() -> None:
    fleet, loads = fleet_of(Known(), Known())
    fleet.set_objective(0.25)
    assert [load.controller.objective for load in loads] == [0.25, 0.25]
    fleet.renew([])
    fleet.set_objective(0.5)
    fleet.renew([FakeReplica()])
    assert fleet.loads[0].controller.objective == 0.5


# -- idle ones -------------------------------------------------------------------------


def test_idle_is_who_has_nothing_and_could_take_some() -> None:
    fleet, (first, second) = fleet_of(Known(), Known())
    assert fleet.idle() is first and fleet.idle(but=first) is second
    send(second, 1)
    assert fleet.idle(but=first) is None
    fill(first)
    assert fleet.idle() is None


def test_a_replica_that_was_passed_over_for_long_is_neglected() -> None:
    fleet, (first, second) = fleet_of(Known(), Known())
    later = NOW + TRIAL_SECONDS
    assert fleet.neglected(later - 0.01) is None
    first.used_at = later - 0.5
    assert fleet.neglected(later) is second
    fill(second)
    assert fleet.neglected(later) is None
    send(first, 1, NOW - 9.0)
    assert fleet.neglected(later) is None


@pytest.mark.parametrize(
    ("fixed", "waiting", "share"),
    [
        (0.0, 10, 4),  # a third, rounded up
        (0.0, 1, 1),
        (0.01, 12, 12),  # 8 ms longer for all: no more than another batch costs
        (0.01, 30, 10),
    ],
)
def test_idle_replicas_share_what_waits_where_that_is_sooner(
    fixed: float, waiting: int, share: int
) -> None:
    fleet, loads = fleet_of(*[Known(FAST, fixed) for _ in range(4)])
    send(loads[3], 1)
    assert fleet.share(loads[0], waiting) == share


def test_nothing_is_shared_with_busy_ones_or_where_nothing_is_known() -> None:
    fleet, (first, second) = fleet_of(Known(fixed=0.0), Known(fixed=0.0))
    send(second, 1)
    assert fleet.share(first, 10) == 10
    send(first, 1)
    assert fleet.share(first, 10) == 10
    fleet, (first, _) = fleet_of(Blind(), Blind())
    assert fleet.share(first, 10) == 10
