"""A server as a process of its own that is followed by another: no request fails."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from crowd_of_clients import Crowd
from followed import SECONDS, Served, begin, plus, served, slow
from polling import eventually, turns

from clipper import Server, runtime, serving
from clipper.client.local import restart_server
from clipper.config import make_settings
from clipper.errors import ClipperError

LOOPS = ("uvloop", "asyncio")


def crowd_of(server: Served, live: set[int], each: int = 2) -> Crowd:
    crowd = Crowd(server.port, "inc", live)
    crowd.keep_alive(each, 0.002)
    crowd.one_each(each, 0.002)
    crowd.keep_alive(1, 0.01, slow=True)
    crowd.keep_alive(1, 0.01, chunked=True)
    crowd.keep_alive(3, 0.3)  # idle most of the time
    return crowd


# -- nobody notices ---------------------------------------------------------------------


async def follow_each_other(server: Served, handovers: int, asked: int) -> Crowd:
    live = {1}
    await begin(server)
    async with crowd_of(server, live) as crowd:
        await go_on(server, crowd, handovers, asked)
    return crowd


async def go_on(server: Served, crowd: Crowd, handovers: int, asked: int) -> None:
    live = crowd.live
    for number in range(handovers):
        await crowd.until(crowd.asked + asked // (2 * handovers), 600)
        await server.restart()
        await crowd.until(crowd.asked + asked // (2 * handovers), 600)
        # another version, which answers alone once it is there
        live.add(number + 2)
        await server.deploy(f"v{number + 2}", plus(number + 2))
        live.discard(number + 1)
        await server.client.undeploy("inc", f"v{number + 1}")


@pytest.mark.fault("S3")
@pytest.mark.parametrize("loop", LOOPS)
async def test_no_request_fails_while_servers_follow_each_other(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, config=f'loop = "{loop}"') as server:
        crowd = await follow_each_other(server, handovers=2, asked=2000)
        assert not crowd.failures
        assert crowd.asked >= 2000
        assert max(server.waits()) < 1000, server.waits()
        assert server.exit_code() == 0
        await server.gone(server.pids[1])
        # what tools rely on goes by the new process
        assert server.announced().pid == server.pids[2]
        assert await server.client.status()
        assert await server.client.stop()
        await server.gone(server.pids[2])
        assert runtime.find(server.port) is None


@pytest.mark.long
@pytest.mark.fault("S3")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("loop", LOOPS)
async def test_no_request_of_fifty_thousand_fails(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, config=f'loop = "{loop}"') as server:
        crowd = await follow_each_other(server, handovers=20, asked=50_000)
        assert not crowd.failures
        assert crowd.asked >= 50_000
        assert max(server.waits()) < 1000, server.waits()


@pytest.mark.fault("S3")
async def test_nothing_acknowledged_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feedback and registrations go on all the time; what was answered is there later."""
    async with served(tmp_path, monkeypatch) as server:
        client = server.client
        await begin(server)
        await client.register_application(
            "learns", "inc", "doubles", None, 10_000_000, policy="exp3"
        )
        over, acknowledged, registered = False, 0, []

        async def learn() -> None:
            nonlocal acknowledged
            while not over:
                prediction = await client.predict("learns", [1.0])
                await client.update("learns", prediction.query_id, label=2.0)
                acknowledged += 1

        async def register() -> None:
            while not over:
                name = f"app-{len(registered)}"
                await client.register_application(name, "inc", "doubles")
                registered.append(name)
                await asyncio.sleep(0.02)

        tasks = [asyncio.create_task(learn()), asyncio.create_task(register())]
        for _ in range(2):
            before = acknowledged
            await server.restart()
            await eventually(lambda: acknowledged > before + 20)  # noqa: B023
        over = True
        await asyncio.gather(*tasks)
        state = await client.get_state("learns")
        assert [arm["pulls"] for arm in state["arms"]] == [acknowledged]
        assert set(registered) <= set(await client.get_all_apps())


