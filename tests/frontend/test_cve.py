"""What went wrong in other servers, each case a test named after it."""

from __future__ import annotations

import ast
import asyncio
import gzip
import logging
import re
import socket
import tarfile
import time
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
from polling import eventually

import clipper
from clipper import Server
from clipper.config import Settings

from .names import slots, with_text
from .raw import (
    LANES,
    ask,
    chunked,
    is_quiet,
    predict,
    request,
    serving,
)
from .routes import (
    METHODS,
    ask_all,
    authorization,
    port_of,
    routes_of,
    state_of,
)

LOOPS = ("uvloop",)
pytestmark = pytest.mark.asyncio(loop_scope="module")

PACKAGE = Path(clipper.__file__).parent
BODY = b'{"input": 1}'
GOOD = predict("json", BODY)
LIVE = request("GET", "/health/live")


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def all_is_well(
    server: Server, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    state = state_of(server)[0]
    yield
    assert (await ask(server.port, GOOD)).status == 200
    await eventually(lambda: is_quiet(server))
    assert state_of(server)[0] == state
    told = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert not [text for text in told if not text.startswith("the deploy of tar:1 failed")]


def python_files() -> list[Path]:
    return list(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


# -- TorchServe --------------------------------------------------------------------------


async def test_cve_2023_43654_shelltorch_nothing_listens_beyond_loopback() -> None:
    settings = Settings()
    assert settings.host == settings.admin_host == "127.0.0.1"
    assert settings.auth


async def test_cve_2023_43654_shelltorch_models_come_by_no_url(server: Server) -> None:
    """Whoever may deploy sends bytes; the server fetches nothing."""
    for path in python_files():
        if "client" not in path.parts:
            found = imports(path)
            assert not found & {"urllib3", "requests", "httpx", "ftplib"}, path
            assert "urlopen" not in path.read_text(), path


async def test_cve_2024_35198_no_dots_around_an_allow_list(server: Server) -> None:
    """Public paths are whole paths: none begins with the name of another."""
    for path in (
        "/health/../json", "/health/live/../../json", "/metrics/../json",
        "/health/%2e%2e/json", "/health/..%2fjson", "//json",
    ):  # fmt: skip
        for lane in LANES.values():
            data = request("GET", path, host="evil.example")
            assert (await ask(server.port, lane(data))).status == 421
            data = request("GET", path)
            assert (await ask(server.port, lane(data))).status == 404


# -- Ray ---------------------------------------------------------------------------------


async def test_cve_2023_48022_shadowray_deploying_needs_the_token(server: Server) -> None:
    """Every route of the admin port, as its router tells; loopback is no reason."""
    routes = [route for route in routes_of(server) if route.admin]
    assert {"deploy", "drain", "status"} <= {route.name for route in routes}
    # at once, because a refusal for want of the token is delayed
    answers = await ask_all([(server.admin_port, r.request()) for r in routes], 60)
    for answer in answers:
        assert answer.status == 401
        assert server.token.encode() not in answer.body


@pytest.mark.parametrize("agent", ["Mozilla/5.0", "curl/8", ""])
async def test_cve_2025_62593_browsers_are_not_known_by_their_name(
    server: Server, agent: str
) -> None:
    """Another site, or a name that was bound to our address, whatever the agent says."""
    lines = (f"User-Agent: {agent}",)
    token = f"Authorization: Bearer {server.token}"
    for port in (server.port, server.admin_port):
        path = "/json/predict" if port == server.port else "/admin/add_app"
        for extra, host, status in (
            (("Origin: http://evil.example",), "localhost", 403),
            (("Sec-Fetch-Site: cross-site",), "localhost", 403),
            ((), f"rebound.evil.example:{port}", 421),
            ((), "evil.example", 421),
            ((), "0.0.0.0", 421),
        ):
            data = request("POST", path, b"{}", *lines, *extra, token, host=host)
            for lane in LANES.values():
                assert (await ask(port, lane(data))).status == status


@pytest.mark.parametrize("method", METHODS)
async def test_cve_2026_27482_no_method_is_forgotten(server: Server, method: str) -> None:
    """A web page of somebody else's gets nowhere, with any method on any route."""
    lines = ("Origin: http://evil.example", authorization(server))
    routes = routes_of(server)
    answers = await ask_all(
        (port_of(server, route), route.request(*lines, method=method)) for route in routes
    )
    for route, answer in zip(routes, answers, strict=True):
        # 400: a method that no parser knows
        assert answer.status == (400 if method == "FOO" else 403), (method, route)
        assert not [name for name in answer.headers if name.startswith("access-")]


# -- BentoML -----------------------------------------------------------------------------


async def test_cve_2024_2912_2024_9070_2025_27520_2025_32375_nothing_unpickles() -> None:
    """What can unpickle is imported by what packs functions, and in the worker."""
    able = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "torch"}
    who = {path.relative_to(PACKAGE).as_posix() for path in python_files()
           if imports(path) & able}  # fmt: skip
    assert not [path for path in who if path.startswith(("frontend", "store", "client"))]
    for path in python_files():
        if path.parent.name == "frontend":
            text = path.read_text()
            assert "allow_pickle" not in text and "literal_eval" not in text, path
            assert not re.search(r"\beval\(|\bexec\(", text), path


async def test_cve_2026_27905_no_archives_are_unpacked() -> None:
    for path in python_files():
        assert not imports(path) & {"tarfile", "zipfile", "shutil.unpack_archive"}, path


async def test_cve_2026_27905_an_archive_is_no_function(
    server: Server, tmp_path: Path
) -> None:
    """Links and paths in it lead nowhere: it is not opened as an archive at all."""
    file = BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("link/canary"))
        archive.addfile(tarfile.TarInfo(f"../../../../../..{tmp_path}/canary"))
    manifest = {"model_name": "tar", "model_version": 1, "input_type": "json"}
    body = {"manifest": manifest, "function": file.getvalue()}
    data = request(
        "POST", "/admin/deploy", msgspec.msgpack.encode(body), authorization(server),
        media="application/msgpack",
    )  # fmt: skip
    answer = await ask(server.admin_port, data)
    last = msgspec.json.decode(answer.body.splitlines()[-1])
    assert last["error"] == "deploy_failed"
    assert "not a packaged function" in last["cause"]
    assert not (tmp_path / "canary").exists()


