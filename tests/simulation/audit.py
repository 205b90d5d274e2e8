"""What must hold of a whole server: at every step what is cheap, now and then the rest."""

from __future__ import annotations

import struct
from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any

from clipper.batching.job import Job
from clipper.batching.outcomes import FULL
from clipper.cache import EXACT, exact_prefix, key_prefix
from clipper.learning import events
from clipper.learning.bloom import Bloom
from clipper.learning.learner import Learner
from clipper.query import Query
from clipper.selection.policy import Arm
from clipper.store.base import Person
from clipper.values import RowError
from clipper.workers.replica_set import State

if TYPE_CHECKING:
    from .core import Core

LARGEST = 8  # rows of a request
OFTEN, SELDOM = 16, 400  # steps
EVERYTHING = 10**9


class Fold:
    """One application's log, folded from its first entry on, in memory alone."""

    def __init__(self, world: Core, number: int) -> None:
        record = world.ledger.registered[number]
        self.world = world
        self.number = number
        self.learner = Learner(
            number,
            record.policy_generation,
            record.policy,
            Bloom(),
            EVERYTHING,
            record.loss,
        )
        self.losses: Counter[Arm] = Counter()
        self.folded = 0  # entries

    def up_to(self, seq: int) -> Learner:
        entries = self.world.disk.entries(self.number)
        while self.folded < len(entries) and entries[self.folded].seq <= seq:
            at, entry = entries[self.folded]
            event = events.decode(entry.body)
            self.learner.apply(at, entry.uid, event)
            if isinstance(event, events.Feedback):
                self.losses.update(event.losses.keys())
            self.folded += 1
        return self.learner