@pytest.mark.fault("S3")
async def test_a_deploy_under_way_ends_first_and_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = tmp_path / "go-on"

    class Waits:
        """Loading it takes until it may go on."""

        def __setstate__(self, state: dict[str, Any]) -> None:
            import time
            from pathlib import Path

            while not Path(state["path"]).exists():
                time.sleep(0.01)

        def __getstate__(self) -> dict[str, Any]:
            return {"path": str(go_on)}

        def predict(self, rows: Any) -> list[float]:
            return [float(row[0]) + 2 for row in rows]

    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        deploy = asyncio.create_task(server.deploy("v2", Waits()))
        await eventually(server.process.workers)
        await eventually(lambda: len(server.process.workers()) == 3)
        restart = asyncio.create_task(server.restart())
        await eventually(lambda: server.announced().restart.state == "preparing")  # type: ignore[union-attr]
        await eventually(lambda: "is to take over" in server.log())
        assert (await server.client.predict("inc", [1.0])).output == 2.0
        assert not deploy.done() and not restart.done()
        go_on.touch()
        await deploy
        await restart
        assert (await server.client.predict("inc", [1.0])).output == 3.0
        assert server.exit_code() == 0


@pytest.mark.fault("S3")
async def test_a_slow_query_is_answered_by_the_server_that_took_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others wait for a second at most, and not for it."""
    async with served(tmp_path, monkeypatch) as server:
        client = server.client
        await client.deploy_predict_function("slow", "v1", slow, "doubles")
        await client.register_application("slow", "slow", "doubles", None, 60_000_000)
        await server.deploy("v1", plus(1))
        await client.register_application("inc", "inc", "doubles", None, 5_000_000)
        asked = asyncio.create_task(client.predict("slow", [4.0]))
        await asyncio.sleep(0.1)
        restart = asyncio.create_task(server.restart())
        await eventually(lambda: "is ready to take over" in server.log() or asked.done())
        if asked.done():
            pytest.skip("this machine starts a server more slowly than the model answers")
        began = time.monotonic()
        assert (await client.predict("inc", [1.0])).output == 2.0
        assert time.monotonic() - began < 3.0
        await restart
        assert (await asked).output == 4.0
        assert server.exit_code() == 0


# -- what goes wrong --------------------------------------------------------------------

BEFORE = {
    "it-ends": ("sys.exit(7)", "status 7"),
    "it-raises": ("raise ImportError('no such thing')", "status 1"),
    "its-settings-are-wrong": (
        "Path(os.environ['XDG_RUNTIME_DIR'], 'clipper.toml').write_text('nonsense = 1')",
        "status 3",
    ),
    "another-directory": (
        "sys.argv[sys.argv.index('--data-dir') + 1] += '-else'",
        "is in use",
    ),
    "it-cannot-prepare": (
        """
        async def prepare(self, records, told):
            raise ZeroDivisionError("on purpose")
        Server.prepare = prepare
        """,
        "on purpose",
    ),
    "it-is-killed": (
        """
        async def prepare(self, records, told):
            os.kill(os.getpid(), 9)
        Server.prepare = prepare
        """,
        "status -9",
    ),
}


async def refused(server: Served) -> str:
    """Why no other server took over."""
    with pytest.raises(ClipperError) as raised:
        await server.restart()
    return raised.value.cause


async def goes_on(server: Served, crowd: Crowd) -> None:
    """The same server still answers everything, and can be followed later."""
    await crowd.until(crowd.asked + 50)
    assert server.announced().pid == server.pid
    assert server.process.process.poll() is None
    (server.process.directory / "fault").unlink()
    (server.process.directory / "clipper.toml").write_text("")


@pytest.mark.fault("S3")
async def test_a_new_server_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        workers = server.process.workers()
        async with crowd_of(server, {1}) as crowd:
            for what, (program, reason) in BEFORE.items():
                server.fault(program)
                told = await refused(server)
                assert reason in told and "goes on" in told, what
                await goes_on(server, crowd)
            assert server.log().count("no other server takes over") == len(BEFORE)
            await eventually(lambda: server.process.workers() == workers)
            await server.restart()
            await crowd.until(crowd.asked + 50)
        assert not crowd.failures
        assert server.exit_code() == 0


@pytest.mark.fault("S3")
async def test_a_model_that_does_not_come_up_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"

    class Breaks:
        def __setstate__(self, state: dict[str, Any]) -> None:
            from pathlib import Path

            assert not Path(state["path"]).exists(), "the weights are gone"

        def __getstate__(self) -> dict[str, Any]:
            return {"path": str(broken)}

        def predict(self, rows: Any) -> list[float]:
            return [float(row[0]) + 1 for row in rows]

    async with served(tmp_path, monkeypatch) as server:
        await server.deploy("v1", Breaks())
        await server.client.register_application("inc", "inc", "doubles", None, 5_000_000)
        broken.touch()
        before, children = server.descriptors(), server.children()
        told = await refused(server)
        assert "inc:v1 does not come up" in told and "the weights are gone" in told
        assert server.descriptors() <= before
        assert server.children() == children
        assert (await server.client.predict("inc", [1.0])).output == 2.0
        assert server.announced().pid == server.pid


AFTER = {
    "it-cannot-start": """
        async def start(self):
            raise ZeroDivisionError("on purpose")
        Server.start = start
        """,
    "it-dies-with-the-store": """
        start = Server._open_ports
        async def die(self):
            os.kill(os.getpid(), 9)
        Server._open_ports = die
        """,
}


@pytest.mark.fault("S3")
@pytest.mark.parametrize("loop", LOOPS)
async def test_a_new_server_that_fails_with_the_data_gives_them_back(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one begins again, and clients have waited: with the connections they had."""
    async with served(tmp_path, monkeypatch, config=f'loop = "{loop}"') as server:
        await begin(server, slo_micros=30_000_000)
        before = server.descriptors()
        async with crowd_of(server, {1}) as crowd:
            for what, program in AFTER.items():
                server.fault(program)
                assert "goes on" in await refused(server), what
                await goes_on(server, crowd)
            assert server.log().count("this server serves again") == len(AFTER)
        assert not crowd.failures
        # nothing is left of what came to nothing
        await eventually(lambda: server.descriptors() <= before)
        assert server.children() == sorted(server.process.workers())
        assert len(server.children()) == 2
        await server.restart()
        assert (await server.client.predict("inc", [1.0])).output == 2.0
        assert server.exit_code() == 0


