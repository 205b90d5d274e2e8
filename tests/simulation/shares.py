"""Who goes before others, looked at: fair shares of one model among applications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from clipper.batching.intake import Intake
from clipper.batching.job import Slice

Expect = Callable[[object, str], None]


class WatchedShares:
    """Follows what an intake lets in first, from the outside."""

    # State: work that waits to go first, by who asked for it and how much of a batch was
    # its part then; rows let in since the last batch, by who asked; rows of that batch and
    # of the one that was just sent; rows that ever went first.

    def __init__(
        self, intake: Intake, applications: Callable[[], int], expect: Expect
    ) -> None:
        self.expect = expect
        self.queue = intake.shares.queue
        self.rows = 0
        self._main = intake.queue
        self._applications = applications
        self._waiting: dict[Any, tuple[Any, int]] = {}
        self._let_in: Counter[Any] = Counter()
        self._before = 1
        self._sent = 1
        inner: Any = intake.shares
        self._favour, self._told = inner.favour, inner.sent
        inner.favour, inner.sent = self._watch_favour, self._watch_sent
        main: Any = intake.queue
        self._push = main.push
        main.push = self._watch_push

    @property
    def part(self) -> int:
        """The equal part of a batch that an application has."""
        return max(1, self._before // max(2, self._applications()))

    def _watch_favour(self, work: Any, all_waiting: Any) -> bool:
        self.expect(all_waiting is self._main, "shares of another queue")
        source, pressing = work.source, all_waiting.rows >= self._before
        favoured = bool(self._favour(work, all_waiting))
        if favoured:
            self.expect(pressing, "let in first though a batch takes all that waits")
            self._let_in[source] += work.rows
            self._waiting[work] = source, self.part
            self.expect(
                self._let_in[source] <= self.part,
                f"{self._let_in[source]} rows let in first, of a part of {self.part}",
            )
        return favoured

    def _watch_sent(self, rows: int) -> None:
        self.expect(rows == self._sent, "the shares heard of another batch")
        self._before = rows
        self._let_in.clear()
        self._told(rows)

    def _watch_push(self, work: Any) -> None:
        self._waiting.pop(work, None)  # who was dropped and joined again waits with all
        self._push(work)

    def taken(self, parts: Sequence[Any]) -> list[Any]:
        """Those parts of a new batch that went first."""
        first: list[Any] = []
        rows: Counter[Any] = Counter()
        most: Counter[Any] = Counter()
        for part in parts:
            work = part.block if type(part) is Slice else part
            if work not in self._waiting:
                continue
            source, allowed = self._waiting[work]
            first.append(part)
            rows[source] += part.rows
            most[source] = max(most[source], allowed)
        for source, count in rows.items():
            self.expect(
                count <= most[source],
                f"{count} rows went first, of a part of {most[source]}",
            )
        self.rows += rows.total()
        self._sent = sum(part.rows for part in parts)
        return first

    def check(self, waiting: Sequence[Any]) -> None:
        """`waiting` are the entries of the queue of what goes first."""
        now = set(waiting)
        self.expect(now <= self._waiting.keys(), "what was not let in first goes first")
        for work in self._waiting.keys() - now:
            del self._waiting[work]
