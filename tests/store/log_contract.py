"""What every store promises of the feedback log, of states and of decisions; a part of
the contract in contract.py."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from clipper.errors import ClipperError, InvalidInput, StoreError
from clipper.store.base import (
    Appended,
    Chunk,
    Entry,
    FeedbackLog,
    Learned,
    Logged,
    LogSize,
    Person,
    Snapshot,
    Store,
)

NOW = 1_763_856_000.123456
BOUNDLESS = 2**60

# Texts that a store may bend on their way through JSON and SQL.
TEXTS = ["", "a", "=", "'", '"', "\\", "\0", "\1", "\1\1", "\0\1", "\1\2", "a\0b", "ü", "𝒳"]


def entry(key: str | None = None, **fields: Any) -> Entry:
    fields = {"application": 1, "uid": None, "at": NOW, "body": b"{}", **fields}
    return Entry(key=key, **fields)


async def append(
    log: FeedbackLog, *entries: Entry, persons: Sequence[Person] = ()
) -> Appended:
    future: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()

    def done(appended: Appended | None, error: Exception | None) -> None:
        if error is not None:
            future.set_exception(error)
        elif appended is not None:
            future.set_result(appended)

    log.append(entries, persons, done)
    return await future


async def seqs(log: FeedbackLog, *entries: Entry) -> list[int]:
    """Append what is new; its numbers."""
    numbers = (await append(log, *entries)).entries
    assert all(isinstance(number, int) for number in numbers)
    return [number for number in numbers if isinstance(number, int)]


async def logged(log: FeedbackLog, application: int = 1) -> list[Logged]:
    return await log.entries(application, 0, 1_000_000)


async def bodies(log: FeedbackLog, application: int = 1) -> list[bytes]:
    return [entry.body for _, entry in await logged(log, application)]


class LogContract:
    # -- the log -------------------------------------------------------------------------

    async def test_an_entry_reads_back_as_it_was(self, store: Store) -> None:
        await store.open()
        given = [
            Entry(7, key, uid, NOW + n / 7, f'{{"text":"\\u0000 {n} ✓"}}'.encode())
            for n, (key, uid) in enumerate(
                [*zip(TEXTS, TEXTS, strict=True), (None, None), (None, "a")]
            )
        ]
        numbers = await seqs(store, *given)
        assert numbers == sorted(set(numbers))
        expected = [Logged(*pair) for pair in zip(numbers, given, strict=True)]
        assert await logged(store, 7) == expected
        await store.close()
        await store.open()
        assert await logged(store, 7) == expected
        assert await logged(store, 8) == []

    @pytest.mark.parametrize("at", [0.0, -1.5, 0.1, 2.0**33 + 0.1, 1e12])
    async def test_a_time_is_kept_at_least_to_a_microsecond(
        self, store: Store, at: float
    ) -> None:
        await store.open()
        await append(store, entry(at=at))
        [(_, found)] = await logged(store)
        assert found.at == pytest.approx(at, rel=0, abs=2**-23)
        assert at < 2**30 or found.at == at

    async def test_a_key_is_taken_once(self, store: Store) -> None:
        await store.open()
        first = entry("k", body=b"1", uid="u")
        [number] = await seqs(store, first)
        again = await append(store, entry("k", body=b"2"), entry("l"), entry("k"))
        there = Logged(number, first)
        assert [again.entries[0], again.entries[2]] == [there, there]
        other = await append(store, entry("k", application=2))
        assert isinstance(again.entries[1], int) and isinstance(other.entries[0], int)
        assert number < again.entries[1] < other.entries[0]
        assert [found.entry.key for found in await logged(store)] == ["k", "l"]

    async def test_a_key_is_taken_once_within_an_append(self, store: Store) -> None:
        await store.open()
        first, second = entry("k", body=b"1"), entry("k", body=b"2")
        number, there = (await append(store, first, second)).entries
        assert there == Logged(number, first)  # type: ignore[arg-type]
        assert await bodies(store) == [b"1"]

    async def test_entries_without_a_key_are_all_taken(self, store: Store) -> None:
        await store.open()
        assert len(set(await seqs(store, entry(), entry(), entry()))) == 3

    async def test_appends_at_once_are_told_in_order(self, store: Store) -> None:
        await store.open()
        told: list[tuple[int, Any]] = []
        for n in range(300):
            key = "double" if n % 10 == 0 else None
            entries = [entry(key, body=b"%d" % n)] * (n % 3)

            def done(
                appended: Appended | None, error: Exception | None, n: int = n
            ) -> None:
                assert error is None and appended is not None
                told.append((n, appended.entries))

            store.append(entries, [], done)
        await append(store)
        assert [n for n, _ in told] == list(range(300))
        assert [len(entries) for _, entries in told] == [n % 3 for n in range(300)]
        numbers = [e for _, entries in told for e in entries if isinstance(e, int)]
        assert numbers == sorted(set(numbers))
        assert [seq for seq, _ in await logged(store)] == numbers

    async def test_what_raises_when_it_is_told_hinders_nobody(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        await store.open()

        def wrong(appended: Appended | None, error: Exception | None) -> None:
            raise ZeroDivisionError

        store.append([entry(body=b"1")], [], wrong)
        await append(store, entry(body=b"2"))
        assert await bodies(store) == [b"1", b"2"]
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    async def test_may_be_appended_to_from_a_done(self, store: Store) -> None:
        await store.open()
        told: list[str] = []
        over = asyncio.get_running_loop().create_future()

        def first(appended: Appended | None, error: Exception | None) -> None:
            told.append("first begins")
            store.append([entry(body=b"3")], [], third)
            told.append("first ends")

        def second(appended: Appended | None, error: Exception | None) -> None:
            told.append("second")

        def third(appended: Appended | None, error: Exception | None) -> None:
            told.append("third")
            over.set_result(None)

        store.append([entry(body=b"1")], [], first)
        store.append([entry(body=b"2")], [], second)
        await over
        assert told[:2] == ["first begins", "first ends"]
        assert sorted(told[2:]) == ["second", "third"]
        assert sorted(await bodies(store)) == [b"1", b"2", b"3"]

    @pytest.mark.parametrize(
        "fields",
        [
            {"uid": "\ud800"},
            {"key": "\ud800"},
            {"body": b"\xff"},
            {"body": b"\0"},
            {"at": math.nan},
            {"at": math.inf},
            {"at": 2.0**40},
        ],
        ids=repr,
    )
    async def test_refuses_an_entry_it_could_not_read_back(
        self, store: Store, fields: dict[str, Any]
    ) -> None:
        await store.open()
        with pytest.raises(InvalidInput):
            await append(store, entry(), entry(**fields))
        assert await logged(store) == []

    async def test_entries_come_in_pages(self, store: Store) -> None:
        await store.open()
        numbers = await seqs(store, *(entry(application=n % 2) for n in range(4_200)))
        for limit in (-1, 0, 1, 999, 1_000, 2_099, 2_100, 10_000):
            page = await store.entries(0, 0, limit)
            assert [seq for seq, _ in page] == numbers[::2][: max(limit, 0)]
        assert (await store.entries(1, numbers[3], 1))[0].seq == numbers[5]
        assert await store.entries(1, numbers[-1], 10) == []

    async def test_large_entries_come_in_smaller_pieces(self, store: Store) -> None:
        await store.open()
        large = b'"' + b"x" * 1_500_000 + b'"'
        await append(store, *(entry(body=large) for _ in range(5)))
        assert await bodies(store) == [large] * 5

    async def test_numbers_are_never_given_twice(self, store: Store) -> None:
        await store.open()
        [number] = await seqs(store, entry("k"))
        await store.drop(1)
        [again] = await seqs(store, entry("k"))
        await store.save(Snapshot(1, again, {None: b""}), 1)
        await store.prune_decisions(NOW + 1, 0)
        await store.prune_entries(NOW + 1, BOUNDLESS, NOW)
        await store.close()
        await store.open()
        [last] = await seqs(store, entry("k"))
        assert number < again < last

    # -- states --------------------------------------------------------------------------

    async def test_a_snapshot_is_learned_with_what_follows(self, store: Store) -> None:
        await store.open()
        assert await store.learned(1) == Learned(0, None, [])
        numbers = await seqs(store, *(entry() for _ in range(2_500)))
        assert await store.learned(1) == Learned(0, None, await logged(store))
        await store.save(Snapshot(1, numbers[9], {None: b"\0own", "u": b""}), 10)
        await append(store, entry(application=2))
        await store.close()
        await store.open()
        seq, own, entries = await store.learned(1)
        assert (seq, own) == (numbers[9], b"\0own")
        assert [number for number, _ in entries] == numbers[10:]
        for limit in (0, 1, 999, 1_000, 1_001, 2_489, 2_490, 2_491):
            some = await store.learned(1, limit)
            assert some == Learned(seq, own, entries[:limit])
        assert (await store.learned(2))[:2] == (0, None)

    async def test_each_person_has_a_state(self, store: Store) -> None:
        await store.open()
        [number] = await seqs(store, entry())
        states: dict[str | None, bytes] = {
            uid: repr(uid).encode() for uid in [None, *TEXTS]
        }
        states["large"] = bytes(range(256)) * 10_000
        states["empty"] = b""
        await store.save(Snapshot(1, number, states), 100)
        await store.save(Snapshot(2, number, {"a": b"other"}), 100)
        for uid, state in states.items():
            assert await store.state_of(Person(1, uid)) == state
        assert await store.state_of(Person(2, "a")) == b"other"
        for stranger in (Person(2, None), Person(1, "b"), Person(3, "a")):
            assert await store.state_of(stranger) is None

    async def test_a_state_is_replaced(self, store: Store) -> None:
        await store.open()
        numbers = await seqs(store, entry(), entry())
        await store.save(Snapshot(1, numbers[0], {None: b"1", "u": b"1", "v": b"1"}), 10)
        await store.save(Snapshot(1, numbers[1], {None: b"2", "u": b"2"}), 10)
        assert (await store.learned(1))[:2] == (numbers[1], b"2")
        assert await store.state_of(Person(1, "u")) == b"2"
        assert await store.state_of(Person(1, "v")) == b"1"

    async def test_states_of_users_alone_make_no_snapshot(self, store: Store) -> None:
        await store.open()
        numbers = await seqs(store, entry(), entry(), entry())
        await store.save(Snapshot(1, numbers[0], {None: b"own"}), 10)
        await store.save(Snapshot(1, numbers[2], {"u": b"user"}), 10)
        learned = await store.learned(1)
        assert (learned.seq, learned.state) == (numbers[0], b"own")
        assert [number for number, _ in learned.entries] == numbers[1:]
        await store.save(Snapshot(1, numbers[1], {None: b"later"}), 10)
        assert await store.state_of(Person(1, "u")) == b"user"

    async def test_a_snapshot_that_goes_back_or_ahead_is_refused(
        self, store: Store
    ) -> None:
        await store.open()
        numbers = await seqs(store, entry(), entry())
        await store.save(Snapshot(1, numbers[1], {None: b"1"}), 10)
        for seq in (numbers[0], numbers[1] + 1, -1):
            with pytest.raises(StoreError, match="cannot be kept"):
                await store.save(Snapshot(1, seq, {None: b"2", "u": b"2"}), 10)
        assert (await store.learned(1)).state == b"1"
        assert await store.state_of(Person(1, "u")) is None

    async def test_an_append_brings_states_that_are_asked_for(self, store: Store) -> None:
        await store.open()
        [number] = await seqs(store, entry())
        await store.save(Snapshot(1, number, {None: b"own", "": b"\0\xff"}), 10)
        persons = [Person(1, ""), Person(1, "v"), Person(1, None), Person(2, "")]
        states = (await append(store, entry(), persons=persons)).states
        assert states == dict(zip(persons, [b"\0\xff", None, b"own", None], strict=True))
        assert (await append(store, persons=[persons[1]])).states == {persons[1]: None}

    async def test_the_oldest_users_go_first(self, store: Store) -> None:
        await store.open()
        numbers = await seqs(store, entry(), entry(), entry())
        first: dict[str | None, bytes] = {"a": b"1", "b": b"1", "c": b"1", None: b"1"}
        await store.save(Snapshot(1, numbers[0], first), 3)
        await store.save(Snapshot(2, numbers[0], {"z": b"1"}), 3)
        await store.save(Snapshot(1, numbers[1], {"a": b"2", "d": b"2"}), 3)
        assert await store.uids(1, None, 10) == ["a", "c", "d"]
        await store.save(Snapshot(1, numbers[2], {}), 1)
        assert await store.uids(1, None, 10) == ["d"]
        await store.save(Snapshot(1, numbers[2], {}), 0)
        assert await store.uids(1, None, 10) == []
        assert await store.uids(2, None, 10) == ["z"]
        assert await store.state_of(Person(1, None)) == b"1"

    async def test_users_come_in_order(self, store: Store) -> None:
        await store.open()
        [number] = await seqs(store, entry())
        await store.save(Snapshot(1, number, dict.fromkeys(TEXTS, b"") | {None: b""}), 99)
        expected = sorted(TEXTS)
        for limit in (-1, 0, 1, 5, 100):
            assert await store.uids(1, None, limit) == expected[: max(limit, 0)]
        for place, uid in enumerate(expected):
            assert await store.uids(1, uid, 100) == expected[place + 1 :]
        assert await store.uids(2, None, 10) == []

    async def test_a_user_is_forgotten(self, store: Store) -> None:
        await store.open()
        given = [
            entry("k", uid="u", body=b"1"),
            entry(uid="v", body=b"2"),
            entry(uid="u", application=2),
            entry(uid="\0", body=b"3"),
            entry(uid="u", body=b"4"),
        ]
        numbers = await seqs(store, *given)
        await store.save(Snapshot(1, numbers[-1], {"u": b"", "v": b"", "\0": b""}), 9)
        await store.save(Snapshot(2, numbers[-1], {"u": b""}), 9)
        await store.forget(Person(1, "u"))
        await store.forget(Person(1, "\0"))
        await store.forget(Person(1, "nobody"))
        assert [e.uid for _, e in await logged(store)] == [None, "v", None, None]
        assert [e.body for _, e in await logged(store)] == [b"1", b"2", b"3", b"4"]
        assert await store.uids(1, None, 10) == ["v"]
        assert await store.uids(2, None, 10) == ["u"]
        assert [e.uid for _, e in await logged(store, 2)] == ["u"]
        there = (await append(store, entry("k", uid="u"))).entries
        assert there == [Logged(numbers[0], given[0]._replace(uid=None))]
        with pytest.raises(InvalidInput, match="only a user"):
            await store.forget(Person(1, None))

    # -- decisions -----------------------------------------------------------------------

    async def test_a_chunk_is_found_by_its_nonces(self, store: Store) -> None:
        await store.open()
        top = 2**64 - 1
        chunks = [
            Chunk(0, 0, NOW, b""),
            Chunk(10, 20, NOW + 0.1, b"\0\xff"),
            Chunk(15, 30, NOW, b"newer"),
            Chunk(2**63 - 5, 2**63 + 5, NOW, b"middle"),
            Chunk(top - 1, top, NOW, b"top"),
        ]
        for chunk in chunks:
            await store.put_chunk(chunk)
        await store.close()
        await store.open()
        found = {n: await store.chunk_of(n) for n in (0, 1, 10, 14, 15, 30, 31)}
        zero, ten, fifteen, middle, last = chunks
        assert found == {0: zero, 1: None, 10: ten, 14: ten, 15: fifteen, 30: fifteen,
                         31: None}  # fmt: skip
        for nonce in (2**63 - 5, 2**63 - 1, 2**63, 2**63 + 5):
            assert await store.chunk_of(nonce) == middle
        assert await store.chunk_of(top) == last
        assert await store.chunk_of(2**63 - 6) is None
        numbers = [number for number, _ in await store.chunks(0, 10)]
        assert await store.chunks(0, 10) == list(zip(numbers, chunks, strict=True))
        assert numbers == sorted(set(numbers))
        assert [c for _, c in await store.chunks(numbers[2], 1)] == [middle]
        assert await store.chunks(0, -1) == []

    @pytest.mark.parametrize(
        "chunk",
        [
            Chunk(-1, 5, NOW, b""),
            Chunk(0, 2**64, NOW, b""),
            Chunk(2, 1, NOW, b""),
            Chunk(0, 1, math.nan, b""),
        ],
    )
    async def test_refuses_a_chunk_of_no_nonces(self, store: Store, chunk: Chunk) -> None:
        await store.open()
        with pytest.raises(InvalidInput):
            await store.put_chunk(chunk)
        for nonce in (-1, 2**64):
            with pytest.raises(InvalidInput, match="no nonce"):
                await store.chunk_of(nonce)

    # -- dropping ------------------------------------------------------------------------

    async def test_an_entry_is_found_by_its_key(self, store: Store) -> None:
        await store.open()
        first, _, _ = await seqs(store, entry("a"), entry("b"), entry(None))
        found = await store.entry_of(1, "a")
        assert found is not None and (found.seq, found.entry.key) == (first, "a")
        assert await store.entry_of(1, "c") is None
        assert await store.entry_of(2, "a") is None

    async def test_prune_drops_what_is_old_and_what_is_too_much(self, store: Store) -> None:
        await store.open()
        for n in range(10):
            await store.put_chunk(Chunk(n, n, NOW + n, b"x" * 10))
        await store.prune_decisions(NOW + 3, 1_000)
        await store.prune_entries(NOW + 3, BOUNDLESS, NOW)
        assert [c.first for _, c in await store.chunks(0, 99)] == list(range(3, 10))
        await store.prune_decisions(NOW, 49)
        await store.prune_entries(NOW, BOUNDLESS, NOW)
        assert [c.first for _, c in await store.chunks(0, 99)] == list(range(6, 10))
        await store.prune_decisions(NOW, 0)
        await store.prune_entries(NOW, BOUNDLESS, NOW)
        assert await store.chunks(0, 99) == []
        await store.put_chunk(Chunk(1, 1, NOW, b"x"))
        assert await store.chunk_of(1) is not None

    async def test_prune_keeps_entries_that_no_snapshot_holds(self, store: Store) -> None:
        await store.open()
        given = [entry(f"{n}", at=NOW + n, application=1 + n % 2) for n in range(10)]
        numbers = await seqs(store, *given)
        await store.prune_decisions(math.inf, 0)
        await store.prune_entries(math.inf, BOUNDLESS, NOW)
        assert len(await logged(store)) == len(await logged(store, 2)) == 5
        await store.save(Snapshot(1, numbers[4], {None: b""}), 0)
        await store.save(Snapshot(2, numbers[9], {"u": b""}), 1)  # no snapshot, see above
        await store.prune_decisions(NOW + 4, 0)
        await store.prune_entries(NOW + 4, BOUNDLESS, NOW)
        assert [seq for seq, _ in await logged(store)] == numbers[4::2]
        await store.prune_decisions(math.inf, 0)
        await store.prune_entries(math.inf, BOUNDLESS, NOW)
        assert [seq for seq, _ in await logged(store)] == numbers[6::2]
        assert len(await logged(store, 2)) == 5
        again = (await append(store, given[0], given[6])).entries
        assert isinstance(again[0], int)
        assert again[1] == Logged(numbers[6], given[6])

    async def test_prune_drops_the_oldest_of_all_beyond_so_many_bytes(
        self, store: Store
    ) -> None:
        await store.open()
        numbers = await seqs(
            store,
            *(entry(f"{n}", application=1 + n % 3, body=b"x" * 10) for n in range(30)),
        )
        await store.prune_entries(0.0, 0, 0.0)
        assert [len(await logged(store, n)) for n in (1, 2, 3)] == [10, 10, 10]
        await store.save(Snapshot(1, numbers[29], {None: b""}), 0)
        await store.save(Snapshot(2, numbers[10], {None: b""}), 0)
        await store.prune_entries(0.0, 300, 0.0)
        assert [len(await logged(store, n)) for n in (1, 2, 3)] == [10, 10, 10]
        await store.prune_entries(0.0, 255, 0.0)
        assert [seq for seq, _ in await logged(store, 1)] == numbers[9::3]
        assert [seq for seq, _ in await logged(store, 2)] == numbers[7::3]
        await store.prune_entries(0.0, 100, 0.0)
        # what is in no snapshot stays, however large it is
        assert await logged(store, 1) == []
        assert [seq for seq, _ in await logged(store, 2)] == numbers[13::3]
        assert [seq for seq, _ in await logged(store, 3)] == numbers[2::3]
        await store.drop(3)
        await append(store, entry(application=1, body=b"x" * 30))
        await store.prune_entries(0.0, 90, 0.0)
        assert len(await logged(store, 2)) == 6

    async def test_prune_goes_over_gaps_and_to_the_end(self, store: Store) -> None:
        await store.open()
        many = [entry(f"{n}", application=1 + (n > 1_000)) for n in range(4_000)]
        numbers = await seqs(store, *many)
        await store.save(Snapshot(1, numbers[-1], {None: b""}), 0)
        numbers += await seqs(store, *(entry(f"new {n}") for n in range(4_000)))
        await store.save(Snapshot(1, numbers[7_000], {None: b""}), 0)
        await store.prune_entries(0.0, 0, NOW)
        assert [seq for seq, _ in await logged(store)] == numbers[7_001:]
        assert len(await logged(store, 2)) == 2_999

    async def test_a_key_stays_taken_though_its_entry_was_too_much(
        self, store: Store
    ) -> None:
        await store.open()
        given = [entry(key, at=NOW + n, uid="u") for n, key in enumerate([*TEXTS, None])]
        numbers = await seqs(store, *given)
        await store.save(Snapshot(1, numbers[-1], {None: b""}), 0)
        await store.prune_entries(0.0, 0, NOW + 2)
        assert await logged(store) == []
        assert await store.entry_of(1, TEXTS[3]) is None
        await store.close()
        await store.open()
        again = (await append(store, *given, *given)).entries
        left = [
            Logged(seq, first._replace(uid=None, body=b""))
            for seq, first in zip(numbers, given, strict=True)
        ]
        assert again[2:-1] == [
            *left[2:-1], again[len(given) - 1],
            Logged(again[0], given[0]), Logged(again[1], given[1]),  # type: ignore[arg-type]
            *left[2:-1],
        ]  # fmt: skip
        taken = [again[n] for n in (0, 1, len(given) - 1, -1)]  # too old, or without a key
        assert all(isinstance(number, int) for number in taken)
        assert await seqs(store, *(one._replace(application=2) for one in given))
        await store.prune_entries(0.0, BOUNDLESS, NOW + 5)
        again = (await append(store, *given[2:7])).entries
        assert [isinstance(one, int) for one in again] == [True] * 3 + [False] * 2
        await store.drop(1)
        await seqs(store, *given)

    async def test_prune_and_drop_go_on_to_the_end(self, store: Store) -> None:
        await store.open()
        numbers = await seqs(store, *(entry(f"{n}") for n in range(12_000)))
        await append(store, entry(application=2))
        states: dict[str | None, bytes] = {f"u{n}": b"x" for n in range(6_000)}
        await store.save(Snapshot(1, numbers[10_500], states | {None: b""}), 10_000)
        assert await store.size(1) == LogSize(12_000, 24_000, 6_000, 0, 0)
        assert len(await store.uids(1, None, 10_000)) == 6_000
        await store.prune_decisions(NOW + 1, 0)
        await store.prune_entries(NOW + 1, BOUNDLESS, NOW)
        assert [seq for seq, _ in await logged(store)] == numbers[10_501:]
        await store.save(Snapshot(2, numbers[0], {None: b"kept"}), 10)
        await store.drop(1)
        assert await store.size(1) == LogSize(0, 0, 0, 0, 0)
        assert await store.learned(1) == Learned(0, None, [])
        assert await store.learned(2) == Learned(
            numbers[0], b"kept", await logged(store, 2)
        )

    async def test_names_the_applications_that_it_holds_something_of(
        self, store: Store
    ) -> None:
        await store.open()
        assert await store.applications() == []
        [_, number] = await seqs(store, entry(application=3), entry(application=9))
        for application in (2, 9):
            await store.save(Snapshot(application, number, {"u": b""}), 10)
        await store.save(Snapshot(7, number, {None: b"own"}), 10)
        assert await store.applications() == [2, 3, 7, 9]
        await store.drop(9)
        await store.drop(3)
        assert await store.applications() == [2, 7]

    async def test_tells_its_size(self, store: Store) -> None:
        await store.open()
        [number] = await seqs(store, entry(body="ü".encode()))
        await append(store, entry(application=2, body=b"123"))
        await store.save(Snapshot(1, number, {None: b"own", "": b"", "u": b""}), 10)
        await store.put_chunk(Chunk(1, 2, NOW, b"12345"))
        assert await store.size(1) == LogSize(1, 2, 2, 1, 5)
        assert await store.size(2) == LogSize(1, 3, 0, 1, 5)
        assert await store.size(3) == LogSize(0, 0, 0, 1, 5)

    async def test_the_log_of_a_closed_store_takes_nothing(self, store: Store) -> None:
        await store.open()
        await store.close()
        person = Person(1, "u")
        for refused in (
            append(store, entry()),
            store.learned(1),
            store.state_of(person),
            store.uids(1, None, 1),
            store.save(Snapshot(1, 0, {}), 1),
            store.forget(person),
            store.entries(1, 0, 1),
            store.put_chunk(Chunk(1, 1, NOW, b"")),
            store.chunk_of(1),
            store.chunks(0, 1),
            store.prune_decisions(0.0, 0),
            store.prune_entries(0.0, 0, 0.0),
            store.applications(),
            store.drop(1),
            store.size(1),
        ):
            with pytest.raises(StoreError, match="closed"):
                await refused

    async def test_refuses_a_uid_that_is_no_text(self, store: Store) -> None:
        await store.open()
        wrong = Person(1, "\ud800")
        for refused in (
            append(store, persons=[wrong]),
            store.state_of(wrong),
            store.uids(1, "\ud800", 1),
            store.save(Snapshot(1, 0, {"\ud800": b""}), 1),
            store.forget(wrong),
        ):
            with pytest.raises(InvalidInput):
                await refused

    async def test_close_finishes_appends(self, store: Store) -> None:
        await store.open()
        errors: list[ClipperError | Exception | None] = []
        for _ in range(50):
            store.append([entry()], [], lambda appended, error: errors.append(error))
        await store.close()
        assert errors == [None] * 50
        await store.open()
        assert len(await logged(store)) == 50
