"""What a server process, as people start it, shows to others: sockets, files that it
touches, what its workers hold, what its log says."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from frontend.names import HOSTILE, in_paths, slots, with_text
from frontend.raw import LANES, Answer, predict, request, update
from frontend.routes import CHANGES, QUESTIONS, ask_all
from polling import eventually
from served import ServeProcess

from clipper.client import AsyncClipper
from clipper.errors import ClipperError

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

# What an operator's environment may hold, and a model must not see. Every value has the
# word that is looked for.
WORD = "hunter2"
SECRETS = {
    "GITHUB_TOKEN": "hunter2-a",
    "OPENAI_API_KEY": "hunter2-b",
    "DB_PASSWORD": "hunter2-c",
    "PGPASSWORD": "hunter2-d",
    "MYSQL_PWD": "hunter2-e",
    "AWS_ACCESS_KEY_ID": "hunter2-f",
    "AWS_SECRET_ACCESS_KEY": "hunter2-g",
    "AZURE_CLIENT_SECRET": "hunter2-h",
    "GOOGLE_APPLICATION_CREDENTIALS": "/hunter2-i.json",
    "DATABASE_URL": "postgresql://clipper:hunter2@db.example/x",
    "BROKER": "amqp://guest:hunter2@queue.example",
    "HTTPS_PROXY": "http://me:hunter2@proxy.example:3128",
    "SENTRY_DSN": "https://hunter2@sentry.example/1",
    "CLIPPER_TOKEN": "hunter2-j",
    "SSH_AUTH_SOCK": "/hunter2-k.sock",
    "DEPLOY_KEY": "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2",
    "SIGNING": "-----BEGIN PRIVATE KEY-----\nhunter2",
    "SESSION_COOKIE": "hunter2-l",
}


def look(rows: Any) -> list[Any]:
    """A model that tells what its process can see."""
    import os
    from pathlib import Path

    def target(entry: str) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            return ""  # the directory that is being listed

    seen = {
        "environ": dict(os.environ),
        "began with": Path("/proc/self/environ").read_text(errors="replace"),
        "fds": {entry: target(entry) for entry in os.listdir("/proc/self/fd")},
        "status": Path("/proc/self/status").read_text(),
        "limits": Path("/proc/self/limits").read_text(),
        "oom": Path("/proc/self/oom_score_adj").read_text().strip(),
        "pid": [os.getpid(), os.getpgrp(), os.getsid(0), os.getppid()],
        "memory": Path("/proc/self/maps").read_text(),
    }
    return [seen for _ in rows]


def noisy(rows: Any) -> list[Any]:
    raise ValueError("\n12:00:00 WARNING forged by a model\n\x1b[2J\x1b]0;owned\x07")


class Running:
    """The server, a client of it, and its secrets as text."""

    def __init__(self, process: ServeProcess, client: AsyncClipper) -> None:
        self.process = process
        self.client = client
        self.pid = process.process.pid
        data = process.data
        self.token = (data / "admin-token").read_text().strip()
        keys = [path.read_text().strip() for path in data.glob("query-key*")]
        assert len(self.token) == 64 and keys
        self.secrets = [self.token, *keys]

    @property
    def port(self) -> int:
        return self.client.port

    @property
    def admin_port(self) -> int:
        return int(self.client.admin_url.rpartition(":")[2])

    @property
    def bearer(self) -> str:
        return f"Authorization: Bearer {self.token}"

    def log(self) -> str:
        return self.process.log.read_text()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    directory = tmp_path_factory.mktemp("exposure")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SECRETS.items():
            patch.setenv(name, value)
        process = ServeProcess(directory, "exposure", "--verbose")
        process.start()
    try:
        async with await process.client() as client:
            for name in ("look", "other"):
                await client.deploy_predict_function(name, 1, look, "json")
                await client.register_application(name, name, "json", None, 5_000_000)
            yield Running(process, client)
            assert process.process.poll() is None
    finally:
        process.kill()


def sockets_of(pid: int) -> set[str]:
    found = set()
    for entry in os.listdir(f"/proc/{pid}/fd"):
        with suppress(OSError):
            target = os.readlink(f"/proc/{pid}/fd/{entry}")
            if target.startswith("socket:"):
                found.add(target[len("socket:[") : -1])
    return found


def table(pid: int, name: str) -> list[list[str]]:
    path = Path(f"/proc/{pid}/net/{name}")
    return (
        [line.split() for line in path.read_text().splitlines()[1:]]
        if path.exists()
        else []
    )


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text()


def reachable(pid: int) -> set[Any]:
    """Everything that others can send to: what listens, what takes datagrams, and sockets
    with a name."""
    own, found = sockets_of(pid), set()
    for name in ("tcp", "tcp6"):
        for fields in table(pid, name):
            if fields[9] in own and fields[3] == "0A":
                address, _, port = fields[1].partition(":")
                packed = b"".join(
                    bytes.fromhex(address[i : i + 8])[::-1]
                    for i in range(0, len(address), 8)
                )
                found.add((str(ipaddress.ip_address(packed)), int(port, 16)))
    for name in ("udp", "udp6", "raw", "raw6"):
        found |= {(name, *fields) for fields in table(pid, name) if fields[9] in own}
    for fields in table(pid, "unix"):
        if fields[6] in own and len(fields) > 7:
            found.add(("unix", fields[7]))
    return found


@pytest.mark.fault("N9")
async def test_cve_2023_43654_shelltorch_only_loopback_is_listened_on(
    running: Running,
) -> None:
    """As started without options: two sockets, both on 127.0.0.1, and none of a worker."""
    assert reachable(running.pid) == {
        ("127.0.0.1", running.port),
        ("127.0.0.1", running.admin_port),
    }
    workers = running.process.workers()
    assert len(workers) == 2
    for pid in workers:
        assert reachable(pid) == set()


async def test_what_is_looked_for_is_found(tmp_path: Path) -> None:
    """`reachable` sees what it has to."""
    with (
        socket.create_server(("", 0)) as every,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as named,
    ):
        datagrams.bind(("127.0.0.1", 0))
        named.bind(str(tmp_path / "named"))
        found = reachable(os.getpid())
        assert ("0.0.0.0", every.getsockname()[1]) in found
        assert ("::1", six.getsockname()[1]) in found
        assert ("unix", str(tmp_path / "named")) in found
        assert any(entry[0] == "udp" for entry in found)


async def test_cve_2024_50050_2025_32444_2026_3059_26220_workers_have_no_name(
    running: Running,
) -> None:
    """Nobody can reach a worker but the server: an inherited pair without a name, and no
    other socket; nor can a worker reach another, or the server's ports from inside."""
    held = [sockets_of(pid) for pid in running.process.workers()]
    assert [len(sockets) for sockets in held] == [1, 1]
    assert not held[0] & held[1]
    for pid, sockets in zip(running.process.workers(), held, strict=True):
        rows = [fields for fields in table(pid, "unix") if fields[6] in sockets]
        assert [len(fields) for fields in rows] == [7]  # no eighth: the name


