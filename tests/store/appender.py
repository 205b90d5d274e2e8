"""A program that appends until it is killed: `python appender.py DIRECTORY TASKS`.

It prints "opening", "open", then for every append that was told "n seq seq ...": the
number of its body and those of its entries. Every tenth append is sent twice. A snapshot
of user u, whose state is its own number, is kept now and then.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from clipper.store.base import Appended, Entry, Snapshot
from clipper.store.sqlite import SQLiteStore


def say(line: object) -> None:
    os.write(1, f"{line}\n".encode())


async def main(directory: Path, tasks: int) -> None:
    say("opening")
    store = SQLiteStore(directory)
    await store.open()
    kept = await store.entries(1, 0, 10_000_000)
    numbers = count(1 + max((int(found.entry.body) for found in kept), default=0))
    say("open")

    async def append_forever() -> None:
        for n in numbers:
            entries = [Entry(1, f"{n} {i}", "u", 1.7e9, b"%d" % n) for i in range(n % 4)]
            told = asyncio.get_running_loop().create_future()

            def done(
                appended: Appended | None,
                error: Exception | None,
                n: int = n,
                told: asyncio.Future[Appended] = told,
            ) -> None:
                assert error is None and appended is not None, error
                taken = [seq for seq in appended.entries if isinstance(seq, int)]
                say(" ".join(map(str, [n, *taken])))
                if not told.done():
                    told.set_result(appended)

            for _ in range(2 if n % 10 == 0 else 1):
                store.append(entries, [], done)
            taken = (await told).entries
            if n % 50 == 1 and isinstance(taken[-1], int):
                await store.save(Snapshot(1, taken[-1], {"u": b"%d" % taken[-1]}), 10)

    await asyncio.gather(*(append_forever() for _ in range(tasks)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
