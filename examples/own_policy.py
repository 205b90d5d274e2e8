"""A selection policy of one's own: a small class that says how probable each model is.

Run it: python examples/own_policy.py
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from random import Random
from typing import Any

import clipper


@clipper.add_policy
class Softmax(clipper.SingleChoice):
    """The smaller a model's mean loss, the more queries it gets (Boltzmann exploration).

    What is learned lives in the state, which is kept on disk and given back; the policy
    itself remembers nothing. A server that is started by `clipper serve` finds the class
    by its configuration: `[learning]` `policies = ["my_module:Softmax"]`.
    """

    name = "softmax"

    class Options(clipper.PersonalOptions, frozen=True, kw_only=True):
        temperature: float = 0.1

    def init(self) -> Any:
        return {}

    def observe(self, state: Any, seen: clipper.Observation) -> Any:
        for arm, loss in seen.losses.items():
            count, total = state.get(arm, [0, 0.0])
            state[arm] = [count + 1, total + loss]
        return state

    def probabilities(self, state: Any, arms: Sequence[str], context: Any) -> list[float]:
        # a model that is not known yet counts as one that never lost
        means = [total / count for count, total in (state.get(a, [1, 0.0]) for a in arms)]
        weights = [math.exp(-mean / self.options.temperature) for mean in means]
        return [weight / sum(weights) for weight in weights]

    def blend(self, population: Any, own: Any) -> Any:
        """A user's experience, with everybody's as some observations more."""
        blended = {arm: list(entry) for arm, entry in own.items()}
        for arm, (count, total) in population.items():
            more = min(self.options.prior, count)
            mine = blended.setdefault(arm, [0, 0.0])
            blended[arm] = [mine[0] + more, mine[1] + more * total / count]
        return blended


async def main() -> None:
    rng = Random(3)
    async with clipper.Server() as server:
        for name, number in (("one", 1), ("two", 2), ("three", 3)):
            await server.deploy(name, 1, lambda xs, n=number: [n for _ in xs], "doubles")
        await server.register_application(
            "numbers", models=["one", "two", "three"], input_type="doubles",
            policy={"name": "softmax", "options": {"temperature": 0.1, "prior": 1}},
        )  # fmt: skip

        # two is right most of the time, but not for ann, who wants a three
        for _ in range(200):
            uid = rng.choice(["ann", "bob", "cid", None])
            wanted = 3 if uid == "ann" else 2
            answer = await server.predict("numbers", [0.0], uid=uid)
            await server.update("numbers", answer.query_id, label=wanted)

        for uid in (None, "ann", "bob"):
            arms = (await server.state("numbers", uid))["arms"]
            shares = ", ".join(f"{arm['model']} {arm['weight']:.0%}" for arm in arms)
            print(f"{uid or 'everybody'}: {shares}")


if __name__ == "__main__":
    asyncio.run(main())