async def test_what_keeps_nothing_cannot_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, "--ephemeral") as server:
        assert "keeps nothing on disk" in await refused(server)
        assert server.announced().pid == server.pid


async def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def restart(port: int) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "clipper", "restart", "--port", str(port),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        return process.returncode, said.decode()

    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        server.fault("sys.exit(7)")
        code, said = await restart(server.port)
        assert code == 1 and "goes on as it was" in said and "status 7" in said
        (tmp_path / "fault").unlink()
        code, said = await restart(server.port)
        server.pids.append(server.announced().pid)
        assert code == 0 and f"Process {server.pid} serves" in said
        assert server.pids[0] != server.pid
    code, said = await restart(server.port)
    assert code == 3 and "No server runs" in said


# -- being stopped ----------------------------------------------------------------------


HANGS = """
    async def prepare(self, records, told):
        Path(os.environ["XDG_RUNTIME_DIR"], "prepares").write_text(str(os.getpid()))
        await asyncio.sleep(1000)
    Server.prepare = prepare
    """


@pytest.mark.fault("S2")
@pytest.mark.fault("S3")
async def test_to_stop_ends_the_new_server_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        server.fault(HANGS)
        restart = asyncio.create_task(restart_server(server.port, seconds=SECONDS))
        prepares = tmp_path / "prepares"
        await eventually(lambda: prepares.exists() and prepares.read_text())
        # another signal while one server prepares to take over changes nothing
        os.kill(server.pid, signal.SIGUSR2)
        await eventually(lambda: "a new server is starting already" in server.log())
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert await asyncio.to_thread(server.exit_code) == 0
        assert time.monotonic() - began < 10.0
        await server.gone(int(prepares.read_text()))
        with pytest.raises(ClipperError):
            await restart


async def begins_slowly(server: Served, directory: Path) -> int:
    """Ask for a new server that takes its time to begin once the data are its own; its
    process, when it has them."""
    server.fault(
        """
        start = Server.start
        async def slowly(self):
            Path(os.environ["XDG_RUNTIME_DIR"], "starts").write_text(str(os.getpid()))
            await asyncio.sleep(1.0)
            await start(self)
        Server.start = slowly
        """
    )
    os.kill(server.pid, signal.SIGUSR2)
    starts = directory / "starts"
    await eventually(lambda: starts.exists() and starts.read_text())
    return int(starts.read_text())


