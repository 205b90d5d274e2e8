from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clipper.store import memory_log
from clipper.store.base import Chunk, Logged, Snapshot
from clipper.store.memory import MemoryStore

from .contract import StoreContract
from .log_contract import NOW, append, bodies, entry, logged, seqs


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    store = MemoryStore()
    yield store
    await store.close()


class TestMemoryStore(StoreContract):
    async def test_two_stores_share_nothing(self, store: MemoryStore) -> None:
        other = MemoryStore()
        await store.open()
        await other.open()
        assert await store.secret("query-key") != await other.secret("query-key")

    async def test_drops_the_oldest_entries_that_are_in_a_snapshot(
        self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory_log, "MOST_ENTRIES", 10)
        monkeypatch.setattr(memory_log, "SLACK", 5)
        await store.open()
        numbers = await seqs(store, *(entry(f"{n}") for n in range(100)))
        assert len(await logged(store)) == 100
        await store.save(Snapshot(1, numbers[49], {None: b""}), 0)
        assert [seq for seq, _ in await logged(store)] == numbers[50:]
        await store.save(Snapshot(1, numbers[99], {None: b""}), 0)
        assert [seq for seq, _ in await logged(store)] == numbers[90:]
        for n in range(5):
            assert len(await logged(store)) == 10 + n
            numbers += await seqs(store, entry(f"new {n}"))
        assert [seq for seq, _ in await logged(store)] == numbers[-10:]

    async def test_keys_stay_taken_though_entries_went(
        self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory_log, "MOST_ENTRIES", 10)
        monkeypatch.setattr(memory_log, "SLACK", 5)
        monkeypatch.setattr(memory_log, "MOST_KEYS", 50)
        await store.open()
        given = [entry(f"{n}") for n in range(100)]
        numbers = await seqs(store, *given)
        await store.save(Snapshot(1, numbers[-1], {None: b""}), 0)
        assert [seq for seq, _ in await logged(store)] == numbers[90:]
        again = (await append(store, *given)).entries
        assert [one.seq for one in again if isinstance(one, Logged)] == numbers[40:]

    async def test_drops_the_oldest_chunks(
        self, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory_log, "MOST_CHUNK_BYTES", 10)
        await store.open()
        for n in range(10):
            await store.put_chunk(Chunk(n, n, NOW, b"xxx"))
        assert [chunk.first for _, chunk in await store.chunks(0, 99)] == [7, 8, 9]

    async def test_an_append_is_told_before_it_returns(self, store: MemoryStore) -> None:
        await store.open()
        told: list[object] = []
        store.append([entry(body=b"1")], [], lambda *outcome: told.append(outcome))
        assert len(told) == 1
        assert await bodies(store) == [b"1"]
