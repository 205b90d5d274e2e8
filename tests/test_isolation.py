"""The damage of one application or version is its own: the server starts, it says what it
cannot do, the others are as they were; and once that is put right nothing is lost."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from clipper import Server
from clipper.config import Settings, make_settings
from clipper.errors import NotFound, Unavailable
from clipper.frontend.api import QueryApi
from clipper.selection import registry
from clipper.store.base import Entry, Snapshot
from clipper.store.sqlite import SQLiteStore
from clipper.store.tables import checksum
from clipper.workers.replica_set import State

pytestmark = pytest.mark.fault("D3")

HURT, WELL = "hurt", "well"
USERS = ("ann", "bob")


def answer_one(rows: Any) -> list[int]:
    return [1 for _ in rows]


def answer_two(rows: Any) -> list[int]:
    return [2 for _ in rows]


class Own(registry.SingleChoice):
    """A policy of a program's own."""

    name = "own"

    def init(self) -> Any:
        return 0

    def observe(self, state: Any, seen: Any) -> Any:
        return state + 1

    def probabilities(self, state: Any, arms: Any, context: Any) -> Any:
        return [0.5, 0.5]


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    added: dict[str, Any] = {"own": Own}
    monkeypatch.setattr(registry, "_ADDED", added)
    return added


async def give(server: Server, name: str, count: int = 6) -> None:
    for n in range(count):
        asked = await server.predict(name, [float(n)], uid=USERS[n % 2], cache=False)
        assert await server.update(name, asked.query_id, label=1) is False


def settings_of(data: Path, **learning: Any) -> Settings:
    chosen = {"data_dir": str(data), "drain_seconds": 0.1}
    return make_settings({**chosen, "learning": learning} if learning else chosen)


