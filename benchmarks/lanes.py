"""One model on a server in this process, behind an application of its own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from benchmarks.batch_log import BatchLog
from benchmarks.batching_run import LaneError, Run
from benchmarks.callers import Target
from benchmarks.process import read_stat
from clipper import Server
from clipper.errors import ClipperError
from clipper.memory import GC_THRESHOLD

DEFAULT = "-1"  # the application's default output, which no model here predicts
CHECKED = 8  # rows whose answers are compared with the model's own
TRIES = 100  # a cold worker may be too slow for the objective at first


@dataclass(frozen=True)
class Lane:
    """A model, how it is batched, and where its batches are noted."""

    model: str
    label: str
    target: Target
    log: BatchLog
    pid: int  # of its one worker

    def worker_cpu(self) -> float:
        """CPU seconds its worker has used."""
        stat = read_stat(self.pid)
        if stat is None:
            raise LaneError(f"the worker of {self.model} ended under load")
        return stat.cpu


async def open_lane(
    run: Run,
    server: Server,
    model: str,
    label: str,
    *,
    controller: str,
    slo_seconds: float,
    max_batch_size: int | None = None,
    batch_wait: float | str = "auto",
) -> Lane:
    """Deploy the model on one replica, cache off, and check what it predicts."""
    rows = run.images.rows
    name = f"{model}-{label}".replace(" ", "-")
    batching = {
        "controller": controller,
        "max_batch_size": max_batch_size,
        "batch_wait": batch_wait,
    }
    try:
        await server.deploy(
            name,
            1,
            run.fit(model).predict,
            "doubles",
            batching=batching,
            example=rows[0].tolist(),
        )
        await server.register_application(
            name,
            models=[name],
            input_type="doubles",
            default_output=DEFAULT,
            slo_micros=round(slo_seconds * 1e6),
            cache=False,
        )
    except ClipperError as error:
        raise LaneError(f"{name} could not be deployed: {error}") from error
    served = server.engine.model(name, "1")
    log = BatchLog()
    log.follow(served.dispatcher)
    target = Target(server, name, rows)
    await check_answers(target, run.fit(model).predict(run.images.asked[:CHECKED]))
    [replica] = served.replicas.replicas
    assert replica.pid is not None
    return Lane(model, label, target, log, replica.pid)


async def check_answers(target: Target, expected: list[int]) -> None:
    """LaneError unless the server predicts what the model does."""
    for row, wanted in zip(target.rows, expected, strict=False):
        for _ in range(TRIES):
            answer = await target.server.predict(target.application, row)
            if not answer.default:
                break
            await asyncio.sleep(0.01)
        if answer.default or answer.output != wanted:
            raise LaneError(
                f"{target.application} answered {answer}, the model says {wanted}"
            )


@contextmanager
def quiet_collector() -> Iterator[None]:
    """The garbage collector as `clipper serve` sets it: what lives now is not walked."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
