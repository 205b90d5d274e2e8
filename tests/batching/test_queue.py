from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clipper.batching.job import EXPIRED, Block, Job, Slice, Work, halves
from clipper.batching.queue import _SWEEP, JobQueue
from clipper.values import Output, RowError

FAILED = RowError("failed", "it failed")
LARGE = 10**9


class Waiter:
    """Remembers what it was told; twice is an error."""

    def __init__(self, then: Any = None) -> None:
        self.output: Output | None = None
        self.rows: list[Output | None] | None = None
        self.then = then

    @property
    def told(self) -> bool:
        return self.output is not None or self.rows is not None

    def job_done(self, output: Output) -> None:
        assert not self.told, "told twice"
        self.output = output
        if self.then is not None:
            self.then()

    def block_done(self, outputs: list[Output | None]) -> None:
        assert not self.told, "told twice"
        self.rows = outputs
        if self.then is not None:
            self.then()


class Owner:
    def __init__(self) -> None:
        self.settled: list[tuple[Job, Output]] = []

    def job_settled(self, job: Job, output: Output) -> None:
        self.settled.append((job, output))


def job(deadline: float, payload: bytes = b"p", waiter: Waiter | None = None) -> Job:
    return Job(payload, None, deadline, waiter or Waiter())


def block(rows: int, deadline: float, size: int = 1, waiter: Waiter | None = None) -> Block:
    return Block(bytes(range(rows)) * size, rows, None, deadline, waiter or Waiter())


def take(queue: JobQueue, limit: int = 100, now: float = 0.0, size: int = LARGE) -> Any:
    return queue.take(limit, size, now)


# -- jobs ------------------------------------------------------------------------------


def test_a_job_tells_its_owner_and_all_who_wait_once() -> None:
    owner, first, second = Owner(), Waiter(), Waiter()
    work = Job(b"x", None, 5.0, first, b"key", owner)
    assert not work.join(second, 7.0)
    assert (work.deadline, work.expires) == (5.0, 7.0)
    work.finish([b"0", b"1"], 1)
    assert (first.output, second.output) == (b"1", b"1")
    assert owner.settled == [(work, b"1")]
    with pytest.raises(AssertionError, match="exactly once"):
        work.fail(FAILED)


def test_a_join_with_an_earlier_deadline_makes_a_job_more_urgent() -> None:
    work = job(5.0)
    assert work.join(Waiter(), 3.0)
    assert (work.deadline, work.expires) == (3.0, 5.0)


def test_who_left_is_not_told_and_may_leave_twice() -> None:
    gone, stays = Waiter(), Waiter()
    work = job(5.0, waiter=gone)
    work.join(stays, 5.0)
    work.leave(gone)
    work.leave(gone)
    assert work.wanted
    work.settle(b"1")
    assert not gone.told and stays.output == b"1"


def test_a_waiter_that_makes_others_leave_keeps_nobody_from_being_told() -> None:
    work = job(5.0, waiter=Waiter(lambda: work.leave(first)))
    first = work.waiters[0]
    others = [Waiter(), Waiter()]
    for other in others:
        work.join(other, 5.0)
    work.settle(b"1")
    assert [other.output for other in others] == [b"1", b"1"]


def test_a_waiter_that_raises_keeps_nobody_from_being_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fault() -> None:
        raise ValueError("a fault of the receiver")

    work, other = job(5.0, waiter=Waiter(fault)), Waiter()
    work.join(other, 5.0)
    work.settle(b"1")
    assert other.output == b"1"
    assert "a fault of the receiver" in caplog.text

    whole = block(2, 5.0, waiter=Waiter(fault))
    whole.cut(2).finish([b"1", b"2"], 0)
    assert whole.settled


# -- blocks ----------------------------------------------------------------------------


def test_a_block_is_cut_and_filled_in_any_order() -> None:
    waiter = Waiter()
    whole = block(5, 1.0, size=1, waiter=waiter)
    head, tail = whole.cut(2), whole.cut(3)
    assert (bytes(head.payload), bytes(tail.payload)) == (b"\0\1", b"\2\3\4")
    tail.finish([b"x", b"2", b"3", b"4"], 1)
    assert not whole.settled and not waiter.told
    head.fail(FAILED)
    assert whole.settled
    assert waiter.rows == [FAILED, FAILED, b"2", b"3", b"4"]


