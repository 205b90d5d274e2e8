"""The arrivals of an open-loop load, and what became of each."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

MOST_KINDS = 200  # of answers that are told apart

PENDING, MODEL, BROKEN, UNSENT, OTHER = "unanswered", "model", "broken", "unsent", "other"
# Then "refused STATUS" and "default EXPLANATION", numbered as they come.
DEFAULT = b'"default":true'
EXPLANATION = b'"default_explanation":"'


def draw_arrivals(loads: Sequence[tuple[float, float]], seed: int) -> list[float]:
    """Seconds at which requests are due: Poisson, at each load's rate for its seconds."""
    numbers = random.Random(seed)
    due: list[float] = []
    begin = 0.0
    for rate, seconds in loads:
        at = begin + numbers.expovariate(rate) if rate > 0 else float("inf")
        while at < begin + seconds:
            due.append(at)
            at += numbers.expovariate(rate)
        begin += seconds
    return due


class Arrivals:
    """When each request was due, when it was sent, how late the generator looked at it,
    when it was answered and how. Times on the monotonic clock, nan where it never was."""

    def __init__(self, due: Sequence[float]) -> None:
        never = [float("nan")] * len(due)
        self.due = list(due)
        self.sent, self.lag = array("d", never), array("d", never)
        self.answered = array("d", never)
        self.kind = bytearray(len(due))  # indexes of `kinds`
        self.kinds = [PENDING, MODEL, BROKEN, UNSENT, OTHER]
        self._codes: dict[str | int | bytes, int] = {
            kind: code for code, kind in enumerate(self.kinds)
        }

    def __len__(self) -> int:
        return len(self.due)

    def shift(self, begin: float) -> None:
        self.due = [begin + due for due in self.due]

    def settle(self, index: int, kind: str | int | bytes) -> None:
        """`kind`: one of those above, the status of a refusal, or an explanation."""
        code = self._codes.get(kind)
        self.kind[index] = self._learn(kind) if code is None else code

    def _learn(self, kind: str | int | bytes) -> int:
        if len(self.kinds) >= MOST_KINDS:
            return self.kinds.index(OTHER)
        name = f"refused {kind}" if isinstance(kind, int) else f"default {_text(kind)}"
        self.kinds.append(name)
        self._codes[kind] = len(self.kinds) - 1
        return self._codes[kind]


def _text(quoted: str | bytes) -> str:
    return quoted if isinstance(quoted, str) else quoted.decode(errors="replace")


def classify(status: int, answer: bytes) -> str | int | bytes:
    """The kind of an answer, as Arrivals.settle takes it; nothing of it is parsed."""
    if status != 200:
        return status
    if DEFAULT not in answer:
        return MODEL
    begin = answer.find(EXPLANATION)
    if begin < 0:
        return b""
    begin += len(EXPLANATION)
    return answer[begin : answer.index(b'"', begin)]