async def test_workers_get_no_secrets(running: Running) -> None:
    """Neither the environment nor a descriptor of the server, nor its data."""
    prediction = await running.client.predict("look", 1)
    seen = prediction.output
    assert WORD not in str(seen)
    for secret in running.secrets:
        assert secret not in str(seen)
    assert not [name for name in seen["environ"] if name in SECRETS]
    assert seen["environ"]["MARK"] == "exposure"  # the rest comes along
    # its streams, its socket, and what was opened to look
    kinds = sorted(target.partition(":")[0] for target in seen["fds"].values() if target)
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"], seen["fds"]
    assert str(running.process.data) not in str(seen["fds"]) + str(seen["memory"])
    status = dict(re.findall(r"^(\w+):\s*(.*)$", seen["status"], re.M))
    assert status["Umask"] == "0077"
    assert re.search(r"^Max core file size +0 +0 +bytes", seen["limits"], re.M)
    assert int(seen["oom"]) == 500
    pid, group, session, parent = seen["pid"]
    assert pid == group == session and parent == running.pid
    for number in running.process.workers():
        command = command_of(number)
        assert not any(secret in command for secret in running.secrets)


async def test_secrets_are_files_of_their_owner(running: Running) -> None:
    for path in running.process.directory.rglob("*"):
        shared = path.stat().st_mode & 0o077
        inside = running.process.data in (path, *path.parents)
        if inside or path.suffix == ".json":
            assert not shared, path


