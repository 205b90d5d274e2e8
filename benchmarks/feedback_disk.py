"""What feedback and decisions take on the disk, and how fast the disk is."""

from __future__ import annotations

import os
import sqlite3
import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.feedback_rate import MODELS, POLICIES, SLO_MICROS, make_noisy
from benchmarks.load import LoadError
from benchmarks.work import make_rows

CONTEXTUAL, FEATURES = "linucb", 32  # whose decisions keep their contexts as well


@dataclass(frozen=True)
class Sizes:
    """What one policy writes, in bytes."""

    policy: str
    entry: float  # of the log, for each piece
    entry_disk: float  # the same with its key, indexes and pages
    decision: float  # for each query


async def measure_sizes(scratch: Path, queries: int) -> list[Sizes]:
    """Predict one by one, say what each was worth, and weigh what is on the disk."""
    from clipper import Server

    data = scratch / "sizes-data"
    found: dict[str, tuple[float, float]] = {}
    rows = make_rows("sum", queries)
    async with Server(data_dir=data) as server:
        models = [f"noisy{number}" for number in range(MODELS)]
        for number, model in enumerate(models):
            await server.deploy(model, 1, make_noisy(number), input_type="doubles")
        for policy in (*POLICIES, CONTEXTUAL):
            features = FEATURES if policy == CONTEXTUAL else 0
            options = {"features": features} if features else {}
            await server.register_application(
                policy, models=models, input_type="doubles", slo_micros=SLO_MICROS,
                policy={"name": policy, "options": options},
            )  # fmt: skip
            found[policy] = await _fill(server, policy, rows, features)
    entries = [entry for entry, _ in found.values()]
    pages = _bytes_of(data / "clipper.db", "feedback") / queries
    beside = (pages - sum(entries)) / len(entries)
    return [
        Sizes(policy, entry, entry + beside, kept)
        for policy, (entry, kept) in found.items()
    ]


async def _fill(
    server: Any, policy: str, rows: list[list[float]], features: int
) -> tuple[float, float]:
    """Bytes of an entry and of a decision."""
    learning, number = server.engine.learning, server.engine.application(policy).number
    before = learning.decisions.written_bytes
    items = []
    chance = Random(7)
    for row in rows:
        context = [chance.gauss(0, 1) for _ in range(features)] or None
        prediction = await server.predict(policy, row, context=context)
        label = int(sum(row) * 1e3) % 2
        items.append({"query_id": prediction.query_id, "label": label})
    learning.decisions.flush()
    if any(outcome is not False for outcome in await server.update_many(policy, items)):
        raise LoadError(f"{policy} refused feedback")
    size = await learning.log.size(number)  # behind the chunk in the writer's queue
    return size.entry_bytes / size.entries, (
        learning.decisions.written_bytes - before
    ) / len(rows)


def _bytes_of(database: Path, table: str) -> float:
    """Bytes of the pages of a table and its indexes."""
    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(
            "SELECT sum(pgsize) FROM dbstat WHERE name IN "
            "(SELECT name FROM sqlite_schema WHERE tbl_name = ?)",
            (table,),
        ).fetchone()
    return float(found[0])


def flush_seconds(directory: Path, count: int = 100) -> float:
    """What the disk takes to make 4 KB durable: the median."""
    times = []
    path = directory / "flush"
    with open(path, "wb", buffering=0) as file:
        for _ in range(count):
            file.write(bytes(4096))
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    path.unlink()
    return statistics.median(times)