def test_to_fail_a_block_settles_what_no_batch_has_taken() -> None:
    waiter = Waiter()
    whole = block(4, 1.0, waiter=waiter)
    part = whole.cut(3)
    whole.fail(EXPIRED)
    whole.fail(EXPIRED)  # nothing is left to fail
    assert not waiter.told
    part.finish([b"0", b"1", b"2"], 0)
    assert waiter.rows == [b"0", b"1", b"2", EXPIRED]


def test_a_row_of_a_block_cannot_be_settled_twice() -> None:
    whole = block(2, 1.0)
    part = whole.cut(2)
    part.finish([b"0", b"1"], 0)
    with pytest.raises(AssertionError, match="exactly once"):
        part.fail(FAILED)


def test_nobody_is_told_of_a_block_that_was_left() -> None:
    waiter = Waiter()
    whole = block(2, 1.0, waiter=waiter)
    whole.leave()
    assert not whole.wanted and not whole.cut(1).wanted
    whole.fail(FAILED)
    whole.fill(0, [b"0"])
    assert whole.settled and not waiter.told


def test_rows_without_bytes_are_rows() -> None:
    waiter = Waiter()
    queue = JobQueue()
    queue.push(Block(b"", 3, None, 5.0, waiter))
    taken, _ = take(queue, limit=2)
    assert [part.rows for part in taken] == [2]
    assert queue.rows == 1


# -- order -----------------------------------------------------------------------------


def test_jobs_come_out_by_deadline_and_first_come_among_equals() -> None:
    queue = JobQueue()
    jobs = [job(d) for d in (5.0, 7.0, 7.0, 6.0, 1.0, 6.0, 9.0)]
    for work in jobs:
        queue.push(work)
    assert queue.deadlines(1000) == [1.0, 5.0, 6.0, 6.0, 7.0, 7.0, 9.0]
    taken, dropped = take(queue)
    assert taken == [jobs[i] for i in (4, 0, 3, 5, 1, 2, 6)]
    assert dropped == [] and queue.rows == 0


def test_a_promoted_job_moves_up_and_comes_out_once() -> None:
    queue = JobQueue()
    jobs = [job(float(d)) for d in (5, 6, 7, 8)]
    for work in jobs:
        queue.push(work)
    for deadline in (4.0, 3.0):
        assert jobs[2].join(Waiter(), deadline)
    assert queue.rows == 4
    assert queue.deadlines(1000) == [3.0, 5.0, 6.0, 8.0]  # each job once
    taken, _ = take(queue, limit=1)
    assert taken == [jobs[2]]
    assert queue.deadlines(1000) == [5.0, 6.0, 8.0]
    assert take(queue)[0] == [jobs[0], jobs[1], jobs[3]]


def test_a_job_whose_hasty_waiter_left_goes_by_the_deadline_of_the_other() -> None:
    queue = JobQueue()
    hasty = Waiter()
    jobs = [job(3.0, waiter=hasty), job(4.0), job(5.0)]
    for work in jobs:
        queue.push(work)
    jobs[0].join(Waiter(), 4.5)
    jobs[0].leave(hasty)
    assert (queue.head, queue.deadlines(9)) == (4.0, [4.0, 4.5, 5.0])
    assert take(queue, limit=1)[0] == [jobs[1]]
    assert take(queue)[0] == [jobs[0], jobs[2]] and queue.rows == 0


def test_a_job_that_moves_on_and_on_costs_no_memory() -> None:
    queue = JobQueue()
    moves = job(4.0)
    for work in (job(1.0), job(3.0), moves, job(2.0)):
        queue.push(work)
    for turn in range(1000):
        hasty = Waiter()
        moves.join(hasty, 0.5 + turn % 7)
        moves.leave(hasty)
        assert len(queue._heap) <= 2 * 4 + _SWEEP
        assert queue.deadlines(9) == [1.0, 2.0, 3.0, 4.0]
    assert take(queue, limit=9)[0][3] is moves