# -- what is written ---------------------------------------------------------------------


async def misuse(running: Running) -> list[Answer]:
    """Everything that goes wrong and could be told of with too many words."""
    token, admin, port = running.token, running.admin_port, running.port
    client = running.client
    with suppress(ClipperError):
        await client.deploy_predict_function("noisy", 1, noisy, "json", example=[1])
    await client.deploy_predict_function("noisy", 2, noisy, "json")
    await client.register_application("noisy", "noisy", "json", None, 5_000_000)
    wrong = [
        (), (f"Authorization: Bearer {token[:-1]}",), (f"Authorization: {token}",),
        (f"Authorization: Basic {token}",), (f"X-Token: {token}",), (f"Cookie: t={token}",),
        (f"Authorization: Bearer {token}",), (f"Referer: http://x/?token={token}",),
        (f"Origin: http://{token}.example",), (f"Authorization: Bearer {token}\x01",),
    ]  # fmt: skip
    asks: list[tuple[int, bytes]] = []
    for lines in wrong:
        asks += [
            (number, request("GET", target, None, *lines))
            for number, targets in (
                (admin, ("/admin/ping", f"/admin/ping?token={token}", f"/admin/{token}")),
                (port, ("/look", f"/look?token={token}", f"/{token}", f"/{token}/predict")),
            )
            for target in targets
        ]
        for name in ("look", "noisy"):
            for lane in LANES.values():
                body = b'{"input": "%b\\n12:00:00 ERROR forged"}' % token.encode()
                asks.append((port, lane(predict(name, body, *lines))))
                body = b'{"query_id": "%b", "label": 1}' % token.encode()
                asks.append((port, lane(update(name, body, *lines))))
    for method in ("POST", "BREW", "GET"):
        line = f"Host: a\r\n\x1b[2J12:00:00 ERROR forged {token}"
        asks.append((port, request(method, f"/{token}%0a12:00:00%20ERROR", b"{", line)))
    for name, content in (CHANGES | QUESTIONS).items():
        if name in ("drain", "deploy"):
            continue
        for slot in slots(content):
            text = f"{token}\n12:00:00 WARNING forged\x1b[2J"
            body = msgspec.json.encode(with_text(content, slot, text))
            asks.append((admin, request("POST", f"/admin/{name}", body, running.bearer)))
    return await ask_all(asks, 50)


@pytest.mark.fault("N9")
@pytest.mark.fault("N7")
async def test_nothing_that_is_written_has_a_secret_or_a_forged_line(
    running: Running,
) -> None:
    answers = await misuse(running)
    metrics = await running.client.metrics()
    written = {
        "log": running.log(),
        "metrics": metrics,
        "status": str(await running.client.status()),
        "log of workers": await running.client.logs("noisy", 2),
    }
    for path in (running.process.directory / "clipper").glob("*"):
        written[path.name] = path.read_text()
    for pid in (running.pid, *running.process.workers()):
        written[f"command of {pid}"] = command_of(pid)
    for place, text in written.items():
        for secret in running.secrets:
            assert secret not in text, place
            assert secret[:32] not in text, place
        assert WORD not in text, place
        assert "\x1b" not in text and "\x07" not in text, place
    # what a client sent may come back to it in the error; more of the token does not
    for answer in answers:
        for secret in running.secrets[1:]:
            assert secret.encode() not in answer.body
    lines = written["log"].splitlines()
    assert any("noisy:1 failed" in line or "noisy:1" in line for line in lines)
    assert not [line for line in lines if re.match(r"\d\d:\d\d:\d\d .*forged", line)]
    assert len(written["log"]) < 200_000


async def test_repeated_errors_fill_no_disk(running: Running) -> None:
    before = len(running.log())
    bad = request("POST", "/look/predict", b"{", "Content-Length: 5")
    for _ in range(10):
        answers = await ask_all([(running.port, bad)] * 200, 100)
        assert {answer.status for answer in answers} == {400}
    assert len(running.log()) - before < 50_000


