"""A server that is killed again and again while it predicts, learns and is changed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import shutil
import signal
import time
import uuid
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
from learner_client import Connection, Gone, change_policies
from learner_fold import Auditor, shown
from learner_ledger import POLICIES, SKILLS, Ledger, make_model
from served import ServeProcess

from clipper.client import AsyncClipper
from clipper.errors import ServerUnreachable
from clipper.store.sqlite import SQLiteStore

logger = logging.getLogger(__name__)

CONNECTIONS = 5

# Snapshots at every look, few users in memory: so that kills meet both.
SETTINGS = """
[learning]
snapshot_entries = 20
users_in_memory = 60
"""


class Storm:
    """A server under load that is killed again and again."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.rng = rng
        settings = directory / "clipper.toml"
        settings.write_text(SETTINGS)
        self.server = ServeProcess(directory, uuid.uuid4().hex, "--config", str(settings))
        self.ledger = Ledger(rng)
        self.auditor = Auditor(self.ledger)
        # All mutable state beside the above: how many seconds a start takes, about, and
        # the versions whose deploys were acknowledged, and whose removals were.
        self.boot = 0.5
        self.deployed: set[str] = set()
        self.removed: set[str] = set()

    async def run(self, kills: int) -> None:
        await self._first_life()
        while self.ledger.counts["kills"] < kills:
            if self.rng.random() < 0.15:
                await self._life_without_clients()
            else:
                await self._life()
        await self._last_life()

    async def _first_life(self) -> None:
        async with await self._client() as client:
            for name in SKILLS:
                await client.deploy_predict_function(name, 1, make_model(name), "doubles")
            for app, policies in POLICIES.items():
                await client.register_application(
                    app, None, "doubles", "-1", 5_000_000, models=[*SKILLS],
                    policy=msgspec.structs.asdict(policies[0]),
                )  # fmt: skip
            await self._load(client)
        await self._look()

    async def _life_without_clients(self) -> None:
        """Killed while it starts."""
        self.server.start()
        await asyncio.sleep(self.rng.uniform(0.2, 1.1) * self.boot)
        self._kill()
        self.ledger.counts["kills in a start"] += 1
        await self._look()

    async def _life(self) -> None:
        async with await self._client() as client:
            await self._compare(client)
            await self._load(client)
        await self._look()

    async def _last_life(self) -> None:
        async with await self._client() as client:
            connection = Connection(client, self.ledger)
            try:
                await connection.settle(500)
            finally:
                await connection.close()
        self.server.process.send_signal(signal.SIGTERM)
        assert self.server.process.wait(60) == 0, self.server.log.read_text()
        self.auditor.folds.clear()  # all over again
        await self._look()

    async def _client(self) -> AsyncClipper:
        begun = time.monotonic()
        self.server.start()
        client = await self.server.client()
        self.boot = time.monotonic() - begun
        return client

    async def _load(self, client: AsyncClipper) -> None:
        """Mixed load until the kill."""
        connections = [Connection(client, self.ledger) for _ in range(CONNECTIONS)]
        works: list[Coroutine[Any, Any, None]] = [
            change_policies(client, self.ledger),
            self._change_models(client),
            self._settle_and_load(connections[0]),
            *[connection.load() for connection in connections[1:]],
        ]
        tasks = [asyncio.ensure_future(work) for work in works]
        moment = asyncio.ensure_future(self._moment())
        await asyncio.wait([moment, *tasks], return_when=asyncio.FIRST_COMPLETED)
        moment.cancel()
        early = [task for task in tasks if task.done()]
        self._kill()
        # what was answered before the kill counts
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for connection in connections:
            await connection.close()
        for end in ends:
            if not isinstance(end, Gone):
                raise AssertionError(self.server.log.read_text()) from end
        assert not early, self.server.log.read_text()

    async def _change_models(self, client: AsyncClipper) -> None:
        """Deploy versions that nobody asks, and remove them again, until the server is
        gone."""
        while True:
            version = f"v{self.rng.randrange(10**9)}"
            try:
                await client.deploy_predict_function(
                    "unasked", version, make_model("good"), "doubles"
                )
                self.deployed.add(f"unasked:{version}")
                while len(self.deployed) > 1:
                    victim = self.deployed.pop()
                    await client.undeploy(*victim.split(":"))
                    self.removed.add(victim)
            except ServerUnreachable:
                raise Gone from None
            self.ledger.counts["deploys"] += 1

    async def _moment(self) -> None:
        """Wait for the moment of the kill: any, or in the middle of a snapshot."""
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.uniform(0.0, 1.5))
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2.0):
                await self._snapshot()
                await asyncio.sleep(self.rng.uniform(0.0, 0.01))

    async def _snapshot(self) -> None:
        """Wait until the state of a user is written: its key begins with "=u"."""
        log = self.server.data / "clipper.db-wal"
        place = log.stat().st_size
        while True:
            await asyncio.sleep(0.001)
            size = log.stat().st_size
            with log.open("rb") as file:
                file.seek(place if size >= place else 0)
                if b"=u" in file.read():
                    self.ledger.counts["kills at a snapshot"] += 1
                    return
            place = size

    async def _settle_and_load(self, connection: Connection) -> None:
        await connection.settle(10)
        await connection.load()

    def _kill(self) -> None:
        self.server.kill()
        self.ledger.counts["kills"] += 1

    async def _look(self) -> None:
        """Audit a copy of the directory: the next start is the first to see what the kill
        left."""
        await self.server.no_workers()
        if not (self.server.data / "clipper.db").exists():
            return
        copy = self.server.directory / "copy"
        shutil.copytree(self.server.data, copy)
        await self.auditor.check(SQLiteStore(copy))
        shutil.rmtree(copy)

    async def _compare(self, client: AsyncClipper) -> None:
        """What the new server says it has learned is what the fold says; what was deployed
        is there."""
        models = set(await client.get_all_models())
        assert self.deployed <= models and not self.removed & models
        for app, fold in self.auditor.folds.items():
            learner = fold.learner
            users = [uid for uid, _ in learner.users]
            for uid in [None, *self.rng.sample(users, min(2, len(users)))]:
                user = None if uid is None else learner.users.get(uid)
                experience = learner.population if user is None else user.experience
                assert experience is not None
                said = await client.get_state(app, *([] if uid is None else [uid]))
                assert said is not None
                if said["generation"] != learner.generation:
                    continue  # a change that the kill kept from the log was made good
                found, folded = said["state"], shown(experience)
                for state in (found, folded):
                    # another may have been found since the server is up
                    if isinstance(state, dict):
                        state.pop("prior", None)
                assert found == folded, (app, uid)
                for arm in [*said["arms"], *said["former_arms"]]:
                    total = experience.totals.get(arm["arm"])
                    assert arm["pulls"] == (0 if total is None else total.count)

    def report(self) -> None:
        counts = self.ledger.counts
        counts["acknowledged"] = len(self.ledger.acknowledged)
        counts["snapshots cut short"] = self.auditor.cut_short
        counts["entries"] = sum(len(f.entries) for f in self.auditor.folds.values())
        logger.info("%s", dict(counts))


async def kill_often(directory: Path, kills: int, seed: int) -> Storm:
    """Raises AssertionError for anything that was lost, doubled or made up."""
    storm = Storm(directory, random.Random(seed))
    try:
        await storm.run(kills)
    finally:
        storm.server.kill()
        storm.report()
    assert storm.ledger.acknowledged
    assert not [said for said in storm.ledger.doubtful if said.repeatable]
    return storm
