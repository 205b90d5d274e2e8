from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from clipper import runtime
from clipper.errors import ConfigError


@pytest.fixture(autouse=True)
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Runtime files of these tests lie in a directory of their own."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("CLIPPER_DATA_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def announce(port: int = 4711, **values: object) -> Path:
    arguments: dict[str, object] = {
        "admin_port": 4712,
        "host": "127.0.0.1",
        "admin_host": "127.0.0.1",
        "pid": os.getpid(),
        "data_dir": None,
        "token": "secret",
    }
    return runtime.announce(port, **(arguments | values))  # type: ignore[arg-type]


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_client_finds_what_the_server_announced() -> None:
    path = announce()
    found = runtime.find(4711)
    assert found is not None
    assert (found.admin_port, found.pid) == (4712, os.getpid())
    assert found.find_token() == "secret"
    assert runtime.find_process(os.getpid()) == found
    assert runtime.find_all() == [found]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_is_left_beside_the_file() -> None:
    path = announce()
    announce()
    assert list(path.parent.iterdir()) == [path]


def test_the_token_of_a_data_directory_is_read_from_there(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    (data_dir / "admin-token").write_text("c0ffee\n")
    path = announce(data_dir=str(data_dir))
    assert "secret" not in path.read_text()
    found = runtime.find(4711)
    assert found is not None
    assert found.find_token() == "c0ffee"
    (data_dir / "admin-token").unlink()
    assert found.find_token() is None


def test_a_data_directory_is_announced_by_its_absolute_path(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    announce(data_dir="here")
    found = runtime.find(4711)
    assert found is not None
    assert found.data_dir == str(tmp_path / "here")


def test_withdrawing_removes_only_ones_own_file() -> None:
    path = announce()
    runtime.withdraw(4711, pid=1)
    assert path.exists()
    runtime.withdraw(4711)
    assert not path.exists()
    runtime.withdraw(4711)
    assert runtime.find(4711) is None


def test_a_file_whose_process_is_gone_is_ignored() -> None:
    announce(pid=dead_pid())
    assert runtime.find(4711) is None
    assert runtime.find_all() == []


def test_what_killed_servers_left_is_swept_up() -> None:
    left = announce(pid=dead_pid())
    announce(4713)
    assert not left.exists()
    assert runtime.find(4713) is not None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_pid_that_was_given_out_again_is_not_the_server() -> None:
    path = announce()
    begun = runtime.process_started(os.getpid())
    path.write_text(path.read_text().replace(f'"{begun}"', '"1"'))
    assert runtime.find(4711) is None


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_zombie_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read()  # ends with the process, which nobody has waited for
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert runtime.process_started(process.pid) is None
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_a_file_that_others_can_write_is_not_believed(mode: int) -> None:
    announce().chmod(mode)
    assert runtime.find(4711) is None


def test_a_directory_that_others_can_write_is_not_used(tmp_path: Path) -> None:
    directory = announce().parent
    directory.chmod(0o777)
    assert runtime.find(4711) is None
    assert runtime.runtime_dir() == tmp_path / f"clipper-{os.getuid()}"  # the other one
    runtime.runtime_dir().chmod(0o770)
    with pytest.raises(ConfigError, match="XDG_RUNTIME_DIR"):
        announce()


def test_links_are_not_followed(tmp_path: Path) -> None:
    path = announce()
    other = tmp_path / "elsewhere.json"
    path.rename(other)
    path.symlink_to(other)
    assert runtime.find(4711) is None
    path.unlink()
    other.rename(path)
    assert runtime.find(4711) is not None
    path.parent.rename(tmp_path / "moved")
    (tmp_path / "clipper").symlink_to(tmp_path / "moved")
    assert runtime.find(4711) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"port": "x"}', b"\xff\xfe"])
def test_a_broken_file_is_ignored(content: bytes) -> None:
    announce().write_bytes(content)
    assert runtime.find(4711) is None
    assert runtime.find_all() == []


def test_a_fifo_does_not_block_the_client() -> None:
    path = announce()
    path.unlink()
    os.mkfifo(path)
    assert runtime.find(4711) is None


def test_the_temporary_directory_serves_where_there_is_no_runtime_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    path = announce()
    assert path.parent == tmp_path / f"clipper-{os.getuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # the client's differs
    assert runtime.find(4711) is not None


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"CLIPPER_DATA_DIR": "/srv/clipper"}, "/srv/clipper"),
        ({"CLIPPER_DATA_DIR": "/srv/clipper", "XDG_DATA_HOME": "/d"}, "/srv/clipper"),
        ({"XDG_DATA_HOME": "/d"}, "/d/clipper"),
        ({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "/h/.local/share/clipper"),
        ({"HOME": "/h"}, "/h/.local/share/clipper"),
    ],
)
def test_the_default_data_directory(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert runtime.default_data_dir() == Path(expected)


def too_many(*arguments: object, **options: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def test_what_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", too_many)
    with pytest.raises(ConfigError, match=r"cannot write .*1337.json: Too many open files"):
        announce(1337)


def test_a_service_manager_that_cannot_be_told_is_no_reason_to_fail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    monkeypatch.setattr(socket, "socket", too_many)
    runtime.notify(READY=1)
