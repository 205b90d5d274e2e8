"""A canary that rolls itself back: a new version gets a part of the traffic, fails there,
and is taken out before most users ever meet it.

Run it: python examples/canary.py
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from random import Random
from typing import Any

import clipper


def length(texts: Any) -> list[int]:
    """Version 1: the length of a text."""
    return [len(text) for text in texts]


def words(texts: Any) -> list[int]:
    """Version 2: its words. Nobody tried it on a text without any."""
    return [len(text) // len(text.split()) for text in texts]


async def main() -> None:
    logging.basicConfig(stream=sys.stdout, format="log: %(message)s")
    rng = Random(2)
    async with clipper.Server() as server:
        await server.deploy("text", 1, length, "strings")
        await server.register_application(
            "text", models=["text"], input_type="strings", default_output="-1",
            slo_micros=1_000_000,
            policy={
                "name": "canary", "options": {"weights": {"text:1": 0.8, "text:2": 0.2}}
            },
        )  # fmt: skip
        await server.deploy("text", 2, words, "strings")
        print("version 2 gets a fifth of the users")

        for block in range(5):
            asked, failed = Counter[str](), 0
            for _ in range(100):
                text = rng.choice(["some text", "more of it", "", "   "])
                answer = await server.predict("text", text, uid=rng.randrange(1000))
                asked[answer.model or "none"] += 1
                failed += answer.default
            print(
                f"queries {100 * block}-{100 * block + 99}: {asked['text:2']} went to "
                f"version 2, {failed} failed"
            )

        for arm in (await server.state("text"))["arms"]:
            print(f"{arm['model']}: {arm['halted'] or 'in service'}")


if __name__ == "__main__":
    asyncio.run(main())
