from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import aiohttp
import msgspec
import pytest
from aiohttp import web
from polling import eventually

from clipper.errors import Conflict, DeployFailed
from clipper.frontend import admin as admin_module
from clipper.frontend.deploy import DeployRoute
from clipper.frontend.lines import Lines
from clipper.model import Model
from clipper.records import ApplicationRecord, ModelRecord
from clipper.values import ModelId
from clipper.workers.packaging import pack, python_version
from clipper.workers.replica_set import Progress, ReplicaSet

from .admin_port import AdminPort, Answer, open_admin_port

MANIFEST: dict[str, Any] = {
    "model_name": "sum",
    "model_version": 1,
    "input_type": "doubles",
}
JSON, BYTES = "application/json", "application/octet-stream"


@pytest.fixture
async def admin() -> AsyncIterator[AdminPort]:
    async with open_admin_port() as admin:
        yield admin


class Workers:
    """Workers that are up when the test says so, in place of real ones."""

    def __init__(self) -> None:
        self.starting = asyncio.Event()
        self.up = asyncio.Event()
        self.failure: BaseException | None = None

    async def start(self, count: int, progress: Progress | None) -> None:
        assert progress is not None
        progress("loading", {"seconds": 0.0})
        self.starting.set()
        await self.up.wait()
        if self.failure is not None:
            raise self.failure
        progress("ready", {"replicas": count, "of": count})


@pytest.fixture
async def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    workers = Workers()

    async def start(_: ReplicaSet, count: int, progress: Progress | None = None) -> None:
        await workers.start(count, progress)

    monkeypatch.setattr(ReplicaSet, "start", start)
    return workers


def form(
    manifest: Any, function: bytes, *more: tuple[str, bytes]
) -> aiohttp.MultipartWriter:
    return parts(("manifest", msgspec.json.encode(manifest)), ("function", function), *more)


def parts(*named: tuple[str, bytes]) -> aiohttp.MultipartWriter:
    writer = aiohttp.MultipartWriter("form-data")
    for name, content in named:
        part = writer.append(io.BytesIO(content), {"Content-Type": BYTES})  # type: ignore[arg-type]
        part.set_content_disposition("form-data", name=name)
    return writer


async def upload(admin: AdminPort, manifest: Any, function: bytes = b"\x80 code") -> Answer:
    return await admin.send("POST", "/admin/deploy", data=form(manifest, function))


def stages(answer: Answer) -> list[str]:
    return [line.get("stage", "error") for line in answer.lines]


# -- with real workers -----------------------------------------------------------------


async def test_the_stages_of_a_deploy(admin: AdminPort) -> None:
    blob = pack(lambda rows: [float(row.sum()) for row in rows]).blob
    manifest = MANIFEST | {"num_replicas": 2, "example": [1.0, 2.0], "labels": ["new"]}
    answer = await upload(admin, manifest, blob)
    assert (answer.status, answer.media) == (200, "application/x-ndjson")
    assert answer.headers["Cache-Control"] == "no-store"
    lines = answer.lines
    assert lines[0] == {"stage": "received", "bytes": len(blob)}
    assert lines[1] == {"stage": "environment", "python": python_version()}
    assert stages(answer)[2:] == ["loading", "example", "ready", "ready", "live"]
    assert lines[-2] == {"stage": "ready", "replicas": 2, "of": 2}
    assert lines[-1] == {"stage": "live", "model_name": "sum", "model_version": "1"}
    record = admin.engine.model("sum", "1").record
    assert (record.labels, record.num_replicas, record.example) == (["new"], 2, [1.0, 2.0])
    assert admin.engine.model("sum", "1").replicas.live == 2


async def test_a_deploy_in_msgpack(admin: AdminPort) -> None:
    blob = pack(lambda rows: rows).blob
    data = msgspec.msgpack.encode({"manifest": MANIFEST, "function": blob})
    headers = {"Content-Type": "application/msgpack"}
    answer = await admin.send("POST", "/admin/deploy", data=data, headers=headers)
    assert answer.status == 200
    assert answer.lines[-1]["stage"] == "live"
    assert admin.engine.model("sum", "1").replicas.live == 1


