"""The life of a server: in one's own program, and as a process of its own."""

from __future__ import annotations

import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from polling import block_until

from clipper import Server, runtime
from clipper.config import Settings, make_settings
from clipper.errors import ConfigError, StoreError
from clipper.serving import run

LOOPS = ("uvloop", "asyncio")

# Runs a server with two models: `echo`, and `slow`, which takes as many seconds as its
# input says. Prints the ports when both answer.
PROGRAM = """\
import asyncio, json, os, sys, time
import msgspec
from clipper.config import Settings
from clipper.serving import run

def echo(rows):
    return list(rows)

def slow(rows):
    for seconds in rows:
        time.sleep(seconds)
    return list(rows)

async def prepare(server):
    for name, function in (("echo", echo), ("slow", slow)):
        await server.deploy(name, 1, function, "json", retry=False)
        await server.register_application(
            name, models=[name], input_type="json", slo_micros=60_000_000
        )
    print(json.dumps([server.port, server.admin_port]), flush=True)

def on_ready(server):
    if os.environ.get("PREPARE"):
        global task
        task = asyncio.get_running_loop().create_task(prepare(server))
        task.add_done_callback(lambda task: task.exception() and os._exit(70))
    else:
        print(json.dumps([server.port, server.admin_port]), flush=True)

sys.exit(run(msgspec.json.decode(sys.argv[1], type=Settings), on_ready))
"""


class Process:
    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        assert popen.stdout is not None
        line = popen.stdout.readline()
        assert line, "it did not start"
        self.port, self.admin_port = json.loads(line)

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.popen.send_signal(number)

    def wait(self) -> int:
        return self.popen.wait(timeout=20)

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def cpu_ticks(self) -> int:
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2]
        return sum(map(int, fields.split()[11:13]))

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)


@contextmanager
def process(settings: Settings | None = None, *, prepare: bool = True) -> Iterator[Process]:
    settings = settings or Settings(port=0, admin_port=0, ephemeral=True)
    argument = json.dumps({name: getattr(settings, name) for name in
                           ("port", "admin_port", "data_dir", "ephemeral", "loop",
                            "drain_seconds")})  # fmt: skip
    environment = {**os.environ, "PREPARE": "1" if prepare else ""}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, argument],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


def ask(connection: http.client.HTTPConnection, app: str, value: Any) -> tuple[int, Any]:
    headers = {"Content-Type": "application/json"}
    body = json.dumps({"input": value, "cache": False})
    connection.request("POST", f"/{app}/predict", body, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


class Asking(threading.Thread):
    """A prediction that is under way; `outcome` is its status and output."""

    def __init__(self, server: Process, app: str, value: Any) -> None:
        super().__init__(daemon=True)
        self.connection = server.connect()
        self.app, self.value = app, value
        self.outcome: Any = None

    def run(self) -> None:
        try:
            status, answer = ask(self.connection, self.app, self.value)
            self.outcome = status, answer.get("output")
        except (OSError, http.client.HTTPException) as error:
            self.outcome = error
        finally:
            self.connection.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def in_flight(server: Process) -> int:
    """Batches that are with replicas, as the server tells it."""
    connection = server.connect()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in text.splitlines()
        if line.startswith("clipper_model_in_flight_batches{")
    )


# -- a process of its own ---------------------------------------------------------------


@pytest.mark.fault("S2")
@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains(loop: Any, number: int) -> None:
    """What is under way is answered, the exit code is 0, and no worker stays."""
    settings = Settings(port=0, admin_port=0, ephemeral=True, loop=loop)
    with process(settings) as server:
        workers = server.workers()
        assert len(workers) == 2
        assert runtime.find(server.port) is not None
        idle = server.connect()
        assert ask(idle, "echo", [1, "x"])[1]["output"] == [1, "x"]
        asking = Asking(server, "slow", 0.7)
        asking.start()
        block_until(lambda: in_flight(server) == 1)
        server.signal(number)
        block_until(lambda: not accepts(server.port))
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(idle, "echo", 2)  # it was closed, having nothing to wait for
        idle.close()
        asking.join(20)
        assert asking.outcome == (200, 0.7)
        assert server.wait() == 0
        block_until(lambda: not any(map(is_running, workers)))
        assert runtime.find(server.port) is None
        assert server.popen.stderr is not None
        assert server.popen.stderr.read() == ""


