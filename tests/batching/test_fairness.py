from __future__ import annotations

from fakes import FakeLoop, ManualClock

from clipper.batching.fairness import FairShares
from clipper.batching.fixed import Fixed
from clipper.batching.job import Job
from clipper.batching.queue import JobQueue
from clipper.inputs import InputType, encode_python

from .test_dispatcher import STOPPED as GONE
from .test_dispatcher import Bench
from .test_queue import Waiter


class From(Waiter):
    """Somebody who waits on behalf of `source`."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source


def job(source: str, deadline: float = 9.0) -> Job:
    row = encode_python(InputType.DOUBLES, [1.0])
    return Job(*row, deadline, From(source))


def queue_of(**rows: int) -> JobQueue:
    queue = JobQueue()
    for source, count in rows.items():
        for _ in range(count):
            queue.push(job(source))
    return queue


def shares(batch: int) -> FairShares:
    made = FairShares()
    made.sent(batch)
    return made


def test_who_asks_little_goes_before_one_who_asks_much() -> None:
    fair = shares(batch=10)
    waiting = queue_of(much=50)
    assert fair.favour(job("little"), waiting)
    assert fair.queue.rows == 1
    assert not fair.favour(job("much"), waiting)


def test_nobody_goes_first_while_all_fit_into_a_batch() -> None:
    assert not shares(batch=10).favour(job("little"), queue_of(much=9))


def test_alone_nobody_goes_first() -> None:
    assert not shares(batch=10).favour(job("much"), queue_of(much=50))


def test_what_goes_first_is_at_most_an_equal_part_of_a_batch() -> None:
    fair = shares(batch=10)
    waiting = queue_of(much=50)
    let_in = [fair.favour(job("little"), waiting) for _ in range(8)]
    assert let_in == [True] * 5 + [False] * 3
    fair.queue.drain()
    fair.sent(10)
    assert fair.favour(job("little"), waiting)


def test_one_that_waits_with_an_equal_part_goes_with_the_others() -> None:
    assert not shares(batch=4).favour(job("one"), queue_of(one=10, other=10))
    assert shares(batch=4).favour(job("one"), queue_of(one=9, other=11))


def test_favoured_rows_ride_in_the_next_batch_and_are_bounded_by_the_cap(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 4))
    bench.dispatcher.intake.shared = True
    flood = [bench.job(0, waiter=From("flood")) for _ in range(20)]
    fake_loop.turn()
    little = [bench.job(value, waiter=From("little")) for value in (1, 2, 3)]
    fake_loop.turn()
    bench.answer(seconds=0.01)
    bench.answer(seconds=0.01)
    assert bench.replica.seen[2] == [[1.0], [2.0], [0.0], [0.0]]
    while bench.replica.batches:
        bench.answer()
    assert all(waiter.told == 1 for waiter in [*flood, *little])


def test_closing_settles_what_goes_first_as_well(
    clock: ManualClock, fake_loop: FakeLoop
) -> None:
    bench = Bench(clock, fake_loop, Fixed(1.0, 4))
    bench.dispatcher.intake.shared = True
    for _ in range(20):
        bench.job(0, waiter=From("flood"))
    fake_loop.turn()
    waiter = bench.job(1, waiter=From("little"))
    bench.dispatcher.close(GONE)
    assert waiter.output == GONE
