"""One worker process, seen from the server: spawned, watched, its output drained, killed.

No asyncio subprocess and no SIGCHLD: the process is spawned by Popen from the loop's own
thread (the kernel ties "die with the parent" to the spawning thread), its death shows as
the end of its socket, and its exit status is collected through a pidfd.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from clipper.workers.environment import worker_environment
from clipper.workers.leash import HAVE_LEASH, Leash
from clipper.workers.log import LogTail

# Tests switch these off to try what other systems than Linux have.
USE_PIDFD = hasattr(os, "pidfd_open")
USE_PARENT_DEATH_SIGNAL = sys.platform == "linux"

_READ = 64 * 1024  # bytes of output taken per turn of the loop: all a pipe holds
_MOST_DESCENDANTS = 1000
_PAGE = os.sysconf("SC_PAGE_SIZE")
_FIRST_POLL, _LAST_POLL = 0.001, 0.25  # seconds between looks where there is no pidfd


class WorkerProcess:
    """A child in a session of its own. `log` is its output, `returncode` its exit status
    once it is gone, when also `exited` is set."""

    # State: `_pidfd` and `_log_fd` are open descriptors that the loop watches, or -1;
    # `_poll` is the pending look at a process that has no pidfd; `_leash` holds its group,
    # None where that cannot be.

    def __init__(
        self, environment: Mapping[str, str], memory_limit: int | None = None
    ) -> None:
        """Spawn; blocks for about a millisecond. Raises OSError when it cannot."""
        self._loop = asyncio.get_running_loop()
        self._pidfd = self._log_fd = -1
        self._poll: asyncio.TimerHandle | None = None
        self._leash: Leash | None = None
        self.log = LogTail()
        self.exited = asyncio.Event()
        with ExitStack() as ours, ExitStack() as theirs:
            self._socket, their_socket = socket.socketpair()
            ours.enter_context(self._socket)
            theirs.enter_context(their_socket)
            log_fd, their_log = os.pipe()
            ours.callback(os.close, log_fd)
            theirs.callback(os.close, their_log)
            self._popen = subprocess.Popen(
                _command(their_socket.fileno(), memory_limit),
                stdin=subprocess.DEVNULL,
                stdout=their_log,
                stderr=their_log,
                pass_fds=(their_socket.fileno(),),
                start_new_session=True,
                env=worker_environment(environment),
            )
            ours.pop_all()  # kept, since all went well
        self._log_fd = log_fd
        self._watch()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.pid} {describe_exit(self.returncode)}>"

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """As Popen has it: negative is a signal, None while it runs."""
        return self._popen.returncode

    async def connect(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """The transport of the socket; its loss is the death of the worker."""
        self._socket.setblocking(False)
        try:
            transport, _ = await self._loop.create_unix_connection(
                lambda: protocol, sock=self._socket
            )
        except BaseException:
            self._socket.close()
            self.kill()
            raise
        return transport

    def _watch(self) -> None:
        os.set_blocking(self._log_fd, False)
        self._loop.add_reader(self._log_fd, self._read_log)
        if HAVE_LEASH:
            with suppress(OSError):  # no descriptors left
                self._leash = Leash(self.pid)
        if USE_PIDFD:
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                return  # no descriptors left: polled at its end instead
            self._loop.add_reader(self._pidfd, self._collect)

    def _read_log(self) -> bool:
        """Take one piece of output; whether there was any."""
        if self._log_fd < 0:
            return False
        try:
            data = os.read(self._log_fd, _READ)
        except BlockingIOError:
            return False
        if data:
            self.log.write(data)
        else:
            self._close_log()
        return bool(data)

    def _close_log(self) -> None:
        if self._log_fd >= 0:
            self._loop.remove_reader(self._log_fd)
            os.close(self._log_fd)
            self._log_fd = -1

    def output(self) -> str:
        """The tail of its output, with all that is written by now."""
        for _ in range(16):
            if not self._read_log():
                break
        return self.log.text()

    def memory(self) -> int | None:
        """Resident bytes of it and its descendants; what they share counts for each.
        None where the system does not tell (it is Linux's) or it is gone."""
        pages = [_resident_pages(pid) for pid in (self.pid, *_descendants(self.pid))]
        return sum(pages) * _PAGE or None

    # -- the end ---------------------------------------------------------------------

    def dump_stacks(self) -> None:
        """Ask for the Python stacks of all its threads on its output."""
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it and everything in its group at once. Idempotent."""
        self._signal_group(signal.SIGKILL)
        self._await_exit()

    async def stop(self, grace: float) -> None:
        """Ask it to end, kill it after `grace` seconds, and wait until it is gone. What
        it started in sessions of their own is killed while it can still be found."""
        if not self.exited.is_set():
            for pid in _descendants(self.pid):
                with suppress(ProcessLookupError, PermissionError):
                    if os.getsid(pid) != self.pid:
                        os.kill(pid, signal.SIGKILL)
            self._signal_group(signal.SIGTERM)
            # A stopped process acts on nothing but SIGKILL until it is woken.
            self._signal_group(signal.SIGCONT)
            self._await_exit()
            try:
                async with asyncio.timeout(grace):
                    await self.exited.wait()
            except TimeoutError:
                pass
            finally:
                self.kill()
        await self.exited.wait()

    def _signal(self, number: int) -> None:
        if self._popen.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _signal_group(self, number: int) -> None:
        # Never after the status was collected: the number may be another's by then.
        if self._popen.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _await_exit(self) -> None:
        """Where there is no pidfd, begin to look for the exit status."""
        if self._pidfd < 0 and self._poll is None and not self.exited.is_set():
            self._poll = self._loop.call_later(_FIRST_POLL, self._look, _FIRST_POLL)

    def _has_ended(self) -> bool:
        """Whether it has ended; where possible its status stays to be collected."""
        if not hasattr(os, "waitid"):  # macOS before Python 3.13
            return self._popen.poll() is not None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:  # taken by the system: our program ignores SIGCHLD
            if self._leash is not None:
                self._leash.pull()
            self._popen.poll()
            return True

    def _look(self, delay: float) -> None:
        self._poll = None
        if not self._collect():
            delay = min(2 * delay, _LAST_POLL)
            self._poll = self._loop.call_later(delay, self._look, delay)

    def _collect(self) -> bool:
        """Take the exit status if there is one, after the rest of the group was killed:
        while the status waits, its process id cannot belong to anyone else."""
        if not self._has_ended():
            return False
        self._signal_group(signal.SIGKILL)
        if self._popen.poll() is None:
            return False
        if self._leash is not None:
            self._leash.release()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self.output()
        self._close_log()
        self.exited.set()
        return True


def _descendants(pid: int) -> list[int]:
    """Processes it started, and theirs, where the system tells (Linux); not without end,
    since this runs on the event loop."""
    found, level = [pid], [pid]
    while level and len(found) < _MOST_DESCENDANTS:
        below: list[int] = []
        for parent in level:
            for path in Path(f"/proc/{parent}/task").glob("*/children"):
                with suppress(OSError):
                    below += map(int, path.read_text().split())
        found += below
        level = below
    return found[1:]


def _resident_pages(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0


def _command(fd: int, memory_limit: int | None) -> list[str]:
    kernel = int(USE_PARENT_DEATH_SIGNAL)
    numbers = (fd, os.getpid(), kernel, memory_limit or 0)
    return [sys.executable, "-P", "-m", "clipper.workers.child", *map(str, numbers)]


def describe_exit(returncode: int | None) -> str:
    """An exit status in words."""
    if returncode is None:
        return "running"
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"
