"""Listening sockets that somebody else opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from clipper import listening
from clipper.errors import ConfigError
from clipper.listening import address_of, duplicates, from_manager, from_numbers


@pytest.fixture
def pair() -> Iterator[list[socket.socket]]:
    """Two sockets, as another process would have opened them."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    yield made
    for one in made:
        one.close()


def test_one_and_two_descriptors(pair: list[socket.socket]) -> None:
    query, admin = (os.dup(one.fileno()) for one in pair)
    found = from_numbers(f"{query},{admin}")
    assert [address_of(one) for one in found.query] == [pair[0].getsockname()]
    assert [address_of(one) for one in found.admin] == [pair[1].getsockname()]
    assert not any(one.get_inheritable() for one in (*found.query, *found.admin))
    found.close()
    alone = from_numbers(str(os.dup(pair[0].fileno())))
    assert len(alone.query) == 1 and not alone.admin
    alone.close()


@pytest.mark.parametrize("text", ["", "x", "3,4,5", "-1", "3,", "1" * 20])
def test_what_is_no_number_of_a_descriptor(text: str) -> None:
    with pytest.raises(ConfigError, match="one or two descriptors"):
        from_numbers(text)


def test_the_same_twice() -> None:
    with pytest.raises(ConfigError, match="twice"):
        from_numbers("7,7")


def test_what_is_no_listening_socket() -> None:
    read, write = os.pipe()
    made: list[Any] = [socket.socket(), socket.socket(type=socket.SOCK_DGRAM)]
    unix = socket.socket(socket.AF_UNIX)
    unix.bind(b"\0clipper-test-%d" % os.getpid())
    unix.listen()
    try:
        with pytest.raises(ConfigError, match="not an open socket"):
            from_numbers(str(read))
        for one in (*made, unix):
            with pytest.raises(ConfigError, match="not a listening TCP socket"):
                from_numbers(str(one.fileno()))
            one.getsockname()  # it is its owner's still
    finally:
        for one in (*made, unix):
            one.close()
        os.close(read)
        os.close(write)
    with pytest.raises(ConfigError, match="not an open socket"):
        from_numbers(str(read))


def managed(
    monkeypatch: pytest.MonkeyPatch, *pair: socket.socket, **more: str
) -> dict[str, str]:
    """The environment of a process that was given these."""
    monkeypatch.setattr(listening, "FIRST", 500)
    for number, one in enumerate(pair, 500):
        os.dup2(one.fileno(), number)
    return {"LISTEN_FDS": str(len(pair)), "LISTEN_PID": str(os.getpid()), **more}


@pytest.mark.parametrize(
    ("names", "swapped"),
    [("", False), ("admin:query", True), ("query:admin", False), ("clipper.socket", False)],
)
def test_a_service_manager_passes_them(
    names: str, swapped: bool, pair: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = managed(monkeypatch, *pair, LISTEN_FDNAMES=names)
    found = from_manager(environment)
    assert found is not None and not environment
    ports = [address_of(one)[1] for one in (*found.query, *found.admin)]
    wanted = [one.getsockname()[1] for one in pair]
    assert ports == (wanted[::-1] if swapped else wanted)
    found.close()


def test_one_that_is_named_for_admin(
    pair: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = managed(monkeypatch, pair[0], LISTEN_FDNAMES="admin")
    found = from_manager(environment)
    assert found is not None and not found.query and len(found.admin) == 1
    found.close()


def test_those_of_another_process_are_not_ours() -> None:
    assert from_manager({}) is None
    assert from_manager({"LISTEN_FDS": "2", "LISTEN_PID": "1"}) is None
    with pytest.raises(ConfigError, match="3 sockets"):
        from_manager({"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid())})


def test_a_duplicate_keeps_the_queue(pair: list[socket.socket]) -> None:
    [copy] = duplicates([pair[0].fileno()])
    pair[0].close()
    with copy, socket.create_connection(copy.getsockname()[:2]) as client:
        taken, _ = copy.accept()
        with taken:
            assert taken.getpeername() == client.getsockname()
