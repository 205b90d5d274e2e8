"""The gate: what may come in, by its head alone."""

from __future__ import annotations

from typing import Any

import pytest

from clipper.config import Settings
from clipper.errors import (
    ClipperError,
    Forbidden,
    HTTPVersionNotSupported,
    MalformedRequest,
    MethodNotAllowed,
    MisdirectedRequest,
    Overloaded,
    PayloadTooLarge,
    Unauthorized,
    UnsupportedMediaType,
)
from clipper.frontend.gate import JSON, MULTIPART, NPY, Gate, Head, error_headers, make_head

TOKEN = "0123456789abcdef"


def make_gate(*, admin: bool = False, **values: Any) -> Gate:
    return Gate(Settings(**values), TOKEN, admin=admin)


def head(
    method: str = "GET",
    target: str = "/numbers",
    version: tuple[int, int] = (1, 1),
    host: str | None = "localhost:1337",
    **headers: str,
) -> Head:
    lines = [] if host is None else [("host", host)]
    lines += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return make_head(
        method, target, version, [(n.encode(), v.encode("latin-1")) for n, v in lines]
    )


@pytest.mark.parametrize("version", [(0, 9), (2, 0), (1, 2), (3, 0)])
def test_only_http_1_0_and_1_1(version: tuple[int, int]) -> None:
    with pytest.raises(HTTPVersionNotSupported):
        make_gate().admit(head(version=version))


@pytest.mark.parametrize("target", ["http://localhost/numbers", "*", "localhost:80", ""])
def test_the_target_is_a_path(target: str) -> None:
    with pytest.raises(MalformedRequest):
        make_gate().admit(head(target=target))


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST", "localhost:1", "127.0.0.1:1337", "[::1]", "[::1]:1337"],
)
def test_loopback_is_a_known_host(host: str) -> None:
    make_gate().admit(head(host=host))


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "evil.example:1337", "127.0.0.2",
     "0.0.0.0", "[::2]", "localhost@evil", "localhost.", "["],
)  # fmt: skip
def test_other_hosts_are_not(host: str) -> None:
    with pytest.raises(MisdirectedRequest):
        make_gate().admit(head(host=host))


@pytest.mark.parametrize(
    ("allowed", "host"),
    [
        ("ml.example", "ml.example:1337"),
        ("ML.example:8080", "ml.EXAMPLE"),
        ("fe80::7", "[fe80::7]:1337"),
        ("[fe80::7]", "[fe80::7]"),
    ],
)
def test_hosts_can_be_allowed(allowed: str, host: str) -> None:
    gate = make_gate(allowed_hosts=[allowed])
    gate.admit(head(host=host))
    for other in ("", "evil.example"):
        with pytest.raises(MisdirectedRequest):
            gate.admit(head(host=other))


@pytest.mark.parametrize(
    "path", ["/health/live", "/health/ready/", "/metrics", "/metrics?a"]
)
def test_probes_and_scrapers_may_use_any_host(path: str) -> None:
    make_gate(require_token=True).admit(head(target=path, host="10.0.0.7:1337"))
    with pytest.raises((MisdirectedRequest, Unauthorized)):
        make_gate(admin=True).admit(head(target=path, host="10.0.0.7:1337"))


@pytest.mark.parametrize(
    "path",
    ["/health/../numbers", "/health/predict", "/health", "/metrics/x", "/health/live/..",
     "//metrics", "/metrics;x", "/health/%6cive", "/numbers?/health/live"],
)  # fmt: skip
def test_no_other_path_passes_for_a_probe(path: str) -> None:
    with pytest.raises(MisdirectedRequest):
        make_gate().admit(head(target=path, host="evil.example"))


def test_http_1_1_needs_a_host_everywhere() -> None:
    for path in ("/numbers", "/health/live"):
        with pytest.raises(MalformedRequest):
            make_gate().admit(head(target=path, host=None))
        make_gate().admit(head(target=path, host=None, version=(1, 0)))


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "X"])
@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1338"},
        {"origin": "http://localhost:1337.evil.example"},
        {"origin": ""},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
        {"sec_fetch_site": ""},
        {"sec_fetch_site": "same-origin", "origin": "http://evil.example"},
    ],
)
@pytest.mark.parametrize("admin", [False, True])
def test_web_pages_of_others_are_refused(
    method: str, headers: dict[str, str], admin: bool
) -> None:
    with pytest.raises(Forbidden):
        make_gate(admin=admin).admit(head(method, **headers))


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:1337"},
        {"origin": "https://localhost:1337"},
        {"sec_fetch_site": "same-origin"},
        {"sec_fetch_site": "none"},
        {"user_agent": "Mozilla/5.0"},
    ],
)
def test_own_pages_and_programs_are_not(headers: dict[str, str]) -> None:
    make_gate().admit(head(**headers))


