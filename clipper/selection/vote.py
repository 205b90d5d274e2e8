"""What a combined answer is; answers taken as they are: by vote or by lot.

Outputs are JSON text. What members that are out would have said is left out of account:
the weights of those that are present count, relative to each other (equal ones, if all
of them are 0). Ties go to the first in the order of the arms.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple, TypeAlias

import msgspec

from clipper.selection.losses import same

# Sums of weights that differ by less, relatively, are a tie that rounding hides.
TIE = 1e-12

# Arrays and objects up to this size are compared by value, longer ones as text.
MOST_COMPARED = 1024

Texts: TypeAlias = Sequence["bytes | None"]
Weights: TypeAlias = Sequence[float]


class Combined(NamedTuple):
    """`confidence` lies in [0, 1]. `agreeing` are the members whose output is the answer,
    or comes closest to it. `propensity` is how probable the answer was."""

    output: bytes
    confidence: float
    agreeing: tuple[int, ...]
    propensity: float = 1.0


class Combiner(ABC):
    """`texts` and `weights` go by member, in the order of the arms; a text is None for a
    member without an answer."""

    @abstractmethod
    def combine(self, texts: Texts, weights: Weights, rng: Random) -> Combined:
        """The answer. Raises ValueError if no member has one."""

    def decided(self, texts: Texts, weights: Weights) -> bool:
        """Whether members that are out can no longer change the answer."""
        return None not in texts or (
            not any(w for text, w in zip(texts, weights, strict=True) if text is None)
            and any(weights)
        )


class Vote(Combiner):
    """The answer with the most weight; the confidence is its share."""

    def combine(self, texts: Texts, weights: Weights, rng: Random) -> Combined:
        answers = distinct(texts)
        if len(answers) == 1:
            return Combined(_text(texts, answers[0]), 1.0, tuple(answers[0]))
        shares, weights = count(answers, weights)
        best = _leader(answers, shares, weights)
        members = answers[best]
        confidence = min(1.0, shares[best] / sum(shares))
        return Combined(_text(texts, members), confidence, tuple(members))

    def decided(self, texts: Texts, weights: Weights) -> bool:
        if None not in texts:
            return True
        if not any(weights):
            weights = [1.0] * len(weights)
        out = [i for i, text in enumerate(texts) if text is None and weights[i]]
        answers = distinct(texts)
        shares = [sum([weights[i] for i in members]) for members in answers]
        if not out or not any(shares):
            return not out and bool(answers)
        leader = _leader(answers, shares, weights)
        lead, missing = shares[leader], sum([weights[i] for i in out])
        first = _first(answers[leader], weights)
        # an answer nobody has given yet, and those there are: each may get all that is out
        rivals = [(0.0, out[0])]
        for index, share in enumerate(shares):
            if index != leader and share:
                rivals.append((share, min(_first(answers[index], weights), out[0])))
        clear = 2 * TIE * sum(weights)
        return all(
            lead - share - missing > clear
            or (lead - share - missing >= -clear / 100 and first < start)
            for share, start in rivals
        )


class Sample(Combiner):
    """One of the distinct answers, drawn by weight, each of K with a probability of at
    least `exploration` / K (Auer et al. 2002, section 7)."""

    def __init__(self, exploration: float = 0.0) -> None:
        self.exploration = exploration

    def combine(self, texts: Texts, weights: Weights, rng: Random) -> Combined:
        answers = distinct(texts)
        shares, _ = count(answers, weights)
        total, least = sum(shares), self.exploration / len(answers)
        odds = [(1 - self.exploration) * share / total + least for share in shares]
        left = rng.random() * sum(odds)
        drawn = odds.index(max(odds))  # where rounding leaves a rest
        for index, p in enumerate(odds):
            if left < p:
                drawn = index
                break
            left -= p
        members = answers[drawn]
        confidence = min(1.0, shares[drawn] / total)
        p = min(1.0, odds[drawn])
        return Combined(_text(texts, members), confidence, tuple(members), p)

    def decided(self, texts: Texts, weights: Weights) -> bool:
        # exploration can draw an answer of no weight
        return None not in texts or (
            not self.exploration and super().decided(texts, weights)
        )


def distinct(texts: Texts) -> list[list[int]]:
    """The members of each distinct answer, answers and members in the order of the arms.
    Texts that differ but mean the same value ("1" and "1.0") are one answer."""
    found: dict[bytes, list[int]] = {}
    for index, text in enumerate(texts):
        if text is None:
            continue
        if text in found:
            found[text].append(index)
        else:
            found[text] = [index]
    return list(found.values()) if len(found) < 2 else _merge(found)


def _merge(found: dict[bytes, list[int]]) -> list[list[int]]:
    merged: dict[Any, list[int]] = {}
    nested: list[tuple[Any, bytes]] = []
    for text, members in found.items():
        key = _key(text, nested)
        if key in merged:
            merged[key] = sorted(merged[key] + members)
        else:
            merged[key] = members
    return list(merged.values())


def _key(text: bytes, nested: list[tuple[Any, bytes]]) -> Any:
    """Equal for texts of equal value: the number itself, or the first text of its value.
    `nested` are the arrays and objects met so far, with their texts."""
    first = text[:1]
    if first in b"-0123456789":
        return decoded(text, text)
    if first not in b"[{" or len(text) > MOST_COMPARED:
        return text
    value = decoded(text, text)
    for other, key in nested:
        if same(value, other):
            return key
    nested.append((value, text))
    return text


def decoded(text: bytes, default: Any) -> Any:
    """The value of a JSON text, `default` for what is none."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return default


def count(answers: list[list[int]], weights: Weights) -> tuple[list[float], Weights]:
    """The weight of each answer, and the weights that count. Raises ValueError if there
    is no answer."""
    if not answers:
        raise ValueError("no member has an answer")
    shares = [sum([weights[i] for i in members]) for members in answers]
    if any(shares):
        return shares, weights
    return [float(len(members)) for members in answers], [1.0] * len(weights)


def _leader(answers: list[list[int]], shares: list[float], weights: Weights) -> int:
    most = max(shares) * (1 - TIE)
    tied = [index for index, share in enumerate(shares) if share >= most]
    if len(tied) == 1:
        return tied[0]
    return min(tied, key=lambda index: _first(answers[index], weights))


def _first(members: list[int], weights: Weights) -> int:
    """The first member that counts."""
    return next((i for i in members if weights[i]), members[0])


def _text(texts: Texts, members: list[int]) -> bytes:
    text = texts[members[0]]
    assert text is not None
    return text
