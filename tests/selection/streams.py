"""Streams of losses, and a policy that plays against one by its public interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

from clipper.selection.policy import Arm, Observation, SingleChoice

# The losses of all arms in a round, given its number, the probabilities that the policy
# gave the arms, and the stream's own chance.
Stream = Callable[[int, Sequence[float], Random], Sequence[float]]


class Run(NamedTuple):
    """What a policy did: `lost` is its loss after each round, `by_arm` what each arm
    would have lost in all, `chosen` the indices of the arms."""

    lost: list[float]
    by_arm: list[float]
    chosen: list[int]


def make_arms(count: int) -> tuple[Arm, ...]:
    return tuple(f"m{index}:1#1" for index in range(count))


def draw(probabilities: Sequence[float], u: float) -> int:
    """Which index the number `u`, uniform in [0, 1), stands for."""
    for index, probability in enumerate(probabilities):
        u -= probability
        if u < 0:
            return index
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def play(policy: SingleChoice, stream: Stream, arms: int, rounds: int, seed: int) -> Run:
    names, state = make_arms(arms), policy.init()
    chance, rng = Random(f"stream {seed}"), Random(seed)
    lost, by_arm, chosen = [], [0.0] * arms, []
    total = 0.0
    for turn in range(rounds):
        probabilities = policy.probabilities(state, names, None)
        losses = stream(turn, probabilities, chance)
        index = draw(probabilities, rng.random())
        arm, loss = names[index], losses[index]
        seen = Observation(names, {arm: loss}, (arm,), probabilities[index], loss)
        state = policy.observe(state, seen)
        total += loss
        lost.append(total)
        chosen.append(index)
        for other, value in enumerate(losses):
            by_arm[other] += value
    return Run(lost, by_arm, chosen)


def bernoulli(means: Sequence[float]) -> Stream:
    """Losses of 0 and 1 with fixed means."""

    def losses(turn: int, probabilities: Sequence[float], rng: Random) -> list[float]:
        return [1.0 if rng.random() < mean else 0.0 for mean in means]

    return losses


def switching(means: Sequence[float], every: int) -> Stream:
    """As bernoulli, but after every so many rounds each arm has its neighbour's mean."""
    count = len(means)

    def losses(turn: int, probabilities: Sequence[float], rng: Random) -> list[float]:
        offset = turn // every
        return [
            1.0 if rng.random() < means[(arm + offset) % count] else 0.0
            for arm in range(count)
        ]

    return losses


def adversarial(turn: int, probabilities: Sequence[float], rng: Random) -> list[float]:
    """Whatever the policy thinks best loses, and everything else but the last arm every
    other time."""
    losses = [float(turn % 2)] * len(probabilities)
    losses[-1] = 0.0
    losses[max(range(len(losses)), key=probabilities.__getitem__)] = 1.0
    return losses
