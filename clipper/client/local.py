"""Starting and stopping a server on this machine, as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from clipper import runtime
from clipper.client.address import Address
from clipper.client.transport import Transport
from clipper.errors import ClipperError, Forbidden, ServerUnreachable
from clipper.runtime import Runtime

_POLL_SECONDS = 0.03
_HEALTH_SECONDS = 2.0  # a server answers at once; what does not is no Clipper
_LOG_LINES = 15
_LOG_TAIL_BYTES = 16 * 1024


async def start_server(
    transport: Transport, *, ephemeral: bool, seconds: float
) -> Runtime | None:
    """Start `clipper serve` and wait until it is ready; None if one was there already.

    Raises ServerUnreachable with the server's own last lines if it does not come up.
    """
    address = transport.address
    if not address.is_local:
        raise Forbidden(
            f"start() starts a server on this machine, not on {address.host}; "
            "run `clipper serve` there"
        )
    deadline = monotonic() + seconds
    if address.port and await _is_there(transport, deadline):
        return None
    log = _log_file(address.port)
    process = _spawn(address, ephemeral, log)
    try:
        return await _wait_ready(transport, process, log, deadline)
    except asyncio.CancelledError:
        process.terminate()  # Ctrl-C while it starts: nobody would know that it runs
        raise


async def stop_server(port: int, *, seconds: float) -> bool:
    """End the server at `port` and wait until it is gone; False if there is none."""
    found = runtime.find(port)
    if found is None:
        return False
    try:
        os.kill(found.pid, signal.SIGTERM)
    except ProcessLookupError:
        return True
    except PermissionError:
        raise Forbidden(f"process {found.pid} at port {port} is not yours to end") from None
    if not await _poll(lambda: not found.alive(), monotonic() + seconds):
        raise ClipperError(
            f"the server at port {port} (process {found.pid}) has not ended "
            f"after {seconds:g} s; it may still be answering its last queries"
        )
    if found.data_dir is None:  # it was to leave nothing behind
        runtime.log_path(port).unlink(missing_ok=True)
    return True


async def restart_server(port: int, *, seconds: float) -> Runtime:
    """Have a new process take over from the server at `port`, without a gap, and wait until
    it serves. Raises ServerUnreachable where there is none, ClipperError with the server's
    own words where it goes on by itself."""
    found = runtime.find(port)
    if found is None:
        raise ServerUnreachable(f"No server runs at port {port}.")
    if found.restart is None:
        raise ClipperError(
            f"the server at port {port} cannot be replaced while it runs: it is part of "
            "another program"
        )
    try:
        os.kill(found.pid, signal.SIGUSR2)
    except ProcessLookupError:
        raise ServerUnreachable(f"No server runs at port {port}.") from None
    except PermissionError:
        raise Forbidden(f"process {found.pid} at port {port} is not yours") from None
    last = found

    def replaced_or_refused() -> bool:
        nonlocal last
        last = runtime.find(port) or last
        return last.pid != found.pid or not last.alive() or _has_failed(found, last)

    if not await _poll(replaced_or_refused, monotonic() + seconds):
        raise ClipperError(
            f"no new server has taken over after {seconds:g} s; process {found.pid} "
            "serves on, and may still be starting one"
        )
    if last.pid != found.pid:
        return last
    if last.alive() and last.restart is not None:
        raise ClipperError(f"the server goes on as it was: {last.restart.reason}")
    raise ServerUnreachable(f"the server at port {port} has ended; its log says why")


def _has_failed(before: Runtime, now: Runtime) -> bool:
    assert before.restart is not None
    restart = now.restart
    return (
        restart is not None
        and restart.state == "failed"
        and restart.number > before.restart.number
    )


async def is_ready(transport: Transport) -> bool:
    """Whether a Clipper server accepts queries at the address."""
    transport.forget()
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            body = await transport.query("GET", "/health/ready")
    except (ClipperError, TimeoutError):  # nobody, or another, or starting, or draining
        return False
    return isinstance(body, dict) and "status" in body


async def _is_there(transport: Transport, deadline: float) -> bool:
    """Whether there is a ready server; waits for one that is just starting."""
    port = transport.address.port
    while not await is_ready(transport):
        found = runtime.find(port)
        if found is None:
            return False
        if monotonic() >= deadline:
            raise ServerUnreachable(
                f"The server at port {port} (process {found.pid}) is not ready yet."
            )
        await asyncio.sleep(_POLL_SECONDS)
    return True


# -- starting --------------------------------------------------------------------------


def _spawn(address: Address, ephemeral: bool, log: Path) -> subprocess.Popen[bytes]:
    """The server in a session of its own: it lives on when the terminal closes."""
    # -P: a clipper.py in the user's directory must not be taken for the package.
    command = [sys.executable, "-P", "-m", "clipper", "serve", f"--log-file={log}"]
    command += [f"--port={address.port}", f"--admin-port={address.admin_port}"]
    if ephemeral:
        command.append("--ephemeral")
    elif address.data_dir is not None:
        command.append(f"--data-dir={address.data_dir}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
    handle = os.open(log, flags, 0o600)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=handle,
            start_new_session=True,
        )
    finally:
        os.close(handle)
    # Somebody has to take its exit status, or it stays a zombie while we live.
    threading.Thread(target=process.wait, name="clipper-server", daemon=True).start()
    return process


async def _wait_ready(
    transport: Transport, process: subprocess.Popen[bytes], log: Path, deadline: float
) -> Runtime | None:
    def announced_or_gone() -> bool:
        return process.poll() is not None or runtime.find_process(process.pid) is not None

    await _poll(announced_or_gone, deadline)
    found = runtime.find_process(process.pid)
    if found is not None:
        transport.address.port, transport.address.admin_port = found.port, found.admin_port
        os.replace(log, log := runtime.log_path(found.port))
    while process.poll() is None and monotonic() < deadline:
        if found is not None and await is_ready(transport):
            return found
        await asyncio.sleep(_POLL_SECONDS)
    if process.poll() is None:
        raise ServerUnreachable(
            "Clipper has not become ready in time. It goes on starting "
            f"(process {process.pid}); its log is {log}"
        )
    # Somebody else's start() may have been faster.
    if transport.address.port and await is_ready(transport):
        return None
    raise ServerUnreachable(
        f"Clipper did not start (exit code {process.returncode}). It said:\n{_tail(log)}"
    )


async def _poll(condition: Callable[[], bool], deadline: float) -> bool:
    """Whether `condition` came true before `deadline` (monotonic)."""
    while not condition():
        if monotonic() >= deadline:
            return False
        await asyncio.sleep(_POLL_SECONDS)
    return True


def _log_file(port: int) -> Path:
    """Its own for each query port; for "any port" for each process that starts one."""
    return runtime.log_path(port or f"any-{os.getpid()}")


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"  (its log {log} cannot be read: {error.strerror})"
    return "\n".join(f"  {line}" for line in lines[-_LOG_LINES:]) or "  (nothing)"
