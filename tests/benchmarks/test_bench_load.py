from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.load import (
    LoadError,
    Target,
    find_generator,
    make_request,
    parse_answer,
    percentile,
    post,
    run_load,
    write_bodies,
)
from benchmarks.servers import FloorServer

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@pytest.mark.parametrize("size", range(len(ANSWER) + 1))
def test_an_answer_is_whole_only_at_its_end(size: int) -> None:
    status, end = parse_answer(ANSWER[:size])
    assert (status, end) in [(0, 0), (200, len(ANSWER))]
    assert (0 < end <= size) == (size == len(ANSWER))


def test_what_follows_an_answer_is_left_alone() -> None:
    assert parse_answer(ANSWER + b"HTTP/1.1 503") == (200, len(ANSWER))


def test_an_answer_must_tell_its_length() -> None:
    with pytest.raises(LoadError, match="Content-Length"):
        parse_answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")


def test_percentiles_are_values_that_occurred() -> None:
    ordered = [float(value) for value in range(1, 101)]
    assert percentile(ordered, 50) == 50.0
    assert percentile(ordered, 99) == 99.0
    assert percentile([3.0], 99) == 3.0
    assert percentile([], 50) == 0.0


def test_a_request_holds_its_body() -> None:
    request = make_request("127.0.0.1:80", "/a/predict", b"{}", "application/json")
    assert request.startswith(b"POST /a/predict HTTP/1.1\r\nHost: 127.0.0.1:80\r\n")
    assert request.endswith(b"Content-Length: 2\r\n\r\n{}")


def test_a_generator_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert find_generator("auto") == "own"
    with pytest.raises(LoadError, match="not installed"):
        find_generator("wrk")


@pytest.mark.parametrize("wanted", ["own", "auto"])
def test_load_on_the_floor(wanted: str, tmp_path: Path) -> None:
    bodies = [b'{"input":[1.5]}', b'{"input":[2.5,3.5]}']
    listing = write_bodies(bodies, tmp_path / "bodies")
    with FloorServer(tmp_path) as floor:
        assert post(floor.port, floor.path, bodies[0])[0] == 200
        target = Target(floor.port, floor.path, bodies, listing)
        load = run_load(find_generator(wanted), target, connections=4, seconds=1)
    assert load.good > 100
    assert load.refused == load.broken == 0
    assert 0 < load.p50 <= load.p99
    assert 0.5 < load.seconds < 10
    with pytest.raises(OSError):
        post(floor.port, floor.path, bodies[0])
