from __future__ import annotations

import pytest

from clipper.learning import bloom
from clipper.learning.bloom import Bloom


def test_an_empty_filter_costs_nothing_and_knows_nobody() -> None:
    known = Bloom()
    assert (1, "ann") not in known
    assert len(known._bits) == 0


def test_who_was_added_is_known() -> None:
    known = Bloom()
    keys = [(number, f"user{number % 97}é") for number in range(2000)]
    for key in keys:
        known.add(key)
    assert all(key in known for key in keys)
    assert len(known._bits) == 4 * 1024 * 1024


@pytest.mark.parametrize(("millions", "expected"), [(1, 5.1e-5), (3, 6.1e-3)])
def test_wrong_answers_are_as_rare_as_is_said(
    monkeypatch: pytest.MonkeyPatch, millions: int, expected: float
) -> None:
    # the rate depends on bits per user alone: a filter of 1/512 of the size
    monkeypatch.setattr(bloom, "_BITS", 16)
    monkeypatch.setattr(bloom, "_MASK", (1 << 16) - 1)
    known, asked = Bloom(), 300_000
    for number in range(millions * 10**6 // 512):
        known.add((1, f"user{number}"))
    wrong = sum((1, f"other{number}") in known for number in range(asked))
    count = expected * asked
    assert wrong <= count + 6 * count**0.5
    assert wrong >= count - 6 * count**0.5