async def test_cve_2026_24123_44345_nothing_of_a_client_begins_a_line(
    server: Server,
) -> None:
    for name in ("a%0d%0aX-Evil:%201", "a%0aX-Evil:%201", "a%0dX-Evil:%201"):
        for data in (request("GET", f"/{name}"), request("POST", f"/{name}/predict", BODY)):
            for lane in LANES.values():
                answer = await ask(server.port, lane(data))
                assert answer.status == 404
                assert "x-evil" not in answer.headers
                assert b"\r" not in answer.body and b"\n" not in answer.body


# -- ShadowMQ ----------------------------------------------------------------------------


async def test_cve_2024_50050_2025_32444_2026_3059_shadowmq_workers_have_no_address() -> (
    None
):
    """Workers are reached by an inherited socket pair, and by nothing with a name."""
    for path in (PACKAGE / "workers").rglob("*.py"):
        text = path.read_text()
        assert not imports(path) & {"zmq", "aiohttp", "http", "multiprocessing"}, path
        for word in ("AF_INET", "AF_UNIX", ".bind(", ".listen(", "create_server"):
            assert word not in text, (path, word)


# -- Triton ------------------------------------------------------------------------------


@pytest.mark.fault("N3")
async def test_cve_2025_23310_23311_tiny_chunks(server: Server) -> None:
    """Three megabytes of chunks of one byte crashed it."""
    body = b'{"input": "%b"}' % (b"x" * 100_000)
    began = time.process_time()
    answer = await ask(server.port, chunked(predict("json", body), 1))
    assert answer.status == 200
    assert time.process_time() - began < 30.0


async def test_cve_2025_69229_many_chunks_wait_unread(server: Server) -> None:
    """The same where the body is not welcome."""
    body = b"x" * 50_000
    data = chunked(predict("json", body, media="text/plain"), 1)
    assert (await ask(server.port, data)).status == 415


async def test_cve_2025_23319_23320_23334_errors_tell_no_internals(server: Server) -> None:
    """Whatever is too long or wrong, the answer is short and names nothing inside."""
    long = b"a" * 50_000
    for data in (
        predict("json", b'{"input": 1, "uid": "%b"}' % long),
        predict("json", b'{"input": 1, "version": "%b"}' % long),
        predict("ints", b'{"input": ["%b"]}' % long),
        predict("ints", b'{"%b": 1}' % long),
        predict("doubles", long, media="application/x-npy"),
        predict("json", long, media="application/msgpack"),
        request("GET", "/" + "a" * 4000),
        request("POST", f"/{'a' * 4000}/predict", BODY),
    ):
        for lane in LANES.values():
            answer = await ask(server.port, lane(data))
            assert 400 <= answer.status < 500
            assert len(answer.body) < 400
            for word in (b"/tmp", b"/work", b"socket", b"shm", b"pid", b"fd", b"0x"):
                assert word not in answer.body


async def test_cve_2025_33201_2026_24173_24208_sizes_that_lie(server: Server) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%b,), }"
    for shape in (b"9223372036854775807", b"-1", b"18446744073709551616", b"0x10"):
        text = header % shape
        body = b"\x93NUMPY\1\0" + len(text).to_bytes(2, "little") + text + b"\0" * 8
        answer = await ask(server.port, predict("doubles", body, media="application/x-npy"))
        assert answer.status == 400
    for prefix in (
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
    ):
        body = b"\x81\xa5input" + prefix + b"\0"
        answer = await ask(server.port, predict("json", body, media="application/msgpack"))
        assert answer.status == 400


