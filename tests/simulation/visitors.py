"""Who asks a whole server, and goes away, perhaps before there is an answer."""

from __future__ import annotations

import math
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from clipper.application import Application
from clipper.errors import ClipperError
from clipper.feedback import _key
from clipper.query import BatchQuery, Query
from clipper.selection.draw import as_logged
from clipper.selection.policy import Arm, Subject, generation_of
from clipper.values import RowError

from .audit import LARGEST
from .critics import Asked
from .invariants import TIMER
from .replicas import CYCLE, FAILS, KILLS, RAISES
from .workload import row_of

if TYPE_CHECKING:
    from clipper.choosing import Choice
    from clipper.panel import Panel

    from .core import Core, Life

ODD = {
    "deadline_exceeded", "overloaded", "no_model", "unavailable", "model_failed",
    "model_crashed", "model_hung",
}  # fmt: skip


class Ask:
    """One request and its client."""

    def __init__(self, world: Core, values: list[int], subject: Subject) -> None:
        self.world = world
        self.life: Life = world.life
        self.values = values
        self.subject = subject
        self.at = self.deadline = world.clock.now()
        self.number = world.number()
        self.application: Application | None = None
        self.query: Query | BatchQuery | None = None
        self.by_version = False
        self.policy = ""  # at the time
        self.calm = False
        self.told = self.gone = False

    def query_settled(self, query: Query) -> None:
        self.world.visitors.answered(self, query, [query.output])

    def batch_settled(self, batch: BatchQuery) -> None:
        self.world.visitors.answered(self, batch, batch.outputs)

    def leave(self) -> None:
        if not (self.told or self.gone or self.life.over) and self.query is not None:
            self.gone = True
            self.world.visitors.left(self)
            self.query.cancel()