def test_old_places_in_line_cost_no_memory_either() -> None:
    queue = JobQueue()
    queue.push(job(99.0))
    for turn in range(300):
        work = job(100.0 + turn)
        queue.push(work)
        work.join(Waiter(), 1.0)
        assert take(queue, limit=1)[0] == [work]
        assert len(queue._line) <= 2 * 2 + _SWEEP
    assert queue.deadlines(9) == [99.0]


def test_a_job_that_was_moved_counts_once_in_another_queue() -> None:
    one, other = JobQueue(), JobQueue()
    first, moved = job(1.0), job(2.0)
    one.push(first)
    one.push(moved)
    moved.join(Waiter(), 0.5)
    assert take(one, limit=1)[0] == [moved]
    other.push(moved)  # its old place in the one is still there
    assert one.deadlines(9) == [1.0] and other.deadlines(9) == [0.5]
    moved.join(Waiter(), 0.25)
    assert (take(one)[0], take(other)[0]) == ([first], [moved])
    assert (one.rows, other.rows) == (0, 0)


def test_a_promoted_job_that_comes_back_is_given_out_once_more_only() -> None:
    queue = JobQueue()
    first, second = job(5.0), job(6.0)
    queue.push(first)
    queue.push(second)
    second.join(Waiter(), 4.0)
    assert take(queue, limit=1)[0] == [second]
    queue.push(second)  # its worker died; its old place in line is still there
    assert queue.deadlines(1000) == [4.0, 5.0]
    assert take(queue)[0] == [second, first]
    assert take(queue) == ([], []) and queue.rows == 0


def test_a_block_keeps_its_place_while_it_is_cut() -> None:
    queue = JobQueue()
    whole, late, early = block(5, 5.0), job(6.0), job(4.0)
    for work in (whole, late, early):
        queue.push(work)
    assert [part.rows for part in take(queue, limit=3)[0]] == [1, 2]
    assert queue.rows == 4
    assert [part.rows for part in take(queue, limit=4)[0]] == [3, 1]


# -- bounds ----------------------------------------------------------------------------


def test_bytes_bound_a_batch_but_never_starve_it() -> None:
    queue = JobQueue()
    for size in (10, 3, 3, 3):
        queue.push(job(5.0, b"x" * size))
    assert [len(p.payload) for p in take(queue, size=6)[0]] == [10]
    assert [len(p.payload) for p in take(queue, size=6)[0]] == [3, 3]
    assert [len(p.payload) for p in take(queue, size=6)[0]] == [3]
    queue.push(Block(b"x" * 12, 3, None, 5.0, Waiter()))
    assert [p.rows for p in take(queue, size=9)[0]] == [2]
    assert [p.rows for p in take(queue, size=1)[0]] == [1]


def test_a_block_behind_a_job_waits_for_space() -> None:
    queue = JobQueue()
    queue.push(job(5.0, b"x" * 5))
    queue.push(Block(b"x" * 12, 3, None, 5.0, Waiter()))
    assert [len(p.payload) for p in take(queue, size=8)[0]] == [5]
    assert [len(p.payload) for p in take(queue, size=8)[0]] == [8]


@pytest.mark.parametrize("before", [5.0, 9.0], ids=["in line", "out of order"])
def test_a_slice_that_comes_back_is_cut_again_where_it_does_not_fit(before: float) -> None:
    queue = JobQueue()
    part = block(6, 5.0).cut(6)
    part.attempts = 1
    queue.push(job(before))
    queue.push(part)
    queue.push(job(5.0))
    taken = [take(queue, limit=3)[0] for _ in range(3)]
    assert [[p.rows for p in parts] for parts in taken] == (
        [[1, 2], [3], [1, 1]] if before == 5.0 else [[3], [3], [1, 1]]
    )
    pieces = [p for parts in taken for p in parts if isinstance(p, Slice)]
    assert [(p.start, p.attempts) for p in pieces] == (
        [(0, 1), (2, 1), (5, 1)] if before == 5.0 else [(0, 1), (3, 1)]
    )
    assert queue.rows == 0


def test_a_slice_that_fits_comes_out_as_it_was() -> None:
    queue = JobQueue()
    part = block(4, 5.0).cut(4)
    queue.push(part)
    assert take(queue, limit=4)[0] == [part]


