"""The servers that are compared: how each is started, asked and stopped."""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from benchmarks.load import JSON, LoadError, post
from benchmarks.process import ROOT, Process, free_ports

if TYPE_CHECKING:
    from clipper import Clipper

START_SECONDS = 60.0
PEERS = {"mosec": "/inference", "litserve": "/predict"}  # and where each takes a request
PEERS_HOME = Path.home() / ".cache" / "clipper-peers"


class Server:
    """A server on a loopback port; entering the context starts it, leaving it stops it.

    `process` is set once started, and `path` is where predictions are asked for.
    """

    path = "/predict"

    def __init__(self, name: str, scratch: Path) -> None:
        self.name = name
        self.log = scratch / f"{name.replace('/', '_')}.log"
        self.process: Process | None = None
        self.port = 0

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        if self.process is not None:
            self.process.stop()
            self.process = None

    def pause(self) -> None:
        """Called while others are measured; a server that idles for free ignores it."""

    def resume(self) -> None:
        """Called before it is measured."""

    def wait(self, answers: Callable[[], bool], pause: float = 0.02) -> None:
        """Ask again and again until `answers`; LoadError when the server ends."""
        assert self.process is not None
        give_up = time.monotonic() + START_SECONDS
        while True:
            try:
                if answers():
                    return
            except OSError:
                pass
            if not self.process.alive or time.monotonic() > give_up:
                output = self.process.log_tail() or "(nothing)"
                raise LoadError(f"{self.name} did not start; it wrote:\n{output}")
            time.sleep(pause)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


class FloorServer(Server):
    def __init__(self, scratch: Path) -> None:
        super().__init__("floor", scratch)

    def start(self) -> None:
        [self.port] = free_ports(1)
        command = [sys.executable, "-m", "benchmarks.floor", "--port", str(self.port)]
        self.process = Process(command, self.log)
        self.wait(lambda: post(self.port, self.path, b"{}")[0] == 200)


class PeerServer(Server):
    """Mosec or LitServe with the model called `work`, run by `python`.

    `settings` are variables of its environment, `lane` is what it is called here. It is
    stopped in its tracks while others are measured: LitServe polls when idle.
    """

    def __init__(
        self,
        name: str,
        python: str,
        work: str,
        probe: bytes,
        scratch: Path,
        *,
        lane: str | None = None,
        settings: Mapping[str, str] | None = None,
        boot_seconds: float = 0.0,
    ) -> None:
        super().__init__(lane or name, scratch)
        self.path = PEERS[name]
        self._module = f"benchmarks.peers.{name}_app"
        self._settings = dict(settings or {})
        self._boot_seconds = boot_seconds  # in which it is not asked anything
        [self.port] = free_ports(1)
        self._python = python
        self._work = work
        self._probe = probe
        self._scratch = scratch  # also for what the peers leave behind

    def start(self) -> None:
        command = [self._python, "-m", self._module, "--port", str(self.port)]
        if self._module.endswith("mosec_app"):
            command += ["--address", "127.0.0.1", "--log-level", "error"]
        environment = {"PEER_WORK": self._work, "TMPDIR": str(self._scratch)}
        environment.update(self._settings)
        self.process = Process(command, self.log, environment=environment)
        time.sleep(self._boot_seconds)
        self.wait(lambda: post(self.port, self.path, self._probe)[0] == 200)

    def pause(self) -> None:
        if self.process is not None:
            self.process.pause()

    def resume(self) -> None:
        if self.process is not None:
            self.process.resume()


