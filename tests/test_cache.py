from __future__ import annotations

import pytest
from fakes import ManualClock
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from naive_eviction import NAIVE

from clipper.cache import PredictionCache, cache_key, key_prefix
from clipper.eviction import POLICIES

PREFIX = key_prefix(7)
ENTRY_OVERHEAD = POLICIES["sieve"]().overhead


def filled(cache: PredictionCache[object], *keys: bytes) -> PredictionCache[object]:
    for key in keys:
        cache.finish(key, object(), b"1")
    return cache


# -- keys ------------------------------------------------------------------------------

shapes = st.none() | st.lists(st.integers(0, 2**40), min_size=2, max_size=4).map(tuple)
inputs = st.tuples(st.binary(max_size=600), shapes)


@given(one=inputs, other=inputs, a=st.integers(0, 3), b=st.integers(0, 3))
def test_other_inputs_and_versions_have_other_keys(
    one: tuple[bytes, tuple[int, ...] | None],
    other: tuple[bytes, tuple[int, ...] | None],
    a: int,
    b: int,
) -> None:
    same = (a, one) == (b, other)
    assert (cache_key(key_prefix(a), *one) == cache_key(key_prefix(b), *other)) == same


def test_a_long_input_has_a_short_key() -> None:
    key = cache_key(PREFIX, b"x" * 1_000_000)
    assert len(key) < 40
    assert key != cache_key(PREFIX, b"x" * 999_999)
    assert key != cache_key(PREFIX, b"x" * 1_000_000, (1000, 1000))


def test_a_short_input_cannot_pass_for_a_digest() -> None:
    digest = cache_key(PREFIX, b"x" * 1000)
    shaped = cache_key(PREFIX, b"x" * 8, (2, 4))
    for key in (digest, shaped):
        assert cache_key(PREFIX, key[len(PREFIX) + 1 :]) != key


# -- entries ---------------------------------------------------------------------------


def test_a_hit_gives_the_output_and_counts() -> None:
    cache = filled(PredictionCache(10_000), b"a")
    assert cache.get(b"a") == b"1" and cache.get(b"b") is None
    assert (cache.hits, len(cache)) == (1, 1)
    assert "entries=1" in repr(cache)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_not_asked_for_goes_first(policy: str) -> None:
    room = 3 * (POLICIES[policy]().overhead + 2)
    cache = filled(PredictionCache(room, policy), b"a", b"b", b"c")
    cache.get(b"a")
    filled(cache, b"d")
    assert cache.get(b"b") is None
    assert [cache.get(key) for key in (b"a", b"c", b"d")] == [b"1"] * 3
    assert cache.evictions == 1


def test_a_new_output_does_not_make_room_for_itself_by_going() -> None:
    cache = filled(PredictionCache(2 * (ENTRY_OVERHEAD + 2)), b"a", b"b")
    for key in (b"a", b"b"):
        cache.get(key)
    filled(cache, b"c")
    assert cache.get(b"c") == b"1" and len(cache) == 2


def test_an_output_larger_than_the_cache_evicts_nothing() -> None:
    cache = filled(PredictionCache(1000), b"a")
    cache.finish(b"b", object(), b"x" * 1000)
    assert cache.get(b"a") == b"1" and cache.get(b"b") is None


def test_a_cache_of_no_bytes_keeps_nothing_but_joins() -> None:
    cache: PredictionCache[str] = PredictionCache(0)
    cache.begin(b"a", "job")
    assert cache.join(b"a") == "job"
    cache.finish(b"a", "job", b"1")
    assert cache.get(b"a") is None and cache.bytes == 0


def test_an_output_takes_the_place_of_its_elder() -> None:
    cache = filled(PredictionCache(1000), b"a", b"b")
    cache.finish(b"a", object(), b"22")
    assert cache.get(b"a") == b"22"
    assert cache.bytes == 2 * ENTRY_OVERHEAD + 2 + 3
    assert (len(cache), cache.evictions) == (2, 0)


def test_an_output_that_is_too_large_takes_its_elder_along() -> None:
    cache = filled(PredictionCache(1000), b"a", b"b")
    cache.finish(b"a", object(), b"x" * 1000)
    assert cache.get(b"a") is None and cache.get(b"b") == b"1"
    assert cache.bytes == ENTRY_OVERHEAD + 2


def test_entries_of_one_version_can_be_dropped() -> None:
    cache: PredictionCache[object] = PredictionCache(10_000)
    keys = [cache_key(key_prefix(g), b"%d" % i) for g in (1, 2) for i in range(3)]
    filled(cache, *keys)
    found = cache.keys_of(key_prefix(1))
    assert found == keys[:3]
    cache.discard([*found, b"unknown"])
    assert [cache.get(key) for key in keys] == [None] * 3 + [b"1"] * 3
    cache.discard(keys)
    assert cache.bytes == 0


# -- age -------------------------------------------------------------------------------