@pytest.mark.fault("S2")
@pytest.mark.fault("S3")
async def test_to_stop_in_the_middle_ends_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data are with the new server already: the old one lets it begin, and has it
    stop."""
    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        successor = await begins_slowly(server, tmp_path)
        os.kill(server.pid, signal.SIGTERM)
        assert await asyncio.to_thread(server.exit_code) == 0
        await server.gone(successor)
        assert runtime.find(server.port) is None
        await server.process.no_workers()
        assert "Traceback" not in server.log()


@pytest.mark.fault("S3")
async def test_the_new_server_ends_if_the_old_one_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever started the old one would not know of it."""
    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        server.fault(HANGS)
        os.kill(server.pid, signal.SIGUSR2)
        prepares = tmp_path / "prepares"
        await eventually(lambda: prepares.exists() and prepares.read_text())
        server.process.kill()
        (tmp_path / "fault").unlink()
        await server.gone(int(prepares.read_text()))


# -- sockets of somebody else -----------------------------------------------------------

# Opens two sockets and replaces itself by a server that is given them, as a service
# manager does; `--fd` where its first argument says so.
ACTIVATE = """\
import os, socket, sys
made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
for number, one in enumerate(made, 3):
    if one.fileno() != number:
        os.dup2(one.fileno(), number)
    os.set_inheritable(number, True)
links = [os.readlink(f"/proc/self/fd/{number}") for number in (3, 4)]
with open(os.path.join(os.environ["XDG_RUNTIME_DIR"], "passed"), "w") as file:
    file.write(" ".join(links))
how, *command = sys.argv[1:]
if how == "fd":
    command += ["--fd", "3,4"]
else:
    os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()))
os.execv(command[0], command)
"""


