"""What a loss of power may leave of a recorded life of a disk.

The model is stricter than any file system in use: of writes that were not flushed any
subset may be there, each perhaps in part; names may lag behind as far as the last flush of
their directory, though they do not overtake each other.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SECTOR = 512


class Change(NamedTuple):
    """One record of faulty_disk.c."""

    kind: str  # c(reate), w(rite), t(runcate), f(lush), r(ename), u(nlink), m(kdir)
    path: str
    number: int  # the place of a write, the length of a truncation
    data: bytes


def read_log(path: Path) -> Iterator[Change]:
    log, place = path.read_bytes(), 0
    while place < len(log):
        kind, length = struct.unpack_from("<cI", log, place)
        place += 5
        name = log[place : place + length].decode()
        place += length
        number, size = struct.unpack_from("<QQ", log, place)
        place += 16
        yield Change(kind.decode(), name, number, log[place : place + size])
        place += size


class Node:
    """A file: what is surely on the disk, and what is not yet."""

    def __init__(self) -> None:
        self.flushed = bytearray()
        self.pending: list[Change] = []

    def flush(self) -> None:
        for change in self.pending:
            _apply(self.flushed, change)
        self.pending.clear()

    def left(self, dice: random.Random) -> bytes:
        """The content after a loss of power."""
        content = bytearray(self.flushed)
        share = dice.choice((0.0, 0.3, 0.9, 1.0))
        for change in self.pending:
            if dice.random() < share:
                _apply(content, _perhaps_torn(change, dice))
        return bytes(content)


class Disk:
    """The disk at one moment of the recorded life. A name is of a file's node, None for a
    directory."""

    def __init__(self) -> None:
        self.names: dict[str, Node | None] = {}
        self.flushed_names: dict[str, Node | None] = {}
        self.pending: list[tuple[Change, Node | None]] = []

    def do(self, change: Change) -> None:
        kind, path = change.kind, change.path
        if kind == "f":
            self._flush(path)
        elif kind in "wt":
            node = self.names[path]
            assert node is not None
            node.pending.append(change)
        elif not (kind == "c" and path in self.names):
            node = self.names.get(path) if kind in "ru" else None
            node = Node() if kind == "c" else node
            self.pending.append((change, node))
            _rename(self.names, change, node)

    def _flush(self, path: str) -> None:
        node = self.names.get(path)
        if node is not None:
            node.flush()
            return
        kept = []
        for change, named in self.pending:
            if _parent(change.path) == path:
                _rename(self.flushed_names, change, named)
            else:
                kept.append((change, named))
        self.pending = kept

    def leave(self, root: str, to: Path, dice: random.Random) -> None:
        """Write what a loss of power now would leave of `root` into the directory `to`."""
        names = dict(self.flushed_names)
        for change, node in self.pending[: dice.randint(0, len(self.pending))]:
            _rename(names, change, node)
        there = {root}
        for path in sorted(names):
            if _parent(path) not in there:
                continue  # its directory is not there
            place, found = to / path.removeprefix(f"{root}/"), names[path]
            if found is None:
                there.add(path)
                place.mkdir()
            else:
                place.write_bytes(found.left(dice))


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _rename(names: dict[str, Node | None], change: Change, node: Node | None) -> None:
    if change.kind == "u":
        names.pop(change.path, None)
    elif change.kind == "r":
        names.pop(change.path, None)
        names[change.data.decode()] = node
    else:
        names[change.path] = node


def _apply(content: bytearray, change: Change) -> None:
    place = change.number
    if change.kind == "t":
        del content[place:]
        content.extend(bytes(place - len(content)))
    else:
        content.extend(bytes(max(0, place - len(content))))
        content[place : place + len(change.data)] = change.data


def _perhaps_torn(change: Change, dice: random.Random) -> Change:
    """Sectors are written whole; of a longer write some may be missing at the end."""
    sectors = len(change.data) // SECTOR
    if sectors > 1 and dice.random() < 0.2:
        return change._replace(data=change.data[: dice.randrange(1, sectors) * SECTOR])
    return change