# -- what is touched ---------------------------------------------------------------------

STRACE = ("strace", "-f", "--seccomp-bpf", "-e", "trace=%file", "-s", "4096")


@pytest.mark.fault("N6")
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
async def test_cve_2023_1177_2023_2780_2024_1483_no_name_is_a_path(tmp_path: Path) -> None:
    """Hostile names in every place, while all that the server opens, makes or removes is
    written down: nothing but what is in its data directory."""
    trace = tmp_path / "trace"
    process = ServeProcess(
        tmp_path,
        "traced",
        before=(*STRACE, "-o", str(trace)),
    )
    process.start()
    server = 0
    try:
        async with await traced_client(process) as client:
            server = only_child(process.process.pid)
            await client.deploy_predict_function("echo", 1, lambda xs: xs, "json")
            await client.register_application("echo", "echo", "json", None, 5_000_000)
            running = Running(process, client)
            await hostile_names(running)  # what is imported late is imported now
            begun = trace.stat().st_size
            answers = await hostile_names(running)
            assert len(answers) > 1000
            ended = trace.stat().st_size
            # a change that does touch files, so that the trace is known to be one
            await client.deploy_predict_function("echo", 2, lambda xs: xs, "json")
            threads = set(os.listdir(f"/proc/{server}/task"))
    finally:
        with suppress(ProcessLookupError):
            os.kill(server or process.process.pid, signal.SIGKILL)
        process.process.wait()
    data = trace.read_bytes()
    during, after = (paths_in(part, threads) for part in (data[begun:ended], data[ended:]))
    own = str(process.data)
    assert any(path.startswith(f"{own}/blobs/") for path in after), sorted(after)[:50]
    assert not [path for path in during if not path.startswith(f"{own}/")]
    for part in ("etc/passwd", "win.ini", "boot.ini", "%2e", "evil", "root", "id"):
        assert not [path for path in during if part in path.removeprefix(own)]


def only_child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


def paths_in(trace: bytes, threads: set[str]) -> set[str]:
    """Every path in the system calls of these threads."""
    lines = [line.split(maxsplit=1) for line in trace.decode("latin-1").splitlines()]
    own = [line[1] for line in lines if len(line) == 2 and line[0] in threads]
    return set(re.findall(r'"((?:[^"\\]|\\.)*)"', "\n".join(own)))


async def traced_client(process: ServeProcess) -> AsyncClipper:
    """A client of a server that runs under another process."""
    import json

    runtime = process.directory / "clipper"
    found: list[dict[str, Any]] = []

    def there() -> bool:
        assert process.process.poll() is None, process.log.read_text()
        for path in runtime.glob("*.json"):
            with suppress(ValueError, OSError):
                found.append(json.loads(path.read_text()))
        return bool(found)

    await eventually(there, 90)
    return AsyncClipper(
        "localhost",
        port=found[0]["port"],
        admin_port=found[0]["admin_port"],
        data_dir=process.data,
    )


SLOTS = ("logs/{}/1", "logs/echo/{}", "feedback/{}", "applications/{}/explain")


async def hostile_names(running: Running) -> list[Answer]:
    asks: list[tuple[int, bytes]] = []
    for name in in_paths():
        for target in (f"/{name}", f"/{name}/predict", f"/{name}/update"):
            body = None if target.endswith(name) else b'{"input": 1}'
            asks.append((running.port, request("POST" if body else "GET", target, body)))
        for target in (
            "logs/{}/1",
            "logs/echo/{}",
            "feedback/{}",
            "applications/{}/explain",
        ):
            path = f"/admin/{target.format(name)}"
            asks.append((running.admin_port, request("GET", path, None, running.bearer)))
    for route, content in (CHANGES | QUESTIONS).items():
        if route in ("drain", "deploy"):
            continue
        for slot in slots(content):
            for name in HOSTILE:
                body = msgspec.json.encode(with_text(content, slot, name))
                asks.append(
                    (
                        running.admin_port,
                        request("POST", f"/admin/{route}", body, running.bearer),
                    )
                )
    return await ask_all(asks)
