"""A server as a process, and those that follow it."""

from __future__ import annotations

import os
import signal
import socket
import textwrap
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from polling import eventually
from served import ServeProcess

from clipper import runtime
from clipper.client import AsyncClipper
from clipper.client.local import restart_server
from clipper.runtime import Runtime

SECONDS = 60.0  # for anything that has to come about

# Runs the server; one that is to take over first does what the file FAULT says.
PROGRAM = """\
import asyncio, os, sys
from pathlib import Path
from clipper.server import Server

fault = Path(os.environ["XDG_RUNTIME_DIR"], "fault")
if "CLIPPER_HANDOVER" in os.environ and fault.exists():
    exec(fault.read_text())

from clipper.cli import main
main()
"""


class Served:
    """A server that is followed by others, its client, and who watches them."""

    def __init__(self, process: ServeProcess, client: AsyncClipper) -> None:
        self.process = process
        self.client = client
        self.pids = [process.process.pid]
        self.sockets: list[socket.socket] = []

    @property
    def port(self) -> int:
        return self.client.port

    @property
    def pid(self) -> int:
        return self.pids[-1]

    def connect(self, port: int = 0) -> socket.socket:
        """A connection that is closed at the end; with a small buffer, so that a server
        soon notices that nobody reads."""
        connection = socket.socket()
        self.sockets.append(connection)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", port or self.port))
        return connection

    def fault(self, program: str) -> None:
        """What the next server does instead of taking over."""
        (self.process.directory / "fault").write_text(textwrap.dedent(program))

    def log(self) -> str:
        return self.process.log.read_text()

    def announced(self) -> Runtime:
        found = runtime.find(self.port)
        assert found is not None, self.log()
        return found

    async def restart(self) -> None:
        found = await restart_server(self.port, seconds=SECONDS)
        assert found.pid not in self.pids
        self.pids.append(found.pid)

    async def deploy(self, version: str, function: Any, **options: Any) -> None:
        await self.client.deploy_predict_function(
            "inc", version, function, "doubles", **options
        )

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def open_files(self) -> set[str]:
        """Some may be closed while the others are read."""
        here = f"/proc/{self.pid}/fd"
        files = set()
        for number in os.listdir(here):
            with suppress(FileNotFoundError):
                files.add(os.readlink(f"{here}/{number}"))
        return files

    def children(self) -> list[int]:
        """Also those that have ended and were not collected."""
        path = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return sorted(map(int, path.read_text().split()))

    async def gone(self, pid: int) -> None:
        await eventually(lambda: runtime.process_started(pid) is None)

    def exit_code(self) -> int:
        """Of the first server, which is our child."""
        return self.process.process.wait(timeout=20)

    def waits(self) -> list[float]:
        """How many milliseconds connections waited, each time."""
        lines = [line for line in self.log().splitlines() if "took over with" in line]
        return [float(line.rpartition("waited for ")[2].split()[0]) for line in lines]


@asynccontextmanager
async def served(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    config: str = "",
    before: tuple[str, ...] = (),
    popen: dict[str, Any] | None = None,
) -> AsyncIterator[Served]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    (directory / "clipper.toml").write_text(config)
    (directory / "program.py").write_text(PROGRAM)
    process = ServeProcess(
        directory, uuid.uuid4().hex, "--config", str(directory / "clipper.toml"),
        *arguments, before=before,
        program=("-P", str(directory / "program.py")), **(popen or {}),
    )  # fmt: skip
    process.start()
    client = await process.client()
    server = Served(process, client)
    try:
        yield server
    finally:
        await client.close()
        for connection in server.sockets:
            connection.close()
        found = runtime.find(client.port)
        for pid in {server.pid, found.pid if found is not None else server.pid}:
            if runtime.process_started(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        process.kill()
        await process.no_workers()


def plus(number: int) -> Callable[[Any], list[float]]:
    def add(rows: Any) -> list[float]:
        return [float(row[0]) + number for row in rows]

    return add


def slow(rows: Any) -> list[float]:
    for row in rows:
        time.sleep(float(row[0]))
    return [float(row[0]) for row in rows]


async def begin(server: Served, slo_micros: int = 5_000_000) -> None:
    await server.deploy("v1", plus(1), num_replicas=2)
    await server.client.register_application("inc", "inc", "doubles", None, slo_micros)
