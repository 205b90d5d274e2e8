"""What went wrong in other servers, each case a test named after it."""

from __future__ import annotations

import ast
import asyncio
import gzip
import logging
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio

import clipper
from clipper import Server
from clipper.config import Settings

from .raw import (
    LANES,
    ask,
    chunked,
    connect,
    eventually,
    is_quiet,
    predict,
    request,
    serving,
    with_trailer,
)

LOOPS = ("uvloop",)
pytestmark = pytest.mark.asyncio(loop_scope="module")

PACKAGE = Path(clipper.__file__).parent
BODY = b'{"input": 1}'
GOOD = predict("json", BODY)
LIVE = request("GET", "/health/live")
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND",
)  # fmt: skip
# Routes of both ports; of the admin port those that change something come first.
ADMIN = (
    "deploy", "add_app", "delete_app", "add_model", "delete_versioned_model",
    "set_model_version", "add_model_links", "delete_model_links", "rollback", "scale",
    "undeploy", "set_policy", "drain", "get_all_applications", "get_state", "status",
    "ping", "logs/a/1",
)  # fmt: skip


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def all_is_well(
    server: Server, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[None]:
    state = msgspec.json.encode(server.engine.catalog.state)
    yield
    assert (await ask(server.port, GOOD)).status == 200
    await eventually(lambda: is_quiet(server))
    assert msgspec.json.encode(server.engine.catalog.state) == state
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


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
    # at once, because a refusal for want of the token is delayed
    answers = await asyncio.gather(
        *(
            ask(server.admin_port, request(method, f"/admin/{route}", body))
            for route in ADMIN
            for method, body in (("GET", None), ("POST", b"{}"))
        )
    )
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
    routes = {
        server.port: ["/json/predict", "/json", "/health/live", "/metrics", "/docs", "/x"],
        server.admin_port: [f"/admin/{route}" for route in ADMIN],
    }
    token = f"Authorization: Bearer {server.token}"
    for port, paths in routes.items():
        for path in paths:
            body = b"{}" if method in ("POST", "PUT", "PATCH") else None
            data = request(method, path, body, "Origin: http://evil.example", token)
            answer = await ask(port, data, head_only=method == "HEAD")
            assert answer.status == 403, (method, path)
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


# -- smuggling: CVE-2023-37276, -47627, -47641, CVE-2024-23829, -52304, CVE-2025-53643,
#    CVE-2025-69224, CVE-2026-34525 --------------------------------------------------------


def headed(*lines: str) -> bytes:
    """A POST with these lines for its body's length, and a hidden request as the body."""
    head = ("POST /json/predict HTTP/1.1", "Host: localhost",
            "Content-Type: application/json", *lines, "", "")  # fmt: skip
    return "\r\n".join(head).encode("latin-1")


HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: localhost\r\n\r\n"

SMUGGLING: dict[str, bytes] = {
    "both lengths": headed("Content-Length: 5", "Transfer-Encoding: chunked")
    + b"0\r\n\r\n" + HIDDEN,
    "both, reversed": headed("Transfer-Encoding: chunked", "Content-Length: 5")
    + b"0\r\n\r\n" + HIDDEN,
    "two lengths": headed("Content-Length: 0", "Content-Length: 12") + BODY + HIDDEN,
    "two equal lengths": headed("Content-Length: 12", "Content-Length: 12") + BODY,
    "list of lengths": headed("Content-Length: 12, 12") + BODY,
    "plus": headed("Content-Length: +12") + BODY,
    "minus": headed("Content-Length: -12") + BODY,
    "hexadecimal": headed("Content-Length: 0xc") + BODY,
    "underscore": headed("Content-Length: 1_2") + BODY,
    "empty length": headed("Content-Length:") + HIDDEN,
    "words": headed("Content-Length: 12 12") + BODY,
    "other digits": headed("Content-Length: \xb2") + BODY,
    "too large": headed("Content-Length: 18446744073709551628") + BODY,
    "xchunked": headed("Transfer-Encoding: xchunked") + b"0\r\n\r\n" + HIDDEN,
    "chunked, twice": headed("Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n",
    "identity": headed("Transfer-Encoding: identity", "Content-Length: 12") + BODY,
    "chunked last not": headed("Transfer-Encoding: chunked, identity") + b"0\r\n\r\n",
    "two encodings": headed("Transfer-Encoding: chunked", "Transfer-Encoding: identity")
    + b"0\r\n\r\n" + HIDDEN,
    "empty encoding": headed("Transfer-Encoding:", "Content-Length: 12") + BODY,
    "vertical tab": headed("Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n" + HIDDEN,
    "space before colon": headed("Content-Length : 12") + BODY,
    "tab before colon": headed("Content-Length\t: 12") + BODY,
    "folded": headed("X: a", " Content-Length: 12", "Content-Length: 0") + HIDDEN,
    "folded length": headed("Content-Length:", " 12") + BODY,
    "space first": headed(" Content-Length: 12") + BODY,
    "bare lf": headed("X: a\nContent-Length: 12") + BODY,
    "bare cr": headed("X: a\rContent-Length: 12") + BODY,
    "nul": headed("X: a\0b", "Content-Length: 12") + BODY,
    "no colon": headed("Content-Length", "X: 12") + BODY,
    "no name": headed(": 12") + BODY,
    "odd name": headed("Content-Length\x80: 12") + BODY,
    "bare lf all along": headed("Content-Length: 12").replace(b"\r\n", b"\n") + BODY,
    "two hosts": headed("Host: evil.example", "Content-Length: 12") + BODY,
    "no host": headed("Content-Length: 12").replace(b"Host: localhost\r\n", b"") + BODY,
    "chunk size 0x3": headed("Transfer-Encoding: chunked") + b"0x3\r\nabc\r\n0\r\n\r\n",
    "chunk size -1": headed("Transfer-Encoding: chunked") + b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk size huge": headed("Transfer-Encoding: chunked") + b"f" * 17 + b"\r\nabc",
    "lf in an extension": headed("Transfer-Encoding: chunked")
    + b"c;a\nb\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk without crlf": headed("Transfer-Encoding: chunked") + b"c\n" + BODY + b"\n0\n\n",
    "chunk longer than said": headed("Transfer-Encoding: chunked") + b"3\r\n" + BODY,
    "absolute target": headed("Content-Length: 12").replace(b" /", b" http://localhost/")
    + BODY,
    "http/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/2.0": request("GET", "/health/live", version="2.0"),
    "http/0.9": request("GET", "/health/live", version="0.9"),
    "http/1.10": request("GET", "/health/live", version="1.10"),
    "no version": b"GET /health/live\r\n\r\n",
    "two spaces in the version": b"GET /health/live HTTP/1.1 x\r\nHost: localhost\r\n\r\n",
    "lower case": b"get /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "rtsp": b"GET /health/live RTSP/1.0\r\nHost: localhost\r\n\r\n",
    "connect": request("CONNECT", "localhost:80"),
    "control in the target": b"GET /health\x01/live HTTP/1.1\r\nHost: localhost\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("before", [b"", LIVE, with_trailer(LIVE)], ids=["first", *LANES])
@pytest.mark.parametrize("name", SMUGGLING)
async def test_one_request_is_one_answer(server: Server, name: str, before: bytes) -> None:
    """A request of doubtful length is refused, and nothing behind it is looked at."""
    async with await connect(server.port) as wire:
        if before:
            await wire.send(before)
            assert (await wire.answer()).status == 200
        await wire.send(SMUGGLING[name] + HIDDEN)
        answer = await wire.answer()
        assert answer.status in (400, 405, 413, 431, 505), answer
        assert answer.value.keys() == {"error", "cause"}
        assert answer.closes
        assert await wire.rest() == b""


@pytest.mark.parametrize(
    ("lines", "blank"),
    [
        (("Content-Length: 0012",), b""),
        (("Content-Length: 12 \t",), b""),
        (("Content-Length:12",), b""),
        (("content-LENGTH:\t 12",), b""),
        (("Content-Length: 12",), b"\r\n"),
    ],
)
async def test_odd_but_valid_lengths(
    server: Server, lines: tuple[str, ...], blank: bytes
) -> None:
    """Both lanes find the same end of the body."""
    for lane in LANES.values():
        async with await connect(server.port) as wire:
            await wire.send(lane(headed(*lines) + BODY) + blank + LIVE)
            assert (await wire.answer()).status == 200
            assert (await wire.answer()).value["status"] == "live"


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
