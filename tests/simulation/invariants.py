"""What must hold in every world, looked at behind every callback of its loop.

The numbers are those of the design: (1) work is settled exactly once, and in time; (2)
what changes in one step agrees with itself behind that step; (5) a client that goes away
takes nothing from others, and work that nobody waits for is dropped. Most exceptions that
a receiver raises are logged by the server and survived: so what is wrong is kept, and
raised behind the callback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from clipper.batching.controller import Backlog, Plan
from clipper.batching.fleet import TRIAL_SECONDS
from clipper.batching.hedging import BUDGET
from clipper.batching.job import Block, Job, Slice, waiting_rows
from clipper.batching.load import Flight
from clipper.batching.recovery import RETRIES
from clipper.model import Model
from clipper.query import BatchQuery, Query
from clipper.values import (
    DEADLY,
    Batch,
    BatchFailure,
    BatchResult,
    FailureKind,
    Output,
    RowError,
)

from .replicas import FAILS, KILLS, MAX_IN_FLIGHT, RAISES, VirtualReplica, output_of
from .shares import WatchedShares
from .watched import Watched

if TYPE_CHECKING:
    from .workload import Ask
    from .world import World

TIMER = 0.0021  # how late a timer may fire: it may have been early once, and armed again
EPSILON = 1e-9

# Codes that any row may get: nobody is to blame for them but the time and the operator.
FATE = {"deadline_exceeded", "overloaded", "no_model", "unavailable"}


class Invariants:
    """Sees everything that is asked, sent and answered."""

    # State: what was found wrong; asks that are open; work of each model that is not
    # settled; which rows were ever sent, how often each was begun, how often there was a
    # cause to begin it again, and how many workers ended under it; the largest cap of any
    # controller; rows that were told, by application, and how each ended; of each model the
    # rows sent once and in copies, and who goes first; whether work came in the present
    # callback, perhaps amid a dispatch, and when some was last given up.

    def __init__(self, world: World[Any]) -> None:
        self.world = world
        self.now = world.clock.now
        self.broken: list[str] = []
        self.open: dict[Ask, None] = {}
        self.work: dict[Model, dict[Job | Block, None]] = {}
        self.sent_before: set[Any] = set()
        self.begun_times: Counter[Any] = Counter()
        self.excuses: Counter[Any] = Counter()
        self.deaths: Counter[Any] = Counter()
        self.largest_cap = 1
        self.counted: Counter[Any] = Counter()
        self.asks = self.rows = self.batches = 0
        self.first_rows: Counter[Model] = Counter()
        self.copied_rows: Counter[Model] = Counter()
        self.shares: dict[Model, WatchedShares] = {}
        self.outcomes: Counter[str] = Counter()
        self._came = False
        self._gave_up = 0.0

    def expect(self, condition: object, message: str) -> None:
        if not condition:
            self.broken.append(message)

    # -- what comes ----------------------------------------------------------------------

    def model_added(self, model: Model) -> None:
        self.work[model] = {}
        fleet = model.dispatcher.fleet
        fleet.controller = Watched(fleet.controller, self)
        self.shares[model] = WatchedShares(
            model.intake, lambda: len(self.world.applications), self.expect
        )
        intake: Any = model.intake
        submit, accept, put_back = intake.submit, intake.accept, intake.put_back

        def watched_submit(work: Job | Block) -> None:
            self.submitted(model, work)
            submit(work)

        def watched_accept(work: Job | Block) -> None:
            if work not in self.work[model]:  # it comes without being submitted
                self.submitted(model, work)
            accept(work)

        def watched_put_back(work: Any) -> None:
            self._came = True  # dropped amid a dispatch, and somebody joined it
            put_back(work)

        model.submit = intake.submit = watched_submit
        intake.accept, intake.put_back = watched_accept, watched_put_back

    def submitted(self, model: Model, work: Job | Block) -> None:
        self._came = True
        self.work[model][work] = None
        self.expect(not work.settled, "work was submitted twice")

    def asked(self, ask: Ask) -> None:
        self.open[ask] = None
        self.asks += 1
        self.rows += len(ask.values)
        self.world.note(f"ask {ask.number} {len(ask.values)}")

    def left(self, ask: Ask) -> None:
        del self.open[ask]
        self.counted[ask.application] += len(ask.values)
        self.outcomes["gone"] += len(ask.values)
        self.world.note(f"gone {ask.number}")

    # -- what goes out -------------------------------------------------------------------

    def planned(
        self, controller: Watched, now: float, backlog: Backlog, plan: Plan
    ) -> None:
        drop, take = plan
        self.largest_cap = max(self.largest_cap, controller.cap)
        self.expect(backlog.rows > 0, "a plan for an empty queue")
        self.expect(0 <= drop <= backlog.rows, f"{plan} for {backlog.rows} rows")
        self.expect(0 <= take <= controller.cap, f"{plan} with a cap of {controller.cap}")
        self.expect(drop or take, "a plan that does nothing")
        latency = controller.latency
        if not drop or latency is None:
            return
        self._gave_up = self.now()
        deadlines = backlog.deadlines(drop)
        self.expect(deadlines == sorted(deadlines), "deadlines out of order")
        # what the batch would take in the worst case that was seen lately; one that gets
        # all that is left may have been meant to be larger
        size = controller.cap if drop + take == backlog.rows else take
        worst = max(0.0, latency.residuals()[-1])
        finish = now + latency.seconds(max(1, size)) + worst
        self.expect(
            deadlines[-1] <= finish + EPSILON,
            f"{plan} of {backlog.rows} gives up what ends {deadlines[-1] - finish} s later",
        )

    def sent(self, replica: VirtualReplica, batch: Batch) -> None:
        begun, model = self.world.loop.start, self._model(replica)
        dispatcher = model.dispatcher
        assert isinstance(batch, Flight)
        flight = batch
        self.expect(flight in dispatcher.in_flight, "a batch that is not in flight")
        self.batches += 1
        parts: Sequence[Any] = flight.parts
        rows = sum(part.rows for part in parts)
        self.expect(rows == batch.rows > 0, "a batch has another number of rows than parts")
        self.expect(len(replica.batches) <= MAX_IN_FLIGHT, "more than two batches")
        fresh = [part for part in parts if self._key(part) not in self.sent_before]
        self.sent_before.update(key for part in parts for key in self._rows(part))
        for part in parts:
            self.expect(not part.settled, "settled work was sent")
            self.expect(part.wanted, "abandoned work was sent")
            # one look at the clock is enough for a turn of the loop
            self.expect(part.expires > begun, "work was sent after its time")
        cap = flight.load.controller.cap
        self.largest_cap = max(self.largest_cap, cap)
        if flight.hedged:
            self.copied_rows[model] += rows
            self.excuses.update(key for part in parts for key in self._rows(part))
            self.expect(self.world.scenario.retry, "a copy of what must not be repeated")
        else:
            self.first_rows[model] += rows
            self._check_order(model, parts, bool(fresh))
        self.expect(rows <= (cap if fresh and not flight.hedged else self.largest_cap),
                    f"{rows} rows with a cap of {cap}")  # fmt: skip
        self._check_copies(model)
        self.world.note(f"send {rows} to {replica.number} copy={flight.hedged}")

    def _check_order(self, model: Model, parts: Sequence[Any], fresh: bool) -> None:
        """What goes first and the others are in the order of deadlines, each apart."""
        dispatcher, shares = model.dispatcher, self.shares[model]
        first = shares.taken(parts)
        if not fresh or dispatcher._trials.waiting or self._came:
            return
        others = [part for part in parts if part not in first]
        if first:
            last = max(part.deadline for part in first)
            self.expect(last <= shares.queue.head, "not first in the order of deadlines")
        if others:
            last = max(part.deadline for part in others)
            self.expect(last <= model.intake.queue.head, "not in the order of deadlines")
            self.expect(not shares.queue.rows, "others went before who goes first")

    def _check_copies(self, model: Model) -> None:
        # beside the budget: each replica is tried when it is new, and when passed over
        replicas = self.world.replicas(model)
        since = 1 + int((self.now() - self.world.begin) / TRIAL_SECONDS)
        most = BUDGET * self.first_rows[model] + replicas.count * since
        self.expect(
            self.copied_rows[model] <= most + EPSILON,
            f"{self.copied_rows[model]} rows copied of {self.first_rows[model]}",
        )

    def begun(self, replica: VirtualReplica, batch: Batch) -> None:
        assert isinstance(batch, Flight)
        flight = batch
        parts: Sequence[Any] = flight.parts
        for part in parts:
            for key in self._rows(part):
                self.begun_times[key] += 1
                self.expect(
                    self.begun_times[key] <= 1 + self.excuses[key],
                    f"a row was evaluated {self.begun_times[key]} times without a cause",
                )

    def finished(self, replica: VirtualReplica, batch: Batch, result: BatchResult) -> None:
        kind = result.kind if isinstance(result, BatchFailure) else None
        self.world.note(f"done {batch.rows} from {replica.number} {kind}")
        if not self.world.scenario.retry:
            return
        assert isinstance(batch, Flight)
        flight = batch
        parts: Sequence[Any] = flight.parts
        for part in parts:
            for key in self._rows(part):
                if kind in DEADLY:
                    self.deaths[key] += 1
                    most = 1 + RETRIES
                    self.expect(self.deaths[key] <= most, "a row ended a third worker")
                if kind in (FailureKind.RAISED, FailureKind.WRONG_COUNT):
                    self.excuses[key] += 1
                elif kind in DEADLY and self.excuses[("crash", key)] < RETRIES:
                    self.excuses[("crash", key)] += 1
                    self.excuses[key] += 1

    def _model(self, replica: VirtualReplica) -> Model:
        return self.world.models[replica.owner.generation - 1]

    def _key(self, part: Any) -> Any:
        return next(iter(self._rows(part)))

    def _rows(self, part: Any) -> Iterable[Any]:
        """What names each row of a part, whatever batches it rides in."""
        if type(part) is Job:
            return (part,)
        block = part.block
        return ((block, part.start + at) for at in range(part.rows))

    # -- what comes back -----------------------------------------------------------------

    def told(self, ask: Ask, outputs: Sequence[Output | None]) -> None:
        now, scenario = self.now(), self.world.scenario
        self.expect(not ask.told, "answered twice")
        self.expect(not ask.gone, "answered after the client had gone")
        self.expect(len(outputs) == len(ask.values), "too few or too many outputs")
        self.open.pop(ask, None)
        self.counted[ask.application] += len(ask.values)
        late = now - ask.deadline
        busy = now - self.world.loop.start + 2 * self.world.loop.longest
        self.expect(late <= TIMER + busy, f"answered {late} s late")
        for value, output in zip(ask.values, outputs, strict=False):
            self._check_output(ask, value, output, late, scenario.nature.does(value))
        kinds = [o.code if isinstance(o, RowError) else "output" for o in outputs]
        self.outcomes.update(kinds)
        self.world.note(f"told {ask.number} {' '.join(map(str, kinds))}")

    def _check_output(
        self, ask: Ask, value: int, output: Any, late: float, odd: int | None
    ) -> None:
        scenario = self.world.scenario
        if not isinstance(output, RowError):
            right = output == output_of(value, ask.generation)
            self.expect(right and odd is None, f"{output!r} for {value}")
            return
        code, nature = output.code, scenario.nature
        if code == "deadline_exceeded":
            # before its time only where a plan has just found that it is hopeless
            since = ask.at if len(ask.values) > 1 else self.world.loop.start
            early = late < -EPSILON and self._gave_up < since
            self.expect(not early, f"expired {-late} s before the deadline")
        allowed = set(FATE)
        if odd in (RAISES, FAILS) or nature.miscount:
            allowed.add("model_failed")
        crashes = nature.crash or odd == KILLS or self.world.scenario.events
        if crashes or (nature.odd_rows and not scenario.retry):
            allowed.add("model_crashed")
        if nature.odd_rows and not scenario.retry:
            allowed.add("model_failed")
        if nature.hang:
            allowed.add("model_hung")
        self.expect(code in allowed, f"{code} ({output.cause}) for the row {value}")

    # -- behind every callback -----------------------------------------------------------

    def step(self) -> None:
        self._came = False
        for model in self.world.models:
            self._check_model(model)
        self._check_cache()
        self._check_waiters()
        for application in self.world.applications:
            stats = application.stats
            told = stats.predictions + stats.failures.total() + stats.cancelled
            self.expect(told == self.counted[application], "queries are miscounted")
        if self.broken:
            raise AssertionError("; ".join(self.broken[:5]))

    def _check_model(self, model: Model) -> None:
        dispatcher, work = model.dispatcher, self.work[model]
        for settled in [item for item in work if item.settled]:
            del work[settled]
        waiting = _waiting(model.intake.queue)
        rows = sum(map(waiting_rows, waiting))
        self.expect(rows == model.intake.queue.rows, "the queue's rows are miscounted")
        favoured, shares = _waiting(model.intake.shares.queue), self.shares[model]
        rows = sum(map(waiting_rows, favoured))
        self.expect(rows == shares.queue.rows, "the rows that go first are miscounted")
        shares.check(favoured)
        places: Counter[Any] = Counter(waiting)
        places.update(favoured)
        places.update(part for trial in dispatcher._trials.waiting for part in trial.parts)
        copies: Counter[Any] = Counter()
        for flight in dispatcher.in_flight:
            copies.update(flight.parts)
            if not flight.hedged:
                for part in flight.parts:
                    self.expect(not part.settled, "settled work is in flight")
        several = {part: flights for part, flights in copies.items() if flights > 1}
        self.expect(several == dispatcher._hedging._copies, "copies are miscounted")
        places.update({part: 1 for part in copies if not part.settled})
        self._check_places(places, work)
        held = [b for r in self.world.replicas(model).replicas for b in r.batches]
        self.expect(set(held) == set(dispatcher.in_flight), "batches in flight are lost")
        for load in dispatcher.fleet.loads:
            self.expect(len(load.flights) <= MAX_IN_FLIGHT, "more than two flights")

    def _check_places(self, places: Counter[Any], work: dict[Any, None]) -> None:
        """Every row that is not settled is in exactly one place."""
        left: Counter[Block] = Counter()
        for part, times in places.items():
            self.expect(times == 1, "work is in two places")
            self.expect(not part.settled, "settled work waits")
            if type(part) is Slice:
                left[part.block] += part.rows
            elif type(part) is Block:
                left[part] += waiting_rows(part)
        for item in work:
            if type(item) is Block:
                self.expect(left[item] == item._left, "rows of a block are lost")
            else:
                self.expect(item in places, "a job is lost")

    def _check_cache(self) -> None:
        cache = self.world.cache
        self.expect(cache.bytes <= cache.max_bytes, "the cache is too large")
        keyed = {
            job.key: job
            for work in self.work.values()
            for job in work
            if job.key is not None
        }
        self.expect(keyed == cache.in_flight, "the cache waits for other jobs")

    def _check_waiters(self) -> None:
        """Who waits is known to the work, and nobody else: not who left or was told."""
        for item in chain(*self.work.values()):
            if type(item) is Job:
                gone = [w for w in item.waiters if _is_over(w)]
                self.expect(not gone, "a job is kept for who does not wait")
            elif type(item) is Block and item.waiter is not None:
                self.expect(not _is_over(item.waiter), "a block is kept for nobody")
        for ask in self.open:
            query = ask.query
            if type(query) is Query:
                pairs: list[tuple[Job | None, Any]] = [(query.job, query)]
            elif type(query) is BatchQuery:
                pairs = [(j, w) for j, w in query.jobs if query.outputs[w.index] is None]
            else:
                continue
            for job, waiter in pairs:
                known = job is not None and not job.settled and waiter in job.waiters
                self.expect(known, "a job has forgotten who waits for it")

    def at_rest(self) -> None:
        """Nothing is left behind when all is over."""
        self.expect(not self.open, f"{len(self.open)} queries were never answered")
        for model in self.world.models:
            dispatcher = model.dispatcher
            self.expect(not self.work[model], f"{len(self.work[model])} were not settled")
            self.expect(not model.intake.queue.rows, "rows wait")
            self.expect(not model.intake.shares.queue.rows, "rows wait that go first")
            self.expect(not dispatcher.in_flight, "batches are in flight")
            self.expect(not dispatcher._trials.waiting, "rows wait to be evaluated alone")
            self.expect(not dispatcher._hedging.waiting, "flights wait for a copy")
            self.expect(not len(dispatcher._hedging), "copies are in flight")
            self.expect(not dispatcher._alarm.armed, "a timer is armed")
        cache = self.world.cache
        sizes = sum(cache._size(k, e.output) for k, e in cache._entries.items())
        self.expect(sizes == cache.bytes, "the cache's bytes are miscounted")
        for application in self.world.applications:
            self.expect(
                not application.deadlines._timer, "deadlines are watched for nobody"
            )
        if self.broken:
            raise AssertionError("; ".join(self.broken[:5]))


def _waiting(queue: Any) -> list[Any]:
    """The entries of the queue, each once."""
    entries = list(queue._in_order())
    assert len(entries) == len(set(entries)), "a job stands in the queue twice"
    return entries


def _is_over(waiter: Any) -> bool:
    """Whether the query that a waiter stands for is settled."""
    return bool(getattr(waiter, "batch", waiter).settled)
