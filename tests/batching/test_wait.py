from __future__ import annotations

import random

import pytest

from clipper.batching.wait import (
    LONGEST,
    PATIENCE,
    BatchWait,
    FixedWait,
    LearnedWait,
    make_wait,
)
from clipper.records import BatchingSettings

from .contract import Known
from .line import LATENCY, Line, closed_loop, open_load

CHEAP = Known(per_row=0.0001, fixed=0.0002).latency


# -- so many seconds -------------------------------------------------------------------


def test_a_fixed_wait_counts_from_the_first_row_that_was_seen() -> None:
    wait = FixedWait(0.002)
    assert wait.active
    assert wait.until(10.0, 1, 1, None) == 10.002
    assert wait.until(10.001, 5, 5, None) == 10.002
    assert wait.until(10.003, 5, 5, LATENCY) == 10.002  # over: at once
    wait.taken(10.003, 0)
    assert wait.until(20.0, 1, 6, None) == 20.002


def test_rows_that_are_left_over_wait_from_when_the_others_were_taken() -> None:
    wait = FixedWait(0.002)
    wait.until(10.0, 9, 9, None)
    wait.taken(10.003, 1)
    assert wait.until(10.004, 2, 10, None) == pytest.approx(10.005)


def test_a_fixed_wait_gathers_what_comes_meanwhile() -> None:
    line = Line(FixedWait(0.005))
    for step in range(8):
        line.at(1.0 + 0.001 * step, line.ask)
    line.run(1.1)
    assert line.sizes == [5, 3] or line.sizes == [6, 2]
    assert line.waits[0] == pytest.approx(0.005)


def test_settings_name_the_wait() -> None:
    assert isinstance(make_wait(BatchingSettings()), LearnedWait)
    fixed = make_wait(BatchingSettings(batch_wait=2.5))
    assert isinstance(fixed, FixedWait) and fixed.until(1.0, 1, 1, None) == 1.0025
    assert not make_wait(BatchingSettings(batch_wait=0.0)).active


# -- clients that come back ------------------------------------------------------------


@pytest.mark.parametrize("groups", [[10, 10], [8, 24], [30, 10], [12, 12, 12]])
def test_groups_of_clients_that_take_turns_are_brought_together(groups: list[int]) -> None:
    line, apart = Line(), Line(FixedWait(0.0))
    for each in (line, apart):
        closed_loop(each, groups)
        each.run(4.0)
    assert set(line.sizes[-20:]) == {sum(groups)}
    assert sum(groups) not in apart.sizes
    assert sum(line.sizes) > 1.3 * sum(apart.sizes)


def test_the_wait_ends_as_soon_as_all_are_back() -> None:
    line = Line()
    closed_loop(line, [20])
    line.run(2.0)
    assert set(line.sizes[-20:]) == {20}
    assert max(line.waits[-20:]) <= 0.0005


@pytest.mark.parametrize("missing", [1, 3])
def test_who_does_not_come_back_is_not_waited_for_long(missing: int) -> None:
    line = Line()
    rng = closed_loop(line, [20])
    line.run(2.0)

    def some_stay_away(rows: int) -> None:
        for _ in range(20 - missing):
            line.at(line.now + rng.uniform(0.0001, 0.0005), line.ask)

    line.on_answer = some_stay_away
    line.waits.clear()
    line.run(2.1)
    # they took at most 0.5 ms on average to be all back
    assert 0.0005 < line.waits[0] <= PATIENCE * 0.0005


def test_no_wait_is_longer_than_the_window_after_the_answer() -> None:
    line = Line()
    rng = closed_loop(line, [20])

    def slow(rows: int) -> None:
        for _ in range(rows):
            line.at(line.now + rng.uniform(0.0, 2 * LONGEST), line.ask)

    line.on_answer = slow
    line.run(5.0)
    assert max(line.waits) <= LONGEST


def taught(seconds: float) -> tuple[LearnedWait, float, int]:
    """A wait whose 20 clients always took so many seconds to come back, 20 others that
    came meanwhile, and the moment of the latest answer."""
    wait, now, arrived = LearnedWait(), 0.0, 20
    for _ in range(60):
        now += 0.03
        wait.answering(now, 20, arrived, LATENCY)
        wait.answered(now)
        arrived += 20
        wait.look(now + seconds, arrived)
    wait.answering(now + 0.03, 20, arrived, LATENCY)
    wait.answered(now + 0.03)
    return wait, now + 0.03, arrived


