"""Who deploys, rolls back, scales and sets policies while all else goes on."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from clipper.errors import ClipperError
from clipper.records import (
    ApplicationRecord,
    BatchingSettings,
    ModelRecord,
    PolicySettings,
)

from .ledger import DEFAULT
from .plot import random_function
from .processes import EXAMPLE, Function

if TYPE_CHECKING:
    from clipper.engine import Engine

    from .core import Core

NAMES = ("m0", "m1", "m2")
APPLICATIONS = ("a0", "a1", "a2")
CALM = Function(1, 0.001, 0.0001, odd=True)

POLICIES = (
    ("static", {}), ("epsilon_greedy", {"epsilon": 0.3}), ("ucb1", {}), ("thompson", {}),
    ("discounted_ucb", {}), ("exp3", {}), ("exp3_ix", {}), ("linucb", {"features": 3}),
    ("squarecb", {"features": 3}), ("majority", {}), ("exp4", {}), ("hedge", {}),
    ("hedge", {"share": 0.01}), ("shadow", {"share": 0.5}), ("canary", None),
)  # fmt: skip


class Operators:
    """Asks one thing after another of the engine that is up."""

    # State: how many functions were packaged, and versions named; whether all is set up;
    # and how often each deed was done.

    def __init__(self, world: Core, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.functions = CALM.number
        self.versions = 0
        self.ready = False
        self.done: dict[str, int] = {}

    @property
    def engine(self) -> Engine:
        return self.world.life.engine

    async def set_up(self) -> None:
        """What is there when trouble begins."""
        engine = self.engine
        calm = self._application("calm", ["calm"], PolicySettings())
        await engine.register_application(calm)
        await self._deploy("calm", "1", CALM, {"calm": "1"}, 1)
        for name in NAMES[: self.rng.randint(1, 3)]:
            await self.deploy(name, start="good")
        for name in APPLICATIONS[: self.rng.randint(1, 2)]:
            await self.register(name)
        self.ready = True

    async def do(self, deed: str) -> None:
        """One deed; what it is refused for is no fault. It is known, and on the disk, by
        the time it is acknowledged."""
        world, life = self.world, self.world.life
        if not life.open:
            return
        world.note(f"deed {deed}")
        try:
            await getattr(self, deed)()
        except ClipperError as error:
            world.note(f"{deed}: {error.code}")
            if "disk" not in str(error) and "write" not in str(error):
                return
        else:
            world.note(f"{deed} is done")
            self.done[deed] = self.done.get(deed, 0) + 1
        if not life.store.broken:
            world.audit.check_records()

    # -- models --------------------------------------------------------------------------

    async def deploy(self, name: str | None = None, start: str | None = None) -> None:
        self.functions += 1
        function = random_function(self.functions, self.rng, self.world.plot.faulty)
        if start is not None:
            function = replace(function, start=start)
        self.versions += 1
        version = str(self.versions if self.rng.random() < 0.9 else 1)
        replicas = self.rng.choice((1, 1, 2, 3))
        await self._deploy(name or self.rng.choice(NAMES), version, function, {}, replicas)

    async def _deploy(
        self,
        name: str,
        version: str,
        function: Function,
        environment: dict[str, str],
        replicas: int,
    ) -> None:
        world, rng, plot = self.world, self.rng, self.world.plot
        world.functions[function.number] = function
        world.blobs[hashlib.sha256(function.blob).hexdigest()] = function
        calm = "calm" in environment
        batching = BatchingSettings(
            rng.choice(("aimd", "aimd", "quantile", "goodput")), rng.choice((None, 1, 5))
        )
        spec = ModelRecord(
            name,
            version,
            "doubles",
            0,
            num_replicas=replicas,
            batching=batching,
            retry=calm or rng.random() < 0.9,
            example=[float(EXAMPLE)] if calm or rng.random() < 0.8 else None,
            environment=environment,
            spares=rng.randint(0, plot.spares) if plot.spares else 0,
            recycle_after=rng.choice(plot.recycle) if len(plot.recycle) > 1 else None,
        )
        record = await self.engine.deploy(spec, function.blob)
        kept = world.disk.state().models.get(record.key)
        world.ledger.expect(
            kept is not None and kept.generation == record.generation,
            f"{record.key} was acknowledged, and is not on the disk",
        )

    async def add_model(self) -> None:
        self.versions += 1
        spec = ModelRecord(self.rng.choice(NAMES), str(self.versions), "doubles", 0)
        await self.engine.add_model(spec)

    def _version(self) -> ModelRecord | None:
        models = self.engine.catalog.models
        keys = [key for key, record in models.items() if record.name in NAMES]
        return models[self.rng.choice(keys)] if keys else None

    async def delete_model(self) -> None:
        if record := self._version():
            await self.engine.delete_model(record.name, record.version)

    async def roll_back(self) -> None:
        await self.engine.rollback(self.rng.choice(NAMES))

    async def set_version(self) -> None:
        if record := self._version():
            await self.engine.set_version(record.name, record.version)

    async def scale(self) -> None:
        if record := self._version():
            replicas = self.rng.choice((0, 1, 2, 3))
            await self.engine.scale(record.name, record.version, replicas)

    # -- applications --------------------------------------------------------------------

    def _application(
        self, name: str, models: list[str], policy: PolicySettings
    ) -> ApplicationRecord:
        rng = self.rng
        calm = name == "calm"
        loss = "zero_one" if calm else rng.choice(("zero_one", "zero_one", "absolute"))
        return ApplicationRecord(
            name,
            0,
            "doubles",
            5_000_000 if calm else rng.choice((5_000, 50_000, 500_000)),
            default_output=str(DEFAULT),
            models=models,
            policy=policy,
            cache=rng.random() < 0.8,
            cache_ttl_seconds=rng.choice((None, None, 0.2)),
            loss=loss,
        )

    def _policy(self, models: list[str]) -> PolicySettings:
        name, options = self.rng.choice(POLICIES)
        if options is None:
            current = self.engine.catalog.state.current
            arms = [f"{n}:{v}" for n, v in current.items() if n in models]
            if not arms:
                return PolicySettings()
            weights = {arm: 1.0 + index for index, arm in enumerate(arms)}
            options = {"weights": weights, "least": 10}
        return PolicySettings(name, options)

    async def register(self, name: str | None = None) -> None:
        models = list(NAMES[: self.rng.randint(1, 3)])
        name = name or self.rng.choice(APPLICATIONS)
        spec = self._application(name, models, self._policy(models))
        record = await self.engine.register_application(spec)
        kept = self.world.disk.state().applications.get(name)
        self.world.ledger.expect(
            kept is not None and kept.number == record.number,
            f"{name} was acknowledged, and is not on the disk",
        )

    def _name(self) -> str:
        return self.rng.choice(APPLICATIONS)

    async def delete_application(self) -> None:
        await self.engine.delete_application(self._name())

    async def set_policy(self) -> None:
        name = self._name()
        models = self.engine.application(name).record.models
        await self.engine.set_policy(name, self._policy(models))

    async def link(self) -> None:
        await self.engine.link(self._name(), [self.rng.choice(NAMES)])

    async def unlink(self) -> None:
        await self.engine.unlink(self._name(), [self.rng.choice(NAMES)])

    async def forget(self) -> None:
        number = self.engine.application(self._name()).number
        uid = f"u{self.rng.randrange(self.world.plot.users)}"
        learning: Any = self.engine.learning
        await learning.forget(learning.learners[number], uid)
