"""Which rows to give up, and how many to take, when not all can be answered in time.

The rule of expected goodput: among batch sizes on a geometric grid, each with the heads
that are hopeless for it given up, take the one with the most expected answers in time per
second of the replica. Dropping what would be late anyway before it can shrink the batch is
the early drop of Nexus (Shen et al., SOSP 2019); to weigh by the distribution of service
times and not by one number is ORLOJ's idea (Wu et al., 2022).
"""

from __future__ import annotations

import numpy as np

from clipper.batching.controller import Backlog, Plan
from clipper.batching.latency import LatencyModel

GRID = 0.8  # each batch size that is tried, of the next larger one
MOST_DEADLINES = 512  # looked at; longer queues are thinned out evenly
MOST_ROWS = 8192

_new = tuple.__new__


def choose(latency: LatencyModel, now: float, backlog: Backlog, limit: int) -> Plan:
    """The plan for a batch of at most `limit` rows that begins at `now`, in seconds on the
    clock of the deadlines."""
    rows = min(backlog.rows, limit)
    needed = latency.fixed + latency.per_row * rows + latency.spread
    if backlog.head - now >= needed or not latency.known:
        return _new(Plan, (0, rows))  # the usual case, without the slower constructor
    return _most_goodput(latency, now, backlog, rows)


def _most_goodput(latency: LatencyModel, now: float, backlog: Backlog, limit: int) -> Plan:
    slack = np.array(backlog.deadlines(MOST_ROWS)) - now
    each = -(-len(slack) // MOST_DEADLINES)  # rows that one looked-at deadline stands for
    thin = slack[::each]
    residuals = np.array(latency.residuals())
    # each size with the heads given up that would more likely be late than not, and with
    # those that are not safe: where enough others wait, to run them is a needless risk
    sizes = np.tile(_grid(limit), 2)
    seconds = latency.fixed + latency.per_row * sizes
    late = np.repeat([residuals[len(residuals) // 2], latency.spread], len(sizes) // 2)
    hopeless = np.searchsorted(slack, seconds + late)
    first = np.minimum(-(-hopeless // each), len(thin))
    last = np.minimum(first + np.maximum(1, sizes // each), len(thin))
    in_time = np.searchsorted(residuals, thin[None, :] - seconds[:, None]) / len(residuals)
    sums = np.zeros((len(sizes), len(thin) + 1))
    np.cumsum(in_time, axis=1, out=sums[:, 1:])
    tried = np.arange(len(sizes))
    share = (sums[tried, last] - sums[tried, first]) / np.maximum(1, last - first)
    answers = share * np.minimum(sizes, len(slack) - hopeless)
    costs = seconds + max(0.0, float(residuals.mean()))
    best = int(np.argmax(answers / np.maximum(costs, 1e-9)))
    if answers[best] <= 0.0:
        # none can be in time; a batch that ran all the same would be work in vain
        too_late = int(np.searchsorted(slack, latency.seconds(1)))
        return Plan(min(backlog.rows, max(1, too_late)), 0)
    drop = min(int(hopeless[best]), backlog.rows - 1)
    return Plan(drop, max(1, min(int(sizes[best]), backlog.rows - drop)))


def _grid(limit: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    sizes = [limit]
    while sizes[-1] > 1:
        sizes.append(min(sizes[-1] - 1, int(sizes[-1] * GRID)) or 1)
    return np.array(sizes)
