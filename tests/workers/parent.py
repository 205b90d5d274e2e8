"""A server to be killed: LOOP BUSY KERNEL. Prints the ids of its worker and of a process
that the worker started."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvloop

from clipper.clock import SystemClock
from clipper.inputs import InputType
from clipper.values import Batch, Layout
from clipper.workers import process
from clipper.workers.packaging import pack
from clipper.workers.replica import Replica
from clipper.workers.spec import WorkerSpec


def model(xs: Any) -> Any:
    import subprocess
    import time

    if xs[0] == "busy":
        time.sleep(1000)
    return [subprocess.Popen(["sleep", "1000"]).pid]


async def main(busy: str) -> None:
    blob = pack(model).blob

    async def load() -> bytes:
        return blob

    replica = Replica(WorkerSpec("model", "1", InputType.STRINGS), SystemClock())
    await replica.start(load)
    finished: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    replica.submit(Batch(1, [b"go"], Layout([2]), lambda b, r: finished.set_result(r)))
    grandchild = await finished
    if busy == "busy":
        replica.submit(Batch(1, [b"busy"], Layout([4]), lambda b, r: None))
        await asyncio.sleep(0.05)
    sys.stdout.write(f"{replica.pid} {grandchild[0].decode()}\n")
    sys.stdout.flush()
    await asyncio.sleep(1000)


if __name__ == "__main__":
    loop, busy, kernel = sys.argv[1:]
    process.USE_PARENT_DEATH_SIGNAL = kernel == "1"
    (uvloop if loop == "uvloop" else asyncio).run(main(busy))
