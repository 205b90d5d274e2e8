"""A policy of a program's own: it raises, it is missing, it cannot be kept."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from clipper.errors import Unavailable
from clipper.learning import experience, snapshots
from clipper.pieces import Item
from clipper.records import PolicySettings
from clipper.selection import registry
from clipper.selection.policy import Options, SingleChoice

from .lives import UIDS, Slowly, check, do


class Own(SingleChoice):
    name = "own"
    raises = False

    class Options(Options, frozen=True, forbid_unknown_fields=True):
        personal: bool = True

    def init(self) -> Any:
        return {"seen": 0}

    def observe(self, state: Any, seen: Any) -> Any:
        if seen.loss == 0.5:
            raise ZeroDivisionError("a bug")
        return {"seen": state["seen"] + 1}

    def probabilities(self, state: Any, arms: Any, context: Any) -> Any:
        return [1.0 / len(arms)] * len(arms)

    def blend(self, population: Any, own: Any) -> Any:
        return own


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    added: dict[str, Any] = {"own": Own}
    monkeypatch.setattr(registry, "_ADDED", added)
    monkeypatch.setattr(experience, "_complained", set())
    yield added


async def test_a_policy_that_raises_stops_nothing(
    slowly: Slowly, own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await do(slowly, ("policy", PolicySettings("own")), ("settle",))
    for loss in (0.0, 0.5, 0.5, 1.0):
        await do(slowly, ("give", "ann", 0, loss), ("settle",))
    assert slowly.life.acknowledged == 4
    assert slowly.life.learner.population.state == {"seen": 2}
    assert caplog.text.count("ZeroDivisionError: a bug") == 1
    await do(slowly, ("crash",), ("settle",))
    await check(slowly.life)


async def test_a_policy_that_is_missing_keeps_what_it_learned(
    slowly: Slowly, own: Any
) -> None:
    await do(slowly, ("policy", PolicySettings("own")), ("give", "ann", 0, 1.0))
    await do(slowly, ("settle",), ("save",), ("settle",), ("give", "ann", 0, 0.0))
    await do(slowly, ("settle",))
    before = await slowly.life.state(UIDS)
    del own["own"]
    await do(slowly, ("crash",), ("settle",))
    learner, learning = slowly.life.learner, slowly.life.learning
    assert learner.missing is not None and learner.policy.name == "static"
    with pytest.raises(Unavailable, match="own"):
        slowly.life.feedback.take(Item("x", reward=1.0), lambda *_: None)
    slowly.life.learning._clock.move(1e6)  # type: ignore[attr-defined]
    learning.tick()
    await learning.close()
    own["own"] = Own
    await do(slowly, ("crash",), ("settle",))
    assert slowly.life.learner.missing is None
    assert await slowly.life.state(UIDS) == before


async def test_a_state_that_cannot_be_kept_is_told(
    slowly: Slowly, own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Own, "init", lambda self: {"seen": object()})
    await do(slowly, ("policy", PolicySettings("own")), ("settle",))
    told: list[Any] = []
    monkeypatch.setattr(snapshots.logger, "error", lambda *args: told.append(args[-1]))
    slowly.slow.release()
    await slowly.life.learning.close()
    assert "policy own cannot be kept" in str(told[0])
    assert not slowly.life.learning.snapshots.under_way and slowly.life.learner.unsaved


async def test_a_policy_that_cannot_begin_begins_with_nothing(
    slowly: Slowly, own: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And whoever waits for the change is told, now and at the next start."""

    def broken(self: Any, totals: Any) -> Any:
        raise KeyError("a bug")

    monkeypatch.setattr(Own, "begin", broken)
    await do(slowly, ("give", "ann", 0, 1.0), ("settle",))
    slowly.life.set_policy(PolicySettings("own"))
    slowly.slow.release()
    async with asyncio.timeout(10):
        await slowly.life.learning.change_policy(slowly.life.record, lambda: None)
    assert slowly.life.learner.population.state == {"seen": 0}
    await do(slowly, ("give", "ann", 0, 1.0), ("settle",), ("crash",), ("settle",))
    assert slowly.life.learner.population.state == {"seen": 1}
    await check(slowly.life)


async def test_whoever_logs_is_told_even_if_learning_fails(
    slowly: Slowly, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise KeyError("a bug")

    told: list[Any] = []
    monkeypatch.setattr(slowly.life.learner, "apply", broken)
    slowly.life.learning.halt(slowly.life.learner, "a:1#1", "why", lambda: told.append(1))
    await do(slowly, ("settle",))
    assert told == [1]
