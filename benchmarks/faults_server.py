"""The server that faults are done to, and what can be seen of it from outside."""

from __future__ import annotations

import ctypes
import os
import re
import select
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.load import LoadError
from benchmarks.process import STOP_SECONDS, is_worker, read_stat, read_tree
from benchmarks.servers import ClipperServer

FOLLOWED_SECONDS = 60.0
_FOLLOWED = re.compile(r"Process (\d+) serves now")
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class FaultServer(ClipperServer):
    """`clipper serve`, to be asked, changed, killed, followed and started again.

    Mutable beside the process: the one that serves in its place after a hand-over.
    """

    _follower: int | None = None

    @property
    def data(self) -> Path:
        return self._data

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self._follower or self.process.pid

    @property
    def alive(self) -> bool:
        return is_alive(self.pid)

    def url_of(self, application: str) -> str:
        return f"http://127.0.0.1:{self.port}{self.path_of(application)}"

    def upload(self, manifest: Mapping[str, object], function: bytes) -> tuple[int, bytes]:
        """POST /admin/deploy as msgpack: status and body."""
        body = msgspec.msgpack.encode({"manifest": manifest, "function": function})
        return self.change("/admin/deploy", body, "application/msgpack")

    def metrics(self) -> dict[str, float]:
        """Every sample of /metrics by its name, with its labels if it has some."""
        return {
            name if not labels else f"{name}{{{labels}}}": float(value)
            for name, labels, value in _SAMPLE.findall(self.exposition())
        }

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of one name that have these labels; LoadError if there
        are none."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        found = [
            value
            for sample, value in self.metrics().items()
            if sample.partition("{")[0] == name and all(w in sample for w in wanted)
        ]
        if not found:
            raise LoadError(f"{self.name} publishes no {name} {labels}")
        return sum(found)

    def workers(self) -> list[int]:
        return [stat.pid for stat in read_tree(self.pid) if is_worker(stat.pid)]

    def zombies(self) -> int:
        return sum(stat.state == "Z" for stat in read_tree(self.pid))

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident(self) -> int:
        """Bytes of the server's own process, without its workers."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmRSS:")]
        return int(kilobytes) * 1024

    def kill(self) -> None:
        """kill -9; returns when the process is gone. Its workers have to end by
        themselves."""
        process = self.process
        assert process is not None
        os.kill(process.pid, signal.SIGKILL)
        while process.alive:
            time.sleep(0.001)
        self.process = None

    def hand_over(self, log: LogWatch) -> float:
        """SIGUSR2: seconds until another process serves and the old one is gone."""
        begun, old = time.monotonic(), self.pid
        os.kill(old, signal.SIGUSR2)
        line = log.wait(lambda text: bool(_FOLLOWED.search(text)), begun, FOLLOWED_SECONDS)
        if line is None:
            said = "\n".join(line.text for line in log.lines[-12:])
            raise LoadError(f"no other process serves:\n{said}")
        match = _FOLLOWED.search(line.text)
        assert match is not None
        self._follower = int(match[1])
        first = self.process
        wait_for(
            "its end", lambda: not (first.alive if old == first.pid else is_alive(old))
        )
        return time.monotonic() - begun

    def stop(self) -> None:
        if self._follower is not None:
            tree = [stat.pid for stat in read_tree(self._follower)]
            for number in (signal.SIGTERM, signal.SIGKILL):
                for pid in tree[:1] if number == signal.SIGTERM else tree:
                    with suppress(ProcessLookupError):
                        os.kill(pid, number)
                with suppress(LoadError):
                    wait_for("its end", lambda: not any(map(is_alive, tree)), STOP_SECONDS)
            self._follower = None
        super().stop()


def is_alive(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is not None and stat.state != "Z"


def wait_for(what: str, holds: Callable[[], object], seconds: float = 30.0) -> None:
    """LoadError if it does not come to hold."""
    give_up = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > give_up:
            raise LoadError(f"{what} did not come within {seconds:g} s")
        time.sleep(0.005)


# -- its log -----------------------------------------------------------------------------


class Line(NamedTuple):
    seen: float  # on the monotonic clock, when the watcher read it
    text: str


class LogWatch:
    """Reads the log of a server as it is written. The kernel wakes it (inotify), so that
    the moment a line was seen is an upper bound, within a millisecond on a machine that
    has a core to spare, of when what it tells happened.

    Mutable: the lines so far, and the end of an incomplete one.
    """

    def __init__(self, log: Path) -> None:
        self.lines: list[Line] = []
        self._rest = ""
        self._file = log.open(errors="replace")
        self._file.seek(0, os.SEEK_END)
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        modified = 0x2
        watched = libc.inotify_add_watch(self._fd, os.fsencode(log), modified)
        if self._fd < 0 or watched < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def wait(
        self, tells: Callable[[str], bool], since: float, seconds: float
    ) -> Line | None:
        """The first line seen after `since` that tells it; None if it takes too long."""
        give_up = time.monotonic() + seconds
        checked = 0
        while True:
            self._read()
            for line in self.lines[checked:]:
                if line.seen >= since and tells(line.text):
                    return line
            checked = len(self.lines)
            left = give_up - time.monotonic()
            if left <= 0:
                return None
            if self._poll.poll(left * 1e3):
                os.read(self._fd, 4096)

    def _read(self) -> None:
        text = self._file.read()
        if text:
            now = time.monotonic()
            *whole, self._rest = (self._rest + text).split("\n")
            self.lines += [Line(now, line) for line in whole]

    def close(self) -> None:
        self._file.close()
        os.close(self._fd)


def marked(variables: Mapping[str, str]) -> list[int]:
    """Worker processes that have these variables in their environment."""
    wanted = [f"{name}={value}".encode() for name, value in variables.items()]
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and is_worker(int(name)):
            try:
                present = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if all(each in present for each in wanted):
                found.append(int(name))
    return found
