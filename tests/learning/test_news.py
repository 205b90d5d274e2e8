"""What was found of users is logged, and a part of the fold."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from clipper.learning import events, service
from clipper.store.memory import MemoryStore

from .lives import HEDGES, NUMBER, Slowly, check, do


async def tell_apart(lives: Slowly, rounds: int = 5) -> None:
    """Two users whom two arms suit."""
    for _ in range(rounds):
        await do(lives, ("label", "ann", 0, 0.0), ("label", "bob", 1, 0.0), ("settle",))


async def priors(log: MemoryStore) -> list[events.Prior]:
    found = [events.decode(entry.body) for _, entry in await log.entries(NUMBER, 0, 1000)]
    return [event for event in found if isinstance(event, events.Prior)]


async def test_what_was_found_of_users_is_logged_and_back_after_a_restart(
    slowly: Slowly,
) -> None:
    await do(slowly, ("policy", HEDGES[0]), ("settle",))
    await tell_apart(slowly)
    await do(slowly, ("news",))
    assert "prior" not in slowly.life.learner.population.state  # it is on its way
    await do(slowly, ("news",), ("settle",), ("news",), ("settle",))
    (said,) = await priors(slowly.log)
    expected = [said.rate, said.weights]
    assert said.rate > 0 and slowly.life.learner.population.state["prior"] == expected
    await check(slowly.life)
    for step in (("crash",), ("save",), ("settle",), ("crash",)):
        await do(slowly, step)
        assert slowly.life.learner.population.state["prior"] == expected
    await check(slowly.life)


async def test_a_prior_that_comes_after_its_policy_changes_nothing(slowly: Slowly) -> None:
    await do(slowly, ("policy", HEDGES[0]), ("settle",))
    await tell_apart(slowly)
    await do(slowly, ("policy", HEDGES[1]), ("news",), ("settle",))
    (said,) = await priors(slowly.log)
    assert said.generation == slowly.life.learner.generation - 1
    assert "prior" not in slowly.life.learner.population.state
    await do(slowly, ("crash",), ("settle",))
    assert "prior" not in slowly.life.learner.population.state
    await check(slowly.life)


async def test_what_the_log_did_not_take_is_said_again(
    slowly: Slowly, monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(slowly, ("policy", HEDGES[0]), ("settle",))
    await tell_apart(slowly)
    later: list[tuple[float, Callable[[], None]]] = []
    learning = slowly.life.learning
    monkeypatch.setattr(learning, "_call_later", lambda *call: later.append(call))
    await do(slowly, ("news",), ("fail",), ("news",), ("settle",))
    assert not await priors(slowly.log)
    ((seconds, again),) = later
    assert seconds == service.RETRY_SECONDS
    again()
    await do(slowly, ("news",), ("settle",))
    assert len(await priors(slowly.log)) == 1 and len(later) == 1
    await check(slowly.life)