async def test_a_function_that_fails_on_its_example(admin: AdminPort) -> None:
    good = await upload(admin, MANIFEST, pack(lambda rows: rows).blob)
    assert good.lines[-1]["stage"] == "live"

    def broken(rows: Any) -> Any:
        raise ValueError("no such feature")

    manifest = MANIFEST | {"model_version": 2, "example": [1.0]}
    answer = await upload(admin, manifest, pack(broken).blob)
    assert answer.status == 200
    assert set(answer.lines[-1]) == {"error", "cause"}
    assert answer.lines[-1]["error"] == "deploy_failed"
    assert "ValueError: no such feature" in answer.lines[-1]["cause"]
    current = admin.engine.catalog.current("sum")
    assert current is not None and current.version == "1"
    assert list(admin.engine.models) == [ModelId("sum", "1")]


async def test_an_upload_that_is_no_function(admin: AdminPort) -> None:
    answer = await upload(admin, MANIFEST, b"import os")
    assert answer.lines[-1]["error"] == "deploy_failed"
    assert "not a packaged function" in answer.lines[-1]["cause"]


# -- refusals before anything starts ---------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_name": "a b"}, "model name must match"),
        ({"model_name": 1}, "Expected a string, got an integer at $.model_name"),
        ({"model_version": True}, "at $.model_version"),
        ({"model_version": "a:b"}, "model_version must match"),
        ({"input_type": "images"}, "input_type must be one of"),
        ({"labels": "new"}, "Expected an array, got a string at $.labels"),
        ({"num_replicas": 0}, "at $.num_replicas"),
        ({"num_replicas": 2**31}, "at $.num_replicas"),
        ({"batching": "aimd"}, "at $.batching"),
        ({"batching": {"controller": "magic"}}, "batching must be one of"),
        ({"batching": {"controller": "fixed"}}, "needs max_batch_size"),
        ({"batching": {"max_batch_size": 0}}, "max_batch_size must be at least 1"),
        ({"batching": {"size": 1}}, "unknown field size"),
        ({"batching": {"batch_wait": "soon"}}, 'batch_wait must be "auto" or milliseconds'),
        ({"batching": {"batch_wait": -1}}, 'batch_wait must be "auto" or milliseconds'),
        ({"retry": "yes"}, "at $.retry"),
        ({"example": "text"}, "Expected an array, got a string at example"),
        ({"memory_limit": -1}, "at $.memory_limit"),
        ({"memory_limit": 2**63}, "at $.memory_limit"),
        ({"spares": -1}, "at $.spares"),
        ({"recycle_after": 0}, "at $.recycle_after"),
        ({"recycle_memory": 0}, "at $.recycle_memory"),
        ({"environment": {"A": 1}}, "at $.environment[...]"),
        ({"environment": {"A=B": "1"}}, "variable of the name 'A=B'"),
        ({"environment": {"A": "\0"}}, "environment variable A must"),
        ({"environment": {f"V{i}": "" for i in range(101)}}, "more than 100 variables"),
        ({"requirement": "numpy"}, "unknown field requirement"),
    ],
)
async def test_manifests_that_are_refused(
    admin: AdminPort, change: dict[str, Any], words: str
) -> None:
    answer = await upload(admin, MANIFEST | change)
    assert (answer.status, answer.media) == (400, JSON)
    assert answer.value["error"] == "invalid_input"
    assert words in answer.value["cause"]


@pytest.mark.parametrize("missing", ["model_name", "model_version", "input_type"])
async def test_a_manifest_that_lacks_something(admin: AdminPort, missing: str) -> None:
    manifest = {key: value for key, value in MANIFEST.items() if key != missing}
    answer = await upload(admin, manifest)
    assert answer.status == 400
    assert f"missing required field {missing}" in answer.value["cause"]


