from __future__ import annotations

from collections.abc import Callable

import pytest
from fakes import FakeLoop, ManualClock
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clipper.deadlines import Deadlines
from clipper.values import RowError

TICK = 0.001
GONE = RowError("unavailable", "gone")


class Expiring:
    def __init__(
        self, deadline: float, clock: ManualClock, then: Callable[[], None] | None = None
    ) -> None:
        self.deadline = deadline
        self.clock = clock
        self.then = then
        self.settled = False
        self.expired_at: float | None = None

    def expire(self, error: RowError | None = None) -> None:
        assert self.expired_at is None, "expired twice"
        self.error = error
        self.settled = True
        self.expired_at = self.clock.now()
        if self.then is not None:
            self.then()


@pytest.fixture
def deadlines(clock: ManualClock, fake_loop: FakeLoop) -> Deadlines:
    return Deadlines(clock, fake_loop.call_later)


Watch = Callable[..., Expiring]


@pytest.fixture
def watch(clock: ManualClock, deadlines: Deadlines) -> Watch:
    def watch(after: float, then: Callable[[], None] | None = None) -> Expiring:
        query = Expiring(clock.now() + after, clock, then)
        deadlines.watch(query)
        return query

    return watch


def test_each_expires_at_its_deadline(
    clock: ManualClock, fake_loop: FakeLoop, watch: Watch
) -> None:
    queries = [watch(after) for after in (0.5, 0.7, 0.2, 0.6, 0.7, 0.1)]
    fake_loop.advance(1.0)
    for query in queries:
        assert query.expired_at is not None
        assert 0 <= query.expired_at - query.deadline < TICK
    assert fake_loop.armed == []


def test_one_timer_serves_all_and_none_is_armed_for_nobody(
    fake_loop: FakeLoop, watch: Watch
) -> None:
    assert fake_loop.armed == []
    queries = [watch(0.1 * i) for i in range(1, 9)]
    watch(0.05)
    assert len(fake_loop.armed) == 1
    for query in queries:
        query.settled = True
    fake_loop.advance(0.06)
    assert fake_loop.armed == []


def test_a_settled_query_does_not_expire(fake_loop: FakeLoop, watch: Watch) -> None:
    query, urgent = watch(0.5), watch(0.2)
    query.settled = urgent.settled = True
    fake_loop.advance(1.0)
    assert query.expired_at is None and urgent.expired_at is None


def test_a_timer_that_fires_early_expires_nothing(
    clock: ManualClock, deadlines: Deadlines, fake_loop: FakeLoop, watch: Watch
) -> None:
    query = watch(0.0105)
    timer = fake_loop.armed[0]
    clock.move(0.010)
    timer.cancelled = True
    timer.callback()
    assert query.expired_at is None
    fake_loop.advance(TICK)
    assert query.expired_at is not None and query.expired_at >= query.deadline


def test_a_deadline_in_the_past_expires_on_the_next_tick(
    fake_loop: FakeLoop, watch: Watch
) -> None:
    query = watch(-1.0)
    assert not query.settled
    fake_loop.advance(TICK)
    assert query.settled


def test_who_submits_again_when_told_delays_nobody(
    fake_loop: FakeLoop, watch: Watch
) -> None:
    watch(0.1, lambda: watch(5.0))
    next_one = watch(0.11)
    urgent = watch(0.105)
    fake_loop.advance(0.2)
    for query in (next_one, urgent):
        assert query.expired_at is not None
        assert query.expired_at - query.deadline < TICK
    assert len(fake_loop.armed) == 1


def test_an_expiry_that_raises_keeps_nobody_waiting(
    deadlines: Deadlines,
    fake_loop: FakeLoop,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fault() -> None:
        raise ValueError("a fault of the receiver")

    watch(0.1, fault)
    other = watch(0.1)
    fake_loop.advance(0.2)
    assert other.settled
    assert "a fault of the receiver" in caplog.text
    watch(1.0, fault)
    other = watch(2.0)
    deadlines.close(GONE)
    assert other.settled


def test_settled_queries_do_not_pile_up(deadlines: Deadlines, watch: Watch) -> None:
    slow = [watch(3600.0), watch(1.0)]  # the heads of line and heap stay
    for i in range(20_000):
        watch(3600.0 - 1e-3 * (i % 2)).settled = True
        assert len(deadlines) < 2000
    assert not slow[0].settled and not slow[1].settled


def test_sweeping_keeps_what_is_open(
    deadlines: Deadlines, fake_loop: FakeLoop, watch: Watch
) -> None:
    queries = [watch(1.0 + i % 7) for i in range(10_000)]
    assert len(deadlines) == 10_000
    fake_loop.advance(10.0)
    assert all(query.settled for query in queries)
    assert len(deadlines) == 0


def test_closing_expires_everything_at_once(
    clock: ManualClock, deadlines: Deadlines, fake_loop: FakeLoop, watch: Watch
) -> None:
    settled = watch(1.0)
    settled.settled = True
    queries = [watch(after) for after in (2.0, 3.0, 1.5)]
    deadlines.close(GONE)
    assert all(query.expired_at == clock.now() for query in queries)
    assert all(query.error is GONE for query in queries)
    assert settled.expired_at is None
    assert fake_loop.armed == [] and len(deadlines) == 0


def test_who_submits_again_while_closing_is_watched_too(
    deadlines: Deadlines, fake_loop: FakeLoop, watch: Watch
) -> None:
    again: list[Expiring] = []
    watch(1.0, lambda: again.append(watch(2.0)))
    deadlines.close(GONE)
    assert not again[0].settled
    fake_loop.advance(3.0)
    assert again[0].settled


class Life(RuleBasedStateMachine):
    """Each query expires once, not early and at most a tick late."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock(now=0.0)
        self.loop = FakeLoop(self.clock)
        self.deadlines = Deadlines(self.clock, self.loop.call_later)
        self.queries: list[Expiring] = []

    def watch(self, after: float, again: float | None = None) -> None:
        then = None if again is None else (lambda: self.watch(again))
        query = Expiring(self.clock.now() + after, self.clock, then)
        self.queries.append(query)
        self.deadlines.watch(query)

    @rule(
        after=st.sampled_from([0.0, 0.02, 0.05, 0.1, 0.1, 0.1, 0.3]),
        again=st.none() | st.sampled_from([0.01, 0.1, 0.5]),
    )
    def submit(self, after: float, again: float | None) -> None:
        self.watch(after, again)

    @precondition(lambda self: self.queries)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.queries)).settled = True

    @rule(seconds=st.sampled_from([0.001, 0.01, 0.05, 0.2]))
    def wait(self, seconds: float) -> None:
        self.loop.advance(seconds)

    @invariant()
    def in_time(self) -> None:
        now = self.clock.now()
        for query in self.queries:
            if query.expired_at is not None:
                assert 0 <= query.expired_at - query.deadline <= TICK + 1e-9
            elif not query.settled:
                assert now <= query.deadline + TICK + 1e-9

    @invariant()
    def at_most_one_timer(self) -> None:
        assert len(self.loop.armed) <= 1


Life.TestCase.settings = settings(max_examples=80, deadline=None)
TestLife = Life.TestCase