def test_origins_can_be_allowed() -> None:
    gate = make_gate(allowed_origins=["https://app.example/"])
    gate.admit(head(origin="https://app.example", sec_fetch_site="cross-site"))
    with pytest.raises(Forbidden):
        gate.admit(head(origin="https://app.example.evil", sec_fetch_site="cross-site"))


@pytest.mark.parametrize(
    "method", ["PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "FOO", ""]
)
def test_other_methods_are_refused(method: str) -> None:
    with pytest.raises(MethodNotAllowed):
        make_gate().admit(head(method))


def test_options_is_no_way_around() -> None:
    with pytest.raises(Forbidden):
        make_gate().admit(head("OPTIONS"))


@pytest.mark.parametrize(
    "name",
    ["Host", "host", "Content-Length", "Content-Type", "Content-Encoding", "Origin",
     "Transfer-Encoding", "Authorization", "Sec-Fetch-Site", "User-Agent"],
)  # fmt: skip
def test_headers_that_decide_come_once(name: str) -> None:
    lines = [(b"host", b"localhost"), (name.encode(), b"a"), (name.upper().encode(), b"a")]
    with pytest.raises(MalformedRequest):
        make_gate().admit(make_head("GET", "/", (1, 1), lines))


@pytest.mark.parametrize(
    ("values", "version"),
    [
        ({"transfer_encoding": ""}, (1, 1)),
        ({"transfer_encoding": "identity"}, (1, 1)),
        ({"transfer_encoding": "chunked, chunked"}, (1, 1)),
        ({"transfer_encoding": "chunked", "content_length": "5"}, (1, 1)),
        ({"transfer_encoding": "", "content_length": "5"}, (1, 1)),
        ({"transfer_encoding": "chunked"}, (1, 0)),
    ],
)
def test_the_end_of_a_body_is_clear(
    values: dict[str, str], version: tuple[int, int]
) -> None:
    with pytest.raises(MalformedRequest):
        make_gate().admit(head("POST", version=version, **values))
    make_gate().admit(head("POST", transfer_encoding="Chunked"))


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", "Bearer 0123", f"Bearer {TOKEN}0", f"Basic {TOKEN}",
     TOKEN, f"Bearer {TOKEN.upper()}", "Bearer \xff\xff", f"Bearer {TOKEN} x"],
)  # fmt: skip
@pytest.mark.parametrize("admin", [False, True])
def test_a_wrong_token_is_refused(given: str | None, admin: bool) -> None:
    gate = make_gate(admin=admin, require_token=True)
    headers = {} if given is None else {"authorization": given}
    with pytest.raises(Unauthorized) as caught:
        gate.admit(head(**headers))
    assert TOKEN not in str(caught.value)
    assert error_headers(caught.value) == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_right_token_is_taken(scheme: str) -> None:
    for gate in (make_gate(admin=True), make_gate(require_token=True)):
        gate.admit(head(authorization=f"{scheme} {TOKEN}"))


def test_the_query_port_asks_for_no_token_by_itself() -> None:
    make_gate().admit(head())


@pytest.mark.parametrize(
    "value",
    [JSON, "Application/Json", "application/json;charset=utf-8", "application/json; ",
     'application/json ; charset="UTF-8"', "application/json;charset=utf8;"],
)  # fmt: skip
def test_media_types(value: str) -> None:
    assert make_gate().check_body(head(content_type=value), (JSON, NPY), 10) == JSON


@pytest.mark.parametrize(
    "value",
    [None, "", "text/json", "application/jsonp", "application/json, text/plain", NPY,
     "application/json; charset=latin-1", "application/json; charset=", "text/plain",
     "application/json; boundary=x", "application/x-www-form-urlencoded", MULTIPART],
)  # fmt: skip
def test_other_media_types(value: str | None) -> None:
    headers = {} if value is None else {"content_type": value}
    with pytest.raises(UnsupportedMediaType):
        make_gate().check_body(head(**headers), (JSON,), 10)


def test_compressed_bodies_are_refused() -> None:
    with pytest.raises(UnsupportedMediaType):
        make_gate().check_body(
            head(content_type=JSON, content_encoding="gzip"), (JSON,), 10
        )


def test_a_body_past_the_limit_is_refused_by_its_head() -> None:
    gate = make_gate()
    gate.check_body(head(content_type=JSON, content_length="10"), (JSON,), 10)
    with pytest.raises(PayloadTooLarge):
        gate.check_body(head(content_type=JSON, content_length="11"), (JSON,), 10)


def test_trailing_blanks_do_not_matter() -> None:
    lines = [(b"Host", b"localhost \t"), (b"Content-Type", b"application/json ")]
    made = make_head("POST", "/", (1, 1), lines)
    make_gate().admit(made)
    assert made.get(b"content-type") == JSON


def test_headers_of_errors() -> None:
    assert error_headers(Overloaded("x")) == {"Retry-After": "1"}
    assert error_headers(ClipperError("x")) == {}