def test_a_slice_is_cut_to_the_bytes_that_are_left() -> None:
    queue = JobQueue()
    queue.push(Block(b"x" * 12, 3, None, 5.0, Waiter()).cut(3))
    assert [p.rows for p in take(queue, size=9)[0]] == [2]
    queue.push(job(6.0, b"x"))
    assert [p.rows for p in take(queue, size=1)[0]] == [1]


# -- what nobody needs any more --------------------------------------------------------


def test_expired_and_abandoned_work_is_dropped_on_the_way() -> None:
    queue = JobQueue()
    expired, abandoned, whole, alive = job(1.0), job(3.0), block(3, 3.0), job(3.0)
    for work in (expired, abandoned, whole, alive):
        queue.push(work)
    abandoned.leave(abandoned.waiters[0])
    whole.cut(1)
    queue.rows -= 1
    whole.leave()
    taken, dropped = take(queue, now=1.0)
    assert taken == [alive] and dropped == [expired, abandoned, whole]
    assert queue.rows == 0 and expired.queue is None


def test_a_job_lives_as_long_as_its_latest_waiter() -> None:
    queue = JobQueue()
    work = job(1.0)
    queue.push(work)
    work.join(Waiter(), 5.0)
    assert take(queue, now=3.0) == ([work], [])


def test_an_abandoned_job_lives_again_when_somebody_joins() -> None:
    queue = JobQueue()
    work = job(1.0)
    queue.push(work)
    work.leave(work.waiters[0])
    work.join(Waiter(), 5.0)
    assert take(queue, now=3.0) == ([work], [])


def test_pruning_drops_the_dead_at_the_head_alone() -> None:
    queue = JobQueue()
    dead, whole, alive, later = job(1.0), block(3, 2.0), job(9.0), job(9.5)
    for work in (dead, whole, alive, later):
        queue.push(work)
    take(queue, limit=1, now=0.5)
    assert queue.prune(0.5) == []
    later.leave(later.waiters[0])
    assert queue.prune(3.0) == [whole]
    assert queue.rows == 2


def test_draining_takes_everything() -> None:
    queue = JobQueue()
    whole, work = block(3, 5.0), job(2.0)
    queue.push(whole)
    queue.push(work)
    work.join(Waiter(), 1.0)
    assert queue.drain() == [work, whole]
    assert queue.rows == 0 and queue.drain() == [] and queue.deadlines(1000) == []
    assert "rows=0" in repr(queue)


# -- everything at once ----------------------------------------------------------------


def name_of(work: Work | Slice) -> tuple[int, int]:
    """What stays the same of a piece of work when rows at its head are taken."""
    if isinstance(work, Slice):
        return work.start + work.rows, id(work.block)
    return -1, id(work)


