"""The end of a server process, whatever it is doing: what is under way is answered, the
exit code is 0, and it does not take longer than it may."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crowd_of_clients import Crowd
from followed import Served, begin, plus, served, slow
from polling import eventually

from clipper import runtime
from clipper.errors import ClipperError

QUICK = 10.0  # seconds; what an end may take where nothing hangs
DRAIN = 1.0
SLOWER = 6.0  # with that drain time, whatever hangs, on a machine that is busy


async def ends(server: Served, seconds: float, number: int = signal.SIGTERM) -> None:
    """End it by a signal."""
    began = time.monotonic()
    os.kill(server.pid, number)
    assert await asyncio.to_thread(server.exit_code) == 0, server.log()
    assert time.monotonic() - began < seconds
    await server.process.no_workers()
    assert runtime.find(server.port) is None
    assert "Traceback" not in server.log()


def draining(seconds: float) -> str:
    return f"drain_seconds = {seconds}"


@pytest.mark.fault("S2")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_under_load_everything_accepted_is_answered(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        client = server.client
        await client.deploy_predict_function("slow", "v1", slow, "doubles")
        await client.register_application("slow", "slow", "doubles", None, 60_000_000)
        asked = asyncio.create_task(client.predict("slow", [0.5]))
        async with Crowd(server.port, "inc", {1}) as crowd:
            crowd.keep_alive(3)
            crowd.one_each(2)
            await crowd.until(200)
            await ends(server, QUICK, number)
        assert (await asked).output == 0.5
        # later they find nobody, or were idle; what was accepted has its answer, and a
        # request that came too late is told so
        known = ("ConnectionRefused", "ConnectionReset", "BrokenPipe", "IncompleteRead")
        known += ("status 503",)
        assert all(any(k in why for k in known) for why in crowd.failures), crowd.failures
        assert not [why for why in crowd.failures if "wrong" in why]


@pytest.mark.fault("S2")
async def test_during_a_deploy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not go live any more, so nobody waits for it."""

    class Sleeps:
        def __setstate__(self, state: dict[str, Any]) -> None:
            import time

            time.sleep(100)

        def __getstate__(self) -> dict[str, Any]:
            return {"a": 1}

        def predict(self, rows: Any) -> list[float]:
            return [0.0 for _ in rows]

    async with served(tmp_path, monkeypatch) as server:
        await begin(server)
        deploy = asyncio.create_task(server.deploy("v2", Sleeps()))
        await eventually(lambda: len(server.process.workers()) == 3)
        await ends(server, 5.0)
        with pytest.raises(ClipperError):
            await deploy


@pytest.mark.fault("S2")
async def test_during_a_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are made all the time; what was acknowledged is there at the next start."""
    config = "[learning]\nsnapshot_entries = 1\nsnapshot_seconds = 0.001"
    async with served(tmp_path, monkeypatch, config=config) as server:
        client = server.client
        await server.deploy("v1", plus(1))
        await client.register_application(
            "learns", "inc", "doubles", None, 10_000_000, policy="exp3"
        )
        acknowledged = 0

        async def learn(uid: str) -> None:
            nonlocal acknowledged
            while True:
                prediction = await client.predict("learns", [1.0], uid=uid)
                await client.update("learns", prediction.query_id, label=2.0, uid=uid)
                acknowledged += 1

        tasks = [asyncio.create_task(learn(f"u{n}")) for n in range(10)]
        await eventually(lambda: acknowledged > 100)
        await ends(server, QUICK)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, ClipperError) for outcome in outcomes)
        server.process.start()
        again = await server.process.client()
        try:
            [arm] = (await again.get_state("learns"))["arms"]
            # one may have been kept and its answer lost with the connection
            assert acknowledged <= arm["pulls"] <= acknowledged + len(tasks)
        finally:
            await again.close()


def hangs(rows: Any) -> list[float]:
    import os
    import signal
    import time
    from pathlib import Path

    Path(os.environ["XDG_RUNTIME_DIR"], "hangs").write_text("began")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(1000)
    return [0.0 for _ in rows]


async def a_worker_hangs(server: Served) -> None:
    client = server.client
    await client.deploy_predict_function("hangs", "v1", hangs, "doubles")
    await client.register_application("hangs", "hangs", "doubles", None, 600_000_000)
    body = b'{"input": [1.0]}'
    server.connect().sendall(_head("/hangs/predict", len(body)) + body)
    began = server.process.directory / "hangs"
    await eventually(lambda: began.exists() and began.read_text() == "began")


async def a_worker_is_stopped(server: Served) -> None:
    await server.deploy("v1", plus(1))
    for pid in server.process.workers():
        os.kill(pid, signal.SIGSTOP)


async def nobody_reads(server: Served) -> None:
    """Many answers wait for a client that takes none."""
    connection = server.connect()
    connection.settimeout(0.5)
    ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with pytest.raises(TimeoutError):  # it takes no more requests either
        await asyncio.to_thread(connection.sendall, 200_000 * ask)


async def a_body_is_slow(server: Served) -> None:
    await begin(server)
    server.connect().sendall(_head("/inc/predict", 1000) + b'{"input"')
    head = _head("/inc/predict", 0)
    head = head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    server.connect().sendall(head + b"5\r\n{")
    await server.client.status()  # they were taken before


async def an_upload_is_slow(server: Served) -> None:
    found = server.announced()
    head = _head("/admin/deploy", 10_000_000).replace(
        b"application/json",
        b"multipart/form-data; boundary=x\r\nAuthorization: Bearer "
        + str(found.find_token()).encode(),
    )
    server.connect(found.admin_port).sendall(head + b"--x\r\n")
    await server.client.status()


def _head(path: str, length: int) -> bytes:
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {length}\r\n\r\n"
    ).encode()


@pytest.mark.fault("S2")
@pytest.mark.parametrize(
    "trouble",
    [a_worker_hangs, a_worker_is_stopped, nobody_reads, a_body_is_slow, an_upload_is_slow],
    ids=lambda trouble: str(trouble.__name__),
)
async def test_whatever_hangs_the_drain_time_is_the_bound(
    trouble: Callable[[Served], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, config=draining(DRAIN)) as server:
        await trouble(server)
        await ends(server, SLOWER)


@pytest.mark.fault("S2")
async def test_a_second_signal_ends_it_in_the_middle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(tmp_path, monkeypatch, config=draining(600.0)) as server:
        await a_worker_hangs(server)
        os.kill(server.pid, signal.SIGTERM)
        await eventually(lambda: runtime.find(server.port) is None)
        assert server.process.process.poll() is None
        await ends(server, SLOWER)
