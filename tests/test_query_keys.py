"""Query ids get the keys of their time from the store."""

from __future__ import annotations

from random import Random

import pytest
from fakes import ManualClock

from clipper.errors import NotFound
from clipper.query_id import PERIOD
from clipper.query_keys import QueryKeys
from clipper.store.memory import MemoryStore


async def test_keys_change_with_the_period_and_the_last_one_is_read(
    clock: ManualClock,
) -> None:
    store = MemoryStore()
    await store.open()
    clock.move(PERIOD - clock.wall() % PERIOD - 1)  # a second before the next period
    keys = QueryKeys(store, clock, Random(1))
    ids = await keys.open()
    stamp, number = ids.stamp(7, 1, 2, 0.5), ids.number
    early = stamp.issue(clock.now()).decode()
    assert not keys.due(ids)
    clock.move(2)
    assert keys.due(ids)
    await keys.change(ids)
    assert ids.number == number + 1 and not keys.due(ids)
    late = ids.stamp(7, 1, 2, 0.5).issue(clock.now()).decode()
    for again in (ids, await keys.open()):  # before a restart and after
        assert (again.read(early).arm, again.read(late).arm) == (2, 2)
    clock.move(PERIOD)
    with pytest.raises(NotFound):
        (await keys.open()).read(early)
