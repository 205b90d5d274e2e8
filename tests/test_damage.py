"""A server on a damaged directory ends with a sentence that says what to do, and exit code
3; it leaves the files as they were."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from served import ServeProcess

from clipper.records import ApplicationRecord
from clipper.store.base import Entry, PutApplication
from clipper.store.migrations import SCHEMA_VERSION
from clipper.store.sqlite import SQLiteStore

pytestmark = pytest.mark.fault("D3")

PAGE = 4096


async def fill(directory: Path) -> None:
    """One application with a log of some hundred pages, after a clean end."""
    store = SQLiteStore(directory)
    await store.open()
    await store.commit(PutApplication(ApplicationRecord("app", 1, "doubles", 1_000_000)))
    entries = [
        Entry(1, None, None, 1.7e9, b'{"kind":"feedback","label":"%0999d"}' % n)
        for n in range(400)
    ]
    store.append(entries, [], lambda appended, error: None)
    await store.close()


def zero_first_page(database: Path) -> None:
    database.write_bytes(bytes(PAGE) + database.read_bytes()[PAGE:])


def cut(database: Path) -> None:
    database.write_bytes(database.read_bytes()[: 20 * PAGE])


def remove(database: Path) -> None:
    database.unlink()


def remove_log_of_a_kill(database: Path) -> None:
    database.with_name("clipper.lock").write_text("1 running")


def make_newer(database: Path) -> None:
    _edit(database, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")


def make_other(database: Path) -> None:
    _edit(database, "DROP TABLE counter")


def flip_counter(database: Path) -> None:
    _edit(database, "UPDATE counter SET sum = sum + 1")


def flip_log(database: Path) -> None:
    """The page of an entry says that it is of another kind."""
    content = bytearray(database.read_bytes())
    start = content.index(b'"%0999d"' % 200) // PAGE * PAGE
    content[start] ^= 0x60
    database.write_bytes(content)


def _edit(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute(statement)
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (zero_first_page, "is damaged"),
        (cut, "is damaged"),
        (remove, "is missing though a server has used this directory"),
        (remove_log_of_a_kill, "clipper.db-wal is missing"),
        (make_newer, "was written by a newer version of Clipper"),
        (make_other, "its tables are not those of this version"),
        (flip_counter, "does not match its sum"),
        (flip_log, "is damaged"),
    ],
)
async def test_a_damaged_directory_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], sentence: str
) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    await fill(server.data)
    damage(server.data / "clipper.db")
    before = _contents(server.data)
    server.start()
    try:
        assert server.process.wait(60) == 3, server.log.read_text()
    finally:
        server.kill()
    said = server.log.read_text()
    last = said.strip().splitlines()[-1]
    assert sentence in last and str(server.data) in last, said
    assert any(word in last for word in ("restore", "upgrade")), said
    assert ("start with --recover" in last) is (damage not in (remove, make_newer)), said
    assert _contents(server.data) == before


@pytest.mark.parametrize("damage", [zero_first_page, cut, flip_log])
async def test_with_a_flag_it_goes_on_with_what_can_be_read(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex, "--recover")
    await fill(server.data)
    damage(server.data / "clipper.db")
    before = _contents(server.data)
    server.start()
    try:
        async with await server.client() as clipper:
            assert [app["name"] for app in (await clipper.status())["applications"]] == [
                "app"
            ]
    finally:
        server.kill()
    [aside] = server.data.glob("damaged-*")
    assert _contents(aside) == before
    said = server.log.read_text()
    assert "applications: 1 kept" in said and str(aside) in said
    assert "are lost" in said.partition("entries of feedback: ")[2].partition("\n")[0] or (
        damage is zero_first_page
    )


def _contents(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in directory.iterdir()
        if path.name in {"clipper.db", "clipper.db-wal"} and path.stat().st_size
    }
