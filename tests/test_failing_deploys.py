"""Deploys that fail in every way while queries come in: each query is answered by the
version that was live before, and nothing is left of the failed one."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from polling import eventually

from clipper import Server
from clipper.errors import DeployFailed
from clipper.records import ModelRecord
from clipper.workers import packaging, place
from clipper.workers.packaging import pack
from clipper.workers.spec import Patience

pytestmark = pytest.mark.fault("A2")

SERVED = 20  # queries that are answered while a deploy fails, and after it


def right(rows: Any) -> list[float]:
    return [float(row[0]) + 1 for row in rows]


class Trap:
    """Runs code where it is unpickled."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


def trapped(code: str) -> Callable[[Any], Any]:
    trap = Trap(code)
    return lambda rows: [trap for _ in rows]


def raising(rows: Any) -> list[float]:
    raise ValueError("wrong weights")


def leaving(rows: Any) -> list[float]:
    os._exit(3)


def crashing(rows: Any) -> list[float]:
    import ctypes

    ctypes.string_at(0)
    return []


def miscounting(rows: Any) -> list[float]:
    return [1.0 for _ in rows] * 2


def blob_of(function: Callable[[Any], Any]) -> bytes:
    return pack(function).blob


class Clients:
    """Ask all the time; every answer must be the old version's, of its own input."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._on = True
        self.served = 0

    async def run(self, number: int) -> None:
        while self._on:
            number += 10
            answer = await self._server.predict("app", [float(number)])
            assert (answer.output, answer.default) == (number + 1.0, False)
            self.served += 1
            await asyncio.sleep(0.002)

    async def more(self) -> None:
        enough = self.served + SERVED
        await eventually(lambda: self.served >= enough)

    def end(self) -> None:
        self._on = False


def of_another_python() -> bytes:
    """As an older Python would have packaged it."""
    blob, version = pack(right).blob, packaging.python_version().encode()
    assert blob.count(version) >= 1
    return blob.replace(version, b"3." + b"0" * (len(version) - 2), 1)


KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "no pickle": (lambda: b"\x80\x05 this is none", "could not be loaded"),
    "a package that was cut": (lambda: pack(right).blob[:40], "damaged|loaded"),
    "another Python": (of_another_python, "packaged by Python 3.0"),
    "no such module": (lambda: blob_of(trapped("import nowhere_at_all")), "nowhere_at_all"),
    "it raises": (lambda: blob_of(trapped("1 / 0")), "ZeroDivisionError"),
    "it leaves": (lambda: blob_of(trapped("import os; os._exit(3)")), "exit"),
    "it hangs": (lambda: blob_of(trapped("import time; time.sleep(600)")), "within 1 sec"),
    "a batch that raises": (lambda: blob_of(raising), "wrong weights"),
    "a batch that leaves": (lambda: blob_of(leaving), "exit"),
    "a batch that crashes": (lambda: blob_of(crashing), "signal|SIGSEGV"),
    "a wrong count": (lambda: blob_of(miscounting), "2"),
}


async def test_failing_deploys_leave_the_old_version_serving(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(place, "Patience", partial(Patience, load=1.0))
    async with Server(tmp_path) as server:
        await server.deploy("m", 1, right, "doubles")
        await server.register_application(
            "app", models=["m"], input_type="doubles", slo_micros=5_000_000, cache=False
        )
        clients = Clients(server)
        tasks = [asyncio.create_task(clients.run(n)) for n in range(4)]
        workers = children()
        for version, (kind, (make_blob, sentence)) in enumerate(KINDS.items(), 2):
            spec = ModelRecord("m", str(version), "doubles", 0, example=[1.0])
            blob = await asyncio.to_thread(make_blob)
            with pytest.raises(DeployFailed, match=sentence):
                await server.engine.deploy(spec, blob)
            await clients.more()
            assert not [task for task in tasks if task.done()], kind
            assert [str(model) for model in server.engine.models] == ["m:1"]
            await eventually(lambda: children() <= workers)
        clients.end()
        await asyncio.gather(*tasks)
        await eventually(lambda: len([*(tmp_path / "blobs").iterdir()]) == 1)


def children() -> set[int]:
    """The processes that this one started and that are left."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        found |= {int(pid) for pid in (task / "children").read_text().split()}
    return found
