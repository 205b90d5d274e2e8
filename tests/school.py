"""An application that learns, over fake replicas and a log in memory in manual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fakes import FakeLoop, FakeReplicaSet, ManualClock
from house import House, Receiver, replicas, row

from clipper.application import NOBODY
from clipper.errors import ClipperError
from clipper.feedback import Feedback
from clipper.learning import events
from clipper.pieces import Item
from clipper.records import PolicySettings
from clipper.selection.policy import Subject
from clipper.values import Output


class Told:
    """What became of one piece of feedback."""

    def __init__(self) -> None:
        self.times = 0
        self.duplicate: bool | None = None
        self.error: ClipperError | None = None

    def __call__(self, duplicate: bool, error: ClipperError | None) -> None:
        self.times += 1
        self.duplicate, self.error = duplicate, error

    @property
    def accepted(self) -> bool:
        return self.times == 1 and self.error is None


class School:
    """An application with two models that learns."""

    def __init__(
        self,
        clock: ManualClock,
        loop: FakeLoop,
        policy: str,
        models: int = 2,
        **fields: Any,
    ) -> None:
        self.house = House(clock, loop)
        self.loop = loop
        self.models = [self.house.model(f"m{n}") for n in range(models)]
        self.deployed = {model.id: model for model in self.models}
        settings = PolicySettings(policy, fields.pop("options", {}))
        fields = {"cache": False, "default_output": "-1", **fields}
        self.application = self.house.application(*self.models, policy=settings, **fields)
        self.application.update(self.application.record, self.models, {})
        self.learner = self.application.learner
        self.learner.users.counted = True
        self.log = self.house.learning.log
        self.feedback = self._feedback()

    def _feedback(self) -> Feedback:
        return Feedback(
            self.application,
            self.house.learning,
            self.house.ids,
            self.house.clock,
            self.deployed,
        )

    def answer(self, *outputs: Output) -> None:
        """Each model answers, with its own output or the only one."""
        self.loop.turn()
        for number, model in enumerate(self.models):
            replica = replicas(model).replica
            output = outputs[min(number, len(outputs) - 1)]
            while replica.batches:
                replica.answer(lambda _, text=output: text)
        self.loop.turn()

    def ask(self, *outputs: Output, subject: Subject = NOBODY, **more: Any) -> str:
        """A query, answered; its id."""
        receiver = Receiver()
        query = self.application.submit(row(1), receiver, subject, **more)
        self.answer(*outputs)
        assert receiver.told
        return query.issue_id().decode()

    def give(self, query_id: str | None = None, **fields: Any) -> Told:
        told = Told()
        item = Item(query_id, **fields)
        try:
            self.feedback.take(item, told)
        except ClipperError as error:
            told(False, error)
        self.loop.turn()
        return told

    async def entries(self) -> list[events.Feedback]:
        number = self.application.number
        found = []
        for _, entry in await self.log.entries(number, 0, 1000):
            event = events.decode(entry.body)
            assert isinstance(event, events.Feedback)
            found.append(event)
        return found

    async def uids(self) -> list[str | None]:
        logged = await self.log.entries(self.application.number, 0, 1000)
        return [entry.uid for _, entry in logged]

    @property
    def means(self) -> list[float | None]:
        return [total.mean for total in self.learner.score(tuple(self.application.arms))]


Make = Callable[..., School]


@pytest.fixture
def school(
    clock: ManualClock, fake_loop: FakeLoop, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Make]:
    monkeypatch.setattr("clipper.model.ReplicaSet", FakeReplicaSet)

    def make(policy: str = "ucb1", **fields: Any) -> School:
        return School(clock, fake_loop, policy, **fields)

    yield make
    for work in fake_loop.spawned:
        work.close()
