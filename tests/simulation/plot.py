"""What happens to a whole server and when, drawn from a seed: rare things are common."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from .disk import DiskFaults
from .processes import FATES, STARTS, Function

# What operators do, with how often each is done.
DEEDS = {
    "deploy": 6, "register": 2, "delete_application": 1, "delete_model": 2, "roll_back": 2,
    "set_version": 1, "scale": 3, "set_policy": 4, "link": 1, "unlink": 1, "forget": 2,
    "add_model": 1,
}  # fmt: skip

# What befalls the server.
BLOWS = {
    "crash": 3, "restart": 1, "fill_disk": 2, "free_disk": 2, "plague": 2, "step_clock": 2,
    "kill_workers": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Plot:
    """One world. Times are seconds, chances are per request."""

    seed: int
    seconds: float = 4.0  # while there is trouble
    rate: float = 40.0  # requests per second
    burst: int = 1  # that come at once
    calm_rate: float = 10.0  # of an application whose model never fails
    disk: DiskFaults = field(default_factory=DiskFaults)
    no_spawn: float = 0.0  # chance that a worker process cannot be started
    faulty: float = 0.5  # chance that what is deployed has faults
    gone: float = 0.0
    hasty: float = 0.0
    batches: float = 0.0
    shared: float = 0.0  # chance that two ask the same at once
    no_cache: float = 0.2
    named: float = 0.1  # of a version by name
    known: float = 0.5  # of a query with a uid
    users: int = 6
    keys: int = 60
    feedback: float = 0.6  # pieces of feedback per request
    again: float = 0.2  # of feedback that was given before
    poison: float = 0.0  # chance of a row that kills, of the calm model
    users_in_memory: int = 10_000
    snapshot_entries: int = 10_000
    snapshot_seconds: float = 30.0
    cache_bytes: int = 1 << 20
    queue_rows: int = 10_000
    events: tuple[tuple[float, str], ...] = ()
    rest: float = 100.0  # seconds in which everything heals
    spares: int = 0  # of each version, at most
    recycle: tuple[int | None, ...] = (None,)  # batches, of which each version has one


def random_plot(seed: int) -> Plot:
    rng = Random(seed)
    seconds = rng.choice((1.0, 2.0, 4.0))
    return Plot(
        seed,
        seconds=seconds,
        rate=rng.choice((30.0, 80.0, 160.0)) / seconds,
        burst=rng.choice((1, 6, 20)),
        calm_rate=20.0 / seconds,
        disk=_disk(rng),
        no_spawn=rng.choice((0.0, 0.0, 0.3)),
        faulty=rng.choice((0.0, 0.5, 0.9)),
        gone=rng.choice((0.0, 0.1)),
        hasty=rng.choice((0.0, 0.2)),
        batches=rng.choice((0.0, 0.2)),
        shared=rng.choice((0.0, 0.0, 0.5)),
        no_cache=rng.choice((0.0, 0.5, 1.0)),
        named=rng.choice((0.0, 0.1)),
        known=rng.choice((0.0, 0.5, 1.0)),
        users=rng.choice((1, 6, 30)),
        keys=rng.choice((5, 60, 5000)),
        feedback=rng.choice((0.2, 0.8)),
        again=rng.choice((0.0, 0.3)),
        poison=rng.choice((0.0, 0.0, 0.1)),
        users_in_memory=rng.choice((1, 3, 10_000)),
        snapshot_entries=rng.choice((3, 20, 10_000)),
        snapshot_seconds=rng.choice((1.0, 30.0)),
        cache_bytes=rng.choice((0, 2000, 1 << 20)),
        queue_rows=rng.choice((5, 10_000)),
        events=_events(rng, seconds),
        rest=100.0,
        spares=rng.choice((0, 0, 0, 2)),
        recycle=rng.choice(((None,), (None,), (None,), (None, 1, 5, 20))),
    )


def _disk(rng: Random) -> DiskFaults:
    slow = rng.choice(((0.0, 0.0), (0.0002, 0.003), (0.0002, 0.003), (0.005, 0.08)))
    if rng.random() < 0.3:
        return DiskFaults(slow)
    return DiskFaults(
        slow,
        stall=rng.choice((0.0, 0.01, 0.05)),
        stall_seconds=rng.choice((0.1, 1.0)),
        doubt=rng.choice((0.0, 0.0, 0.01, 0.05)),
        busy=rng.choice((0.0, 0.02, 0.1)),
        crash=rng.choice((0.0, 0.0, 0.02)),
        lost_blob=rng.choice((0.0, 0.1)),
    )


def _events(rng: Random, seconds: float) -> tuple[tuple[float, str], ...]:
    found = []
    for kinds, counts in ((DEEDS, (3, 8, 16)), (BLOWS, (0, 1, 3))):
        names, weights = list(kinds), list(kinds.values())
        drawn = rng.choices(names, weights, k=rng.choice(counts))
        found += [(rng.random() * seconds, name) for name in drawn]
    return tuple(sorted(found))


def random_function(number: int, rng: Random, faulty: float) -> Function:
    fixed = rng.choice((0.0005, 0.003, 0.01))
    per_row = rng.choice((0.0, 0.0002, 0.002))
    if rng.random() >= faulty:
        return Function(number, fixed, per_row, odd=rng.random() < 0.2)
    chances = {fate: rng.choice((0.0, 0.0, 0.03, 0.2)) for fate in FATES}
    start = "good" if rng.random() < 0.6 else rng.choice(STARTS)
    return Function(number, fixed, per_row, start, rng.random() < 0.3, **chances)
