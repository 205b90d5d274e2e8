"""What becomes of the rows of a batch that failed: a rule for each kind of failure.

One row must not fail its neighbours. When a worker dies or hangs, the rows of its batch are
evaluated once more, each alone, and one that ends a worker alone is given up. When the
function raises, the batch is cut in halves until the rows that make it raise are alone;
where it returns something else than one output for each row, no half would do better, and
each row is alone at once. What a worker had not begun with simply waits again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clipper.batching.job import Job, Slice, halves, singles
from clipper.values import DEADLY, FailureKind

# How often a row may be evaluated again after a worker ended under it.
RETRIES = 1

Parts = list[Job | Slice]


class Recovery(NamedTuple):
    """`queued` goes back to the queue, each of `alone` is evaluated in a batch of its own,
    and `failed` gets the error."""

    queued: Sequence[Job | Slice] = ()
    alone: Sequence[Parts] = ()
    failed: Sequence[Job | Slice] = ()


def recover(kind: FailureKind, parts: Parts, batch_rows: int, retry: bool) -> Recovery:
    """`parts` are what is left to be settled of a batch of `batch_rows` rows; `retry` is
    false for a model whose rows must not be evaluated twice."""
    if kind is FailureKind.RETURNED:
        # nothing happened to them; what was suspect before waits alone
        return Recovery(
            queued=[part for part in parts if not part.attempts],
            alone=[[part] for part in parts if part.attempts],
        )
    if kind in DEADLY and retry:
        rows = list(singles(parts))
        for row in rows:
            row.attempts += 1
        return Recovery(
            alone=[[row] for row in rows if row.attempts <= RETRIES],
            failed=[row for row in rows if row.attempts > RETRIES],
        )
    if batch_rows > 1 and retry:
        # where other rows of the batch may be to blame, one that is left is not yet
        left = sum(part.rows for part in parts)
        if kind is FailureKind.RAISED:
            return Recovery(alone=halves(parts) if left > 1 else [parts] if left else ())
        return Recovery(alone=[[row] for row in singles(parts)])
    return Recovery(failed=parts)
