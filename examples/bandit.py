"""A bandit between two models: it finds the better one from feedback, and finds out when
that changes.

Run it: python examples/bandit.py
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from random import Random

import clipper

try:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
except ImportError:
    sys.exit("This example needs scikit-learn: pip install 'clipper-serving[demo]'")


async def main() -> None:
    images, digits = load_digits(return_X_y=True)
    images = images / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits, test_size=0.5, random_state=0
    )
    rng = Random(0)
    # one sees the upper half of each image only, the other all of it
    upper = LogisticRegression(max_iter=300).fit(train_x[:, :32], train_y)
    forest = RandomForestClassifier(50, random_state=0).fit(train_x, train_y)

    async with clipper.Server() as server:
        await server.deploy("upper", 1, lambda xs: upper.predict(xs[:, :32]), "doubles")
        await server.deploy("forest", 1, lambda xs: forest.predict(xs), "doubles")
        await server.register_application(
            "digits",
            models=["upper", "forest"],
            input_type="doubles",
            slo_micros=1_000_000,
            policy={"name": "discounted_ucb", "options": {"discount": 0.99}},
        )

        for stage in range(12):
            # half-way the better model begins to see nothing but noise
            broken = stage >= 6
            right, asked = 0, Counter[str]()
            for _ in range(50):
                pick = rng.randrange(len(test_x))
                answer = await server.predict("digits", test_x[pick])
                good = answer.output == int(test_y[pick])
                if broken and answer.model == "forest:1":
                    good = rng.random() < 0.1
                right += good
                asked[answer.model or "none"] += 1
                # what the user did with the answer comes back as a reward from 0 to 1
                await server.update("digits", answer.query_id, reward=float(good))
            note = "   <- the forest fails from here on" if stage == 6 else ""
            print(
                f"queries {50 * stage:3}-{50 * stage + 49}: {right / 50:4.0%} right, "
                f"{asked['forest:1'] / 50:4.0%} answered by the forest{note}"
            )

        state = await server.state("digits")
        for arm in state["arms"]:
            print(
                f"{arm['model']}: mean loss {arm['mean_loss']:.2f} over {arm['pulls']} "
                "pieces of feedback"
            )


if __name__ == "__main__":
    asyncio.run(main())
