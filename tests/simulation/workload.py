"""Clients of a world: what they ask, how long they stay, and when they ask again."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from clipper.application import Application
from clipper.inputs import Row
from clipper.query import BatchQuery, Query
from clipper.values import Output, RowError

if TYPE_CHECKING:
    from .scenario import Traffic
    from .world import World

MOST_RETRIES = 3
THINK = 0.0002  # seconds until a client of a closed loop asks again


def row_of(value: int, ragged: bool = False) -> Row:
    """One number, or for some values two."""
    if ragged and value % 3 == 0:
        return Row(struct.pack("<2d", value, 0.5), None)
    return Row(struct.pack("<d", value), None)


class Ask:
    """One request and its client: told once, or gone before."""

    __slots__ = (
        "application", "at", "client", "deadline", "generation", "gone", "number", "query",
        "told", "tries", "values", "world",
    )  # fmt: skip

    def __init__(
        self, world: World[Any], client: Client | None, values: list[int], tries: int = 0
    ) -> None:
        self.world = world
        self.client = client
        self.values = values
        self.tries = tries
        self.number = world.number()
        self.at = world.clock.now()
        self.deadline = self.at
        self.generation = 0
        self.application: Application | None = None
        self.query: Query | BatchQuery | None = None
        self.told = False
        self.gone = False

    def query_settled(self, query: Query) -> None:
        self._settled([query.output])

    def batch_settled(self, batch: BatchQuery) -> None:
        self._settled(batch.outputs)

    def _settled(self, outputs: Sequence[Output | None]) -> None:
        self.world.watch.told(self, outputs)
        self.told = True
        if self.world.scenario.answer_cost:
            self.world.clock.move(self.world.scenario.answer_cost)
        if self.client is not None:
            self.client.answered(self, outputs)

    def leave(self) -> None:
        """The client goes away."""
        if not self.told and not self.gone and self.query is not None:
            self.gone = True
            self.world.watch.left(self)
            self.query.cancel()


class Client:
    """Makes the requests of one kind of traffic."""

    def __init__(self, world: World[Any], traffic: Traffic, rng: Random) -> None:
        self.world = world
        self.traffic = traffic
        self.rng = rng
        self._next = 0
        self._asked = 0

    def start(self) -> None:
        """Schedule all that does not depend on answers."""
        world, traffic, rng = self.world, self.traffic, self.rng
        if traffic.kind == "closed":
            for _ in range(traffic.clients):
                world.loop.at(world.begin + rng.random() * 0.01, self.ask)
            return
        burst = traffic.burst if traffic.kind == "bursts" else 1
        at = world.begin
        while (at := at + rng.expovariate(traffic.rate / burst)) < world.end:
            world.loop.at(at, self._ask_many, burst)

    def _ask_many(self, count: int) -> None:
        for _ in range(count):
            self.ask()

    def ask(self) -> None:
        rng, scenario = self.rng, self.world.scenario
        count = rng.randint(0, scenario.largest) if rng.random() < scenario.batches else 1
        self._send(Ask(self.world, self, [self._value() for _ in range(count)]))

    def _value(self) -> int:
        keys = self.world.scenario.keys
        if self.traffic.keys == "scan":
            self._next += 1
            return self._next
        if self.traffic.keys == "hot":
            return self.rng.randrange(3)
        return min(keys, int(self.rng.paretovariate(0.8)))

    def _send(self, ask: Ask) -> None:
        rng, world = self.rng, self.world
        self._asked += 1
        hasty = None
        if rng.random() < world.scenario.hasty:
            hasty = rng.choice((0.1, 1.0, 5.0, 1000.0 * world.scenario.slo * rng.random()))
        world.send(ask, hasty, cache=rng.random() >= world.scenario.no_cache)
        if rng.random() < world.scenario.gone:
            stays = rng.random() * 1.2 * world.scenario.slo
            world.loop.at(world.clock.now() + stays, ask.leave)

    def answered(self, ask: Ask, outputs: Sequence[Output | None]) -> None:
        world = self.world
        if world.clock.now() >= world.end or self._asked >= self.traffic.most:
            return
        if self.traffic.kind == "closed":
            if self.rng.random() < world.scenario.eager:
                self.ask()  # from inside the answer
            else:
                world.loop.at(world.clock.now() + THINK * self.rng.random(), self.ask)
        elif self.traffic.kind == "retries" and ask.tries < MOST_RETRIES:
            failed = any(isinstance(output, RowError) for output in outputs)
            if failed:
                again = Ask(world, self, ask.values, ask.tries + 1)
                if self.rng.random() < world.scenario.eager:
                    self._send(again)
                else:
                    world.loop.call_soon(self._send, again)
