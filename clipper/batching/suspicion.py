"""Whether a row is to blame for the end of a worker.

The rows of the batch under which it died or hung are tried alone: one that ends another
worker is poison; if none does, the first worker ended of itself. The supervisor must know,
because poison says nothing against a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipper.batching.load import Flight, Replica
from clipper.batching.recovery import RETRIES, Recovery
from clipper.values import Verdict

OnVerdict = Callable[[Sequence[Replica], Verdict], None]


class Suspicion:
    """Workers that ended under the same rows."""

    # State: how many rows, or flights of several, have still to be tried; whether all so
    # far were; whether it is known that one of them is poison, or asked elsewhere.

    __slots__ = ("complete", "ended", "left", "proved")

    def __init__(
        self, ended: Sequence[Replica], rows: int, *, proved: bool = False
    ) -> None:
        self.ended = ended
        self.left = rows
        self.complete = True
        self.proved = proved


class Suspicions:
    """Opens and closes them. `on_verdict` hears OPEN of a worker when it ends, and another
    verdict once its rows were tried, or at once where none is to be."""

    # No state but that of each suspicion, which is closed when its last row was answered,
    # given up or found guilty.

    def __init__(self, on_verdict: OnVerdict) -> None:
        self._on_verdict = on_verdict

    def ended(
        self, flight: Flight, recovery: Recovery, other: Flight | None
    ) -> Suspicion | None:
        """The flight's worker is gone. Returns what the rows that are to be tried alone
        are suspected of. `other` has the same rows and is still in flight."""
        before, failed, rows = flight.suspicion, recovery.failed, len(recovery.alone)
        gone = [*(before.ended if before is not None else ()), flight.load.replica]
        self._on_verdict(gone[-1:], Verdict.OPEN)
        if failed and (flight.rows == 1 or failed[0].attempts > RETRIES):
            self._on_verdict(gone, Verdict.POISON)
            if before is not None:
                before.proved = True
                self._close(before, 1)
            return Suspicion(gone, rows, proved=True) if rows else None
        if other is not None and other.suspicion is not None:
            other = None
        if rows or other is not None:
            suspicion = Suspicion(gone, rows + (other is not None))
            if other is not None:
                other.suspicion = suspicion
            if before is not None:
                before.proved = True  # it is for the new one to tell
            return suspicion
        # other replicas have answered all rows, or none may be tried again
        self._on_verdict(gone, Verdict.UNKNOWN if failed else Verdict.OWN)
        return None

    def survived(self, suspicion: Suspicion) -> None:
        """A worker has answered one of the suspects, whatever the answer."""
        self._close(suspicion, 1)

    def dropped(self, suspicion: Suspicion | None, rows: int) -> None:
        """So many suspects will not be tried."""
        if suspicion is not None and rows:
            suspicion.complete = False
            self._close(suspicion, rows)

    def _close(self, suspicion: Suspicion | None, rows: int) -> None:
        if suspicion is None:
            return
        suspicion.left -= rows
        if not suspicion.left and not suspicion.proved:
            verdict = Verdict.OWN if suspicion.complete else Verdict.UNKNOWN
            self._on_verdict(suspicion.ended, verdict)
