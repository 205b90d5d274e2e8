"""A real `clipper serve` process with something of everything, to be sent anything."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from served import ServeProcess

from clipper.client import AsyncClipper

# So that what is found is not that the machine is full. Objectives are long: a machine
# that does something else is no finding either.
CONFIGURATION = """
require_token = {require_token}
[limits]
applications = 200
models = 200
replicas = 12
body_seconds = 5.0
"""
SLO_MICROS = 10_000_000

# An application of every input type, and of every kind of policy. All take what `echo`
# of its type takes.
APPLICATIONS: dict[str, tuple[str, Any]] = {
    "ints": ("ints", "static"),
    "floats": ("floats", "static"),
    "doubles": ("doubles", "static"),
    "strings": ("strings", "static"),
    "bytes": ("bytes", "static"),
    "json": ("json", "static"),
    "bandit": ("doubles", "exp3"),
    "ensemble": ("doubles", "hedge"),
}
MODELS = ("ints", "floats", "doubles", "strings", "bytes", "json")


def echo_length(rows: Any) -> list[int]:
    return [len(row) if hasattr(row, "__len__") else 1 for row in rows]


def one(rows: Any) -> list[int]:
    return [1 for _ in rows]


class Target:
    """The process, its clients, and what must hold of it at the end."""

    def __init__(self, process: ServeProcess, client: AsyncClipper) -> None:
        self.process = process
        self.client = client
        self.pid = process.process.pid

    @property
    def token(self) -> str:
        return (self.process.data / "admin-token").read_text().strip()

    def check(self) -> None:
        """The same process, no error of its own in its log, no descriptors piling up."""
        assert self.process.process.poll() is None, self.process.log.read_text()[-5000:]
        text = self.process.log.read_text(errors="replace")
        assert not re.search(r"^[0-9:]{8} (ERROR|CRITICAL)", text, re.M), text[-20_000:]
        assert len(os.listdir(f"/proc/{self.pid}/fd")) < 300


@asynccontextmanager
async def serving(directory: Path, *, require_token: bool = True) -> AsyncIterator[Target]:
    """The target, with models and applications. When it is left, the server drains and
    must end cleanly."""
    configuration = directory / "clipper.toml"
    configuration.write_text(CONFIGURATION.format(require_token=str(require_token).lower()))
    process = ServeProcess(directory, uuid.uuid4().hex, "--config", str(configuration))
    process.start()
    try:
        async with await process.client() as client:
            await _furnish(client)
            target = Target(process, client)
            yield target
            target.check()
            await client.drain()
        assert process.process.wait(30) == 0, process.log.read_text()
        await process.no_workers()
    finally:
        process.kill()


async def _furnish(client: AsyncClipper) -> None:
    for kind in MODELS:
        await client.deploy_predict_function(
            f"m-{kind}", 1, echo_length, kind, progress=False
        )
    await client.deploy_predict_function("one", 1, one, "doubles", progress=False)
    for name, (kind, policy) in APPLICATIONS.items():
        models = [f"m-{kind}"] if policy == "static" else [f"m-{kind}", "one"]
        await client.register_application(
            name,
            input_type=kind,
            default_output="-1",
            slo_micros=SLO_MICROS,
            models=models,
            policy=policy,
        )
