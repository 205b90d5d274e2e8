"""Predictions inside one's own asyncio program, with no server process and no sockets.

Run it: python examples/embedded.py
"""

from __future__ import annotations

import asyncio
from typing import Any

import clipper


def feature_sums(rows: Any) -> list[float]:
    """The model: gets a batch of rows and returns one output for each."""
    return [float(row.sum()) for row in rows]


async def main() -> None:
    # Models run in worker processes of their own; nothing is kept on disk.
    async with clipper.Server() as server:
        await server.deploy("sums", 1, feature_sums, input_type="doubles")
        await server.register_application(
            "hello_world", models=["sums"], input_type="doubles", slo_micros=100_000
        )

        prediction = await server.predict("hello_world", [1.1, 2.2, 3.3])
        print(f"1.1 + 2.2 + 3.3 = {prediction.output:.1f}")

        # Queries that arrive together are answered in one batch.
        rows = [[float(i), float(i)] for i in range(100)]
        answers = await asyncio.gather(
            *(server.predict("hello_world", row) for row in rows)
        )
        print("100 queries at once:", [answer.output for answer in answers[:5]], "...")

        # A new version takes over without a pause once it has answered an example.
        await server.deploy(
            "sums", 2, lambda rows: [-x for x in feature_sums(rows)], "doubles",
            example=[1.0],
        )  # fmt: skip
        prediction = await server.predict("hello_world", [1.1, 2.2, 3.3])
        print(f"version 2 says {prediction.output:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
