"""The rows of a batch. Single queries are tested with their application."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from clipper.batching.job import EXPIRED, Block, Job
from clipper.query import BatchQuery, RowWaiter
from clipper.selection.policy import Subject
from clipper.values import Output, RowError

FAILED = RowError("failed", "it failed")


class Counts:
    """Stands for an application."""

    def __init__(self) -> None:
        self.stats = self
        self.cancelled = 0
        self.batches: list[list[Output | None]] = []

    def count_batch(self, batch: BatchQuery) -> None:
        self.batches.append(list(batch.outputs))


class Receiver:
    def __init__(self) -> None:
        self.answers: list[list[Output | None]] = []

    def batch_settled(self, batch: BatchQuery) -> None:
        assert batch.settled
        self.answers.append(list(batch.outputs))


def make(rows: int) -> tuple[BatchQuery, Receiver, Counts]:
    counts, receiver = Counts(), Receiver()
    anything: Any = counts
    return (
        BatchQuery(anything, receiver, anything, Subject(), 0.0, 1.0, rows),
        receiver,
        counts,
    )


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_it_settles_with_the_last_row(order: tuple[int, ...]) -> None:
    batch, receiver, counts = make(3)
    waiters = [RowWaiter(batch, index) for index in range(3)]
    for index in order[:-1]:
        waiters[index].job_done(b"%d" % index)
        assert not batch.settled
    waiters[order[-1]].job_done(FAILED)
    expected: list[Output | None] = [b"0", b"1", b"2"]
    expected[order[-1]] = FAILED
    assert receiver.answers == counts.batches == [expected]


def test_one_job_may_answer_several_rows() -> None:
    batch, receiver, _ = make(2)
    waiters = [RowWaiter(batch, index) for index in range(2)]
    job = Job(b"x", None, 1.0, waiters[0])
    job.join(waiters[1], 1.0)
    job.settle(b"1")
    assert receiver.answers == [[b"1", b"1"]]


def test_rows_that_come_after_the_deadline_change_nothing() -> None:
    batch, receiver, counts = make(2)
    waiters = [RowWaiter(batch, index) for index in range(2)]
    jobs = [Job(b"x", None, 1.0, waiter) for waiter in waiters]
    batch.jobs = list(zip(jobs, waiters, strict=True))
    jobs[1].settle(b"1")
    batch.expire()
    assert receiver.answers == [[EXPIRED, b"1"]] and not jobs[0].wanted
    jobs[0].settle(b"0")
    batch.row_done(0, b"0")
    assert receiver.answers == [[EXPIRED, b"1"]] and len(counts.batches) == 1


def test_a_block_that_is_half_done_at_the_deadline_gives_what_it_has() -> None:
    batch, receiver, _ = make(3)
    block = Block(b"abc", 3, None, 1.0, batch)
    batch.blocks.append(block)
    first, second = block.cut(1), block.cut(2)
    first.finish([b"0"], 0)
    batch.expire(FAILED)
    assert receiver.answers == [[b"0", FAILED, FAILED]] and not block.wanted
    second.finish([b"1", b"2"], 0)
    batch.block_done(block.outputs)
    assert batch.outputs == [b"0", FAILED, FAILED] and len(receiver.answers) == 1


def test_a_cancelled_batch_tells_nobody() -> None:
    batch, receiver, counts = make(2)
    waiter = RowWaiter(batch, 0)
    job = Job(b"x", None, 1.0, waiter)
    batch.jobs = [(job, waiter)]
    batch.cancel()
    batch.cancel()
    job.settle(b"1")
    assert receiver.answers == [] and counts.cancelled == 2 and counts.batches == []
