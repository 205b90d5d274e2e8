"""`clipper serve` as a process of its own, to be killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from polling import eventually

from clipper.client import AsyncClipper


class ServeProcess:
    """A server on one directory, again and again. `mark` tells its workers from others';
    `arguments` are for `clipper serve`, `before` is a command that runs it, and `program`
    what the interpreter runs. `popen` is for the process."""

    def __init__(
        self,
        directory: Path,
        mark: str,
        *arguments: str,
        before: tuple[str, ...] = (),
        program: tuple[str, ...] = ("-m", "clipper"),
        **popen: Any,
    ) -> None:
        self.directory = directory
        self.mark = mark
        self.arguments = arguments
        self.before = before
        self.program = program
        self.popen = popen
        self.log = directory / "server.log"

    def start(self) -> None:
        environment = os.environ | {
            "XDG_RUNTIME_DIR": str(self.directory),
            "MARK": self.mark,
        }
        command = [*self.before, sys.executable, *self.program, "serve"]
        places = ["--port", "0", "--admin-port", "0", "--data-dir", str(self.data)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *places, *self.arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self.popen,
            )

    @property
    def data(self) -> Path:
        return self.directory / "data"

    async def client(self, data: Path | None = None) -> AsyncClipper:
        """A client of the server once it accepts requests. `data` is where its directory
        is seen from here."""
        found = await eventually(self._announced)
        return AsyncClipper(
            "localhost",
            port=found["port"],
            admin_port=found["admin_port"],
            data_dir=data or self.data,
        )

    def _announced(self) -> dict[str, Any]:
        """What the server tells local clients; empty until it accepts requests."""
        assert self.process.poll() is None, self.log.read_text()
        for path in (self.directory / "clipper").glob("*.json"):
            with contextlib.suppress(ValueError, OSError):
                found: dict[str, Any] = json.loads(path.read_text())
                if found["pid"] == self.process.pid:
                    return found
        return {}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def workers(self) -> list[int]:
        """Worker processes of this server that are alive."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (path / "cmdline").read_bytes()
                marked = f"MARK={self.mark}".encode() in (path / "environ").read_bytes()
                if marked and b"clipper.workers.child" in command:
                    found.append(int(path.name))
        return found

    async def no_workers(self) -> None:
        """Until every worker has ended."""
        await eventually(lambda: not self.workers())