class Audit:
    """Looks at the engine that is up."""

    # State: steps that were made, and the folds of this life's applications, which go on.

    def __init__(self, world: Core) -> None:
        self.world = world
        self.expect = world.ledger.expect
        self.steps = 0
        self.folds: dict[int, Fold] = {}

    def step(self) -> None:
        """Behind every callback."""
        world = self.world
        self.steps += 1
        if self.steps % OFTEN == 0 and world.life.up:
            self._check_counters()
            self._check_models()
            if self.steps % SELDOM == 0:
                self.check_learned()
                self._check_cache()
        if world.ledger.broken:
            raise AssertionError("; ".join(world.ledger.broken[:5]))

    # -- often ---------------------------------------------------------------------------

    def _check_counters(self) -> None:
        counted = self.world.visitors.counted
        for application in self.world.life.engine.applications.values():
            if application not in counted:
                continue
            stats = application.stats
            told = stats.predictions + stats.failures.total() + stats.cancelled
            self.expect(
                told == counted[application],
                f"{told} rows are counted of {counted[application]}",
            )

    def _check_models(self) -> None:
        engine = self.world.life.engine
        cache = engine.cache
        self.expect(cache.bytes <= cache.max_bytes, "the cache is too large")
        for model in engine.models.values():
            rows = model.intake.queue.rows
            most = self.world.plot.queue_rows
            # an empty queue takes a request of any size, and all take back what was sent
            self.expect(0 <= rows <= max(most, 2 * LARGEST), f"{rows} rows wait")
            for work in model.intake.queue._in_order():
                self._check_deadline(work)
            bound = model.record.batching.max_batch_size
            for flight in model.dispatcher.in_flight:
                self.expect(bound is None or flight.rows <= bound, "a batch is too large")
        calm = [m for m in engine.models.values() if m.record.name == "calm"]
        for model in calm:
            failed = model.replicas.state in (State.FAILED, State.STOPPED)
            self.expect(not failed or engine.draining, "the calm one was taken out")

    def _check_deadline(self, work: Any) -> None:
        """What waits goes by the deadline of those who wait for it."""
        waiters = work.waiters if type(work) is Job else ()
        known = [w.deadline for w in waiters if type(w) is Query]
        if known:
            all_known = len(known) == len(waiters)
            right = (
                work.deadline == min(known) if all_known else work.deadline <= min(known)
            )
            self.expect(right, f"{work.deadline} for those who have until {known}")

    # -- seldom --------------------------------------------------------------------------

    def check_records(self) -> None:
        """What is in memory is what is on the disk."""
        engine, store = self.world.life.engine, self.world.life.store
        if self.world.ledger.under_way or store.broken:
            return
        kept, known = self.world.disk.state(), engine.catalog.state
        for field in ("applications", "models", "current", "previous"):
            ours, theirs = getattr(known, field), getattr(kept, field)
            self.expect(ours == theirs, f"{field}: {ours} and on the disk {theirs}")

    def check_learned(self) -> None:
        """What was learned is the fold of the log."""
        learning = self.world.life.engine.learning
        for number, learner in learning.learners.items():
            self.expect(not learner.damaged, f"what {learner} learned cannot be read")
            if number in self.world.ledger.dropped:
                continue
            fold = self.folds.get(number)
            if fold is None:
                fold = self.folds[number] = Fold(self.world, number)
            folded = fold.up_to(learner.population.seq)
            self.expect(folded.pack() == learner.pack(), f"{learner} is not {folded}")
            totals = folded.population.totals
            counts = {arm: total.count for arm, total in totals.items()}
            self.expect(counts == fold.losses, f"{counts} losses of {fold.losses}")
            self._check_users(learner, folded)

    def _check_users(self, learner: Learner, folded: Learner) -> None:
        forgotten = self.world.ledger.forgotten
        for uid, user in learner.users:
            if user.experience is None or Person(learner.application, uid) in forgotten:
                continue
            other = folded.users.get(uid)
            if other is None or other.experience is None:
                self.expect(not user.experience.totals, f"{uid} learned from nothing")
                continue
            same = other.experience.pack() == user.experience.pack()
            self.expect(same, f"what {uid} of {learner.application} learned")

    def _check_cache(self) -> None:
        """An entry is what that version answers for that input."""
        ledger, cache = self.world.ledger, self.world.life.engine.cache
        prefixes = {exact_prefix(key_prefix(g)): f for g, f in ledger.functions.items()}
        for key, entry in cache._entries.items():
            assert len(key) <= EXACT
            function = prefixes.get(key[:5])
            self.expect(function is not None, "an entry of no version")
            if function is None:
                continue
            value = int(struct.unpack("<d", key[5:])[0])
            right = function.does(value) is None and function.answers(value)
            self.expect(entry.output == right, f"{entry.output!r} is kept for {value}")

    # -- the end -------------------------------------------------------------------------

    def is_healed(self) -> bool:
        """Whether every replica that there should be is up."""
        engine = self.world.life.engine
        models = [m for m in engine.models.values() if m.record.blob is not None]
        down = [m for m in models if not _is_up(m)]
        growing = [m for m in models if m.replicas._starts]
        return not (down or growing or engine.deploys)

    def at_rest(self) -> None:
        """All has healed, and nothing is on its way."""
        world, engine = self.world, self.world.life.engine
        self.check_records()
        self.check_learned()
        self._check_cache()
        self._check_counters()
        world.ledger.check_acknowledged()
        self.expect(
            not world.visitors.open, f"{len(world.visitors.open)} were not answered"
        )
        self.expect(not world.life.untold, f"{world.life.untold} pieces were not told of")
        for model in engine.models.values():
            self._check_rest(model)
        self.expect(not engine.cache.in_flight, "somebody waits for the cache")
        for application in engine.applications.values():
            self.expect(
                not application.deadlines._timer, "deadlines are watched for nobody"
            )
        learning = engine.learning
        self.expect(not learning.journal._waiting, "entries wait for the log")
        self.expect(not learning.decisions._asked, "somebody waits for a decision")
        self.expect(not learning.decisions._reading, "decisions are read for nobody")
        self.expect(not learning.snapshots.under_way, "a snapshot is under way")
        for learner in learning.learners.values():
            pinned = [uid for uid, user in learner.users if user.pins]
            self.expect(not pinned, f"{pinned} are pinned")
            self.expect(not learner.users.leaving, "somebody is leaving for ever")
            self.expect(learner.generation == learner.wanted, "a policy is not followed")
        self.expect(not engine._tasks.running, f"{engine._tasks} in the background")
        self._check_processes()
        self._raise()

    def _check_rest(self, model: Any) -> None:
        dispatcher, replicas = model.dispatcher, model.replicas
        self.expect(not model.intake.queue.rows, f"rows wait for {model}")
        self.expect(not dispatcher.in_flight, f"batches of {model} are in flight")
        self.expect(not dispatcher._trials.waiting, f"rows of {model} wait to be alone")
        self.expect(not dispatcher._alarm.armed, f"a timer of {model} is armed")
        if model.record.blob is not None:
            wanted = model.record.num_replicas
            live = replicas.live == replicas.wanted == wanted
            self.expect(
                live and _is_up(model), f"{model} has not healed: {replicas.statistics()}"
            )

    def _check_processes(self) -> None:
        models = self.world.life.engine.models.values()
        places = [(*m.replicas._places.serving, *m.replicas._places.spares) for m in models]
        known = {place.replica.pid for place in chain(*places) if place.replica is not None}
        left = [process.pid for process in self.world.processes if process.pid not in known]
        self.expect(not left, f"processes of nobody: {left}")

    def check_outputs(self, asks: list[tuple[str, Any, bool]]) -> None:
        """After all that, everybody is answered, but those who may be late."""
        for name, ask, late in asks:
            output, application = ask.query.output, ask.application
            failed = isinstance(output, RowError)
            if failed and (late or application.slo < 0.5):
                failed = output.code not in ("deadline_exceeded", "overloaded")
            if output == FULL and self.world.plot.queue_rows < 100:
                failed = False  # of one that does not share what it asks with the others
            self.expect(not failed, f"{name} answers {output}")
        self._raise()

    def _raise(self) -> None:
        if self.world.ledger.broken:
            raise AssertionError("; ".join(self.world.ledger.broken[:5]))


def _is_up(model: Any) -> bool:
    """Whether it has all its replicas, and its spares."""
    record, found = model.record, model.replicas.statistics()
    spares = record.spares if record.num_replicas else 0
    up = (found.live, found.spares, found.spares_wanted)
    return up == (record.num_replicas, spares, spares)
