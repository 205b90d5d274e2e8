from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from clipper.store.memory import MemoryStore

from .contract import StoreContract


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
