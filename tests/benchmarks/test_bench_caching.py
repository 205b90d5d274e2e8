from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import caching
from benchmarks.__main__ import main
from benchmarks.traces import TRACES, Trace, bursts, drifting, loop, scans, shifting, zipf
from clipper.eviction import POLICIES

KEYS, REQUESTS, ENTRIES = 1000, 20_000, 50


@pytest.mark.parametrize("trace", TRACES, ids=lambda trace: trace.name)
def test_a_trace_comes_from_its_seed(trace: Trace) -> None:
    one, again = (trace.requests(1, KEYS, REQUESTS, ENTRIES) for _ in range(2))
    assert one.shape == (REQUESTS,) and one.min() >= 0
    assert np.array_equal(one, again)
    if not trace.name.startswith("loop"):
        assert not np.array_equal(one, trace.requests(2, KEYS, REQUESTS, ENTRIES))


def test_zipf_has_its_probabilities() -> None:
    counts = np.bincount(zipf(1.0).requests(1, KEYS, 200_000, 0), minlength=KEYS)
    harmonic = (1 / np.arange(1, KEYS + 1)).sum()
    expected = 200_000 / harmonic / np.array([1, 2, 10, 100])
    assert counts[[0, 1, 9, 99]] == pytest.approx(expected, rel=0.15)
    assert len(counts) == KEYS


@pytest.mark.parametrize("trace", [scans(0.2), bursts(0.2)], ids=["scans", "bursts"])
def test_what_is_scanned_comes_once(trace: Trace) -> None:
    found = trace.requests(1, KEYS, REQUESTS, ENTRIES)
    scanned = found[found >= KEYS]
    assert len(np.unique(scanned)) == len(scanned)
    assert len(scanned) == pytest.approx(0.2 * REQUESTS, rel=0.05)


def test_a_loop_comes_round() -> None:
    found = loop(1.1).requests(1, KEYS, REQUESTS, ENTRIES)
    assert found[:56].tolist() == [*range(55), 0]


def test_what_is_popular_changes() -> None:
    for trace in (shifting(4), drifting(1.0)):
        found = trace.requests(1, KEYS, REQUESTS, ENTRIES)
        assert found.max() < KEYS
        tops = [np.bincount(part).argmax() for part in np.array_split(found, 4)]
        assert len(set(tops)) == 4


@pytest.mark.parametrize("policy", POLICIES)
def test_hits_are_counted_after_the_warm_up(policy: str) -> None:
    keys = [caching.key_of(number) for number in range(10)]
    cache = caching.make_cache(policy, 5)
    caching.ask_all(cache, keys)
    assert len(cache) == 5
    assert caching.hit_ratio(caching.make_cache(policy, 10), keys + keys * 4) == 1.0
    assert caching.hit_ratio(caching.make_cache(policy, 5), keys * 5) == 0.0


def test_the_verdict_names_what_is_lost() -> None:
    ratios = [
        caching.HitRatio(trace.name, share, policy, 0.5)
        for trace in TRACES
        for share in caching.SHARES
        for policy in POLICIES
    ]
    ratios[1] = caching.HitRatio(TRACES[0].name, caching.SHARES[0], "lru", 0.75)
    assert "LRU in 1; " in caching.verdict(ratios)
    assert caching.verdict(ratios).endswith("Zipf 0.9, 1% of the keys (+0.250)")


def test_a_short_run_writes_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(caching, "TRACES", TRACES[:1])
    assert main(["caching", "--short", "--json", str(tmp_path / "all.json")]) == 0
    out = capsys.readouterr().out
    assert "Zipf 0.9" in out and "SIEVE hits more in" in out
    found = json.loads((tmp_path / "all.json").read_text())
    assert len(found["ratios"]) == len(caching.SHARES) * len(POLICIES)
    assert [cost["policy"] for cost in found["costs"]] == list(POLICIES)
    assert all(cost["hit_ns"] > 0 for cost in found["costs"])
