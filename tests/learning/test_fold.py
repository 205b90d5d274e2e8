"""Learning over a store: whatever happens, it is a fold of the log."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from clipper.store.sqlite import SQLiteStore

from .lives import ARMS, HEDGES, POLICIES, UIDS, Life, Slowly, check, quiet, record_of, run

pytestmark = pytest.mark.usefixtures("small")

uids = st.sampled_from([None, *UIDS])
steps = st.one_of(
    st.tuples(
        st.just("give"),
        uids,
        st.integers(0, 2),
        st.floats(0, 1, allow_subnormal=False),
    ),
    st.tuples(st.just("give"), uids, st.integers(0, 2), st.sampled_from([0.0, 1.0])),
    st.tuples(st.just("label"), uids, st.integers(0, 2), st.sampled_from([0.0, 0.2])),
    st.tuples(st.just("again"), uids),
    st.tuples(st.just("policy"), st.sampled_from(POLICIES)),
    st.tuples(st.just("policy"), st.sampled_from(HEDGES)),
    st.tuples(st.just("news")),
    st.tuples(st.just("prior"), st.integers(0, 1), st.floats(0, 8)),
    st.tuples(st.just("halt"), st.sampled_from(ARMS)),
    st.tuples(st.just("load"), st.sampled_from(UIDS)),
    st.tuples(st.just("forget"), st.sampled_from(UIDS)),
    st.tuples(st.just("save")),
    st.tuples(st.just("let"), st.integers(1, 4)),
    st.tuples(st.just("let"), st.integers(1, 4)),
    st.tuples(st.just("fail")),
    st.tuples(st.just("settle")),
    st.tuples(st.just("crash")),
)


async def on_disk(directory: Path, script: list[tuple[Any, ...]], in_memory: int) -> None:
    life: Life | None = None
    record = record_of()
    for step in [*script, ("settle",), ("crash",)]:
        if life is None:
            store = SQLiteStore(directory, durability="process")
            await store.open()
            life = Life(store, record, in_memory)
            await life.start()
        await run(life, step)
        if step[0] == "settle":
            await check(life)
        if step[0] == "crash":
            life.learning.journal.flush()
            await quiet(life)
            record = life.record
            await life.store.close()
            life = None


scripts = st.lists(steps, min_size=5, max_size=60)
allow = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@settings(allow, max_examples=250)
@given(scripts, st.integers(1, 3))
def test_what_was_learned_is_a_fold_of_the_log(
    script: list[tuple[Any, ...]], in_memory: int
) -> None:
    asyncio.run(Slowly(in_memory).live(script))


@settings(allow, max_examples=15)
@given(scripts, st.integers(1, 3))
def test_so_it_is_on_disk(script: list[tuple[Any, ...]], in_memory: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(on_disk(Path(directory), script, in_memory))


labels = st.tuples(
    st.just("label"), st.sampled_from(UIDS), st.integers(0, 2), st.sampled_from([0.0, 0.2])
)
news = st.sampled_from(
    [("news",), ("crash",), ("settle",), ("save",), ("policy", HEDGES[1])]
)


@settings(allow, max_examples=100)
@given(st.lists(labels | labels | news, min_size=10, max_size=60), st.integers(1, 3))
def test_what_was_found_of_users_is_a_part_of_the_fold(
    script: list[tuple[Any, ...]], in_memory: int
) -> None:
    asyncio.run(Slowly(in_memory).live([("policy", HEDGES[0]), ("settle",), *script]))


LABEL = ("label", "ann", 0, 0.0)
CUT_SHORT = [
    LABEL, ("let", 2), ("policy", POLICIES[1]), LABEL, ("let", 2), ("save",), ("let", 1),
    ("crash",),
]  # fmt: skip
cuts = st.sampled_from(
    [
        LABEL,
        ("label", "bob", 1, 0.2),
        ("policy", HEDGES[0]),
        ("policy", POLICIES[1]),
        ("policy", POLICIES[3]),
        ("save",),
        ("let", 1),
        ("let", 2),
        ("crash",),
    ]
)


@settings(allow, max_examples=150)
@given(st.lists(cuts, min_size=5, max_size=30), st.integers(1, 3))
@example(CUT_SHORT, 1)
def test_snapshots_that_are_cut_short_at_a_change_of_policy(
    script: list[tuple[Any, ...]], in_memory: int
) -> None:
    asyncio.run(Slowly(in_memory).live([("policy", HEDGES[0]), *script]))