class Life(RuleBasedStateMachine):
    """Work goes in and comes out in any way that the dispatcher knows."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = JobQueue()
        self.now = 0.0
        self.all: list[Job | Block] = []
        self.waiting: dict[
            tuple[int, int], tuple[Work, int]
        ] = {}  # by its name: what waits, its rows
        self.flying: list[Job | Slice] = []
        self.waiters: list[tuple[Waiter, Job | Block]] = []
        self.times: dict[int, float] = {}  # deadlines of those who wait for jobs, by id
        self.left: set[int] = set()
        self.most_rows = 0

    def enter(self, work: Work) -> None:
        self.queue.push(work)
        self.waiting[name_of(work)] = (work, work.rows)

    def alive(self, work: Work) -> bool:
        return work.wanted and work.expires > self.now

    @rule(after=st.integers(-3, 20), size=st.integers(0, 5))
    def push_job(self, after: int, size: int) -> None:
        waiter = Waiter()
        work = Job(b"x" * size, None, self.now + after, waiter)
        self.all.append(work)
        self.waiters.append((waiter, work))
        self.times[id(waiter)] = work.deadline
        self.enter(work)

    @rule(after=st.integers(-3, 20), rows=st.integers(1, 9), size=st.integers(0, 3))
    def push_block(self, after: int, rows: int, size: int) -> None:
        waiter = Waiter()
        work = Block(b"x" * (rows * size), rows, None, self.now + after, waiter)
        self.all.append(work)
        self.waiters.append((waiter, work))
        self.enter(work)

    @precondition(lambda self: any(not w.settled for w in self.all))
    @rule(data=st.data(), after=st.integers(-3, 20))
    def join(self, data: st.DataObject, after: int) -> None:
        open_jobs = [w for w in self.all if isinstance(w, Job) and not w.settled]
        if not open_jobs:
            return
        work, waiter = data.draw(st.sampled_from(open_jobs)), Waiter()
        self.waiters.append((waiter, work))
        self.times[id(waiter)] = self.now + after
        work.join(waiter, self.now + after)

    @precondition(lambda self: self.waiters)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter, work = data.draw(st.sampled_from(self.waiters))
        self.left.add(id(waiter))
        if isinstance(work, Job):
            work.leave(waiter)
        else:
            work.leave()

    @rule(seconds=st.integers(0, 6))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 12), size=st.integers(1, 20))
    def take(self, limit: int, size: int) -> None:
        expected = [w for w, _ in self.waiting.values() if self.alive(w)]
        taken, dropped = self.queue.take(limit, size, self.now)
        self.drop(dropped)
        assert bool(taken) == bool(expected)
        for part in taken:
            self.account(part)
        rows = sum(part.rows for part in taken)
        assert rows <= limit
        assert rows <= 1 or sum(len(part.payload) for part in taken) <= size
        deadlines = [part.deadline for part in taken]
        assert deadlines == sorted(deadlines)
        left = [w.deadline for w, _ in self.waiting.values() if self.alive(w)]
        assert not left or not taken or deadlines[-1] <= min(left)

    @rule(limit=st.integers(1, 12))
    def shed(self, limit: int) -> None:
        """As the intake does: who has more time than all that are given up stays."""
        taken, dropped = self.queue.take(limit, LARGE, self.now)
        self.drop(dropped)
        for part in taken:
            self.account(part)
        last = max((part.deadline for part in taken), default=0.0)
        for part in taken:
            self.flying.remove(part)
            if isinstance(part, Slice) or part.expires <= last:
                part.fail(FAILED)
                continue
            waiters = part.waiters.copy()
            part.split(last).fail(FAILED)
            assert part.waiters == [w for w in waiters if self.times[id(w)] > last]
            assert all(w.told == (self.times[id(w)] <= last) for w in waiters)
            self.enter(part)

    def account(self, part: Job | Slice) -> None:
        assert self.alive(part)
        name = name_of(part)
        if name not in self.waiting:
            assert isinstance(part, Slice)
            cut = [
                (end, block)
                for (end, block), (_, rows) in self.waiting.items()
                if block == id(part.block) and end - rows == part.start
            ]
            name = cut[0] if cut else (-1, id(part.block))
        work, rows = self.waiting.pop(name)
        if rows > part.rows:
            self.waiting[name] = (work, rows - part.rows)
        self.flying.append(part)

    def drop(self, dropped: list[Work]) -> None:
        for work in dropped:
            assert not self.alive(work)
            del self.waiting[name_of(work)]
            work.fail(EXPIRED)

    @rule()
    def prune(self) -> None:
        self.drop(self.queue.prune(self.now))

    @precondition(lambda self: self.flying)
    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "again"]))
    def end(self, data: st.DataObject, how: str) -> None:
        part = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
        if how == "again":
            self.enter(part)
        elif how == "finish":
            part.finish([b"%d" % i for i in range(part.rows)], 0)
        else:
            part.fail(FAILED)

    @invariant()
    def counts_rows(self) -> None:
        assert self.queue.rows == sum(rows for _, rows in self.waiting.values())

    @invariant()
    def keeps_few_old_entries(self) -> None:
        self.most_rows = max(self.most_rows, self.queue.rows)
        entries = len(self.queue._line) + len(self.queue._heap)
        assert entries <= 3 * self.most_rows + _SWEEP

    @invariant()
    def a_job_has_the_deadlines_of_those_who_wait(self) -> None:
        for work in self.all:
            if isinstance(work, Job) and work.wanted:
                times = [self.times[id(waiter)] for waiter in work.waiters]
                assert times == sorted(times)
                assert (work.deadline, work.expires) == (times[0], times[-1])

    @invariant()
    def lists_each_deadline_once(self) -> None:
        waiting = self.waiting.values()
        expected = sorted(w.deadline for w, rows in waiting for _ in range(rows))
        assert self.queue.deadlines(1000) == expected

    def teardown(self) -> None:
        for work in self.queue.drain():
            work.fail(FAILED)
        for part in self.flying:
            part.finish([b"1"] * part.rows, 0)
        assert self.queue.rows == 0
        assert all(work.settled for work in self.all)
        for waiter, _ in self.waiters:
            assert waiter.told or id(waiter) in self.left
            if waiter.rows is not None:
                assert None not in waiter.rows


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase


def test_deadlines_are_one_for_each_row_up_to_a_limit() -> None:
    queue = JobQueue()
    for work in (job(1.0), block(3, 2.0), job(3.0), block(2, 4.0)):
        queue.push(work)
    assert queue.deadlines(2) == [1.0, 2.0]
    assert queue.deadlines(4) == [1.0, 2.0, 2.0, 2.0]
    assert queue.deadlines(100) == [1.0, 2.0, 2.0, 2.0, 3.0, 4.0, 4.0]


class From(Waiter):
    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source


def test_rows_are_counted_by_who_asks_for_them() -> None:
    queue = JobQueue()
    for work in (
        job(1.0, waiter=From("a")),
        block(3, 2.0, waiter=From("b")),
        job(3.0, waiter=From("a")),
        block(2, 4.0, waiter=From("a")),
    ):
        queue.push(work)
    assert queue.by_source() == {"a": 4, "b": 3}


def test_bytes_of_jobs_leave_less_space_for_a_block() -> None:
    queue = JobQueue()
    for work in (job(1.0, b"12345"), block(4, 2.0, size=3)):
        queue.push(work)
    taken, _ = take(queue, size=12)
    assert [part.rows for part in taken] == [1, 2]


def test_a_job_without_waiters_costs_no_space() -> None:
    queue = JobQueue()
    left = job(1.0, b"12345")
    left.leave(left.waiters[0])
    for work in (job(0.5, b"1"), left, job(2.0, b"12")):
        queue.push(work)
    taken, dropped = take(queue, size=3)
    assert [len(part.payload) for part in taken] == [1, 2]
    assert dropped == [left]


def test_a_job_fits_when_the_space_is_just_enough() -> None:
    queue = JobQueue()
    for work in (job(1.0, b"12"), block(2, 2.0, size=3), job(3.0, b"123")):
        queue.push(work)
    taken, _ = take(queue, size=11)
    assert [len(part.payload) for part in taken] == [2, 6, 3]


def test_what_expires_now_is_pruned_now() -> None:
    queue = JobQueue()
    queue.push(job(1.0))
    assert len(queue.prune(1.0)) == 1
    queue.push(job(1.0))
    assert queue.prune(0.999) == []


def test_slices_have_their_block_s_shape_and_are_settled_once() -> None:
    waiter = Waiter()
    shaped = Block(bytes(20), 5, (2, 2), 1.0, waiter)
    first = shaped.cut(2)
    assert isinstance(first, Slice) and first.shape == (2, 2)
    assert shaped.attempts == 0
    first.finish([b"a", b"b"], 0)
    with pytest.raises(AssertionError, match="settled exactly once"):
        first.fail(FAILED)
    assert not waiter.told, "there are three more rows"


def test_halves_keep_the_order_when_a_slice_is_cut() -> None:
    many = block(4, 1.0)
    parts: list[Job | Slice] = [many.cut(3), job(1.0), job(2.0), job(3.0)]
    first, rest = halves(parts)
    assert [part.rows for part in first] == [3]
    wide = block(6, 1.0).cut(6)
    first, rest = halves([wide, parts[1], parts[2]])
    assert [part.rows for part in first] == [4]
    assert [part.rows for part in rest] == [2, 1, 1]
    assert rest[1:] == parts[1:3]
    assert rest[0].payload == bytes([4, 5])
