"""Who gives feedback on what a whole server answered: late, twice, and on what others
asked."""

from __future__ import annotations

import hashlib
from random import Random
from typing import TYPE_CHECKING, Any

import msgspec

from clipper.errors import ClipperError, NotFound, ResendInput
from clipper.inputs import InputType
from clipper.learning import events
from clipper.pieces import Item, make_item
from clipper.selection.policy import Arm, generation_of
from clipper.values import RowError

from .ledger import Ledger
from .processes import truth
from .workload import row_of

if TYPE_CHECKING:
    from clipper.choosing import Choice
    from clipper.panel import Panel

    from .core import Core
    from .visitors import Ask

MOST_ASKED = 300  # answers that feedback may be given on


class Asked:
    """One answer with what was decided for it."""

    def __init__(
        self,
        ask: Ask,
        value: int,
        choice: Choice,
        panel: Panel | None,
        output: Any,
        query_id: str,
        key: str,
    ) -> None:
        assert ask.application is not None
        self.number = ask.application.number
        self.value = value
        self.subject = ask.subject
        self.query_id = query_id
        self.key = key
        self.arms = choice.arms
        self.arm: Arm | None = choice.arm
        self.single = choice.index is not None
        self.propensity = choice.propensity if panel is None else panel.propensity
        self.failed = isinstance(output, RowError)
        self.item: Item | None = None  # what was said of it

    def check_event(self, event: events.Feedback, ledger: Ledger) -> None:
        """What the log holds of the decision is what was decided."""
        if self.single:
            ledger.expect(
                event.propensity == self.propensity, f"another propensity: {event}"
            )
            chosen = [*map(generation_of, event.chosen)]  # the version may be gone
            mine = self.arm is not None and generation_of(self.arm)
            ledger.expect(chosen == [mine], f"another arm: {event} and not {self.arm}")
        elif self.arms and event.chosen:
            ledger.expect(
                event.propensity == self.propensity, f"another propensity: {event}"
            )
            ledger.expect(set(event.chosen) <= set(self.arms), f"other arms: {event}")
        lost = event.chosen and set(event.chosen) <= set(event.arms)
        ledger.expect(event.arms == self.arms or lost or not self.single, "other arms")


class Critics:
    """All who give feedback."""

    # State: answers that they may speak of; how often they spoke.

    def __init__(self, world: Core, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.asked: list[Asked] = []
        self.said = 0

    def start(self) -> None:
        plot, at = self.world.plot, self.world.clock.now()
        end, rate = at + plot.seconds, plot.rate * plot.feedback
        while (at := at + self.rng.expovariate(rate)) < end:
            self.world.loop.at(at, self.say)

    def hear(self, asked: Asked) -> None:
        """There is an answer to speak of."""
        if len(self.asked) >= MOST_ASKED:
            self.asked[self.rng.randrange(MOST_ASKED)] = asked
        else:
            self.asked.append(asked)

    def say(self) -> None:
        """Somebody says something about an answer."""
        life, rng = self.world.life, self.rng
        if not life.open or not self.asked:
            return
        names = {a.number: name for name, a in life.engine.applications.items()}
        chance = rng.random()
        asked = rng.choice(self.asked)
        if asked.number not in names:
            return
        if chance < 0.05:
            self._say_wrong(asked, names)
        elif chance < 0.12:
            self._say_of_input(rng.choice(sorted(names.values())))
        else:
            repeated = asked.item is not None and rng.random() < self.world.plot.again
            if asked.item is not None and not repeated:
                return
            item = asked.item if repeated else self._item(asked)
            assert item is not None
            self._give(names[asked.number], asked.number, asked.key, item, asked)

    def _item(self, asked: Asked) -> Item:
        rng = self.rng
        fields: dict[str, Any] = {"query_id": asked.query_id}
        if rng.random() < 0.6:
            right = rng.random() < 0.8
            fields["label"] = truth(asked.value) if right else asked.value * 10
        else:
            fields["reward"] = rng.choice((0.0, 0.25, 1.0))
        if rng.random() < 0.3:
            fields["uid"] = asked.subject.uid
        if rng.random() < 0.3:
            fields |= self._again(asked)
        asked.item = make_item(InputType.DOUBLES, fields)
        return asked.item

    def _again(self, asked: Asked) -> dict[str, Any]:
        uid, context = asked.subject
        return {"input": [float(asked.value)], "context": context, "uid": uid}

    def _say_wrong(self, asked: Asked, names: dict[int, str]) -> None:
        """On what another application was asked, or what nobody was."""
        others = [name for number, name in names.items() if number != asked.number]
        name, query_id = names[asked.number], "A" + asked.query_id[1:]
        if others and self.rng.random() < 0.7:
            name, query_id = self.rng.choice(others), asked.query_id
        elif query_id == asked.query_id:
            return
        item = make_item(InputType.DOUBLES, {"query_id": query_id, "reward": 0.5})
        try:
            self.world.life.engine.feedback[name].take(item, self._unexpected)
        except NotFound as error:
            self.world.ledger.outcomes[error.code] += 1
            self.world.note("no such query")
        except ClipperError as error:
            self.world.note(f"not taken: {error.code}")
        else:
            self._unexpected(False, None)

    def _unexpected(self, duplicate: bool, error: ClipperError | None) -> None:
        self.world.ledger.expect(False, "feedback was taken on what was not asked")

    def _say_of_input(self, name: str) -> None:
        rng, world = self.rng, self.world
        value = 2 + rng.randrange(world.plot.keys)
        fields: dict[str, Any] = {"input": [float(value)], "label": truth(value)}
        digest = hashlib.blake2b(row_of(value).payload, digest_size=16).hexdigest()
        world.inputs[digest] = value
        key = f"i:{digest}"
        if rng.random() < 0.5:
            fields["feedback_id"] = f"n{world.number()}"
            key = f"f:{fields['feedback_id']}"
        application = world.life.engine.applications[name]
        item = make_item(InputType.DOUBLES, fields)
        self._give(name, application.number, key, item, None)

    def _give(
        self, name: str, number: int, key: str, item: Item, asked: Asked | None
    ) -> None:
        world, life = self.world, self.world.life
        times = 0
        world.ledger.says(number, key, item)
        self.said += 1

        def done(duplicate: bool, error: ClipperError | None) -> None:
            nonlocal times
            if life.over:
                return
            times += 1
            world.ledger.expect(times == 1, "told twice of a piece of feedback")
            life.untold -= 1
            world.ledger.acknowledged(number, key, item, duplicate, error)
            if isinstance(error, ResendInput) and asked is not None and item.row is None:
                world.loop.at(world.clock.now() + 0.001, again)

        def again() -> None:
            if world.life.open and name in world.life.engine.applications and asked:
                more = self._again(asked)
                full = make_item(InputType.DOUBLES, _fields(item) | more)
                asked.item = full
                self._give(name, number, key, full, asked)

        life.untold += 1
        try:
            life.engine.feedback[name].take(item, done)
        except ClipperError as error:
            life.untold -= 1
            world.ledger.outcomes[error.code] += 1
            world.note(f"not taken: {error.code}")


def _fields(item: Item) -> dict[str, Any]:
    fields = {"query_id": item.query_id, "reward": item.reward}
    if item.label is not msgspec.UNSET:
        fields["label"] = item.label
    return fields