class Visitors:
    """All clients of a world."""

    # State: asks that are open, by number; what was drawn for the present query; rows told
    # of each application object, in this life; and counts.

    def __init__(self, world: Core, rng: Random) -> None:
        self.world = world
        self.rng = rng
        self.open: dict[int, Ask] = {}
        self.draws: list[float] = []
        self.counted: dict[Application, int] = {}
        self.asks = self.outputs = 0
        self.policies: Counter[str] = Counter()  # that answered

    def start(self) -> None:
        plot = self.world.plot
        often = plot.rate / plot.burst
        for rate, work in ((often, self.ask_many), (plot.calm_rate, self.ask_calm)):
            at = self.world.clock.now()
            end = at + plot.seconds
            while (at := at + self.rng.expovariate(rate)) < end:
                self.world.loop.at(at, work)

    # -- asking --------------------------------------------------------------------------

    def ask_many(self) -> None:
        for _ in range(self.world.plot.burst):
            self.ask()

    def ask(self) -> None:
        life, rng, plot = self.world.life, self.rng, self.world.plot
        if not life.open:
            return
        names = [name for name in life.engine.applications if name != "calm"]
        if not names:
            return
        count = rng.randint(0, LARGEST) if rng.random() < plot.batches else 1
        values = [2 + rng.randrange(plot.keys) for _ in range(count)]
        uid = f"u{rng.randrange(plot.users)}" if rng.random() < plot.known else None
        context = [float(rng.randrange(3)) for _ in range(3)]
        ask = Ask(self.world, values, Subject(uid, context))
        name = rng.choice(names)
        self.send(ask, life.engine.applications[name])
        if rng.random() < plot.shared:  # somebody else asks the same
            other = Ask(self.world, values, ask.subject)
            self.send(other, life.engine.applications[rng.choice(names)])
        if rng.random() < plot.gone:
            self.world.loop.at(self.world.clock.now() + rng.random() * 0.05, ask.leave)

    def ask_calm(self) -> None:
        """Somebody whom nothing that happens to others may touch."""
        life = self.world.life
        if not life.open or "calm" not in life.engine.applications:
            return
        value = 2 + self.rng.randrange(self.world.plot.keys)
        if value % CYCLE in (RAISES, KILLS, FAILS):
            value -= value % CYCLE
        if life.poison.may_come and self.rng.random() < self.world.plot.poison:
            value = CYCLE * value + KILLS
            life.poison.came()
        ask = Ask(self.world, [value], Subject())
        ask.calm = True
        self.send(ask, life.engine.applications["calm"])

    def send(
        self,
        ask: Ask,
        application: Application,
        patient: bool = False,
        deadline_ms: float | None = None,
    ) -> None:
        rng, plot, world = self.rng, self.world.plot, self.world
        self._watch(application)
        ask.application = application
        ask.policy = application.learner.policy.name
        version = None
        if not (ask.calm or patient):
            if rng.random() < plot.hasty:
                deadline_ms = rng.choice((0.5, 3.0, 20.0))
            if rng.random() < plot.named:
                version = str(rng.randrange(1, 12))
        ask.by_version = version is not None
        budget = application.slo
        if deadline_ms is not None:
            budget = min(budget, deadline_ms / 1e3)
        ask.deadline = world.clock.now() + budget
        cache = patient or rng.random() >= plot.no_cache
        self.open[ask.number] = ask
        self.asks += 1
        world.note(f"ask {ask.number} {application.name} {ask.values}")
        self.draws.clear()
        rows = [row_of(value) for value in ask.values]
        try:
            if len(rows) == 1:
                ask.query = application.submit(
                    rows[0], ask, ask.subject, version, deadline_ms, cache
                )
            elif rows and not cache:
                payload = b"".join(row.payload for row in rows)
                ask.query = application.submit_block(
                    payload, len(rows), None, ask, ask.subject, version, deadline_ms
                )
            else:
                ask.query = application.submit_batch(
                    rows, ask, ask.subject, version, deadline_ms, cache
                )
        except ClipperError as error:
            del self.open[ask.number]
            ask.told = True
            world.note(f"refused {error.code}")
            return
        if len(self.draws) == 1 and version is None:
            self._check_draw(ask.query.choice, self.draws[0])
        if rng.random() < 0.2:
            self._check_fresh(ask, ask.query.choice)

    def _watch(self, application: Application) -> None:
        if application in self.counted:
            return
        self.counted[application] = 0
        chooser, draws = application.roster.chooser, self.draws
        drawn = chooser._random

        def draw() -> float:
            draws.append(drawn())
            return draws[-1]

        chooser._random = draw

    def _check_draw(self, choice: Choice, u: float) -> None:
        """The arm is the one that chance fell on."""
        if choice.index is None:
            return
        odds, index = choice.odds, choice.index
        low, high = math.fsum(odds[:index]), math.fsum(odds[: index + 1])
        drawn = low - 1e-9 <= u <= high + 1e-9 or not any(odds[index + 1 :])
        self.world.ledger.expect(drawn, f"arm {index} of {odds} was drawn by {u}")

    def _check_fresh(self, ask: Ask, choice: Choice) -> None:
        """The odds are what the policy says now."""
        application = ask.application
        assert application is not None
        policy = application.learner.policy
        if ask.subject.uid is not None or policy.contextual or ask.by_version:
            return
        if choice.arms and choice is not application.roster.nobody:
            found = application.roster.chooser.weights()
            self.world.ledger.expect(
                list(found.values()) == list(choice.odds) and tuple(found) == choice.arms,
                f"{choice.odds} of {choice.arms} and not {found}",
            )

    def left(self, ask: Ask) -> None:
        del self.open[ask.number]
        assert ask.application is not None
        self.counted[ask.application] += len(ask.values)
        self.world.note(f"gone {ask.number}")

    # -- answers -------------------------------------------------------------------------

    def answered(self, ask: Ask, query: Query | BatchQuery, outputs: Any) -> None:
        if ask.life.over:
            return
        world, expect = self.world, self.world.ledger.expect
        application = ask.application
        assert application is not None
        expect(not ask.told and not ask.gone, f"ask {ask.number} was answered again")
        expect(len(outputs) == len(ask.values), "too few or too many outputs")
        late = world.clock.now() - ask.deadline
        expect(late <= TIMER, f"answered {late} s late")
        ask.told = True
        self.open.pop(ask.number, None)
        self.counted[application] += len(outputs)
        choice = query.choice
        self._check_choice(choice)
        panels = _panels(query)
        kinds = []
        for index, (value, output) in enumerate(zip(ask.values, outputs, strict=False)):
            panel = panels[index] if panels else None
            self._check_output(ask, choice, panel, value, output)
            kinds.append(output.code if isinstance(output, RowError) else output)
        world.note(f"told {ask.number} {kinds}")
        if outputs:
            self._keep(ask, query, panels, outputs)

    def _keep(
        self, ask: Ask, query: Query | BatchQuery, panels: list[Panel], outputs: Any
    ) -> None:
        """Take the id, as who answers over a socket does, and perhaps give feedback."""
        application = ask.application
        assert application is not None
        text = query.issue_id().decode()
        for index, output in enumerate(outputs):
            query_id = text if isinstance(query, Query) else f"{text}.{index}"
            key = _key(application.ids.read(query_id))
            panel = panels[index] if panels else None
            asked = Asked(
                ask, ask.values[index], query.choice, panel, output, query_id, key
            )
            known = self.world.ledger.asked
            self.world.ledger.expect((asked.number, key) not in known, "an id came twice")
            known[asked.number, key] = asked
            self.world.critics.hear(asked)

    def _check_choice(self, choice: Choice) -> None:
        expect, odds = self.world.ledger.expect, choice.odds
        expect(len(odds) == len(choice.arms) == len(choice.models), "odds of other arms")
        expect(all(0 <= p < math.inf for p in odds), f"odds of {odds}")
        if choice.index is not None:
            expect(abs(math.fsum(odds) - 1) < 1e-9, f"odds of {odds}")
            expect(
                choice.propensity == as_logged(odds[choice.index]) > 0,
                f"a propensity of {choice.propensity} of {odds}",
            )

    def _check_output(
        self, ask: Ask, choice: Choice, panel: Panel | None, value: int, output: Any
    ) -> None:
        expect, ledger = self.world.ledger.expect, self.world.ledger
        if isinstance(output, RowError):
            expect(output.code in ODD, f"{output} for {value}")
            # a row that kills its worker is the client's own fault
            fair = ask.calm and value % CYCLE == KILLS
            # whose worker may be on its way back when the server ends
            if ask.life.poison.rows:
                fair |= ask.life.leaving
                fair |= (
                    output.code == "deadline_exceeded" and self.world.plot.disk.stall > 0
                )
            # and a short queue may fill up until the worker is there
            fair |= output.code == "overloaded" and self.world.plot.queue_rows < 100
            expect(not ask.calm or fair, f"the calm one got {output} for {value}")
            return
        self.outputs += 1
        ask.life.poison.answered += ask.calm
        self.policies[ask.policy] += 1
        arms = choice.arms if panel is not None else (choice.arm,)
        assert ask.application is not None
        policies = (ask.policy, ask.application.learner.policy.name)
        # whose candidates may be versions, current or not
        named = ask.by_version or "canary" in policies
        for arm in arms:
            assert arm is not None
            there = ledger.may_answer(arm, ask.at, named)
            expect(there, f"{arm} was not there for ask {ask.number}")
        if panel is None:
            right = self._answer(choice.arms[choice.index or 0], value)
            expect(output == right, f"{output!r} and not {right!r} for {value}")
            return
        for arm, text in zip(choice.arms, panel.texts, strict=True):
            if text is not None:
                right = self._answer(arm, value)
                expect(text == right, f"{text!r} and not {right!r} of {arm} for {value}")
        found = [float(text) for text in panel.texts if text is not None]
        between = min(found) <= float(output) <= max(found)  # a mean or a median
        by_loss = ask.application.record.loss == "absolute"
        expect(output in panel.texts or (by_loss and between), f"{output!r} of {found}")

    def _answer(self, arm: Arm, value: int) -> bytes:
        function = self.world.ledger.functions[generation_of(arm)]
        return b"" if function.does(value) is not None else function.answers(value)


def _panels(query: Query | BatchQuery) -> list[Panel]:
    if isinstance(query, Query):
        return [] if query.panel is None else [query.panel]
    return query.panels