class ClipperServer(Server):
    """`clipper serve` of one checkout, on a data directory of its own.

    `program` is the module that is run, `arguments` are for its command `serve`, and
    `environment` is added to its variables.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        name: str = "clipper",
        checkout: Path = ROOT,
        program: str = "clipper",
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, scratch)
        self._arguments = arguments
        self._checkout = checkout
        self._program = program
        self._environment = dict(environment or {})
        self._data = scratch / f"{name.replace('/', '_')}-data"
        self.port, self._admin_port = free_ports(2)

    def spawn(self) -> None:
        """Start the process without waiting for it."""
        command = [sys.executable, "-m", self._program, "serve"]
        command += ["--port", str(self.port), "--admin-port", str(self._admin_port)]
        command += ["--data-dir", str(self._data), *self._arguments]
        environment = {"PYTHONPATH": str(self._checkout), **self._environment}
        self.process = Process(
            command, self.log, environment=environment, directory=self._checkout
        )

    def start(self) -> None:
        self.spawn()
        self.wait(lambda: post(self._admin_port, "/admin/get_state", b"{}")[0] > 0)

    def path_of(self, application: str) -> str:
        return f"/{application}/predict"

    def client(self) -> Clipper:
        """A client of both ports; the caller closes it."""
        from clipper import Clipper

        return Clipper(
            "localhost",
            port=self.port,
            admin_port=self._admin_port,
            data_dir=str(self._data),
        )

    def change(self, path: str, body: bytes, content_type: str = JSON) -> tuple[int, bytes]:
        """POST to the admin port, with the token: status and body."""
        token = (self._data / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return post(self._admin_port, path, body, content_type, headers=headers)

    def deploy(self, model: str, function: Callable[[Any], Any], **options: Any) -> None:
        """`options` are those of Clipper.deploy_predict_function."""
        from clipper import ClipperError

        client = self.client()
        try:
            client.deploy_predict_function(model, 1, function, "doubles", **options)
        except ClipperError as error:
            raise LoadError(f"{self.name} refused the model: {error}") from error
        finally:
            client.close()

    def register(
        self,
        application: str,
        model: str,
        *,
        cache: bool,
        slo_seconds: float,
        default_output: str | None = None,
    ) -> None:
        """By default without a default output: what it cannot answer is an error."""
        wanted = {
            "name": application,
            "input_type": "doubles",
            "default_output": default_output,
            "latency_slo_micros": round(slo_seconds * 1e6),
            "models": [model],
            "cache": cache,
        }
        status, answer = self.change("/admin/add_app", json.dumps(wanted).encode())
        if status != 200:
            raise LoadError(f"{self.name} refused the application: {answer.decode()}")

    def exposition(self) -> str:
        """The text of /metrics."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise LoadError(f"{self.name} tells no metrics: {error!r}") from error
        finally:
            connection.close()

    def gauge(self, name: str, model: str) -> float:
        """One number that it publishes of a model; LoadError if it does not."""
        for line in self.exposition().splitlines():
            if line.startswith(f"{name}{{") and f'model="{model}"' in line:
                return float(line.rsplit(" ", 1)[1])
        raise LoadError(f"{self.name} publishes no {name} of {model}")


# -- where peers are -------------------------------------------------------------------


def add_peer_options(options: argparse.ArgumentParser) -> None:
    add = options.add_argument
    add("--mosec-python", metavar="PATH", help="the interpreter that has Mosec")
    add("--litserve-python", metavar="PATH", help="the interpreter that has LitServe")
    add("--no-peers", action="store_true", help="neither Mosec nor LitServe")


def find_peers(chosen: argparse.Namespace) -> dict[str, str]:
    """Interpreters by the name of the peer, of those that are wanted and there."""
    if chosen.short or chosen.no_peers:
        return {}
    found = {name: find_peer(name, getattr(chosen, f"{name}_python")) for name in PEERS}
    return {name: python for name, python in found.items() if python is not None}


def peer_versions(peers: Mapping[str, str]) -> dict[str, str]:
    """Versions of the peers' distributions; LoadError if an interpreter lacks its own."""
    return {name: peer_version(name, python) for name, python in peers.items()}


def find_peer(name: str, chosen: str | None) -> str | None:
    """The interpreter that has the peer `name`: the chosen one, that of its virtual
    environment under ~/.cache/clipper-peers, or the one at work; None if none has it."""
    if chosen is not None:
        return chosen
    python = PEERS_HOME / name / "bin" / "python"
    if python.exists():
        return str(python)
    return sys.executable if find_spec(name) is not None else None


def peer_version(name: str, python: str) -> str:
    """Version of the peer's distribution; LoadError if that interpreter lacks it."""
    code = f"from importlib.metadata import version; print(version({name!r}))"
    try:
        done = subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
    except OSError as error:
        raise LoadError(f"cannot run {python}: {error.strerror}") from None
    if done.returncode != 0:
        raise LoadError(f"{python} has no {name}")
    return done.stdout.strip()
