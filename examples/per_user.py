"""Selection for each user: everybody writes digits in their own way, and a few pieces of
feedback are enough to know whose model is the right one.

Run it: python examples/per_user.py
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np

import clipper

try:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
except ImportError:
    sys.exit("This example needs scikit-learn: pip install 'clipper-serving[demo]'")

# Four ways of writing: upright, on the side, mirrored, upside down.
HANDS: dict[str, Callable[[Any], Any]] = {
    "upright": lambda image: image,
    "side": np.rot90,
    "mirrored": np.fliplr,
    "upside": np.flipud,
}
USERS, FEEDBACKS = 40, 8


def written(images: Any, hand: str) -> Any:
    """The images as somebody with that hand writes them."""
    return np.array([HANDS[hand](image.reshape(8, 8)).ravel() for image in images])


async def main() -> None:
    images, digits = load_digits(return_X_y=True)
    images = images / 16
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits, test_size=0.5, random_state=0
    )
    rng = Random(1)
    async with clipper.Server() as server:
        for hand in HANDS:
            model = LogisticRegression(max_iter=200).fit(written(train_x, hand), train_y)
            await server.deploy(hand, 1, model.predict, "doubles")
        # One application, one state for each user who ever gave feedback; somebody new
        # starts from what all others taught.
        await server.register_application(
            "digits", models=list(HANDS), input_type="doubles", slo_micros=1_000_000,
            policy={"name": "hedge", "options": {"eta": 1.0, "prior": 1.0}},
        )  # fmt: skip

        hands = {f"user{n}": list(HANDS)[n % len(HANDS)] for n in range(USERS)}
        for turn in range(FEEDBACKS + 1):
            right = 0
            for uid, hand in hands.items():
                pick = rng.randrange(len(test_x))
                [image] = written(test_x[pick : pick + 1], hand)
                label = int(test_y[pick])
                answer = await server.predict("digits", image, uid=uid)
                right += answer.output == label
                await server.update("digits", answer.query_id, label=label)
            print(f"after {turn} pieces of feedback: {1 - right / USERS:4.0%} wrong")

        for uid in ("user1", "user2"):
            state = await server.state("digits", uid)
            best = max(state["arms"], key=lambda arm: arm["weight"])
            print(f"{uid} writes {hands[uid]}, and is given {best['model']}")


if __name__ == "__main__":
    asyncio.run(main())