@pytest.mark.fault("S3")
@pytest.mark.parametrize("how", ["fd", "manager"])
async def test_sockets_that_were_passed_are_used_and_handed_on(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (sys.executable, "-c", ACTIVATE, how)
    async with served(tmp_path, monkeypatch, before=before) as server:
        passed = set((tmp_path / "passed").read_text().split())
        assert len(passed) == 2 and passed <= server.open_files()
        await begin(server)
        async with crowd_of(server, {1}) as crowd:
            await crowd.until(100)
            await server.restart()
            await crowd.until(crowd.asked + 100)
        assert not crowd.failures
        assert server.exit_code() == 0
        assert passed <= server.open_files()
        assert not passed & {os.readlink(f"/proc/{pid}/fd/{n}") for pid in server.children()
                             for n in os.listdir(f"/proc/{pid}/fd")}  # fmt: skip


@pytest.mark.fault("S3")
async def test_a_server_with_passed_sockets_waits_for_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a service manager keeps the sockets: clients wait, and nobody is refused."""
    with socket.create_server(("127.0.0.1", 0)) as queries:
        os.set_inheritable(queries.fileno(), True)
        arguments = ("--fd", str(queries.fileno()))
        passed = {"close_fds": False}
        async with served(tmp_path, monkeypatch, *arguments, popen=passed) as server:
            await begin(server)
            crowd = Crowd(server.port, "inc", {1})
            crowd.one_each(3, 0.002)
            async with crowd:
                await crowd.until(50)
                first = server.process.process
                server.process.start()  # another, while this one has the directory
                await asyncio.sleep(0.3)
                asked = crowd.asked
                first.send_signal(signal.SIGTERM)
                await eventually(lambda: first.poll() is not None)
                await crowd.until(asked + 100)
            # one whose connection had been accepted when the end came may be told so
            refused = [why for why in crowd.failures if "status 503" not in why]
            assert not refused
            assert first.returncode == 0
            server.pids.append(server.process.process.pid)


async def test_the_service_manager_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(SECONDS)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        async with served(tmp_path, monkeypatch) as server:
            assert manager.recv(100) == b"READY=1"
            await server.restart()
            assert manager.recv(100) == f"MAINPID={server.pid}".encode()
            await server.gone(server.pids[0])
            os.kill(server.pid, signal.SIGTERM)
            await server.gone(server.pid)
            assert await asyncio.to_thread(manager.recv, 100) == b"STOPPING=1"


# -- one after another, and what is left of the first ------------------------------------


@pytest.mark.fault("S3")
async def test_what_the_first_still_owes_comes_to_the_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection whose answer takes long is passed last: the second server has to wait
    for it before it lets go itself."""
    async with served(tmp_path, monkeypatch) as server:
        await server.client.deploy_predict_function("slow", "v1", slow, "doubles")
        await server.client.register_application(
            "slow", "slow", "doubles", None, 60_000_000
        )
        connection = server.connect()
        connection.sendall(ask_slow(4.0))
        await asyncio.sleep(0.1)
        for _ in range(2):
            await server.restart()
        assert (await asyncio.to_thread(read_answer, connection))["output"] == 4.0
        await asyncio.to_thread(connection.sendall, ask_slow(0.0))
        assert (await asyncio.to_thread(read_answer, connection))["output"] == 0.0
        await server.gone(server.pids[0])
        await server.gone(server.pids[1])


def ask_slow(seconds: float) -> bytes:
    body = json.dumps({"input": [seconds]}).encode()
    head = f"POST /slow/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\nContent-Type: application/json\r\n\r\n" + body


def read_answer(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        some = connection.recv(65536)
        assert some, f"the connection was closed after {data!r}"
        data += some
    answer: dict[str, Any] = json.loads(data.partition(b"\r\n\r\n")[2])
    return answer


@pytest.mark.fault("S3")
async def test_the_new_server_goes_on_if_the_old_one_is_killed_after_it_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        successor = await begins_slowly(server, tmp_path)
        server.process.kill()
        server.pids.append(successor)
        await eventually(lambda: runtime.find(server.port) is not None)
        assert server.announced().pid == server.pid
        assert (await server.client.predict("inc", [1.0])).output == 2.0


def test_it_may_be_asked_to_restart_while_it_starts() -> None:
    """By who does not know that it has not read its own program yet."""
    code = """
        import os, signal, sys
        from clipper.cli import main

        class Early:
            def find_spec(self, name, *_):
                if name in ("clipper.config", "clipper.serving"):
                    os.kill(os.getpid(), signal.SIGUSR2)

        sys.meta_path.insert(0, Early())
        main(["serve", "--ephemeral", "--fd", "x"])
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 3, done
    assert "--fd takes one or two descriptors" in done.stderr


# -- in this process ---------------------------------------------------------------------


class Puppet:
    """A successor that has ended before it was told anything."""

    pid = 1

    def __init__(self) -> None:
        self.ending = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = False

    async def end(self) -> None:
        self.ending.set()
        await self.go_on.wait()
        self.ended = True


@asynccontextmanager
async def handing_over(
    directory: Path, monkeypatch: pytest.MonkeyPatch, puppet: Puppet
) -> AsyncIterator[serving.Process]:
    """A process whose server has let nobody deploy, for the sake of a successor."""

    async def prepare(server: Server, successor: Puppet) -> str:
        server.engine.changes.hold()
        return "1"

    monkeypatch.setattr(serving, "Successor", lambda: puppet)
    monkeypatch.setattr(serving, "prepare", prepare)
    settings = make_settings({"data_dir": str(directory), "port": 0, "admin_port": 0})
    process = serving.Process(settings, lambda server: None, None)
    async with Server(listen=True, settings=settings) as process._server:
        yield process


def too_many() -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.fault("S3")
async def test_without_descriptors_to_let_go_everything_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    puppet = Puppet()
    puppet.go_on.set()
    async with handing_over(tmp_path, monkeypatch, puppet) as process:
        monkeypatch.setattr(process._running, "listening", too_many)
        await process._hand_over()
        assert puppet.ended
        assert (
            process._restart.state == "failed" and "open files" in process._restart.reason
        )
        await process._running.deploy("inc", 1, plus(1), "doubles")


@pytest.mark.fault("S2")
@pytest.mark.fault("S3")
async def test_to_stop_waits_until_a_new_server_that_failed_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would know of it."""
    puppet = Puppet()
    async with handing_over(tmp_path, monkeypatch, puppet) as process:
        monkeypatch.setattr(process._running, "listening", too_many)
        process._handing_over = asyncio.create_task(process._hand_over())
        await puppet.ending.wait()
        ending = asyncio.create_task(process._end_hand_over())
        await turns()
        puppet.go_on.set()
        await ending
        assert puppet.ended