ORDER = "Expected the parts `manifest` (JSON) and `function` (bytes), in this order"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (partial(form, MANIFEST, b""), "the function is empty"),
        (partial(form, MANIFEST, b"f", ("more", b"")), "nothing after the part"),
        (partial(parts, ("function", b"f")), ORDER),
        (partial(parts, ("manifest", msgspec.json.encode(MANIFEST))), ORDER),
        (partial(parts, ("manifest", b"{")), "the body is malformed"),
        (partial(parts, ("manifest", b"[]")), "Expected an object, got an array"),
    ],
    ids=["empty", "more", "no manifest", "no function", "no JSON", "no object"],
)
async def test_forms_that_are_refused(
    admin: AdminPort, body: Callable[[], Any], words: str
) -> None:
    answer = await admin.send("POST", "/admin/deploy", data=body())
    assert answer.status == 400
    assert words in answer.value["cause"]


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("multipart/form-data; boundary=b", b""),
        ("multipart/form-data; boundary=b", b"no boundary in here"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disp"),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nbody without an end"),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("multipart/form-data", b"--b\r\n\r\n"),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"x: y\r\n" * 1000),
        ("multipart/form-data; boundary=b", b"--b\r\nx: " + b"y" * 100_000),
        ("application/msgpack", b""),
        ("application/msgpack", b"\xc1"),
        ("application/msgpack", b"\x91" * 100_000),
        ("application/msgpack", msgspec.msgpack.encode({"manifest": MANIFEST})),
        (
            "application/msgpack",
            msgspec.msgpack.encode({"manifest": MANIFEST, "function": "text"}),
        ),
    ],
)
async def test_bodies_that_are_no_uploads(admin: AdminPort, kind: str, data: bytes) -> None:
    headers = {"Content-Type": kind}
    answer = await admin.send("POST", "/admin/deploy", data=data, headers=headers)
    assert answer.status == 400
    assert answer.value["error"] in ("invalid_input", "malformed_request")


