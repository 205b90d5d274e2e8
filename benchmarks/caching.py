"""The prediction cache: hit ratios of SIEVE and LRU on seeded traces, and what they cost.

Ratios are exact and the same on every machine: both policies get the same requests and
hold the same number of entries. Times are those of the cache's own methods, the least of
interleaved rounds.
"""

from __future__ import annotations

import argparse
import timeit
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, repeat
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.command import make_options, write_json
from benchmarks.results import describe_machine
from benchmarks.tables import table
from benchmarks.traces import TRACES, Trace
from clipper.cache import PredictionCache, cache_key, key_prefix
from clipper.eviction import POLICIES

SHARES = (0.01, 0.05, 0.1, 0.25)  # of the keys, that the cache holds
WARM = 0.2  # of the requests, before hits are counted
EQUAL = 0.001  # hit ratios that are no further apart count as equal
HOT = 500  # keys that are asked for again and again where hits are timed
OUTPUT = b"0.123456"
PREFIX = key_prefix(1)

Cache = PredictionCache[object]


@dataclass(frozen=True)
class HitRatio:
    trace: str
    share: float  # of the keys, that the cache holds
    policy: str
    ratio: float  # hits among the requests after the first WARM of them


@dataclass(frozen=True)
class Cost:
    policy: str
    hit_ns: float  # get
    hit_since_ns: float  # get_since: an application with a TTL
    miss_ns: float  # get, join, begin, and finish, which evicts one
    longest_us: float  # one eviction where every entry was hit
    entry_bytes: int  # beside key and output


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    ratios = [
        HitRatio(trace.name, share, policy, ratio)
        for trace in TRACES
        for share in SHARES
        for policy, ratio in compare(trace, share, chosen).items()
    ]
    costs = measure_costs(chosen.rounds, 20_000 if chosen.short else 200_000)
    about = describe_machine() | {
        "seed": chosen.seed,
        "keys": chosen.keys,
        "requests": chosen.requests,
    }
    print(f"{about['processor']}, {about['system']}, Python {about['python']}\n")
    print(f"{ratio_table(ratios)}\n\n{cost_table(costs)}\n\n{verdict(ratios)}")
    if chosen.json is not None:
        found = {
            "about": about,
            "ratios": [asdict(ratio) for ratio in ratios],
            "costs": [asdict(cost) for cost in costs],
        }
        write_json(chosen.json, found)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    options = make_options("caching", __doc__)
    add = options.add_argument
    add("--short", action="store_true", help="a tenth of keys and requests: does it work")
    add("--json", type=Path, metavar="FILE", help="write every figure there")
    add("--seed", type=int, default=1)
    chosen = options.parse_args(arguments)
    chosen.keys = 2_000 if chosen.short else 20_000
    chosen.requests = 20 * chosen.keys
    chosen.rounds = 3 if chosen.short else 9
    return chosen


# -- hit ratios ------------------------------------------------------------------------


def make_cache(policy: str, entries: int) -> Cache:
    """A cache that holds exactly so many outputs of OUTPUT under keys of a number."""
    size = len(key_of(0)) + len(OUTPUT) + POLICIES[policy]().overhead
    return PredictionCache(entries * size, policy)


def key_of(number: int) -> bytes:
    return cache_key(PREFIX, b"%012d" % number)


def compare(trace: Trace, share: float, chosen: argparse.Namespace) -> dict[str, float]:
    """The hit ratio of each policy."""
    entries = int(share * chosen.keys)
    numbers = trace.requests(chosen.seed, chosen.keys, chosen.requests, entries)
    keys = {number: key_of(number) for number in set(numbers.tolist())}
    requests = [keys[number] for number in numbers.tolist()]
    return {policy: hit_ratio(make_cache(policy, entries), requests) for policy in POLICIES}


def hit_ratio(cache: Cache, requests: list[bytes]) -> float:
    """Hits among the requests after the first WARM of them."""
    first = int(WARM * len(requests))
    ask_all(cache, requests[:first])
    before = cache.hits
    ask_all(cache, requests[first:])
    return (cache.hits - before) / (len(requests) - first)


def ask_all(cache: Cache, requests: Iterable[bytes]) -> None:
    for key in requests:
        ask(cache, key)


