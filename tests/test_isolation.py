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
from polling import eventually

from clipper import Server
from clipper.config import Settings, make_settings
from clipper.errors import Conflict, NotFound, Unavailable
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
        await eventually(lambda: server.engine.ready)
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
        await eventually(lambda: model.replicas.state is State.FAILED)
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
        await eventually(lambda: whole.replicas.state is State.LIVE)


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


# -- records that cannot be read ---------------------------------------------------------


def senseless(body: bytes) -> bytes:
    return body[:-1]


def of_an_unknown_kind(body: bytes) -> bytes:
    return body.replace(b'"doubles"', b'"quaternions"').replace(b'"previous":', b'"was":')


class Spoiled:
    """One record that was changed, and the row as it was and as it is."""

    def __init__(self, data: Path, table: str, key: str) -> None:
        self.data, self.table, self.key = data, table, key
        self.whole = self.row()

    def row(self) -> Any:
        connection = sqlite3.connect(self.data / "clipper.db")
        found = connection.execute(
            f"SELECT body, sum FROM {self.table} WHERE key = ?", (self.key,)
        ).fetchone()
        connection.close()
        return found

    def write(self, body: bytes, total: int) -> None:
        edit(
            self.data,
            f"UPDATE {self.table} SET body = ?, sum = ? WHERE key = ?",
            body,
            total,
            self.key,
        )

    def spoil(self, change: Callable[[bytes], bytes] | None) -> None:
        """Without `change` it is the sum that does not fit."""
        body, total = self.whole
        if change is None:
            total += 1
        else:
            body = change(body)
            total = checksum(self.table, self.key, body)
        self.spoiled = body, total
        self.write(body, total)

    def heal(self) -> None:
        assert self.row() == self.spoiled  # nobody has touched it
        self.write(*self.whole)


def ready_of(server: Server) -> dict[str, Any]:
    status, body = QueryApi(server.engine).get("/health/ready") or (0, b"")
    assert status == 200
    shown: dict[str, Any] = msgspec.json.decode(body)
    return shown


async def check_cured(data: Path, learned: dict[str, Any]) -> None:
    async with Server(settings=settings_of(data)) as server:
        assert not server.engine.catalog.damaged.listed()
        assert await states(server) == learned
        for version in ("one", "two"):
            model = server.engine.model(version, "1")
            await eventually(lambda model=model: model.replicas.state is State.LIVE)  # type: ignore[misc]


@pytest.mark.parametrize("change", [None, of_an_unknown_kind])
async def test_an_application_whose_record_cannot_be_read_fails_alone(
    lived: Lived, change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    data, learned = lived
    record = Spoiled(data, "application", HURT)
    record.spoil(change)
    async with Server(settings=settings_of(data)) as server:
        engine = server.engine
        await give(server, WELL, 2)
        found = engine.catalog.damaged.listed()
        assert [(f["kind"], f["name"]) for f in found] == [("application", HURT)]
        assert f"application {HURT}: {found[0]['reason']}" in caplog.text
        for refused in (
            server.predict(HURT, [1.0]),
            server.update(HURT, "x", label=1),
            server.set_policy(HURT, "majority"),
        ):
            with pytest.raises(Unavailable, match=r"cannot be served: .*restore .*delete"):
                await refused
        assert isinstance(QueryApi(engine).refusal(HURT), Unavailable)
        with pytest.raises(Conflict, match="delete the application first"):
            await server.register_application(HURT, input_type="doubles", models=["one"])
        await eventually(lambda: engine.ready)
        shown = {"state": "failed", "reason": found[0]["reason"]}
        assert ready_of(server)["applications"] == {HURT: shown}
        await engine.learning._prune()  # what it learned is nobody's, as it seems
    record.heal()
    async with Server(settings=settings_of(data)) as server:
        found_now = await states(server, HURT)
        assert found_now == {k: v for k, v in learned.items() if k.startswith(HURT)}


async def test_an_application_whose_record_cannot_be_read_is_deleted(lived: Lived) -> None:
    data, _ = lived
    number = number_of(data)
    for name in (HURT, WELL):
        Spoiled(data, "application", name).spoil(senseless)
    async with Server(settings=settings_of(data)) as server:
        log = server.engine.learning.log
        await server.engine.delete_application(HURT)
        assert (await log.learned(number)).state is not None  # or is that the other's?
        with pytest.raises(NotFound):
            await server.predict(HURT, [1.0])
        await server.engine.delete_application(WELL)
        assert await log.applications() == []
        await server.register_application(
            HURT, models=["one", "two"], input_type="doubles", policy="hedge",
            slo_micros=10_000_000,
        )  # fmt: skip
        await give(server, HURT)
        assert not server.engine.catalog.damaged.listed()


@pytest.mark.parametrize("change", [senseless, of_an_unknown_kind])
async def test_a_version_whose_record_cannot_be_read_fails_alone(
    lived: Lived, change: Any
) -> None:
    data, learned = lived
    record = Spoiled(data, "model", "two:1")
    record.spoil(change)
    async with Server(settings=settings_of(data)) as server:
        engine = server.engine
        asked = await server.predict(HURT, [1.0])
        assert (asked.output, asked.default) == (1, False)
        await eventually(lambda: engine.ready)
        shown = ready_of(server)["models"]
        assert shown["one:1"]["state"] == "live" and shown["two:1"]["state"] == "failed"
        assert shown["two:1"]["reason"] == engine.catalog.damaged.listed()[0]["reason"]
        with pytest.raises(Unavailable, match="deploy the version again, or undeploy it"):
            engine.model("two", "1")
        await server.deploy("three", 1, answer_one, "doubles")
        await engine.delete_model("three", "1")  # which looks for blobs that nobody needs
    record.heal()
    await check_cured(data, learned)


def count_of_blobs(data: Path) -> int:
    return len(list((data / "blobs").iterdir()))


@pytest.mark.parametrize("again", [True, False])
async def test_a_version_whose_record_cannot_be_read_is_replaced_or_removed(
    lived: Lived, again: bool
) -> None:
    data, _ = lived
    Spoiled(data, "model", "two:1").spoil(senseless)
    async with Server(settings=settings_of(data)) as server:
        if again:
            await server.deploy("two", 1, answer_two, "doubles")
        else:
            await server.engine.delete_model("two", "1")
        assert not server.engine.catalog.damaged.listed()
    async with Server(settings=settings_of(data)) as server:
        assert not server.engine.catalog.damaged.listed()
        assert ("two:1" in server.engine.catalog.models) is again
        assert ("two" in server.engine.catalog.state.current) is again
        await eventually(lambda: count_of_blobs(data) == 1 + again)


async def test_where_it_is_not_known_which_version_is_current_none_is(
    lived: Lived,
) -> None:
    data, learned = lived
    record = Spoiled(data, "current", "two")
    record.spoil(of_an_unknown_kind)
    async with Server(settings=settings_of(data)) as server:
        asked = await server.predict(HURT, [1.0])
        assert (asked.output, asked.default) == (1, False)
        await eventually(lambda: server.engine.ready)
        assert ready_of(server)["models"]["two"]["state"] == "failed"
        assert server.engine.catalog.damaged.listed()[0]["kind"] == "current version of"
        await server.engine.set_version("two", "1")
        assert not server.engine.catalog.damaged.listed()
    await check_cured(data, learned)
