"""A process under measurement: started, weighed with its children, surely stopped.

Reads /proc, so it needs Linux.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TICK = 1.0 / os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 10.0

# What the command line of a process that evaluates models says: Clipper's workers, and
# those that multiprocessing starts for Mosec and LitServe.
WORKER_MARKS = (b"clipper.workers", b"spawn_main")


class Stat(NamedTuple):
    pid: int
    parent: int
    state: str
    cpu: float  # user and system seconds
    started: int  # ticks since boot; with the pid it names one process for good


class Cpu(NamedTuple):
    """CPU seconds of a process tree, split between its front and its workers."""

    front: float
    workers: float

    def since(self, before: Cpu) -> Cpu:
        return Cpu(self.front - before.front, self.workers - before.workers)


class Memory(NamedTuple):
    """Bytes of a process tree. Pages shared by n processes count 1/n in `pss`."""

    pss: int
    rss: int


@contextmanager
def no_collector() -> Iterator[None]:
    """Without the garbage collector, whose passes would look like the server's latency."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def read_stat(pid: int) -> Stat | None:
    """`pid` as /proc/PID/stat shows it; None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    cpu = (int(fields[11]) + int(fields[12])) * TICK
    return Stat(pid, int(fields[1]), fields[0], cpu, int(fields[19]))


def read_tree(root: int) -> list[Stat]:
    """`root` and all that descend from it."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    stats = [stat for pid in pids if (stat := read_stat(pid)) is not None]
    children: dict[int, list[Stat]] = {}
    for stat in stats:
        children.setdefault(stat.parent, []).append(stat)
    tree = [stat for stat in stats if stat.pid == root]
    for stat in tree:  # grows as it goes
        tree.extend(children.get(stat.pid, ()))
    return tree


def is_worker(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return any(mark in command for mark in WORKER_MARKS)


def busy_seconds() -> float:
    """CPU seconds used so far by everything on the machine, with what a host stole."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, soft, steal = map(int, file.readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) * TICK


def raise_descriptor_limit() -> None:
    """A thousand connections need more than the 1,024 descriptors of a usual shell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 16_384 if hard == resource.RLIM_INFINITY else min(hard, 16_384)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Process:
    """A program in a session of its own, its output in a file.

    One thread of arithmetic per process, so that servers compare on equal terms.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path = ROOT,
    ) -> None:
        self.log = log
        threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        with open(log, "ab") as output:
            self._popen = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **dict.fromkeys(threads, "1"), **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def cpu(self) -> Cpu:
        front = workers = 0.0
        for stat in read_tree(self.pid):
            if is_worker(stat.pid):
                workers += stat.cpu
            else:
                front += stat.cpu
        return Cpu(front, workers)

    def memory(self) -> Memory:
        total = {"Pss": 0, "Rss": 0}
        for stat in read_tree(self.pid):
            try:
                lines = Path(f"/proc/{stat.pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            for line in lines:
                name, _, rest = line.partition(":")
                if name in total:
                    total[name] += int(rest.split()[0]) * 1024
        return Memory(total["Pss"], total["Rss"])

    def pause(self) -> None:
        """Stop it and its children in their tracks, so that idling costs nothing."""
        self._signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_tree(signal.SIGCONT)

    def log_tail(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> None:
        """Ask it to end, and after ten seconds make it; leave none of its children."""
        tree = read_tree(self.pid)
        try:
            if self.alive:
                self.resume()
                self._popen.terminate()
                self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
        finally:
            for stat in [*tree, *read_tree(self.pid)]:
                left = read_stat(stat.pid)
                if left is not None and left.started == stat.started:
                    _kill(stat.pid, signal.SIGKILL)
            self._popen.wait()

    def _signal_tree(self, number: int) -> None:
        for stat in read_tree(self.pid):
            _kill(stat.pid, number)


def _kill(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