def ask(cache: Cache, key: bytes) -> None:
    if cache.get(key) is None:
        cache.join(key)
        cache.begin(key, cache)
        cache.finish(key, cache, OUTPUT)


# -- costs -----------------------------------------------------------------------------


def measure_costs(rounds: int, entries: int) -> list[Cost]:
    """The least of the rounds, in which the policies take turns."""
    caches = {policy: make_cache(policy, entries) for policy in POLICIES}
    for cache in caches.values():
        ask_all(cache, map(key_of, range(entries)))
    fresh = count(entries)
    samples: dict[str, list[tuple[float, ...]]] = {policy: [] for policy in POLICIES}
    for _ in range(rounds):
        for policy, cache in caches.items():
            samples[policy].append(sample(cache, fresh, max(1000, entries // 10)))
    costs = []
    for policy, found in samples.items():
        hit, hit_since, missing, longest = map(min, zip(*found, strict=True))
        overhead = POLICIES[policy]().overhead
        costs.append(Cost(policy, hit, hit_since, missing, longest, overhead))
    return costs


def sample(cache: Cache, fresh: count[int], number: int) -> tuple[float, ...]:
    """Hits in ns, without and with an age; misses in ns; one eviction in us."""
    known = cache.keys_of(PREFIX)[-HOT:] * (number // HOT)
    hit = per_key(cache.get, known)
    hit_since = per_key(cache.get_since, known, repeat(0.0))
    missed = [key_of(next(fresh)) for _ in range(number)]
    before = cache.evictions
    missing = per_key(partial(ask, cache), missed)
    assert cache.evictions - before == number
    for key in cache.keys_of(PREFIX):
        cache.get(key)
    last = key_of(next(fresh))
    start = perf_counter()
    ask(cache, last)
    return hit, hit_since, missing, (perf_counter() - start) * 1e6


def per_key(work: Callable[..., Any], keys: list[bytes], *more: Iterable[Any]) -> float:
    """Nanoseconds that `work` takes for a key, with the loop around it, which is C."""
    calls = map(work, keys, *more)
    return timeit.timeit(lambda: deque(calls, maxlen=0), number=1) / len(keys) * 1e9


# -- the tables ------------------------------------------------------------------------


def ratio_table(ratios: list[HitRatio]) -> str:
    found = {(one.trace, one.share, one.policy): one.ratio for one in ratios}
    heads = ["hit ratio", *(f"{share:.0%} {p}" for share in SHARES for p in POLICIES)]
    lines = [
        [
            trace.name,
            *(f"{found[trace.name, s, p]:.3f}" for s in SHARES for p in POLICIES),
        ]
        for trace in TRACES
    ]
    return table(heads, lines, left={0})


def cost_table(costs: list[Cost]) -> str:
    heads = ["", "hit ns", "hit with a TTL ns", "miss ns", "longest eviction us"]
    lines = [
        [
            cost.policy,
            f"{cost.hit_ns:.0f}",
            f"{cost.hit_since_ns:.0f}",
            f"{cost.miss_ns:.0f}",
            f"{cost.longest_us:.0f}",
            str(cost.entry_bytes),
        ]
        for cost in costs
    ]
    return table([*heads, "bytes per entry"], lines, left={0})


def verdict(ratios: list[HitRatio]) -> str:
    """How often SIEVE beats LRU, and where it loses, in words."""
    found = {(one.trace, one.share, one.policy): one.ratio for one in ratios}
    gains = {
        (trace.name, share): found[trace.name, share, "sieve"]
        - found[trace.name, share, "lru"]
        for trace in TRACES
        for share in SHARES
    }
    lost = {case: gain for case, gain in gains.items() if gain < -EQUAL}
    lines = [
        f"SIEVE hits more in {sum(gain > EQUAL for gain in gains.values())} cases of "
        f"{len(gains)}, LRU in {len(lost)}; SIEVE's ratio is "
        f"{sum(gains.values()) / len(gains):+.3f} in the mean."
    ]
    lines += [
        f"LRU hits more: {trace}, {share:.0%} of the keys ({-gain:+.3f})"
        for (trace, share), gain in lost.items()
    ]
    return "\n".join(lines)