@pytest.mark.parametrize("seconds", [0.001, 0.004, 0.007])
def test_waiting_ends_where_those_who_are_missing_are_given_up(seconds: float) -> None:
    wait, now, arrived = taught(seconds)
    expected = now + min(PATIENCE * seconds, LONGEST)
    assert wait.until(now, 1, arrived, LATENCY) == pytest.approx(expected, abs=1e-4)
    assert wait.until(now, 19, arrived + 19, LATENCY) > now
    assert wait.until(now, 20, arrived + 20, LATENCY) == now


def test_clients_that_take_as_long_as_another_batch_costs_are_not_waited_for() -> None:
    wait, now, arrived = taught(0.009)
    assert wait.until(now, 1, arrived, LATENCY) == now


@pytest.mark.parametrize("clients", [20, 200])
@pytest.mark.parametrize(
    ("hurry", "gain"), [(0.0, 0.99), (0.2, 0.98), (0.5, 0.98), (0.8, 1.02), (0.95, 1.1)]
)
def test_where_some_hurry_and_others_do_not_waiting_pays_or_costs_nothing(
    hurry: float, gain: float, clients: int
) -> None:
    def rows(wait: BatchWait) -> int:
        line, rng = Line(wait), random.Random(8)

        def some_hurry(rows: int) -> None:
            for _ in range(rows):
                slow = rng.random() >= hurry
                span = (0.03, 0.05) if slow else (0.0001, 0.0005)
                line.at(line.now + rng.uniform(*span), line.ask)

        line.on_answer = some_hurry
        for _ in range(clients):
            line.at(rng.uniform(0.0, 0.03), line.ask)
        line.run(4.0)
        return sum(line.sizes)

    assert rows(LearnedWait()) >= gain * rows(FixedWait(0.0))


def test_it_learns_that_half_of_the_clients_left() -> None:
    line = Line()
    rng = closed_loop(line, [20])
    line.run(2.0)

    def half(rows: int) -> None:
        for _ in range(min(rows, 10)):
            line.at(line.now + rng.uniform(0.0001, 0.0005), line.ask)

    line.on_answer = half
    line.run(3.0)
    line.waits.clear()
    line.run(4.0)
    assert set(line.sizes[-20:]) == {10}
    assert max(line.waits) <= 0.0005  # only until the ten are back


# -- and clients that do not -----------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [30.0, 200.0, 1000.0, 4000.0])
def test_independent_clients_are_not_waited_for(rate: float, seed: int) -> None:
    line, plain = Line(), Line(FixedWait(0.0))
    seconds = 20.0 if rate < 100.0 else 5.0
    for each in (line, plain):
        open_load(each, rate, seconds, seed)
        each.run(seconds)
    assert sum(line.waits) <= 0.02 * seconds
    waited = sum(wait > 0.0 for wait in line.waits[20:])
    assert waited <= 0.1 * len(line.sizes)


def test_where_the_fixed_cost_is_next_to_nothing_nobody_is_waited_for() -> None:
    line = Line(latency=CHEAP)
    closed_loop(line, [10, 10])
    line.run(1.0)
    assert not line.wait.active and max(line.waits) == 0.0


def test_where_nothing_is_known_nobody_is_waited_for() -> None:
    line = Line(latency=None)
    closed_loop(line, [10, 10])
    line.run(1.0)
    assert not line.wait.active and max(line.waits) == 0.0


def test_before_the_first_answer_nobody_is_waited_for() -> None:
    wait = LearnedWait()
    assert not wait.active
    assert wait.until(5.0, 1, 1, LATENCY) == 5.0
    wait.look(5.0, 1)
    assert not wait.active


def test_once_the_window_is_over_nothing_is_active() -> None:
    wait = LearnedWait()
    wait.answering(5.0, 8, 8, LATENCY)
    wait.answered(5.001)
    wait.look(5.001 + LONGEST, 12)
    assert wait.active
    wait.look(5.0011 + LONGEST, 13)
    assert not wait.active


def test_when_batches_have_become_cheap_nobody_is_waited_for_any_more() -> None:
    wait, cheap = LearnedWait(), Known(per_row=0.0001, fixed=0.0001).latency
    wait.answering(5.0, 8, 8, LATENCY)
    assert wait.active and cheap is not None and cheap.fixed < wait.least_cost
    wait.answering(5.001, 8, 16, cheap)
    assert not wait.active