def test_a_reader_may_ask_for_something_fresh() -> None:
    clock = ManualClock(100.0)
    cache: PredictionCache[object] = PredictionCache(1000, clock=clock)
    filled(cache, b"a")
    clock.move(5)
    assert cache.get_since(b"a", 100.0) == b"1"
    assert cache.get_since(b"a", 100.1) is None
    assert cache.get_since(b"b", 0.0) is None
    assert (cache.get(b"a"), cache.hits) == (b"1", 2)
    cache.finish(b"a", object(), b"2")
    assert cache.get_since(b"a", 105.0) == b"2"


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_too_old_is_not_kept_for_having_been_asked_for(policy: str) -> None:
    room = 2 * (POLICIES[policy]().overhead + 2)
    cache: PredictionCache[object] = PredictionCache(room, policy, ManualClock(100.0))
    filled(cache, b"a", b"b")
    assert cache.get_since(b"a", 200.0) is None
    filled(cache, b"c")
    assert cache.get(b"a") is None and cache.get(b"b") == b"1"


def test_what_is_evaluated_again_counts_as_asked_for() -> None:
    cache = filled(PredictionCache(2 * (ENTRY_OVERHEAD + 2)), b"a", b"b", b"b", b"c")
    assert cache.get(b"b") == b"1" and cache.get(b"a") is None


# -- single flight ---------------------------------------------------------------------


def test_the_same_miss_is_evaluated_once() -> None:
    cache: PredictionCache[str] = PredictionCache(1000)
    assert cache.join(b"a") is None
    cache.begin(b"a", "job")
    assert cache.join(b"a") == "job"
    cache.finish(b"a", "job", b"1")
    assert cache.join(b"a") is None
    assert (cache.misses, cache.joins) == (2, 1)


def test_a_failure_is_not_kept_and_the_next_query_begins_anew() -> None:
    cache: PredictionCache[str] = PredictionCache(1000)
    cache.begin(b"a", "job")
    cache.finish(b"a", "job", None)
    assert cache.get(b"a") is None and cache.join(b"a") is None


def test_who_ends_late_does_not_end_the_evaluation_of_another() -> None:
    cache: PredictionCache[str] = PredictionCache(1000)
    cache.begin(b"a", "second")
    cache.finish(b"a", "first", None)
    assert cache.join(b"a") == "second"


# -- everything at once ----------------------------------------------------------------

KEYS = st.sampled_from([b"k" * n for n in range(1, 9)])
OUTPUTS = st.binary(min_size=1, max_size=900) | st.text("1äß☃", min_size=1, max_size=300)


class Life(RuleBasedStateMachine):
    """The cache against plain dictionaries and a plain policy."""

    policy = "sieve"

    def __init__(self) -> None:
        super().__init__()
        self.overhead = POLICIES[self.policy]().overhead
        self.limit = 4 * self.overhead
        self.clock = ManualClock()
        self.cache: PredictionCache[object] = PredictionCache(
            self.limit, self.policy, self.clock
        )
        self.order = NAIVE[self.policy]()
        self.outputs: dict[bytes, bytes | str] = {}
        self.made: dict[bytes, float] = {}
        self.flying: dict[bytes, object] = {}

    def size(self, key: bytes, output: bytes | str) -> int:
        letters = len(output) if isinstance(output, bytes) else 2 * len(output)
        return len(key) + letters + self.overhead

    @property
    def total(self) -> int:
        return sum(self.size(key, output) for key, output in self.outputs.items())

    def forget(self, key: bytes) -> None:
        self.order.remove(key)
        del self.outputs[key]

    @rule(key=KEYS, ttl=st.none() | st.integers(0, 3))
    def ask(self, key: bytes, ttl: int | None) -> None:
        expected = self.outputs.get(key)
        if ttl is None:
            output = self.cache.get(key)
        else:
            since = self.clock.now() - ttl
            output = self.cache.get_since(key, since)
            if self.made.get(key, 0.0) < since:
                expected = None
        assert output == expected
        if output is not None:
            self.order.hit(key)
        elif (pending := self.cache.join(key)) is None:
            assert key not in self.flying
            self.flying[key] = pending = object()
            self.cache.begin(key, pending)
        else:
            assert self.flying[key] is pending

    @rule(key=KEYS, output=st.none() | OUTPUTS)
    def answer(self, key: bytes, output: bytes | str | None) -> None:
        self.cache.finish(key, self.flying.pop(key, object()), output)
        if output is None:
            return
        again = key in self.outputs
        if again:
            self.forget(key)
        size = self.size(key, output)
        if size > self.limit:
            return
        while self.total + size > self.limit:
            del self.outputs[self.order.evict()]
        self.order.add(key)
        if again:
            self.order.hit(key)
        self.outputs[key] = output
        self.made[key] = self.clock.now()

    @rule(keys=st.lists(KEYS, max_size=3))
    def discard(self, keys: list[bytes]) -> None:
        self.cache.discard(keys)
        for key in keys:
            if key in self.outputs:
                self.forget(key)

    @rule()
    def wait(self) -> None:
        self.clock.move(1)

    @invariant()
    def agrees(self) -> None:
        assert self.cache.bytes == self.total <= self.limit
        assert len(self.cache) == len(self.outputs)
        assert self.cache.in_flight == self.flying
        assert self.cache.keys_of(b"") == self.order.queue


class LruLife(Life):
    policy = "lru"


Life.TestCase.settings = settings(max_examples=100, deadline=None)
LruLife.TestCase.settings = Life.TestCase.settings
TestLife = Life.TestCase
TestLruLife = LruLife.TestCase
