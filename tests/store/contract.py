"""What every store promises. A store's test module derives from StoreContract and
brings the fixture `store`: a store that is not open yet and is closed afterwards."""

from __future__ import annotations

import asyncio
import hashlib
import math
from typing import Any

import pytest

from clipper.errors import InvalidInput, StoreError
from clipper.records import (
    ApplicationRecord,
    BatchingSettings,
    ModelRecord,
    PolicySettings,
    State,
)
from clipper.store.base import (
    DeleteApplication,
    DeleteModel,
    PutApplication,
    PutModel,
    SetCurrent,
    Store,
)

from .log_contract import LogContract


def application(name: str, number: int = 1, **fields: Any) -> ApplicationRecord:
    return ApplicationRecord(name, number, "doubles", 20_000, **fields)


def model(name: str, version: str, generation: int = 1, **fields: Any) -> ModelRecord:
    return ModelRecord(name, version, "doubles", generation, **fields)


FULL_APPLICATION = application(
    "digits",
    7,
    default_output="-1.0 ✓ \x00\n",
    models=["forest", "svm"],
    policy=PolicySettings(
        "exp3", {"gamma": 0.1, "arms": ["a"], "deep": {"x": [None, True]}}
    ),
    policy_generation=3,
    cache=False,
    cache_ttl_seconds=0.1,
    parse_output=False,
    on_overload="reject",
    loss="absolute(2)",
    created=1.7e9 + 0.1,
)
FULL_MODEL = model(
    "forest",
    "2",
    9,
    blob="ab" * 32,
    labels=["a", "b"],
    num_replicas=3,
    batching=BatchingSettings("fixed", 12),
    retry=False,
    example=[1.5, 2, -0.1, 1e-300],
    python="3.11",
    packages={"numpy": "1.26"},
    source="def f(xs):\n    return [str(x) for x in xs]\n",
    environment={"A": "b=c"},
    memory_limit=2**40,
    spares=1,
    recycle_after=1000,
    recycle_memory=2**30,
    created=1.7e9,
)


async def reopened(store: Store) -> State:
    await store.close()
    return await store.open()