# -- MLflow ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "..", "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd",
        "%252e%252e%252fetc%252fpasswd", "..%5c..%5cwindows", "file:%2f%2f%2fetc%2fpasswd",
        "a%00.json", "a%23fragment", "a%3fquery", "%2fetc%2fpasswd", ".%00.%00/",
    ],
)  # fmt: skip
async def test_cve_2023_1177_2356_2780_6909_6977_2024_1483_1560_8859_names_are_no_paths(
    server: Server, name: str
) -> None:
    token = f"Authorization: Bearer {server.token}"
    for port, method, path in (
        (server.port, "POST", f"/{name}/predict"),
        (server.port, "GET", f"/{name}"),
        (server.admin_port, "GET", f"/admin/logs/{name}/1"),
        (server.admin_port, "GET", f"/admin/logs/a/{name}"),
    ):
        body = BODY if method == "POST" else None
        answer = await ask(port, request(method, path, body, token))
        assert answer.status in (400, 404), (path, answer.body)
        assert b"root:" not in answer.body


async def test_cve_2024_1560_nothing_is_decoded_twice(server: Server) -> None:
    """%256a is an escaped %6a, and not the letter j."""
    for escaped, status in (("%6ason", 200), ("%256ason", 404), ("%25256ason", 404)):
        answer = await ask(server.port, request("POST", f"/{escaped}/predict", BODY))
        assert answer.status == status


async def test_cve_2026_2393_no_address_in_a_request_is_visited() -> None:
    """An address of ours in every text of every route: nobody comes to see it. Nor does
    anybody where a model could come by an address (CVE-2023-43654) or a webhook be called
    (CVE-2026-64849)."""
    visits = 0

    def visited(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        writer.close()

    async with await asyncio.start_server(visited, "127.0.0.1", 0) as listening:
        address = listening.sockets[0].getsockname()
        async with serving() as server:
            asked = with_addresses(server, f"http://127.0.0.1:{address[1]}/x")
            answers = await ask_all(asked)
            assert len(answers) > 100
            assert {a.status for a in answers} >= {200, 400, 404}
            assert "far:1" in server.engine.catalog.models
        with socket.create_connection(address):
            await eventually(lambda: visits > 0)
        assert visits == 1  # our own, so that it is known that one would be seen


def with_addresses(server: Server, here: str) -> list[tuple[int, bytes]]:
    """Requests with an address wherever a text can stand."""
    token = authorization(server)
    lines = (f"Referer: {here}", f"X-Forwarded-For: {here}", f"Link: <{here}>")
    paths = {"model_data_path": here, "container_name": here}
    far = {"model_name": "far", "model_version": 1, "input_type": "json", **paths}
    body = msgspec.json.encode(far)
    asked = [(server.admin_port, request("POST", "/admin/add_model", body, token, *lines))]
    for route in routes_of(server):
        content = route.content or {}
        bodies = [with_text(content, slot, here) for slot in slots(content)]
        bodies += [{**content, **paths, "url": here, "webhook": here}]
        if route.name in ("drain", "deploy"):
            continue
        asked.append((port_of(server, route), route.request(token, *lines, body=None)))
        if route.method == "POST":
            asked += [
                (
                    port_of(server, route),
                    route.request(token, *lines, body=route.body(body)),
                )
                for body in bodies
            ]
    return asked


# -- local servers that any web page could drive -----------------------------------------


async def test_cve_2025_66414_2025_49596_predictions_and_feedback_pass_the_gate_too(
    server: Server,
) -> None:
    """A form, a text/plain post, and every other request that needs no preflight."""
    for media in (
        "text/plain", "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x", "text/plain; charset=application/json",
        "text/plain, application/json",
    ):  # fmt: skip
        for lane in (*LANES.values(), chunked):
            answer = await ask(server.port, lane(predict("json", BODY, media=media)))
            assert answer.status == 415
    preflight = request("OPTIONS", "/json/predict", None, "Origin: http://evil.example",
                        "Access-Control-Request-Method: POST")  # fmt: skip
    answer = await ask(server.port, preflight)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-")]


async def test_cve_2025_66414_a_host_that_is_not_ours(server: Server) -> None:
    for host in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example", ""):
        for lane in LANES.values():
            answer = await ask(server.port, lane(predict("json", BODY, host=host)))
            assert answer.status == 421


# -- compressed bodies -------------------------------------------------------------------


@pytest.mark.fault("N3")
@pytest.mark.parametrize(
    "encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "x"]
)
async def test_bombs_are_not_unpacked(server: Server, encoding: str) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    began = time.process_time()
    for lane in (*LANES.values(), chunked):
        data = predict("json", bomb, f"Content-Encoding: {encoding}")
        assert (await ask(server.port, lane(data))).status == 415
    assert time.process_time() - began < 10.0


# -- tokens ------------------------------------------------------------------------------


async def test_the_token_is_in_no_log_and_no_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving(require_token=True) as server:
        answers = await asyncio.gather(
            *(
                ask(port, request("GET", path, None, *lines))
                for lines in (
                    (),
                    (f"Authorization: Bearer {server.token[:10]}",),
                    (f"Authorization: Bearer {server.token}",),
                )
                for port in (server.port, server.admin_port)
                for path in ("/json", f"/json?token={server.token}")
            )
        )
        assert {answer.status for answer in answers} == {200, 401, 404}
        assert not [a for a in answers if server.token.encode() in a.body]
        assert server.token not in caplog.text
        assert server.token not in repr(server)
