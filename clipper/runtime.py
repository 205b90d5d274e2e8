"""Where a running server tells local clients about itself.

One small file per query port, ``<port>.json``, readable by its owner alone. It names the
ports, the process and the data directory, in which a client finds the admin token; a
server without a data directory puts the token into the file itself. Files and directories
that somebody else could have written are never believed.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from clipper.errors import ConfigError

TOKEN_FILE = "admin-token"
_MAX_BYTES = 64 * 1024  # no honest runtime or token file is larger
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Restart(msgspec.Struct, frozen=True):
    """What became of the latest attempt to have another process take over: `number` counts
    them, `state` is "none", "preparing" or "failed", and then `reason` says why."""

    number: int = 0
    state: str = "none"
    reason: str = ""


class Runtime(msgspec.Struct, frozen=True):
    """One running server. `data_dir` and `token` are never both None."""

    port: int
    admin_port: int
    host: str
    admin_host: str
    pid: int
    started: str  # when the process began, as the kernel counts; "" where unknown
    data_dir: str | None
    token: str | None
    restart: Restart | None = None  # None: the server knows no way to be replaced

    def alive(self) -> bool:
        """Whether the process that wrote this still runs."""
        return process_started(self.pid) == self.started

    def find_token(self) -> str | None:
        """The admin token, or None where it cannot be read."""
        if self.token is not None:
            return self.token
        return read_token(self.data_dir) if self.data_dir is not None else None


def default_data_dir() -> Path:
    """$CLIPPER_DATA_DIR, else the clipper directory in the user's data home."""
    chosen = os.environ.get("CLIPPER_DATA_DIR")
    if chosen:
        return Path(chosen).expanduser().absolute()
    data_home = os.environ.get("XDG_DATA_HOME", "")
    if not os.path.isabs(data_home):  # the XDG rules say: ignore a relative one
        data_home = os.path.expanduser("~/.local/share")
    return Path(data_home) / "clipper"


def base_url(host: str, port: int) -> str:
    """The URL of a server that listens at `host` and `port`."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_token(data_dir: str | Path) -> str | None:
    """The token of the server whose data lie in `data_dir`; None if it cannot be read."""
    token = _read_owned(Path(data_dir) / TOKEN_FILE)
    return token.decode("ascii", "replace").strip() or None if token is not None else None


# -- the server's side -----------------------------------------------------------------


def announce(
    port: int,
    admin_port: int,
    host: str,
    admin_host: str,
    pid: int,
    data_dir: str | None,
    token: str | None,
    restart: Restart | None = None,
) -> Path:
    """Write the runtime file of a server that accepts requests now.

    The token is written only where there is no data directory to read it from.
    Raises ConfigError if no directory can be trusted with it.
    """
    runtime = Runtime(
        port=port,
        admin_port=admin_port,
        host=host,
        admin_host=admin_host,
        pid=pid,
        started=process_started(pid) or "",
        data_dir=str(Path(data_dir).absolute()) if data_dir is not None else None,
        token=token if data_dir is None else None,
        restart=restart,
    )
    directory = runtime_dir()
    _sweep(directory)
    path = directory / f"{port}.json"
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{port}-", dir=directory)  # 0600
        with os.fdopen(handle, "wb") as file:
            file.write(json.dumps(msgspec.to_builtins(runtime)).encode())
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            os.unlink(temporary)
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    return path


def _sweep(directory: Path) -> None:
    """Remove what servers that were killed have left behind."""
    for path in directory.glob("*.json"):
        runtime = _read_runtime(path)
        if runtime is not None and not runtime.alive():
            path.unlink(missing_ok=True)


def notify(**state: object) -> None:
    """Tell the service manager that runs us, if one asked for it in NOTIFY_SOCKET (see
    sd_notify(3)): READY=1, STOPPING=1, MAINPID=..."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    text = "\n".join(f"{name}={value}" for name, value in state.items())
    # one who does not listen is no reason to stop serving, nor are too many open files
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.setblocking(False)
        end.sendto(text.encode(), address.replace("@", "\0", 1))


def withdraw(port: int, pid: int | None = None) -> None:
    """Remove the runtime file of `port`, if it is that of process `pid` (this one)."""
    for directory in _trusted_dirs():
        runtime = _read_runtime(directory / f"{port}.json")
        if runtime is not None and runtime.pid == (pid or os.getpid()):
            (directory / f"{port}.json").unlink(missing_ok=True)


def runtime_dir() -> Path:
    """The directory for runtime files and logs of servers, made if it is not there.

    Raises ConfigError if every candidate belongs to somebody else or is writable by
    others.
    """
    for candidate in _candidates():
        try:
            candidate.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            continue
        if _is_owned_dir(candidate):
            return candidate
    tried = " and ".join(str(candidate) for candidate in _candidates())
    raise ConfigError(
        f"no directory for runtime files: {tried} cannot be made, or can be written by "
        "others; set XDG_RUNTIME_DIR to a directory of your own"
    )


def log_path(port: int | str) -> Path:
    """Where a server started in the background writes its log."""
    return runtime_dir() / f"server-{port}.log"


# -- the client's side -----------------------------------------------------------------


def find(port: int) -> Runtime | None:
    """The running server of this user at `port`, or None."""
    for directory in _trusted_dirs():
        runtime = _read_runtime(directory / f"{port}.json")
        if runtime is not None and runtime.port == port and runtime.alive():
            return runtime
    return None


def find_process(pid: int) -> Runtime | None:
    """What the server with process id `pid` announced, or None: it may take any port."""
    return next((runtime for runtime in find_all() if runtime.pid == pid), None)


def find_all() -> list[Runtime]:
    """Every running server of this user, by port."""
    found: dict[int, Runtime] = {}
    for directory in _trusted_dirs():
        for path in directory.glob("*.json"):
            runtime = _read_runtime(path)
            if runtime is not None and runtime.alive():
                found.setdefault(runtime.port, runtime)
    return [found[port] for port in sorted(found)]


def process_started(pid: int) -> str | None:
    """When process `pid` began, None if it does not run (a zombie does not).

    Two processes that had one pid after another began at different times. Where the
    kernel does not tell, "" stands for any running process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if fields[0] in (b"Z", b"X") else fields[19].decode()
    except (OSError, IndexError):
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""


# -- trust -----------------------------------------------------------------------------


def _candidates() -> Iterator[Path]:
    """Where runtime files may lie. A server and its client can have different
    environments (cron, a container, su), so the client looks at all of them."""
    run = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(run):
        yield Path(run) / "clipper"
    yield Path(tempfile.gettempdir()) / f"clipper-{os.getuid()}"


def _trusted_dirs() -> list[Path]:
    return [directory for directory in _candidates() if _is_owned_dir(directory)]


def _is_owned_dir(path: Path) -> bool:
    try:
        found = path.lstat()  # a link is not followed: anybody can make one in /tmp
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and _is_ours(found)


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid() and not found.st_mode & _OTHERS_WRITE


def _read_owned(path: Path) -> bytes | None:
    """The bytes of a regular file that only this user can have written, else None."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode) or not _is_ours(found):
            return None
        try:
            return file.read(_MAX_BYTES)
        except OSError:
            return None


def _read_runtime(path: Path) -> Runtime | None:
    data: Any = _read_owned(path)
    try:
        return msgspec.json.decode(data, type=Runtime) if data is not None else None
    except msgspec.DecodeError:
        return None
