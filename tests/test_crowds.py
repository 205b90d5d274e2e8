"""More of everything than anybody should ask for: deploys, applications, users."""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import uvloop
from frontend.raw import Answer, ask, predict, request, serving, settings_with
from frontend.routes import authorization, function, furnish
from polling import eventually

from clipper import Server
from clipper.config import LearningSettings, Settings
from clipper.errors import TooManyRequests


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Any]:
    return {"uvloop": uvloop.new_event_loop}


pytestmark = pytest.mark.asyncio


def resident() -> int:
    """Bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def children() -> int:
    path = Path("/proc/self/task")
    return sum(len(task.read_text().split()) for task in path.glob("*/children"))


# -- deploys -----------------------------------------------------------------------------


def deploy(server: Server, name: str, version: int, blob: bytes) -> bytes:
    manifest = {"model_name": name, "model_version": version, "input_type": "json"}
    body = msgspec.msgpack.encode({"manifest": manifest, "function": blob})
    return request(
        "POST", "/admin/deploy", body, authorization(server), media="application/msgpack"
    )


def outcome(answer: Answer) -> str:
    """The last line of a deploy, or the refusal."""
    last = msgspec.json.decode(answer.body.splitlines()[-1])
    return str(last.get("stage") or last["error"])


@pytest.mark.fault("A3")
async def test_five_hundred_deploys_at_once() -> None:
    """Those beyond the limit are told so at once, few workers are ever started, the last
    writer wins, and everybody else is served meanwhile."""
    limit = 4
    async with serving(
        {"deploys": limit, "replicas": 16, "admin_connections": 1000}
    ) as server:
        await furnish(server)
        before = children()
        most, latencies = 0, []
        done = asyncio.Event()

        async def others() -> None:
            nonlocal most
            for number in count():
                if done.is_set():
                    return
                began = time.perf_counter()
                answer = await ask(server.port, predict("echo", b'{"input": %d}' % number))
                latencies.append(time.perf_counter() - began)
                assert (answer.status, answer.value["output"]) == (200, number)
                most = max(most, children() - before)

        async def one(version: int) -> tuple[int, str]:
            data = deploy(server, "crowd", version, function())
            answer = await ask(server.admin_port, data)
            return answer.status, outcome(answer)

        meanwhile = asyncio.ensure_future(others())
        results = await asyncio.gather(*(one(version) for version in range(500)))
        live = {version for version, (_, end) in enumerate(results) if end == "live"}
        # the rest of a first wave; a retry finds room again
        assert (await one(1000))[1] == "live"
        done.set()
        await meanwhile
        refused = [status for status, end in results if end == "too_many"]
        assert len(live) + len(refused) == 500 and set(refused) == {429}
        assert 1 <= len(live) <= 30
        assert 1 <= most <= 16  # those that start and those that serve together
        state = server.engine.catalog.state
        found = {
            r.version: r.generation for r in state.models.values() if r.name == "crowd"
        }
        assert set(found) == {str(version) for version in (*live, 1000)}
        assert state.current["crowd"] == max(found, key=lambda v: found[v])
        assert len(latencies) > 20
        assert sorted(latencies)[len(latencies) // 2] < 1.0


@pytest.mark.fault("A3")
async def test_one_version_by_many_at_once() -> None:
    """One of them is it; the others learn that somebody else was first."""
    async with serving({"deploys": 64, "replicas": 16}) as server:
        data = deploy(server, "same", 1, function())
        answers = await asyncio.gather(*(ask(server.admin_port, data) for _ in range(50)))
        ends = [outcome(answer) for answer in answers]
        assert sorted(set(ends)) == ["conflict", "live"]
        assert ends.count("live") == 1


@pytest.mark.fault("A3")
async def test_a_thousand_versions(tmp_path: Path) -> None:
    """Versions without functions up to the limit, kept over a restart, and no more."""
    settings = settings_with(None, data_dir=str(tmp_path))
    settings = msgspec.structs.replace(settings, ephemeral=False, durability="process")
    most = settings.limits.models
    async with Server(listen=True, settings=settings) as server:
        ends = await add_models(server, range(most + 50))
        assert ends == [200] * most + [429] * 50
    async with Server(listen=True, settings=settings) as server:
        assert len(server.engine.models) == most
        assert await add_models(server, range(most, most + 1)) == [429]
        body = b'{"model_name": "m", "model_version": 7}'
        undeploy = request("POST", "/admin/undeploy", body, authorization(server))
        assert (await ask(server.admin_port, undeploy)).status == 200
        assert await add_models(server, range(most, most + 1)) == [200]


async def add_models(server: Server, versions: range) -> list[int]:
    statuses = []
    for version in versions:
        body = {"model_name": "m", "model_version": version, "input_type": "json"}
        data = request(
            "POST", "/admin/add_model", msgspec.json.encode(body), authorization(server)
        )
        statuses.append((await ask(server.admin_port, data)).status)
    return statuses


@pytest.mark.fault("A3")
async def test_a_function_of_three_hundred_megabytes() -> None:
    """Refused by its length alone, before any of it is sent."""
    async with serving() as server:
        size, most = 300 * 2**20, server.settings.limits.deploy_body
        assert size > most
        head = deploy(server, "large", 1, b"").partition(b"\r\n\r\n")[0]
        lines = [x for x in head.split(b"\r\n") if not x.startswith(b"Content-Length")]
        before = resident()
        said = b"\r\n".join([*lines, b"Content-Length: %d" % size, b"", b""])
        answer = await ask(server.admin_port, said)
        assert (answer.status, answer.value["error"]) == (413, "payload_too_large")
        assert f"at most {most} bytes" in answer.value["cause"]
        assert resident() - before < 50 * 2**20


# -- applications ------------------------------------------------------------------------


@pytest.mark.fault("A4")
async def test_applications_up_to_the_limit_and_a_flood_beyond() -> None:
    async with Server(settings=settings_with()) as server:
        most = server.settings.limits.applications
        for number in range(most):
            await server.register_application(f"a{number}", input_type="json")
        gc.collect()
        before = resident()
        for number in range(most, most + 2_000):
            with pytest.raises(TooManyRequests, match=f"{most} applications.*delete some"):
                await server.register_application(f"a{number}", input_type="json")
        assert len(server.engine.applications) == most
        assert resident() - before < 10 * 2**20
        await server.engine.delete_application("a1")
        await server.register_application("again", input_type="json")


# -- users -------------------------------------------------------------------------------


def uids(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    while True:
        yield f"user-{rng.getrandbits(128):032x}" + "x" * 200


@pytest_asyncio.fixture
async def bandit(tmp_path: Path) -> AsyncIterator[Server]:
    """A server that learns of users, on disk, with room for few."""
    settings = Settings(
        data_dir=str(tmp_path),
        durability="process",
        learning=LearningSettings(
            users_in_memory=50, users_on_disk=200, snapshot_entries=100
        ),
    )
    async with Server(settings=settings) as server:
        for version in (1, 2):
            await server.deploy(f"m{version}", 1, lambda xs: [1 for _ in xs], "json")
        await server.register_application(
            "app", models=["m1", "m2"], input_type="json", policy="exp3",
            slo_micros=5_000_000,
        )  # fmt: skip
        yield server


@pytest.mark.fault("A4")
@pytest.mark.parametrize(
    "queries", [20_000, pytest.param(1_000_000, marks=pytest.mark.long)]
)
@pytest.mark.timeout(1200)
async def test_queries_of_random_users_create_no_state(
    bandit: Server, queries: int
) -> None:
    """However many ids somebody makes up: nobody is known until feedback says so."""
    users = bandit.engine.application("app").learner.users
    made = uids(1)

    async def some(number: int) -> None:
        for start in range(0, number, 200):
            tasks = [bandit.predict("app", 1, uid=next(made)) for _ in range(200)]
            await asyncio.gather(*tasks)
            assert len(users) <= 50, start

    # the memory of decisions is bounded in bytes, and this fills most of what it has
    await some(queries // 2)
    gc.collect()
    before = resident()
    await some(queries // 2)
    gc.collect()
    grown = resident() - before
    assert grown < max(40 * 2**20, 0.6 * 700 * queries / 2), grown
    number = bandit.engine.application("app").number
    size = await bandit.engine.learning.log.size(number)
    assert size.entries <= 1 and size.persons <= 1


@pytest.mark.fault("A4")
async def test_users_of_whom_something_is_learned_are_bounded(bandit: Server) -> None:
    """In memory and on disk: who gave feedback long ago is forgotten for who gives now."""
    application = bandit.engine.application("app")
    users, log = application.learner.users, bandit.engine.learning.log
    made = uids(2)

    async def teach(number: int) -> None:
        for _ in range(number // 100):
            answers = await asyncio.gather(
                *(bandit.predict("app", 1, uid=next(made)) for _ in range(100))
            )
            await asyncio.gather(
                *(bandit.update("app", answer.query_id, reward=1.0) for answer in answers)
            )

    await teach(2000)
    assert application.stats.feedback == 2000
    # what is not in a snapshot yet stays in memory; the others make room for those to come
    await eventually(lambda: not any(user.dirty for _, user in users))
    await teach(300)
    assert len(users) <= 50 + 300
    await eventually(lambda: not any(user.dirty for _, user in users))
    assert (await log.size(application.number)).persons <= 200 + 1
