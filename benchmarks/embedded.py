"""Predictions per second of a server embedded in one's own asyncio program.

    python -m benchmarks.embedded --seconds 3 --window 256

Two shapes of caller: `tasks`, as many tasks as the window, each awaiting one prediction
after another; and `gather`, which awaits the whole window at once, then the next. Prints
one line of JSON: predictions per second of both, and the CPU seconds per prediction of
this process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from benchmarks.work import make_model, make_rows

Predict = Callable[[int], Awaitable[Any]]  # the prediction of the row of that number


async def run_tasks(predict: Predict, window: int, seconds: float) -> int:
    """Predictions made by `window` tasks in `seconds`."""
    end = time.monotonic() + seconds
    counts = [0] * window

    async def call_again_and_again(task: int) -> None:
        while time.monotonic() < end:
            await predict(task + counts[task] * window)
            counts[task] += 1

    async with asyncio.TaskGroup() as group:
        for task in range(window):
            group.create_task(call_again_and_again(task))
    return sum(counts)


async def run_gather(predict: Predict, window: int, seconds: float) -> int:
    """Predictions made window by window in `seconds`."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        await asyncio.gather(*map(predict, range(count, count + window)))
        count += window
    return count


async def measure(seconds: float, window: int) -> dict[str, float]:
    from clipper import Server

    rows = make_rows("sum", 1024)
    async with Server(data_dir=None) as server:
        await server.deploy("sum", 1, make_model("sum"), input_type="doubles")
        await server.register_application(
            "sum",
            models=["sum"],
            input_type="doubles",
            default_output=None,
            slo_micros=100_000,
            cache=False,
        )

        async def predict(number: int) -> Any:
            return await server.predict("sum", rows[number % len(rows)])

        answer = await predict(0)
        if abs(answer.output - sum(rows[0])) > 1e-9:
            raise SystemExit(f"predicted {answer.output}, not {sum(rows[0])}")
        found = {}
        for name, run in (("tasks", run_tasks), ("gather", run_gather)):
            await run(predict, window, min(1.0, seconds))
            begun, cpu = time.perf_counter(), time.process_time()
            count = await run(predict, window, seconds)
            found[name] = count / (time.perf_counter() - begun)
            found[f"{name} cpu"] = (time.process_time() - cpu) / count
        return found


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=float, default=3.0)
    options.add_argument("--window", type=int, default=256)
    chosen = options.parse_args()
    print(json.dumps(uvloop.run(measure(chosen.seconds, chosen.window))))
