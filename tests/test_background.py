"""Work at low priority, beside queries, with fake replicas in manual time."""

from __future__ import annotations

import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import SLO, Ask, House, Receiver, replicas, row

from clipper import background
from clipper.background import FULL, Background
from clipper.batching.job import EXPIRED, Job
from clipper.model import NO_REPLICA
from clipper.values import Output, RowError


class Seat:
    """Waits for a job."""

    source = None

    def __init__(self) -> None:
        self.output: Output | None = None

    def job_done(self, output: Output) -> None:
        assert self.output is None
        self.output = output


class Beside(Ask):
    """An application whose model has work at low priority as well."""

    def give(self, *values: float, seconds: float = 10.0) -> list[Seat]:
        seats = []
        for value in values:
            seat = Seat()
            payload, shape = row(value)
            deadline = self.house.clock.now() + seconds
            self.model.background.submit(Job(payload, shape, deadline, seat))
            seats.append(seat)
        self.turn()
        return seats

    def seen(self) -> list[list[float]]:
        return [[x for [x] in batch] for batch in self.replica.seen]


@pytest.fixture
async def beside(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> Beside:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)
    beside = Beside(House(clock, fake_loop), cache=False)
    beside.model.dispatcher._alarm._call_later = fake_loop.call_later
    return beside


@pytest.fixture
def _two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows at a time may be in the queue."""
    monkeypatch.setattr(Background, "_room", lambda self: 2)


@pytest.mark.usefixtures("_two")
async def test_a_few_rows_at_a_time_are_in_the_queue(beside: Beside) -> None:
    seats = beside.give(*range(5))
    for _ in range(9):
        beside.wait(0.02)  # a batch may wait to become fuller
        if beside.replica.batches:
            beside.answer()
    assert [x for batch in beside.seen() for x in batch] == [0, 1, 2, 3, 4]
    assert max(map(len, beside.seen())) == 2
    assert [seat.output for seat in seats] == [b"0", b"1", b"2", b"3", b"4"]
    assert len(beside.model.background) == 0


async def test_of_a_model_that_is_not_known_one_row_is_asked(beside: Beside) -> None:
    beside.give(*range(5))
    assert beside.seen() == [[0]]


@pytest.mark.usefixtures("_two")
async def test_a_query_waits_for_hardly_any_of_it(beside: Beside) -> None:
    beside.give(*range(100, 150))
    receiver = beside.one(7)
    beside.answer()
    beside.answer()
    assert receiver.output == b"7"
    assert len(beside.model.background) > 40


async def test_it_takes_a_small_part_of_the_objective(beside: Beside) -> None:
    for size in (1, 10, 1, 10, 20):  # a millisecond a row
        beside.many(*range(size))
        beside.turn()
        while beside.replica.batches:
            beside.house.loop.advance(0.001 * size)
            beside.replica.answer(lambda x: b"1", seconds=0.001 * size)
            beside.turn()
    del beside.replica.seen[:]
    beside.give(*range(100))
    beside.answer()
    beside.answer()
    controller = beside.model.dispatcher.controller
    most = controller.objective / background.PART / 0.001
    assert all(1 <= len(batch) <= most + 1 for batch in beside.seen())
    assert max(map(len, beside.seen())) > 1


async def test_too_much_of_it_is_refused(
    beside: Beside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(background, "MOST", 3)
    seats = beside.give(*range(6))
    assert [seat.output for seat in seats] == [None, None, None, None, FULL, FULL]
    assert beside.one(7).output is None  # queries are taken all the same


async def test_what_waited_too_long_is_given_up(beside: Beside) -> None:
    seats = beside.give(1, 2, seconds=1.0)
    beside.wait(2.0)
    beside.answer()
    assert seats[1].output == EXPIRED


@pytest.mark.usefixtures("_two")
async def test_a_query_that_joins_takes_it_out_of_the_line(
    beside: Beside,
) -> None:
    application = beside.house.application(beside.model)
    seats = [Seat() for _ in range(4)]
    for value, seat in enumerate(seats):
        deadline = beside.house.clock.now() + 10
        application.ask(beside.model, row(value), deadline, seat, background=True)
    receiver = Receiver()
    application.submit(row(3), receiver)
    assert len(beside.model.background) == 1
    beside.answer()
    assert receiver.output == seats[3].output == b"3"
    assert seats[2].output is None and len(beside.model.background) == 0


async def test_without_replicas_nobody_waits_for_ever(beside: Beside) -> None:
    seats = beside.give(1, 2, 3)
    beside.model.background.close(NO_REPLICA)
    assert [seat.output for seat in seats[1:]] == [NO_REPLICA, NO_REPLICA]
    assert isinstance(NO_REPLICA, RowError) and SLO < 1
    assert replicas(beside.model).replica.batches  # the first one is under way


async def test_of_a_closed_queue_everybody_is_told_once(beside: Beside) -> None:
    seats = beside.give(*range(1500))
    beside.model.dispatcher.close(NO_REPLICA)
    beside.answer()  # the one under way is over, and none of the others gets in
    assert [seat.output for seat in seats] == [b"0"] + [NO_REPLICA] * 1499
    assert len(beside.model.background) == 0
    beside.model.dispatcher.reopen()
    (seat,) = beside.give(7)
    beside.answer()
    assert seat.output == b"7"
