"""Servers that are broken on purpose: the simulation must see each of them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from clipper.appending import Appender
from clipper.batching.intake import Intake
from clipper.batching.job import Job
from clipper.batching.recovery import Recovery, recover
from clipper.deadlines import Deadlines
from clipper.feedback import Feedback
from clipper.inventory import Inventory
from clipper.judging import Judge
from clipper.learning.learner import Learner
from clipper.learning.snapshots import Snapshots
from clipper.query import Query
from clipper.store.base import Change
from clipper.values import FailureKind, RowError
from clipper.workers.channel import Channel
from clipper.workers.crash_loop import CrashLoop
from clipper.workers.place import Place
from clipper.workers.places import Places
from clipper.workers.wire import WireError

from .core import Core
from .plot import random_plot

Patch = pytest.MonkeyPatch
SEEDS = 60


def settles_twice(patch: Patch) -> None:
    """What comes after the deadline is told as well."""
    right = Query.job_done

    def job_done(query: Query, output: Any) -> None:
        query.settled = False
        right(query, output)

    patch.setattr(Query, "job_done", job_done)
    patch.setattr(Query, "_leave", lambda query: None)


def forgets_a_retry(patch: Patch) -> None:
    def forgetful(kind: FailureKind, parts: Any, rows: int, retry: bool) -> Recovery:
        if kind in (FailureKind.CRASHED, FailureKind.RETURNED):
            return Recovery()
        return recover(kind, parts, rows, retry)

    patch.setattr("clipper.batching.trials.recover", forgetful)


def forgets_the_second_batch(patch: Patch) -> None:
    right = Channel.close
    patch.setattr(Channel, "close", lambda channel: right(channel)[:1])


def takes_any_answer(patch: Patch) -> None:
    """An answer that comes out of turn is for the oldest batch."""

    def expected(channel: Channel, number: int) -> Any:
        if not channel.sent:
            raise WireError("an answer to nothing")
        return channel.sent[0].batch

    patch.setattr(Channel, "_expect", expected)


def acknowledges_before_the_commit(patch: Patch) -> None:
    right = Appender.append

    def append(appender: Appender, *arguments: Any) -> None:
        right(appender, *arguments[:-1], lambda *outcome: None)
        arguments[-1](False, None)

    patch.setattr(Appender, "append", append)


def shows_before_the_commit(patch: Patch) -> None:
    async def write(inventory: Any, changes: tuple[Change, ...]) -> None:
        inventory.catalog.apply(changes)
        inventory.refresh()
        await inventory._store.commit(*changes)

    patch.setattr(Inventory, "_write", write)


def computes_propensities_again(patch: Patch) -> None:
    right = Judge.on_decision

    def on_decision(judge: Any, *arguments: Any) -> Any:
        event = right(judge, *arguments)
        now = judge._application.weights()
        if len(event.chosen) == 1 and event.chosen[0] in now:
            event.propensity = now[event.chosen[0]]
        return event

    patch.setattr(Judge, "on_decision", on_decision)


def learns_before_the_commit(patch: Patch) -> None:
    right = Appender.append

    def append(appender: Any, key: Any, uid: Any, event: Any, *more: Any) -> None:
        learner = appender._learner
        learner.apply(learner.population.seq + 1, uid, event)
        right(appender, key, uid, event, *more)

    patch.setattr(Appender, "append", append)


def learns_twice(patch: Patch) -> None:
    """What came after the snapshot began is folded again at the next start."""
    right = Snapshots._save

    async def save(snapshots: Any, number: int, seq: int, states: Any) -> None:
        await right(snapshots, number, max(0, seq - 1), states)

    patch.setattr(Snapshots, "_save", save)
    patch.setattr(Learner, "apply", _apply_anything(Learner.apply))


def _apply_anything(right: Callable[..., None]) -> Callable[..., None]:
    def apply(learner: Learner, seq: int, uid: str | None, event: Any) -> None:
        learner.population.seq = min(learner.population.seq, seq - 1)
        right(learner, seq, uid, event)

    return apply


def mistakes_one_version_for_another(patch: Patch) -> None:
    patch.setattr("clipper.model.key_prefix", lambda generation: bytes(4))


def keeps_no_watch_on_deadlines(patch: Patch) -> None:
    patch.setattr(Deadlines, "watch", lambda deadlines, query: None)


def takes_any_query_id(patch: Patch) -> None:
    """Also those of other applications."""
    right = Feedback._take

    def take(feedback: Any, item: Any, done: Any) -> None:
        number = feedback._application.number
        if item.query_id is not None:
            feedback._application.number = feedback._ids.read(item.query_id).application
        try:
            right(feedback, item, done)
        finally:
            feedback._application.number = number

    patch.setattr(Feedback, "_take", take)


def stops_watching_workers(patch: Patch) -> None:
    """A keeper that ends with the first death."""
    right = Place._mourn

    async def mourn(place: Any, replica: Any, why: str) -> None:
        await right(place, replica, why)
        await asyncio.Event().wait()

    patch.setattr(Place, "_mourn", mourn)


def counts_poison(patch: Patch) -> None:
    """Against the version that it was asked of."""
    patch.setattr(CrashLoop, "_forgive", lambda loop, answered: False)


def leaves_workers_behind(patch: Patch) -> None:
    async def retire(places: Any, leaving: Any, drain_seconds: float) -> None:
        for place in leaving:
            if place.keeper is not None:
                place.keeper.cancel()

    patch.setattr(Places, "retire", retire)


def keeps_what_failed(patch: Patch) -> None:
    """Half of what a full disk refused is in memory all the same."""

    async def write(inventory: Any, changes: tuple[Change, ...]) -> None:
        try:
            await inventory._store.commit(*changes)
        finally:
            inventory.catalog.apply(changes)
            inventory.refresh()

    patch.setattr(Inventory, "_write", write)


def gives_up_for_all(patch: Patch) -> None:
    """A job goes with the first who has no time for it."""

    def shed(intake: Intake, rows: int, error: RowError, now: float) -> None:
        parts, dropped = intake.queue.take(rows, sys.maxsize, now)
        intake.drop(dropped, now)
        for part in parts:
            part.fail(error)

    patch.setattr(Intake, "shed", shed)


def keeps_the_deadline_of_who_left(patch: Patch) -> None:
    right = Job.leave

    def leave(job: Job, waiter: Any) -> None:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Job, "_renew", lambda *_: None)
            right(job, waiter)

    patch.setattr(Job, "leave", leave)


BREAKS: dict[Callable[[Patch], None], str] = {
    settles_twice: "was answered again",
    forgets_a_retry: "waits for the cache",
    forgets_the_second_batch: "are in flight",
    takes_any_answer: " and not ",
    acknowledges_before_the_commit: "acknowledged, and not in the log",
    shows_before_the_commit: "and on the disk",
    computes_propensities_again: "another propensity",
    learns_before_the_commit: " is not <Learner",
    learns_twice: " is not <Learner",
    mistakes_one_version_for_another: " and not ",
    keeps_no_watch_on_deadlines: "s late",
    takes_any_query_id: "feedback was taken on what was not asked",
    stops_watching_workers: "has not healed",
    counts_poison: "the calm one",
    leaves_workers_behind: "processes",
    keeps_what_failed: "and on the disk",
    gives_up_for_all: " answers RowError(code='",
    keeps_the_deadline_of_who_left: "for those who have until",
}


@pytest.mark.parametrize("breaks", BREAKS)
def test_what_is_broken_is_seen(breaks: Callable[[Patch], None]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        for seed in range(SEEDS):
            try:
                Core(random_plot(seed)).run()
            except Exception as error:
                if BREAKS[breaks] in str(error):
                    return
    pytest.fail(f"{SEEDS} seeds do not tell that a server {breaks.__name__}")
