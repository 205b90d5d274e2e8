"""The command `clipper`, counting how often its store makes something durable.

    BENCH_COMMITS=FILE python -m benchmarks.feedback_app serve

The counts are three doubles at the head of FILE, which another program may read at any
time: groups made durable, works in them, and the seconds that took.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from clipper.cli import main
from clipper.store.database import Database, Outcome, Read, Work

VARIABLE = "BENCH_COMMITS"
_COUNTS = struct.Struct("<3d")


class Commits(NamedTuple):
    """Groups with one flush each, the works in them, and the seconds of the thread."""

    groups: float = 0.0
    works: float = 0.0
    seconds: float = 0.0

    def since(self, before: Commits) -> Commits:
        return Commits(*(now - then for now, then in zip(self, before, strict=True)))

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(*_COUNTS.unpack(path.read_bytes()[: _COUNTS.size]))


def count_commits(path: Path) -> None:
    """Count what every Database of this process does, in the file at `path`."""
    path.write_bytes(bytes(_COUNTS.size))
    with open(path, "r+b") as file:
        shared = mmap.mmap(file.fileno(), _COUNTS.size)
    run, counts = Database.run, [0.0, 0.0, 0.0]

    def counted(database: Database, group: Sequence[Work]) -> list[Outcome]:
        begun = time.perf_counter()
        outcomes = run(database, group)
        if not all(isinstance(work, Read) for work in group):
            counts[0] += 1
            counts[1] += len(group)
            counts[2] += time.perf_counter() - begun
            _COUNTS.pack_into(shared, 0, *counts)
        return outcomes

    Database.run = counted  # type: ignore[assignment,method-assign]


if __name__ == "__main__":
    if os.environ.get(VARIABLE):
        count_commits(Path(os.environ[VARIABLE]))
    main()
