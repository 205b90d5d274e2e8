from __future__ import annotations

from typing import Any

import pytest
from fakes import FakeLoop

from clipper.errors import DiskFull, InvalidInput, Overloaded
from clipper.learning.journal import SLICE, Journal
from clipper.store.base import Appended, Entry, Logged, Person

ANN = Person(1, "ann")


class Log:
    """Takes appends and keeps what to call."""

    def __init__(self) -> None:
        self.appends: list[tuple[list[Entry], list[Person], Any]] = []
        self.bad: set[Entry] = set()
        self.error: Exception | None = None

    def append(self, entries: list[Entry], persons: list[Person], done: Any) -> None:
        if self.error is not None:
            raise self.error
        if not self.bad.isdisjoint(entries):
            raise InvalidInput("no text")
        self.appends.append((entries, persons, done))


def entry(number: int) -> Entry:
    return Entry(1, str(number), None, 0.0, b"{}")


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def journal(log: Log, fake_loop: FakeLoop) -> Journal:
    found: Any = log
    return Journal(found, fake_loop.call_soon)


def test_a_turn_is_one_append(journal: Journal, log: Log, fake_loop: FakeLoop) -> None:
    told: list[Any] = []
    for number in range(3):
        person = ANN if number else None
        journal.append(entry(number), person, lambda *what: told.append(what))
    assert not log.appends
    fake_loop.turn()
    ((entries, persons, done),) = log.appends
    assert entries == [entry(0), entry(1), entry(2)] and persons == [ANN]
    assert not told
    earlier = Logged(3, entry(1))
    done(Appended([7, earlier, 9], {ANN: b"kept"}), None)
    assert told == [(7, None, None), (earlier, b"kept", None), (9, b"kept", None)]
    journal.append(entry(4), None, lambda *what: None)
    fake_loop.turn()
    assert len(log.appends) == 2


def test_much_is_handed_over_in_slices(
    journal: Journal, log: Log, fake_loop: FakeLoop
) -> None:
    given = [entry(number) for number in range(3 * SLICE + 1)]
    held: list[int] = []

    def turn() -> None:
        held.append(sum(len(entries) for entries, _, _ in log.appends))
        if held[-1] < len(given):
            fake_loop.call_soon(turn)

    for one in given:
        journal.append(one, None, lambda *what: None)
    fake_loop.call_soon(turn)
    fake_loop.turn()
    assert held == [SLICE, 2 * SLICE, 3 * SLICE, len(given)]
    assert [one for entries, _, _ in log.appends for one in entries] == given


def test_a_flush_leaves_nothing(journal: Journal, log: Log, fake_loop: FakeLoop) -> None:
    given = [entry(number) for number in range(3 * SLICE + 1)]
    for one in given:
        journal.append(one, None, lambda *what: None)
    journal.flush()
    assert [one for entries, _, _ in log.appends for one in entries] == given
    assert max(len(entries) for entries, _, _ in log.appends) == SLICE
    fake_loop.turn()
    assert sum(len(entries) for entries, _, _ in log.appends) == len(given)


def test_what_repeats_a_dropped_entry_is_taken_for_the_same(
    journal: Journal, log: Log, fake_loop: FakeLoop
) -> None:
    told: list[Any] = []
    journal.append(entry(1), None, lambda *what: told.append(what))
    fake_loop.turn()
    log.appends[0][2](Appended([Logged(3, entry(1)._replace(body=b""))], {}), None)
    assert told == [(Logged(3, entry(1)), None, None)]


def test_what_fails_is_told_to_all(journal: Journal, log: Log, fake_loop: FakeLoop) -> None:
    told: list[Any] = []
    full, busy = DiskFull("full"), Overloaded("busy")
    journal.append(entry(1), ANN, lambda *what: told.append(what))
    fake_loop.turn()
    log.appends[0][2](None, full)
    log.error = busy
    journal.append(entry(2), None, lambda *what: told.append(what))
    journal.append(entry(3), None, lambda *what: told.append(what))
    fake_loop.turn()
    assert told == [(None, None, full), (None, None, busy), (None, None, busy)]


def test_a_bad_entry_harms_no_other(
    journal: Journal, log: Log, fake_loop: FakeLoop
) -> None:
    told: dict[int, Any] = {}
    log.bad = {entry(1)}
    for number in range(3):
        journal.append(entry(number), None, lambda *what, n=number: told.update({n: what}))
    fake_loop.turn()
    assert isinstance(told[1][2], InvalidInput)
    assert [entries for entries, _, _ in log.appends] == [[entry(0)], [entry(2)]]


def test_who_raises_harms_no_other(
    journal: Journal, log: Log, fake_loop: FakeLoop, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Any] = []

    def bad(*what: Any) -> None:
        raise RuntimeError("a bug")

    journal.append(entry(1), None, bad)
    journal.append(entry(2), None, lambda *what: told.append(what))
    fake_loop.turn()
    log.appends[0][2](Appended([1, 2], {}), None)
    assert told == [(2, None, None)] and "a bug" in caplog.text


def test_what_is_appended_by_one_who_is_told_goes_into_the_next(
    journal: Journal, log: Log, fake_loop: FakeLoop
) -> None:
    again = lambda *what: journal.append(entry(2), None, lambda *what: None)  # noqa: E731
    journal.append(entry(1), None, again)
    fake_loop.turn()
    log.appends[0][2](Appended([1], {}), None)
    fake_loop.turn()
    assert [entries for entries, _, _ in log.appends] == [[entry(1)], [entry(2)]]
