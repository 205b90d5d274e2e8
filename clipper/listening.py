"""Listening sockets that somebody else opened: a service manager, or the server before."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, MutableMapping
from contextlib import suppress
from typing import NamedTuple

from clipper.errors import ConfigError

FIRST = 3  # where a service manager's descriptors begin
_NAMES = ("query", "admin")


class Listening(NamedTuple):
    """Where queries and where admin requests come in; without sockets for one of them its
    address is opened as usual."""

    query: list[socket.socket]
    admin: list[socket.socket]

    def close(self) -> None:
        for one in (*self.query, *self.admin):
            one.close()


def address_of(listening: socket.socket) -> tuple[str, int]:
    """Host and port."""
    host, port = listening.getsockname()[:2]
    return str(host), int(port)


def adopt(query: Iterable[int], admin: Iterable[int]) -> Listening:
    """The sockets of these descriptors, which become ours. Raises ConfigError for one that
    is not a listening TCP socket."""
    return Listening([_adopt(n) for n in query], [_adopt(n) for n in admin])


def _adopt(number: int) -> socket.socket:
    try:
        found = socket.socket(fileno=number)
    except OSError as error:
        raise ConfigError(
            f"descriptor {number} is not an open socket ({error.strerror}); whoever "
            "starts the server must pass it a listening one"
        ) from None
    try:
        accepts = found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError:  # some systems do not tell
        accepts = 1
    internet = found.family in (socket.AF_INET, socket.AF_INET6)
    if not internet or found.type != socket.SOCK_STREAM or not accepts:
        found.detach()
        raise ConfigError(f"descriptor {number} is not a listening TCP socket")
    found.set_inheritable(False)
    found.setblocking(False)
    return found


def from_numbers(text: str) -> Listening:
    """What `--fd N` or `--fd N,M` names: the socket of queries, then that of admin
    requests."""
    numbers = text.split(",")
    if len(numbers) > 2 or not all(n.isdecimal() and len(n) < 8 for n in numbers):
        raise ConfigError(
            f"--fd takes one or two descriptors, as in --fd 3 or --fd 3,4, got {text!r:.60}"
        )
    found = [int(n) for n in numbers]
    if len(set(found)) != len(found):
        raise ConfigError(f"--fd names descriptor {found[0]} twice")
    return adopt(found[:1], found[1:])


def from_manager(environment: MutableMapping[str, str] = os.environ) -> Listening | None:
    """What a service manager passed to this process (LISTEN_FDS), None if nothing. Where
    it named them `query` and `admin` they go by their names, else by their order. The
    variables are taken out: they are not for our children."""
    count, pid, names = (
        environment.pop(name, "") for name in ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES")
    )
    if pid != str(os.getpid()) or not count.isdecimal() or not int(count):
        return None
    if int(count) > 2:
        raise ConfigError(
            f"{count} sockets were passed in LISTEN_FDS; there is one for queries and one "
            "for admin requests"
        )
    numbers = list(range(FIRST, FIRST + int(count)))
    named = names.split(":")
    if set(named) <= set(_NAMES) and len(set(named)) == len(numbers):
        by_name = dict(zip(named, numbers, strict=True))
        found = [[by_name[name]] if name in by_name else [] for name in _NAMES]
        return adopt(*found)
    return adopt(numbers[:1], numbers[1:])


def duplicates(descriptors: Iterable[int]) -> list[socket.socket]:
    """Sockets of our own for the same listening queues: they keep them while others
    close theirs."""
    made: list[socket.socket] = []
    try:
        made.extend(socket.socket(fileno=os.dup(number)) for number in descriptors)
    except OSError:
        for one in made:
            with suppress(OSError):
                one.close()
        raise
    return made
