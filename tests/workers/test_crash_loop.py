from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.values import Verdict
from clipper.workers.crash_loop import CrashLoop, Death, End, Restarts

RULE = Restarts()
OPEN, POISON, OWN, UNKNOWN = Verdict.OPEN, Verdict.POISON, Verdict.OWN, Verdict.UNKNOWN


class Version:
    """A model version whose workers end as a test says."""

    def __init__(self, rule: Restarts = RULE, credit: int = 0) -> None:
        self.rule = rule
        self.loop = CrashLoop(rule, credit)
        self.now = 1000.0
        self.answered = 0
        self._workers = 0

    def dies(self, end: End = End.OWN, batches: int = 0) -> None:
        """A worker ends with nothing to do."""
        self.loop.died(object(), Death(self.now, end, batches))

    def under(self, verdict: Verdict, *, batches: int = 0, end: End = End.OWN) -> None:
        """A worker ends under rows, and the rows are judged."""
        worker = object()
        self.judge([worker], OPEN)
        self.loop.died(worker, Death(self.now, end, batches))
        self.judge([worker], verdict)

    def poison(self, end: End = End.OWN) -> None:
        """A row ends a worker in its batch, and another one alone."""
        first, second = object(), object()
        self.judge([first], OPEN)
        self.loop.died(first, Death(self.now, end))
        self.judge([second], OPEN)
        self.judge([first, second], POISON)  # before the supervisor comes round
        self.loop.died(second, Death(self.now, end))

    def judge(self, workers: Any, verdict: Verdict) -> None:
        self.loop.judge(workers, verdict, self.now, self.answered)

    @property
    def clean(self) -> bool:
        """Nothing is kept of workers that are gone."""
        return not self.loop._open and not self.loop._verdicts


@pytest.fixture
def version() -> Version:
    return Version()


def test_three_deaths_in_a_minute_are_a_loop(version: Version) -> None:
    for _ in range(2):
        version.dies()
        version.now += 29
    assert not version.loop.tripped
    version.dies()
    assert version.loop.tripped and version.clean


@pytest.mark.fault("W11")
@pytest.mark.parametrize("end", [End.START, End.OWN])
def test_a_version_that_is_slow_to_load_is_given_up_as_well(
    version: Version, end: End
) -> None:
    """As one that needs more memory than there is, after a minute of loading."""
    for deaths in range(1, RULE.deaths + 1):
        assert not version.loop.tripped
        version.now += 100 + RULE.last_pause
        version.loop.died(object(), Death(version.now, end, lived=101.0, starting=100.0))
        assert version.loop.tripped == (deaths == RULE.deaths)
    version.now = version.now + RULE.retry + 100  # the one that is tried
    version.loop.died(object(), Death(version.now, end, lived=101.0, starting=100.0))
    assert version.loop.wait(version.now) == RULE.retry


def test_only_the_time_of_starting_is_left_out(version: Version) -> None:
    for _ in range(50):
        version.now += 100 + RULE.window + 1
        version.loop.died(object(), Death(version.now, End.OWN, 1, 161.0, starting=100.0))
    assert not version.loop.tripped


def test_deaths_that_are_far_apart_are_none(version: Version) -> None:
    for _ in range(50):
        version.dies()
        version.now += 31
    assert not version.loop.tripped


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("verdict", [None, OWN, UNKNOWN])
@pytest.mark.parametrize("batches", [0, RULE.proven - 1, RULE.proven, 1000])
def test_what_counts(end: End, verdict: Verdict | None, batches: int) -> None:
    """The table at the top of the file."""
    version = Version()
    for _ in range(RULE.deaths):
        if verdict is None:
            version.dies(end, batches)
        else:
            version.under(verdict, end=end, batches=batches)
    served_well = verdict is UNKNOWN and batches >= RULE.proven
    assert version.loop.tripped == (end is not End.OUTSIDE and not served_well)
    assert version.clean


@pytest.mark.fault("W3")
@pytest.mark.parametrize("end", [End.OWN, End.OUTSIDE])
def test_poison_is_forgiven_while_others_are_answered(version: Version, end: End) -> None:
    for _ in range(1000):
        version.answered += 1
        version.poison(end)
        version.now += 0.01
    assert not version.loop.tripped and version.clean


def test_two_bad_queries_do_not_switch_a_model_off() -> None:
    version = Version()
    version.answered = 100
    for _ in range(RULE.credit):
        version.poison()
    assert not version.loop.tripped
    fresh = Version(credit=1)  # its example was answered
    for _ in range(2):
        fresh.poison()
    assert not fresh.loop.tripped


@pytest.mark.fault("W11")
@pytest.mark.parametrize("end", [End.OWN, End.OUTSIDE])
def test_where_every_row_ends_a_worker_that_is_no_poison(end: End) -> None:
    version = Version()
    for _ in range(2):
        version.poison(end)
    assert version.loop.tripped
    healthy = Version()
    healthy.answered = 10_000  # once it was well
    for _ in range(RULE.credit + 2):
        healthy.poison(end)
    assert healthy.loop.tripped


def test_a_second_poison_of_the_same_batch_changes_nothing_about_the_first(
    version: Version,
) -> None:
    version.answered = 2
    batch, alone, other = object(), object(), object()
    version.judge([batch], OPEN)
    version.loop.died(batch, Death(version.now, End.OWN))
    for worker in (alone, other):
        version.judge([worker], OPEN)
        version.judge([batch, worker], POISON)
        version.loop.died(worker, Death(version.now, End.OWN))
    version.dies()
    version.dies()
    assert not version.loop.tripped and version.clean