def accepts(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.connect()
    except OSError:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.fault("S2")
@pytest.mark.parametrize("loop", LOOPS)
def test_a_second_signal_does_not_wait(loop: Any) -> None:
    settings = Settings(port=0, admin_port=0, ephemeral=True, loop=loop, drain_seconds=60)
    with process(settings) as server:
        workers = server.workers()
        asking = Asking(server, "slow", 50)
        asking.start()
        block_until(lambda: in_flight(server) == 1)
        server.signal()
        block_until(lambda: not accepts(server.port))
        assert server.popen.poll() is None
        began = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - began < 5
        block_until(lambda: not any(map(is_running, workers)))
        asking.join(20)
        assert not isinstance(asking.outcome, tuple) or asking.outcome[0] != 200


@pytest.mark.fault("S2")
def test_draining_has_a_bound() -> None:
    settings = Settings(port=0, admin_port=0, ephemeral=True, drain_seconds=0.3)
    with process(settings) as server:
        asking = Asking(server, "slow", 50)
        asking.start()
        block_until(lambda: in_flight(server) == 1)
        began = time.monotonic()
        server.signal()
        assert server.wait() == 0
        assert time.monotonic() - began < 6


def test_the_admin_port_can_drain() -> None:
    with process() as server:
        found = runtime.find(server.port)
        assert found is not None
        connection = http.client.HTTPConnection("127.0.0.1", server.admin_port, timeout=20)
        headers = {
            "Authorization": f"Bearer {found.find_token()}",
            "Content-Type": "application/json",
        }
        connection.request("POST", "/admin/drain", "{}", headers)
        assert connection.getresponse().status == 202
        connection.close()
        assert server.wait() == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_an_idle_server_takes_no_time(loop: Any) -> None:
    """Two models, and a client that stays connected: next to nothing happens."""
    settings = Settings(port=0, admin_port=0, ephemeral=True, loop=loop)
    with process(settings) as server:
        connection = server.connect()
        assert ask(connection, "echo", 1)[0] == 200
        before = server.cpu_ticks()
        time.sleep(1.0)  # this is what is measured
        assert server.cpu_ticks() - before <= 2  # of a hundred
        assert ask(connection, "echo", 2)[0] == 200
        connection.close()


def test_a_port_that_is_taken() -> None:
    with process(prepare=False) as server:
        taken = Settings(port=server.port, admin_port=0, ephemeral=True)
        called: list[Server] = []
        with pytest.raises(ConfigError, match="taken"):
            run(taken, called.append)
        assert not called
        block_until(lambda: runtime.find(server.port) is not None)


def test_a_data_directory_that_is_taken(tmp_path: Path) -> None:
    settings = Settings(port=0, admin_port=0, data_dir=str(tmp_path / "data"))
    with process(settings) as server:
        for again in (settings, replace(settings, loop="asyncio")):
            with pytest.raises(StoreError):
                run(again)
        connection = server.connect()
        assert ask(connection, "echo", 1)[1]["output"] == 1
        connection.close()
        server.signal()
        assert server.wait() == 0
    with process(settings, prepare=False) as server:
        connection = server.connect()
        block_until(lambda: ready(connection))
        assert ask(connection, "echo", 2)[1]["output"] == 2
        connection.close()


def ready(connection: http.client.HTTPConnection) -> bool:
    connection.request("GET", "/health/ready")
    response = connection.getresponse()
    response.read()
    return response.status == 200


# -- in one's own program ---------------------------------------------------------------


async def test_a_start_that_fails_is_undone(tmp_path: Path) -> None:
    async with Server(tmp_path / "data"):
        other = Server(tmp_path / "data")
        with pytest.raises(StoreError):
            await other.start()
    async with Server(tmp_path / "data") as server:
        assert server.data_dir == str(tmp_path / "data")


async def test_a_step_of_stopping_that_fails_does_not_keep_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server(tmp_path / "data")
    await server.start()

    async def fail(seconds: float) -> None:
        raise ZeroDivisionError("on purpose")

    with monkeypatch.context() as patch:
        patch.setattr(server.engine, "drain", fail)
        await server.stop()
    assert "on purpose" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    async with Server(tmp_path / "data"):
        pass  # the directory was given back
    await server.stop()


async def test_a_request_to_stop_while_it_starts_is_kept() -> None:
    settings = make_settings({"ephemeral": True, "port": 0, "admin_port": 0})
    server = Server(settings=settings, listen=True)
    server.request_stop()
    async with server:
        assert server.stopping.is_set()
        assert f"port={server.port}" in repr(server)
    assert not accepts(server.port)