async def live(tmp_path: Path, policy: str) -> tuple[Path, dict[str, Any]]:
    """A directory as a kill leaves it, with a snapshot and entries after it, and what was
    learned by then."""
    async with Server(settings=settings_of(tmp_path / "first")) as server:
        for version, function in (("one", answer_one), ("two", answer_two)):
            await server.deploy(version, 1, function, "doubles")
        for name in (HURT, WELL):
            await server.register_application(
                name, models=["one", "two"], input_type="doubles", policy=policy,
                slo_micros=10_000_000, default_output="-1",
            )  # fmt: skip
            await give(server, name)
        await server.engine.learning.snapshots.keep_all()
        for name in (HURT, WELL):
            await give(server, name)
        learned = await states(server)
        data = tmp_path / "data"
        await asyncio.to_thread(shutil.copytree, tmp_path / "first", data)
    connection = sqlite3.connect(data / "clipper.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    (data / "clipper.lock").write_text("1")
    return data, learned


Lived = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def first_life(tmp_path_factory: pytest.TempPathFactory) -> Lived:
    return asyncio.run(live(tmp_path_factory.mktemp("life"), "hedge"))


@pytest.fixture
def lived(first_life: Lived, tmp_path: Path) -> Lived:
    """A copy of it."""
    shutil.copytree(first_life[0], tmp_path / "data")
    return tmp_path / "data", first_life[1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def states(server: Server, *names: str) -> dict[str, Any]:
    """What was learned, with how often of which arm."""
    found = {}
    for name in names or (HURT, WELL):
        for uid in (None, *USERS):
            said = await server.state(name, uid)
            arms = [*said["arms"], *said["former_arms"]]
            pulls = {arm["arm"]: (arm["pulls"], arm["mean_loss"]) for arm in arms}
            found[f"{name} {uid}"] = said["state"], pulls
    return found


def number_of(data: Path) -> int:
    connection = sqlite3.connect(data / "clipper.db")
    [(body,)] = connection.execute("SELECT body FROM application WHERE key = 'hurt'")
    connection.close()
    number: int = msgspec.json.decode(body)["number"]
    return number


def edit(data: Path, statement: str, *values: Any) -> None:
    connection = sqlite3.connect(data / "clipper.db")
    with connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


# -- ways to hurt one application, each with the way to put it right ----------------------

Cure = Callable[[], None]


def flip_own_state(data: Path, number: int) -> Cure:
    turn = "UPDATE person SET seq = ~seq WHERE application = ? AND who = ''"
    edit(data, turn, number)
    return lambda: edit(data, turn, number)


def flip_users_state(data: Path, number: int) -> Cure:
    turn = "UPDATE person SET sum = ~sum WHERE application = ? AND who = '=ann'"
    edit(data, turn, number)
    return lambda: edit(data, turn, number)


def flip_entry(data: Path, number: int) -> Cure:
    turn = (
        "UPDATE feedback SET sum = ~sum "
        "WHERE seq = (SELECT max(seq) FROM feedback WHERE application = ?)"
    )
    edit(data, turn, number)
    return lambda: edit(data, turn, number)


async def open_and(data: Path, work: Callable[[SQLiteStore], Any]) -> None:
    store = SQLiteStore(data)
    await store.open()
    await work(store)
    await store.close()


def as_later_version(data: Path, number: int) -> Cure:
    """An entry of a kind that this version does not know."""
    body = b'{"kind":"later","field":1}'

    async def add(store: SQLiteStore) -> None:
        store.append([Entry(number, None, None, 0.0, body)], [], lambda *_: None)

    asyncio.run(open_and(data, add))
    drop = "DELETE FROM feedback WHERE application = ? AND CAST(body AS BLOB) = ?"
    return lambda: edit(data, drop, number, body)


def as_another_state(data: Path, number: int) -> Cure:
    """A state whose sum is right and which nobody can read."""
    connection = sqlite3.connect(data / "clipper.db")
    seq, body, total = connection.execute(
        "SELECT seq, body, sum FROM person WHERE application = ? AND who = ''", (number,)
    ).fetchone()
    connection.close()

    async def save(store: SQLiteStore) -> None:
        await store.save(Snapshot(number, seq, {None: b"\x93later"}), 10)

    asyncio.run(open_and(data, save))
    turn = "UPDATE person SET body = ?, sum = ? WHERE application = ? AND who = ''"
    return lambda: edit(data, turn, body, total, number)


@pytest.mark.parametrize(
    "hurt",
    [flip_own_state, flip_users_state, flip_entry, as_later_version, as_another_state],
)
async def test_what_was_learned_by_one_application_cannot_be_read(
    lived: Lived, hurt: Callable[[Path, int], Cure], caplog: pytest.LogCaptureFixture
) -> None:
    data, learned = lived
    cure = await asyncio.to_thread(hurt, data, number_of(data))
    async with Server(settings=settings_of(data)) as server:
        assert await states(server, WELL) == {
            key: value for key, value in learned.items() if key.startswith(WELL)
        }
        await give(server, WELL)
        asked = await server.predict(HURT, [1.0], uid="ann")
        assert (asked.output, asked.default) == (1, False)
        with pytest.raises(Unavailable, match=r"cannot be read \(.*and start the server"):
            await server.update(HURT, asked.query_id, label=1)
        with pytest.raises(Unavailable, match="the policy cannot be changed"):
            await server.set_policy(HURT, "majority")
        told = server.explain(HURT)
        assert any("no feedback is taken" in line for line in told["sentences"])
        await until(lambda: server.engine.ready)
        status, body = QueryApi(server.engine).get("/health/ready") or (0, b"")
        assert msgspec.json.decode(body)["applications"] == {
            HURT: {"policy": "unavailable"}
        }
        assert status == 200 and "no feedback is taken" in caplog.text
        await server.engine.learning.snapshots.keep_all()
    await asyncio.to_thread(cure)
    async with Server(settings=settings_of(data)) as server:
        found = await states(server, HURT)
        assert found == {k: v for k, v in learned.items() if k.startswith(HURT)}
        await give(server, HURT)
        await server.set_policy(HURT, "majority")


async def test_an_application_that_cannot_be_healed_begins_anew(lived: Lived) -> None:
    data, _ = lived
    flip_entry(data, number_of(data))
    async with Server(settings=settings_of(data)) as server:
        await server.engine.delete_application(HURT)
        await server.register_application(
            HURT,
            models=["one"],
            input_type="doubles",
            policy="hedge",
            slo_micros=10_000_000,
        )
        await give(server, HURT)
    async with Server(settings=settings_of(data)) as server:
        assert (await server.state(HURT))["unavailable"] is None


@pytest.mark.parametrize("content", [None, "raise SystemExit(9)"])
async def test_a_module_of_a_policy_stops_nobody_else(
    tmp_path: Path,
    added: dict[str, Any],
    content: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    data, learned = await live(tmp_path, "own")
    added.clear()
    monkeypatch.syspath_prepend(tmp_path)
    if content is not None:
        (tmp_path / "broken_policy.py").write_text(content)
    settings = settings_of(data, policies=["broken_policy:Own"])
    async with Server(settings=settings) as server:
        assert "cannot load the policy 'broken_policy:Own'" in caplog.text
        asked = await server.predict(WELL, [1.0])
        assert (asked.output, asked.default) == (1, False)
        with pytest.raises(Unavailable, match="own"):
            await server.update(WELL, asked.query_id, label=1)
    added["own"] = Own
    async with Server(settings=settings) as server:
        assert await states(server) == learned


@pytest.mark.parametrize("content", [None, b"not what was deployed"])
async def test_a_version_whose_function_is_lost_fails_alone(
    lived: Lived, content: bytes | None
) -> None:
    data, learned = lived
    connection = sqlite3.connect(data / "clipper.db")
    [(body,)] = connection.execute("SELECT body FROM model WHERE key = 'two:1'")
    connection.close()
    blob = data / "blobs" / msgspec.json.decode(body)["blob"]
    kept = blob.read_bytes()
    blob.unlink() if content is None else blob.write_bytes(content)
    async with Server(settings=settings_of(data)) as server:
        model = server.engine.model("two", "1")
        await until(lambda: model.replicas.state is State.FAILED)
        assert "blob" in model.replicas.reason
        asked = await server.predict(HURT, [1.0])
        assert (asked.output, asked.default) == (1, False)
        assert await states(server) == learned
        with pytest.raises(NotFound):
            await server.predict("two", [1.0])
        assert server.engine.ready
    blob.write_bytes(kept)
    async with Server(settings=settings_of(data)) as server:
        whole = server.engine.model("two", "1")
        await until(lambda: whole.replicas.state is State.LIVE)


async def test_fields_of_another_version_are_passed_by(lived: Lived) -> None:
    data, learned = lived
    for table, key in (("application", "hurt"), ("model", "two:1")):
        connection = sqlite3.connect(data / "clipper.db")
        [(body,)] = connection.execute(f"SELECT body FROM {table} WHERE key = ?", (key,))
        connection.close()
        body = body[:-1] + b',"of_a_later_version":{"x":1}}'
        edit(
            data,
            f"UPDATE {table} SET body = ?, sum = ? WHERE key = ?",
            body,
            checksum(table, key, body),
            key,
        )
    async with Server(settings=settings_of(data)) as server:
        assert await states(server) == learned
        asked = await server.predict(HURT, [1.0])
        assert not asked.default
