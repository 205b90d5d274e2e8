"""A program that commits until it is killed: `python committer.py DIRECTORY TASKS`.

It prints "opening", "open", then every number n whose commit returned. A commit holds
application a<n> with number n, model m<n>:1 with generation n, and a blob of its name.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from pathlib import Path

from clipper.records import ApplicationRecord, ModelRecord
from clipper.store.base import PutApplication, PutModel
from clipper.store.sqlite import SQLiteStore


def say(line: object) -> None:
    os.write(1, f"{line}\n".encode())


async def main(directory: Path, tasks: int) -> None:
    say("opening")
    store = SQLiteStore(directory)
    state = await store.open()
    numbers = count(state.last_number + 1)
    say("open")

    async def commit_forever() -> None:
        for n in numbers:
            blob = await store.put_blob(f"m{n}".encode()) if n % 10 == 0 else None
            await store.commit(
                PutApplication(ApplicationRecord(f"a{n}", n, "doubles", 1_000)),
                PutModel(ModelRecord(f"m{n}", "1", "doubles", n, blob=blob)),
            )
            say(n)

    await asyncio.gather(*(commit_forever() for _ in range(tasks)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
