"""What a world is made of, drawn from a seed: rare things are common here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from clipper.batching.registry import CONTROLLERS

from .replicas import Nature


@dataclass(frozen=True)
class Traffic:
    """One kind of client. `rate` is requests per second of an open loop; `clients`, of a
    closed one, ask again as soon as they were answered."""

    kind: str  # poisson, bursts, closed, retries
    rate: float = 0.0
    clients: int = 0
    burst: int = 1
    keys: str = "zipf"  # or scan, or hot
    most: int = 1 << 40  # requests, of a closed loop or with retries


@dataclass(frozen=True)
class Scenario:
    """One world. Times are seconds, chances are per request."""

    seed: int
    seconds: float = 0.3  # while requests come
    slo: float = 0.02
    other_slo: float | None = None  # of a second application over the same model
    other_share: float = 0.5  # chance that a request is for the second application
    controller: str = "aimd"
    bound: int | None = None  # rows of a batch
    batch_wait: float | str = "auto"
    retry: bool = True
    replicas: int = 1
    nature: Nature = field(default_factory=Nature)
    caching: bool = True
    cache_bytes: int = 1 << 20
    cache_policy: str = "sieve"
    ttl: float | None = None
    keys: int = 200
    ragged: bool = False  # rows of one or of two numbers
    queue_rows: int = 10_000
    answer_cost: float = 0.0  # of the loop, to tell a client its answer
    stall: float = 0.0  # chance that the loop stands still, after a callback
    traffic: tuple[Traffic, ...] = ()
    eager: float = 0.0  # chance that a client asks again from inside its answer
    gone: float = 0.0  # chance that the client goes away
    hasty: float = 0.0  # chance of a deadline of its own
    batches: float = 0.0  # chance of an input_batch
    no_cache: float = 0.0  # chance that a request wants no cache; then batches are blocks
    largest: int = 20  # rows of an input_batch
    events: tuple[tuple[float, str], ...] = ()  # what happens to the model, and when

    @property
    def capacity(self) -> float:
        """Rows per second of all replicas in batches that take the SLO."""
        nature = self.nature
        rows = max(1.0, (0.95 * self.slo - nature.fixed) / max(nature.per_row, 1e-9))
        rows = min(rows, self.bound or rows, 4096.0)
        return self.replicas * rows / (nature.fixed + nature.per_row * rows)


EVENTS = ("scale", "fail", "recover", "swap", "delete", "stop", "kill")


def random_scenario(seed: int) -> Scenario:
    """A small world, full of trouble."""
    rng = Random(seed)
    slo = rng.choice((0.005, 0.02, 0.02, 0.05, 0.1))
    plain = Scenario(
        seed,
        seconds=rng.choice((0.1, 0.2, 0.4)),
        slo=slo,
        other_slo=rng.choice((None, None, 0.3 * slo, slo, 2.5 * slo)),
        other_share=rng.choice((0.05, 0.2, 0.5)),
        controller=rng.choice(sorted(CONTROLLERS)),
        bound=rng.choice((None, None, 1, 7, 30)),
        batch_wait=rng.choice(("auto", "auto", 0.0, 0.5, 2.0, 8.0)),
        retry=rng.random() < 0.8,
        replicas=rng.choice((1, 1, 2, 3, 4)),
        nature=_nature(rng),
        caching=rng.random() < 0.8,
        cache_bytes=rng.choice((0, 400, 4000, 1 << 20)),
        cache_policy=rng.choice(("sieve", "lru")),
        ttl=rng.choice((None, None, 0.03)),
        keys=rng.choice((3, 50, 400)),
        ragged=rng.random() < 0.15,
        queue_rows=rng.choice((5, 60, 10_000)),
        answer_cost=rng.choice((0.0, 5e-6, 2e-5)),
        stall=rng.choice((0.0, 0.0, 0.005)),
        eager=_often(rng, 0.8),
        gone=_often(rng, 0.3),
        hasty=_often(rng, 0.5),
        batches=_often(rng, 0.3),
        no_cache=_often(rng, 0.5),
        largest=rng.choice((3, 20, 60)),
    )
    if plain.controller == "fixed" and plain.bound is None:
        plain = replace(plain, bound=rng.choice((4, 16)))
    plain = replace(plain, events=_events(rng, plain.seconds))
    return replace(plain, traffic=_traffic(rng, plain))


def _often(rng: Random, most: float) -> float:
    return rng.choice((0.0, 0.1 * most, most))


def _nature(rng: Random) -> Nature:
    fixed, per_row = rng.choice(
        ((0.001, 0.0004), (0.007, 2e-5), (0.0, 0.001), (0.002, 0.0), (0.03, 0.001))
    )
    faults: dict[str, Any] = {}
    if rng.random() < 0.6:
        faults = {
            "crash": _often(rng, 0.15),
            "hang": _often(rng, 0.05),
            "hang_seconds": rng.choice((0.03, 0.3)),
            "miscount": _often(rng, 0.1),
            "odd_rows": rng.random() < 0.5,
            "restart": rng.choice(((0.0, 0.0), (0.0, 0.05), (0.1, 0.3))),
        }
    return Nature(
        fixed,
        per_row,
        noise=rng.choice((0.0, 0.02, 0.3)),
        tail=_often(rng, 0.1),
        tail_seconds=rng.choice((0.01, 0.1)),
        jump_at=rng.choice((float("inf"), 1000.0 + rng.random() * 0.3)),
        jump=rng.choice((0.3, 2.0, 5.0)),
        slow_replica=rng.choice((1.0, 1.0, 4.0)),
        wire=rng.choice((0.0, 5e-5)),
        **faults,
    )


def _events(rng: Random, seconds: float) -> tuple[tuple[float, str], ...]:
    count = rng.choice((0, 0, 1, 3))
    return tuple((rng.random() * seconds, rng.choice(EVENTS)) for _ in range(count))


def _traffic(rng: Random, world: Scenario) -> tuple[Traffic, ...]:
    kinds = rng.sample(("poisson", "bursts", "closed", "retries"), rng.choice((1, 1, 2)))
    # so many requests are asked for, whatever the speed of the model
    most = rng.choice((30, 100, 200)) / world.seconds / len(kinds)
    rate = min(most, rng.choice((0.3, 0.9, 1.3, 4.0)) * world.capacity)
    return tuple(
        Traffic(
            kind,
            rate=rate,
            clients=rng.choice((1, 5, 20)),
            burst=rng.choice((5, 30)),
            keys=rng.choice(("zipf", "scan", "hot")),
            most=200,
        )
        for kind in kinds
    )