class StoreContract(LogContract):
    async def test_is_empty_at_first(self, store: Store) -> None:
        assert await store.open() == State()

    async def test_reads_back_what_was_committed(self, store: Store) -> None:
        await store.open()
        await store.commit(PutApplication(FULL_APPLICATION))
        await store.commit(PutModel(FULL_MODEL), SetCurrent("forest", "2", ["1", "0"]))
        assert await reopened(store) == State(
            applications={"digits": FULL_APPLICATION},
            models={"forest:2": FULL_MODEL},
            current={"forest": "2"},
            previous={"forest": ["1", "0"]},
            last_number=9,
        )

    async def test_a_record_replaces_the_one_of_its_name(self, store: Store) -> None:
        await store.open()
        await store.commit(PutModel(model("m", "1", 1)), PutModel(model("m", "2", 2)))
        await store.commit(PutModel(model("m", "1", 3, num_replicas=2)))
        state = await reopened(store)
        assert state.models == {
            "m:1": model("m", "1", 3, num_replicas=2),
            "m:2": model("m", "2", 2),
        }

    async def test_changes_of_one_commit_are_done_in_order(self, store: Store) -> None:
        await store.open()
        await store.commit(
            PutApplication(application("a", 1)),
            DeleteApplication("a"),
            PutApplication(application("b", 2)),
            DeleteApplication("c"),
            PutApplication(application("c", 3)),
        )
        assert sorted((await reopened(store)).applications) == ["b", "c"]

    async def test_deletes_only_what_is_named(self, store: Store) -> None:
        await store.open()
        await store.commit(*(PutModel(model("m", v, 1)) for v in ("1", "2")))
        await store.commit(PutApplication(application("m:1")))
        await store.commit(DeleteModel("m", "1"))
        state = await reopened(store)
        assert list(state.models) == ["m:2"]
        assert list(state.applications) == ["m:1"]

    async def test_to_delete_what_is_not_there_is_no_error(self, store: Store) -> None:
        await store.open()
        await store.commit(DeleteModel("m", "1"), DeleteApplication("a"))
        await store.commit(SetCurrent("m", None))
        assert await reopened(store) == State()

    async def test_current_and_previous_versions_are_kept_apart(self, store: Store) -> None:
        await store.open()
        await store.commit(SetCurrent("a", "2", ["1"]), SetCurrent("b", "1"))
        await store.commit(SetCurrent("c", None, ["3"]), SetCurrent("d", "1", ["0"]))
        await store.commit(SetCurrent("d", None))
        state = await reopened(store)
        assert state.current == {"a": "2", "b": "1"}
        assert state.previous == {"a": ["1"], "c": ["3"]}

    async def test_the_last_number_outlives_its_record(self, store: Store) -> None:
        await store.open()
        await store.commit(PutApplication(application("a", 5)))
        await store.commit(PutModel(model("m", "1", 12)), DeleteModel("m", "1"))
        await store.commit(PutApplication(application("a", 6)))
        await store.commit(DeleteApplication("a"))
        assert await reopened(store) == State(last_number=12)
        await store.commit(PutApplication(application("a", 13)))
        assert (await reopened(store)).last_number == 13

    async def test_an_empty_commit_is_fine(self, store: Store) -> None:
        await store.open()
        await store.commit()
        assert await reopened(store) == State()

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(math.nan, id="nan"),
            pytest.param(math.inf, id="inf"),
            pytest.param((1, 2), id="tuple"),
            pytest.param(b"x", id="bytes"),
            pytest.param({1: "x"}, id="integer key"),
            pytest.param(object(), id="object"),
            pytest.param("\ud800", id="half a character"),
            pytest.param([[math.nan]], id="nested nan"),
        ],
    )
    async def test_refuses_what_json_would_bend(self, store: Store, value: Any) -> None:
        await store.open()
        with pytest.raises(InvalidInput, match="model m:1 cannot be stored"):
            await store.commit(
                PutApplication(application("a")),
                PutModel(model("m", "1", 1, example=value)),
            )
        assert await reopened(store) == State()

    async def test_refuses_a_record_of_wrong_types(self, store: Store) -> None:
        await store.open()
        wrong: Any = "three"
        with pytest.raises(InvalidInput, match="num_replicas"):
            await store.commit(PutModel(model("m", "1", 1, num_replicas=wrong)))

    async def test_refuses_names_that_are_no_text(self, store: Store) -> None:
        await store.open()
        for change in (DeleteApplication("\ud800"), SetCurrent("\ud800", None)):
            with pytest.raises(InvalidInput):
                await store.commit(change)

    async def test_many_commits_at_once_all_arrive(self, store: Store) -> None:
        await store.open()
        await asyncio.gather(
            *(store.commit(PutApplication(application(f"a{n}", n))) for n in range(1, 301))
        )
        state = await reopened(store)
        assert len(state.applications) == 300
        assert state.last_number == 300

    async def test_commits_are_done_in_the_order_they_were_made(self, store: Store) -> None:
        await store.open()
        await asyncio.gather(
            *(store.commit(PutApplication(application("a", n))) for n in range(1, 101))
        )
        assert (await reopened(store)).applications["a"].number == 100

    async def test_a_state_is_a_copy(self, store: Store) -> None:
        await store.open()
        await store.commit(PutApplication(FULL_APPLICATION))
        first = await reopened(store)
        first.applications["digits"].models.append("intruder")
        first.applications.clear()
        assert (await reopened(store)).applications == {"digits": FULL_APPLICATION}

    async def test_keeps_blobs_by_their_digest(self, store: Store) -> None:
        await store.open()
        for data in (b"", b"function", bytes(range(256)) * 5_000):
            digest = await store.put_blob(data)
            assert digest == hashlib.sha256(data).hexdigest()
            assert await store.put_blob(data) == digest
            await reopened(store)
            assert await store.get_blob(digest) == data

    async def test_drops_blobs_that_nothing_needs(self, store: Store) -> None:
        await store.open()
        kept, dropped = await store.put_blob(b"kept"), await store.put_blob(b"dropped")
        await store.delete_blobs({kept, "0" * 64, "../etc/passwd"})
        assert await store.get_blob(kept) == b"kept"
        with pytest.raises(StoreError, match=dropped):
            await store.get_blob(dropped)

    @pytest.mark.parametrize(
        "digest",
        [
            "",
            "0" * 63,
            "0" * 65,
            "A" * 64,
            "../" + "0" * 61,
            "0" * 64 + "\n",
            None,
            "٠" * 64,
        ],
    )
    async def test_a_blob_is_named_by_a_digest_only(
        self, store: Store, digest: Any
    ) -> None:
        await store.open()
        with pytest.raises(StoreError, match="64 hexadecimal digits"):
            await store.get_blob(digest)

    async def test_a_secret_stays_the_same(self, store: Store) -> None:
        await store.open()
        token, key = await store.secret("admin-token"), await store.secret("query-key")
        assert len(token) == len(key) == 32
        assert token != key
        await reopened(store)
        assert await store.secret("admin-token") == token
        assert await store.secret("query-key") == key

    async def test_a_secret_that_is_asked_for_twice_at_once_is_one(
        self, store: Store
    ) -> None:
        await store.open()
        made = await asyncio.gather(*(store.secret("query-key") for _ in range(8)))
        assert len(set(made)) == 1

    @pytest.mark.parametrize("name", ["", "../x", "a/b", "clipper.db", "A", ".x", None])
    async def test_a_secret_has_a_plain_name(self, store: Store, name: Any) -> None:
        await store.open()
        with pytest.raises(InvalidInput):
            await store.secret(name)

    async def test_a_closed_store_takes_nothing(self, store: Store) -> None:
        await store.open()
        await store.close()
        await store.close()
        for refused in (
            store.commit(PutApplication(application("a"))),
            store.commit(),
            store.put_blob(b""),
            store.get_blob("0" * 64),
            store.delete_blobs(set()),
            store.secret("admin-token"),
        ):
            with pytest.raises(StoreError, match="closed"):
                await refused

    async def test_a_store_that_was_never_open_can_be_closed(self, store: Store) -> None:
        await store.close()
        assert await store.open() == State()

    async def test_is_opened_once(self, store: Store) -> None:
        await store.open()
        with pytest.raises(StoreError, match="already open"):
            await store.open()
        await store.commit(PutApplication(application("a")))
        assert list((await reopened(store)).applications) == ["a"]

    async def test_close_finishes_what_was_accepted(self, store: Store) -> None:
        await store.open()
        commits = [
            asyncio.ensure_future(store.commit(PutApplication(application(f"a{n}", n))))
            for n in range(50)
        ]
        await asyncio.sleep(0)  # let them begin
        await asyncio.gather(store.close(), store.close())
        await asyncio.gather(*commits)
        assert len((await store.open()).applications) == 50

    async def test_a_caller_that_goes_away_takes_nothing_with_it(
        self, store: Store
    ) -> None:
        await store.open()
        gone = asyncio.ensure_future(store.commit(PutApplication(application("a", 1))))
        await asyncio.sleep(0)
        gone.cancel()
        await store.commit(PutApplication(application("b", 2)))
        assert sorted((await reopened(store)).applications) == ["a", "b"]

    async def test_describes_itself(self, store: Store) -> None:
        assert "closed" in repr(store)
        await store.open()
        assert "open" in repr(store)


def as_good(found: State, whole: State) -> bool:
    """Whether nothing is other than it was, but for records that are told of."""
    lost = found.damaged
    return (
        found.applications.items() <= whole.applications.items()
        and found.models.items() <= whole.models.items()
        and found.current.items() <= whole.current.items()
        and len(found.applications) + len(lost.applications) == len(whole.applications)
        and len(found.models) + len(lost.models) == len(whole.models)
        and len(found.current) + len(lost.current) == len(whole.current)
        and found.last_number == whole.last_number
    )