def test_what_is_open_does_not_count_yet(version: Version) -> None:
    workers = [object() for _ in range(5)]
    for worker in workers:
        version.judge([worker], OPEN)
        version.loop.died(worker, Death(version.now, End.OWN))
    assert not version.loop.tripped
    for worker in workers[: RULE.deaths]:
        version.judge([worker], OWN)
    assert version.loop.tripped


def test_a_worker_that_was_told_to_end_counts_nowhere(version: Version) -> None:
    for before in (True, False):
        worker = object()
        version.judge([worker], OPEN)
        if before:
            version.loop.forget(worker)
        version.judge([worker], UNKNOWN)
        version.loop.forget(worker)
    assert version.clean and not version.loop.tripped


def test_one_start_at_a_time_once_it_has_tripped(version: Version) -> None:
    loop, begin = version.loop, version.now
    assert not loop.one_by_one(begin) and loop.wait(begin) == 0.0
    for _ in range(RULE.deaths):
        version.dies()
    assert loop.one_by_one(begin) and loop.wait(begin) == RULE.retry
    version.now += 10
    version.dies()  # one that was on its way
    assert loop.wait(version.now) == RULE.retry
    version.now += RULE.retry
    assert loop.wait(version.now) == 0.0
    loop.came_up(version.now)
    assert not loop.tripped and loop.one_by_one(version.now)
    assert loop.wait(version.now) == RULE.last_pause
    version.now += RULE.last_pause
    assert not loop.one_by_one(version.now)
    loop.came_up(version.now)  # the next one is nothing special
    assert not loop.one_by_one(version.now)


def test_on_trial_one_death_is_enough(version: Version) -> None:
    for _ in range(RULE.deaths):
        version.dies()
    version.now += RULE.retry
    version.loop.came_up(version.now)
    version.now += RULE.window - 1
    version.dies()
    assert version.loop.tripped
    version.now += RULE.retry
    version.loop.came_up(version.now)
    version.now += RULE.window + 1
    version.dies()
    assert not version.loop.tripped


def test_a_deploy_or_scale_that_succeeds_ends_it(version: Version) -> None:
    for _ in range(RULE.deaths):
        version.dies()
    version.loop.reset()
    assert not version.loop.tripped and not version.loop.one_by_one(version.now)


def test_pauses_double_up_to_a_bound() -> None:
    pauses = [RULE.pause(failures, 1.0) for failures in range(1, 12)]
    assert pauses == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 10.0]
    assert RULE.pause(10_000, 0.0) == 5.0


@pytest.mark.parametrize(
    ("death", "single"),
    [
        (Death(0.0, End.OWN, 1000, lived=9.0), False),
        (Death(0.0, End.OWN, 0, lived=11.0), True),
        (Death(0.0, End.OUTSIDE, RULE.proven, lived=1.0), True),
        (Death(0.0, End.OUTSIDE, 1, lived=1.0), False),
        (Death(0.0, End.START), False),
    ],
)
def test_which_death_ends_a_row_of_pauses(death: Death, single: bool) -> None:
    assert death.is_single(RULE) == single


@pytest.mark.fault("W11")
@given(
    batches=st.integers(1, 200),
    rate=st.floats(1.0, 1000.0),
    start=st.floats(0.01, 5.0),
    chance=st.floats(0.0, 1.0),
)
def test_a_version_that_dies_every_few_batches_is_given_up(
    batches: int, rate: float, start: float, chance: float
) -> None:
    """Whatever the load, a worker that ends of itself within seconds is started no more
    than four times in the first minute and twice in each later one."""
    version = Version()
    loop, rule = version.loop, version.rule
    lives = min(batches / rate, rule.last_pause)
    begin, failures = version.now, 0
    spawned: list[float] = []
    while version.now < begin + 600:
        if loop.one_by_one(version.now):
            version.now += loop.wait(version.now)
        spawned.append(version.now - begin)
        version.now += start
        loop.came_up(version.now)
        version.now += lives
        version.answered += batches
        death = Death(version.now, End.OWN, batches, start + lives)
        failures = 1 if death.is_single(rule) else failures + 1
        version.under(OWN, batches=batches)
        if not loop.tripped:
            version.now += rule.pause(failures, chance)
    assert loop.tripped
    for minute in range(10):
        among = [at for at in spawned if 60 * minute <= at < 60 * (minute + 1)]
        assert len(among) <= 4


@given(st.data())
def test_it_keeps_nothing_of_workers_that_are_gone(data: st.DataObject) -> None:
    """Whatever the order of deaths and verdicts."""
    version = Version()
    for _ in range(data.draw(st.integers(1, 20))):
        workers = [object() for _ in range(data.draw(st.integers(1, 3)))]
        verdict = data.draw(st.sampled_from([POISON, OWN, UNKNOWN]))
        version.now += data.draw(st.floats(0, 40))
        version.answered += data.draw(st.integers(0, 2))
        late = data.draw(st.booleans())
        for worker in workers:
            version.judge([worker], OPEN)
            if worker is not workers[-1] or not late:
                version.loop.died(
                    worker, Death(version.now, data.draw(st.sampled_from(End)))
                )
        version.judge(workers, verdict)
        if late:
            version.loop.died(workers[-1], Death(version.now, End.OWN))
    assert version.clean
