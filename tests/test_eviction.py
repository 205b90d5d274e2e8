from __future__ import annotations

import gc
from typing import get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from naive_eviction import NAIVE

from clipper import eviction
from clipper.config import Settings
from clipper.eviction import POLICIES, Entry, Eviction, Sieve

policies = pytest.mark.parametrize("name", POLICIES)


class Driver:
    """What the cache does with a policy."""

    def __init__(self, policy: Eviction) -> None:
        self.policy = policy

    def add(self, key: bytes, visited: bool = False) -> None:
        self.policy.add(key, Entry(key, 0.0, visited))

    def hit(self, key: bytes) -> None:
        entry = self.policy.entries[key]
        if self.policy.touch is None:
            entry.visited = True
        else:
            self.policy.touch(key)

    def evict(self) -> bytes:
        key, entry = self.policy.evict()
        assert entry.output == key
        return key


def drain(policy: Eviction) -> list[bytes]:
    """All keys in the order in which they go."""
    return [policy.evict()[0] for _ in range(len(policy.entries))]


# -- both ------------------------------------------------------------------------------


def test_the_setting_knows_the_policies() -> None:
    assert set(get_args(get_type_hints(Settings)["cache_policy"])) == POLICIES.keys()


@policies
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["ask", "ask", "remove", "evict"]), st.integers(0, 7)),
        max_size=200,
    )
)
def test_as_the_plain_policy(name: str, steps: list[tuple[str, int]]) -> None:
    """Keys that are asked for are hit, or added; everything goes in the same order."""
    driver, naive = Driver(POLICIES[name]()), NAIVE[name]()
    for step, number in steps:
        key = b"%d" % number
        if step == "evict":
            if naive.queue:
                assert driver.evict() == naive.evict()
        elif step == "remove":
            gone = driver.policy.remove(key)
            assert (gone is not None) == (key in naive.queue)
            if gone is not None:
                assert gone.output == key
                naive.remove(key)
        elif key in naive.queue:
            driver.hit(key)
            naive.hit(key)
        else:
            driver.add(key)
            naive.add(key)
        assert list(driver.policy.entries) == naive.queue
    assert drain(driver.policy) == [naive.evict() for _ in range(len(naive.queue))]
    driver.add(b"again")
    assert driver.evict() == b"again"


@policies
def test_without_hits_the_oldest_goes_first(name: str) -> None:
    driver = Driver(POLICIES[name]())
    for key in (b"a", b"b", b"c"):
        driver.add(key)
    assert drain(driver.policy) == [b"a", b"b", b"c"]


@policies
def test_what_is_asked_often_outlives_what_is_asked_once(name: str) -> None:
    driver = Driver(POLICIES[name]())
    driver.add(b"hot")
    for i in range(100):
        driver.hit(b"hot")
        driver.add(b"%d" % i)
        if i >= 5:
            assert driver.evict() != b"hot"


@policies
def test_an_empty_key_is_a_key(name: str) -> None:
    driver = Driver(POLICIES[name]())
    for key in (b"a", b"", b"b"):
        driver.add(key)
    driver.hit(b"a")
    assert sorted(drain(driver.policy)) == [b"", b"a", b"b"]


@policies
def test_entries_do_not_burden_the_garbage_collector(name: str) -> None:
    driver = Driver(POLICIES[name]())
    driver.add(b"a")
    driver.add(b"b")
    assert not any(map(gc.is_tracked, driver.policy.entries.values()))


# -- SIEVE -----------------------------------------------------------------------------


@pytest.fixture
def sieve() -> Driver:
    driver = Driver(Sieve())
    for key in (b"a", b"b", b"c", b"d"):
        driver.add(key)
    return driver


def test_the_hand_goes_on_where_it_was(sieve: Driver) -> None:
    sieve.hit(b"a")
    assert sieve.evict() == b"b"
    sieve.add(b"e")
    assert sieve.evict() == b"c", "a has lost its mark, but the hand is past it"
    assert [sieve.evict() for _ in range(3)] == [b"d", b"e", b"a"]


def test_what_comes_after_the_hand_went_round_is_not_met_first(sieve: Driver) -> None:
    for key in (b"a", b"b", b"c", b"d"):
        sieve.hit(key)
    assert sieve.evict() == b"a"
    sieve.add(b"e")
    assert [sieve.evict() for _ in range(4)] == [b"b", b"c", b"d", b"e"]


@pytest.mark.parametrize("patience", [1, 2, 3, 4])
def test_the_hand_loses_patience(
    sieve: Driver, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    monkeypatch.setattr(eviction, "PATIENCE", patience)
    for key in (b"a", b"b", b"c", b"d"):
        sieve.hit(key)
    assert sieve.evict() == [b"b", b"c", b"d", b"a"][patience - 1]
    assert sum(entry.visited for entry in sieve.policy.entries.values()) <= 4 - patience


def test_one_that_begins_with_a_mark_has_a_second_round(sieve: Driver) -> None:
    sieve.policy.remove(b"a")
    sieve.add(b"a", visited=True)
    assert drain(sieve.policy) == [b"b", b"c", b"d", b"a"]
    sieve.add(b"x", visited=True)
    sieve.add(b"y")
    assert drain(sieve.policy) == [b"y", b"x"]


def test_a_scan_does_not_wash_out_what_is_asked_often(sieve: Driver) -> None:
    for key in (b"a", b"b"):
        sieve.hit(key)
    for i in range(50):
        sieve.evict()
        sieve.add(b"%d" % i)
        if i % 3 == 0:
            sieve.hit(b"a")
            sieve.hit(b"b")
    assert {b"a", b"b"} <= sieve.policy.entries.keys()
