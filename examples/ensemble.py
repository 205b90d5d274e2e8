"""An ensemble with stragglers: five models vote, and nobody waits for the slowest.

Run it: python examples/ensemble.py
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import clipper

try:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import train_test_split
except ImportError:
    sys.exit("This example needs scikit-learn: pip install 'clipper-serving[demo]'")

MEMBERS, QUERIES, SLO_MS = 5, 300, 50


def slow_at_times(model: Any, seed: int) -> Callable[[Any], Any]:
    """The model, which now and then takes a tenth of a second longer."""
    rng = np.random.default_rng(seed)

    def predict(rows: Any) -> Any:
        if rng.random() < 0.1:
            time.sleep(0.1)
        return model.predict(rows)

    return predict


async def main() -> None:
    images, digits = load_digits(return_X_y=True)
    images = images / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits, test_size=0.5, random_state=0
    )
    async with clipper.Server() as server:
        names = []
        for number in range(MEMBERS):
            # small forests on a fifth of the data each
            some = slice(number, None, MEMBERS)
            forest = RandomForestClassifier(5, max_depth=6, random_state=number)
            forest.fit(train_x[some], train_y[some])
            names.append(f"forest{number}")
            await server.deploy(names[-1], 1, slow_at_times(forest, number), "doubles")
            alone = np.mean(forest.predict(test_x) == test_y)
            print(f"{names[-1]} alone: {alone:.0%} right")

        await server.register_application(
            "vote", models=names, input_type="doubles", default_output="-1",
            slo_micros=SLO_MS * 1000, policy="hedge", cache=False,
        )  # fmt: skip

        times, right, unsure, missing = [], [], [], 0
        for number in range(QUERIES):
            pick = number % len(test_x)
            begun = time.perf_counter()
            answer = await server.predict("vote", test_x[pick])
            times.append((time.perf_counter() - begun) * 1e3)
            right.append(answer.output == int(test_y[pick]))
            unsure.append((answer.confidence or 0.0) < 0.7)
            missing += len(answer.missing)
            await server.update("vote", answer.query_id, label=int(test_y[pick]))

        print(f"the ensemble: {np.mean(right):.0%} right")
        sure = [good for good, doubt in zip(right, unsure, strict=True) if not doubt]
        print(
            f"where it is confident ({len(sure)} of {QUERIES}): {np.mean(sure):.0%} right"
        )
        late = sum(took > SLO_MS * 1.1 for took in times)
        print(
            f"median {np.median(times):.1f} ms, 99th percentile "
            f"{np.quantile(times, 0.99):.1f} ms; {late} of {QUERIES} answers later than "
            f"{SLO_MS} ms + 10 %"
        )
        print(
            f"{missing} of {QUERIES * MEMBERS} votes came too late and were not waited for"
        )
        for arm in (await server.state("vote"))["arms"]:
            print(
                f"{arm['model']}: weight {arm['weight']:.2f}, mean loss "
                f"{arm['mean_loss']:.2f}"
            )


if __name__ == "__main__":
    asyncio.run(main())