async def test_parts_in_an_encoding(admin: AdminPort) -> None:
    data = (
        b'--b\r\nContent-Disposition: form-data; name="manifest"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\ne30=\r\n--b--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    answer = await admin.send("POST", "/admin/deploy", data=data, headers=headers)
    assert answer.status == 400
    assert "must be sent as it is" in answer.value["cause"]


async def test_a_version_that_is_there(admin: AdminPort) -> None:
    await admin.engine.add_model(ModelRecord("sum", "1", "doubles", 0))
    answer = await upload(admin, MANIFEST)
    assert (answer.status, answer.value["error"]) == (409, "conflict")


async def test_a_refusal_is_heard_by_a_client_that_still_sends(admin: AdminPort) -> None:
    await admin.engine.add_model(ModelRecord("sum", "1", "doubles", 0))
    answer = await upload(admin, MANIFEST, bytes(32 * 1024 * 1024))
    assert (answer.status, answer.value["error"]) == (409, "conflict")


async def test_an_input_type_that_is_not_the_applications(admin: AdminPort) -> None:
    await admin.engine.register_application(
        ApplicationRecord("digits", 0, "ints", 1000, models=["sum"])
    )
    answer = await upload(admin, MANIFEST)
    assert answer.status == 409
    assert "already linked to app 'digits'" in answer.value["cause"]


async def test_media_types(admin: AdminPort) -> None:
    for kind in (JSON, BYTES, "multipart/mixed; boundary=b"):
        headers = {"Content-Type": kind}
        answer = await admin.send("POST", "/admin/deploy", data=b"{}", headers=headers)
        assert answer.status == 415


@pytest.mark.parametrize("kind", ["multipart", "msgpack"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_uploads_that_are_too_large(kind: str, chunked: bool) -> None:
    async with open_admin_port({"deploy_body": 4096}) as admin:
        function = b"\x80" * 5000
        headers: dict[str, str] = {}
        data: Any = form(MANIFEST, function)
        if kind == "msgpack":
            data = msgspec.msgpack.encode({"manifest": MANIFEST, "function": function})
            headers = {"Content-Type": "application/msgpack"}
        options = {"chunked": True} if chunked else {}
        answer = await admin.send(
            "POST", "/admin/deploy", data=data, headers=headers, **options
        )
        assert (answer.status, answer.value["error"]) == (413, "payload_too_large")
        assert "4096 bytes" in answer.value["cause"]


async def test_a_manifest_that_is_too_large(
    admin: AdminPort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipper.frontend.deploy.MANIFEST_BYTES", 1000)
    answer = await upload(admin, MANIFEST | {"source": "x" * 1000})
    assert answer.status == 413
    assert "part `manifest` may have at most 1000 bytes" in answer.value["cause"]


async def test_an_upload_that_does_not_come() -> None:
    async with open_admin_port({"body_seconds": 0.05}) as admin:

        async def endless() -> AsyncIterator[bytes]:
            yield b"--b\r\n"
            await asyncio.Event().wait()

        kind = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": "100"}
        answer = await admin.send("POST", "/admin/deploy", data=endless(), headers=kind)
        assert (answer.status, answer.value["error"]) == (408, "request_timeout")


async def test_a_deployer_that_hangs_up_while_it_sends(admin: AdminPort) -> None:
    host, port = admin.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /admin/deploy HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        % admin.engine.token.encode()
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await admin.get("ping")).status == 200
    assert not admin.engine.models


# -- while workers start ---------------------------------------------------------------


async def test_any_bytes_arrive_as_they_are(admin: AdminPort, workers: Workers) -> None:
    workers.up.set()
    for version, content in enumerate(
        [
            b"\r\n",
            b"--",
            b"\r\n--",
            b"\r\n--b--\r\n" * 3,
            bytes(range(256)) * 5000,
            b"\n" * 9,
        ]
    ):
        answer = await upload(admin, MANIFEST | {"model_version": version}, content)
        assert answer.lines[0] == {"stage": "received", "bytes": len(content)}
        assert answer.lines[-1]["stage"] == "live"
        digest = admin.engine.model("sum", str(version)).record.blob
        assert digest is not None
        assert await admin.engine.store.get_blob(digest) == content


async def test_a_body_that_comes_in_single_bytes(
    admin: AdminPort, workers: Workers
) -> None:
    workers.up.set()
    whole = (
        b'--b\r\nContent-Disposition: form-data; name="manifest"\r\n\r\n%b'
        b'\r\n--b\r\nContent-Disposition: form-data; name="function"\r\n\r\n\x80\r\n--'
        b"\r\n--b--\r\n" % msgspec.json.encode(MANIFEST)
    )

    async def slowly() -> AsyncIterator[bytes]:
        for index in range(len(whole)):
            yield whole[index : index + 1]
            await asyncio.sleep(0)

    headers = {"Content-Type": 'multipart/form-data; boundary="b"'}
    answer = await admin.send("POST", "/admin/deploy", data=slowly(), headers=headers)
    assert answer.lines[0] == {"stage": "received", "bytes": 5}
    assert answer.lines[-1]["stage"] == "live"


async def test_lines_come_while_nothing_happens(
    monkeypatch: pytest.MonkeyPatch, workers: Workers
) -> None:
    monkeypatch.setattr(admin_module, "DeployRoute", partial(DeployRoute, heartbeat=0.01))
    async with open_admin_port() as admin:
        url = admin.url + "/admin/deploy"
        data = form(MANIFEST, b"\x80")
        async with admin.session.post(url, data=data, headers=admin.token) as response:
            seen: list[dict[str, Any]] = []
            while len(seen) < 6:
                seen.append(msgspec.json.decode(await response.content.readline()))
            assert [line["stage"] for line in seen[:2]] == ["received", "environment"]
            waiting = seen[3:]
            assert {line["stage"] for line in waiting} == {"loading"}
            assert all(line["seconds"] > 0 for line in waiting)
            workers.up.set()
            rest = [msgspec.json.decode(line) for line in (await response.read()).split()]
            assert rest[-1]["stage"] == "live"


async def start_deploy(admin: AdminPort, workers: Workers) -> asyncio.Task[Answer]:
    deploy = asyncio.ensure_future(upload(admin, MANIFEST))
    await workers.starting.wait()
    return deploy


async def test_a_deployer_that_goes_away(admin: AdminPort, workers: Workers) -> None:
    """The deploy goes on."""
    data = form(MANIFEST, b"\x80")
    url = admin.url + "/admin/deploy"
    async with admin.session.post(url, data=data, headers=admin.token) as response:
        await response.content.readline()
        await workers.starting.wait()
        response.close()
    assert (await admin.post("get_all_models", {})).value == []
    workers.up.set()
    for _ in range(1000):
        if (await admin.post("get_all_models", {})).value:
            break
    assert (await admin.post("get_all_models", {})).value == ["sum:1"]
    assert admin.engine.catalog.current("sum") is not None


async def test_a_reader_that_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    aborted: list[bool] = []

    class Request:
        class transport:
            @staticmethod
            def abort() -> None:
                aborted.append(True)

    async def stuck(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(web.StreamResponse, "prepare", stuck)
    lines = Lines(Request(), 0.01)  # type: ignore[arg-type]
    await lines.write({"stage": "received"})
    await lines.write({"stage": "live"})
    await lines.end()
    assert aborted == [True]


async def test_the_same_version_twice(admin: AdminPort, workers: Workers) -> None:
    first = await start_deploy(admin, workers)
    second = await upload(admin, MANIFEST)
    assert second.status == 409
    assert "is being deployed already" in second.value["cause"]
    workers.up.set()
    assert (await first).lines[-1]["stage"] == "live"


async def test_no_more_deploys_than_allowed(workers: Workers) -> None:
    async with open_admin_port({"deploys": 1}) as admin:
        first = await start_deploy(admin, workers)
        second = await upload(admin, MANIFEST | {"model_name": "other"})
        assert (second.status, second.value["error"]) == (429, "too_many")
        assert second.headers["Retry-After"] == "1"
        workers.up.set()
        assert (await first).lines[-1]["stage"] == "live"
        third = await upload(admin, MANIFEST | {"model_name": "other"})
        assert third.lines[-1]["stage"] == "live"


async def half_an_upload(admin: AdminPort) -> asyncio.StreamWriter:
    """An upload that goes no further than its manifest."""
    host, port = admin.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /admin/deploy HTTP/1.1\r\nHost: localhost\r\n"
        b"Authorization: Bearer %b\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        b'Content-Disposition: form-data; name="manifest"\r\n\r\n'
        % admin.engine.token.encode()
    )
    await writer.drain()
    return writer


@pytest.mark.fault("A3")
async def test_half_finished_uploads_are_counted_and_refused_ones_are_not(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes: list[DeployRoute] = []

    class Watched(DeployRoute):
        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            self.coming = 0
            routes.append(self)

        async def handle(self, request: web.Request) -> web.StreamResponse:
            self.coming += 1
            try:
                return await super().handle(request)
            finally:
                self.coming -= 1

    monkeypatch.setattr(admin_module, "DeployRoute", Watched)
    workers.up.set()
    async with open_admin_port({"deploys": 2}) as admin:
        (route,) = routes

        async def coming(count: int) -> None:
            await eventually(lambda: route.coming == count)

        taken = [await half_an_upload(admin) for _ in range(2)]
        await coming(2)
        refused = [await half_an_upload(admin) for _ in range(3)]
        await coming(5)
        answer = await upload(admin, MANIFEST)
        assert (answer.status, answer.value["error"]) == (429, "too_many")
        assert answer.value["cause"].startswith("2 deploys are under way")
        # those that were refused and still send take nobody's place
        taken.pop().close()
        await coming(4)
        assert stages(await upload(admin, MANIFEST))[-1] == "live"
        for writer in (*taken, *refused):
            writer.close()
        await coming(0)


@pytest.mark.fault("A3")
async def test_functions_are_bounded_together(workers: Workers) -> None:
    async with open_admin_port({"function_bytes": 5000}) as admin:
        first = asyncio.ensure_future(upload(admin, MANIFEST, bytes(3000)))
        await workers.starting.wait()
        other = MANIFEST | {"model_name": "other"}
        for _ in range(2):  # while it is deployed, and when it is
            answer = await upload(admin, other, bytes(2001))
            assert (answer.status, answer.value["error"]) == (429, "too_many")
            assert "5000 bytes together; undeploy some" in answer.value["cause"]
            workers.up.set()
            assert stages(await first)[-1] == "live"
        assert stages(await upload(admin, other, bytes(2000)))[-1] == "live"


async def test_replicas_that_start_count(workers: Workers) -> None:
    async with open_admin_port({"replicas": 3}) as admin:
        first = asyncio.ensure_future(upload(admin, MANIFEST | {"num_replicas": 2}))
        await workers.starting.wait()
        more = MANIFEST | {"model_name": "other", "num_replicas": 2}
        assert (await upload(admin, more)).status == 429
        workers.up.set()
        assert (await first).lines[-1]["stage"] == "live"


async def test_failures_close_the_stream(admin: AdminPort, workers: Workers) -> None:
    workers.up.set()
    for failure, code, words in [
        (DeployFailed("the worker's own words"), "deploy_failed", "the worker's own words"),
        (ZeroDivisionError("secret"), "internal_error", "the server failed on this deploy"),
    ]:
        workers.failure = failure
        answer = await upload(admin, MANIFEST)
        assert answer.status == 200
        assert answer.lines[-1] == {"error": code, "cause": words}
    assert not admin.engine.models
    assert not admin.engine.deploys
    assert "blobs=0" in repr(admin.engine.store)


async def test_what_is_registered_meanwhile_is_respected(
    admin: AdminPort, workers: Workers
) -> None:
    deploy = await start_deploy(admin, workers)
    await admin.engine.register_application(
        ApplicationRecord("digits", 0, "ints", 1000, models=["sum"])
    )
    workers.up.set()
    answer = await deploy
    assert (answer.status, answer.lines[-1]["error"]) == (200, "conflict")
    assert not admin.engine.models


async def test_a_rollback_does_not_wait_for_a_deploy(
    admin: AdminPort, workers: Workers
) -> None:
    for version in ("a", "b"):
        await admin.engine.add_model(ModelRecord("sum", version, "doubles", 0))
    deploy = await start_deploy(admin, workers)
    answer = await admin.post("rollback", {"model_name": "sum"})
    assert answer.value == {"model_name": "sum", "model_version": "a"}
    workers.up.set()
    assert (await deploy).lines[-1]["stage"] == "live"
    assert (await admin.post("rollback", {"model_name": "sum"})).value[
        "model_version"
    ] == "a"


async def test_a_version_removed_while_it_is_scaled(
    admin: AdminPort, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers.up.set()
    await upload(admin, MANIFEST)
    removed = asyncio.Event()

    async def scale(_: ReplicaSet, replicas: int) -> None:
        await removed.wait()

    monkeypatch.setattr(ReplicaSet, "scale", scale)
    scaling = asyncio.ensure_future(admin.engine.scale("sum", "1", 2))
    await asyncio.sleep(0)
    await admin.post("undeploy", {"model_name": "sum", "model_version": 1})
    removed.set()
    with pytest.raises(Conflict, match="removed meanwhile"):
        await scaling
    assert not admin.engine.catalog.models


@pytest.mark.parametrize("heartbeat", [0.01, 60.0], ids=["told", "cut"])
async def test_a_server_that_ends_takes_its_deploys_along(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, heartbeat: float
) -> None:
    stopped: list[ModelId] = []

    async def stop(model: Model, drain_seconds: float) -> None:
        stopped.append(model.id)

    monkeypatch.setattr(Model, "stop", stop)
    monkeypatch.setattr(
        admin_module, "DeployRoute", partial(DeployRoute, heartbeat=heartbeat)
    )
    async with open_admin_port() as admin:
        deploy = await start_deploy(admin, workers)
        admin.engine.changes.drain()
        if heartbeat < 1:
            expected = {"error": "unavailable", "cause": "the server is shutting down"}
            assert (await deploy).lines[-1] == expected
    if heartbeat > 1:  # it had the time that stopping may take
        with pytest.raises((aiohttp.ClientError, RuntimeError)):
            await deploy
    assert stopped == [ModelId("sum", "1")]
    assert not admin.engine.deploys
