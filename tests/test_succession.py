"""What the old server sees to before it lets go, and what it says after that."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from polling import eventually

from clipper import Server, succession
from clipper.errors import ResendInput, Unavailable
from clipper.handover.link import HandoverFailed
from clipper.listening import Listening
from clipper.records import ModelRecord

pytestmark = pytest.mark.fault("S3")


def plus_one(rows: Any) -> list[float]:
    return [float(row[0]) + 1 for row in rows]


class Follower:
    """A successor that does as it is told; `meanwhile` happens while it prepares."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.alive = True
        self.offers: list[list[str]] = []
        self._meanwhile = meanwhile

    async def hello(self) -> str:
        return "1"

    async def prepare(
        self, data_dir: str, records: Sequence[ModelRecord], listening: Listening | None
    ) -> None:
        self.offers.append([record.key for record in records])
        self._meanwhile()

    def check_alive(self) -> None:
        if not self.alive:
            raise HandoverFailed("it has ended")


async def prepare(server: Server, follower: Follower) -> str:
    return await succession.prepare(server, follower)  # type: ignore[arg-type]


async def test_one_that_dies_once_it_is_prepared_is_not_given_the_data(
    tmp_path: Path,
) -> None:
    """To let go and begin again takes the time of a start, and this was seen before."""

    def die() -> None:
        follower.alive = False

    follower = Follower(die)
    async with Server(tmp_path, listen=True) as server:
        await server.deploy("inc", 1, plus_one, "doubles")
        with pytest.raises(HandoverFailed, match="has ended"):
            await prepare(server, follower)
        assert follower.offers == [["inc:1"]]
        await server.deploy("inc", 2, plus_one, "doubles")  # nothing is held back


# -- once the data are another's ---------------------------------------------------------


async def learns(server: Server, policy: str) -> None:
    await server.deploy("inc", 1, plus_one, "doubles")
    await server.register_application(
        "learns", models=["inc"], input_type="doubles", policy=policy, slo_micros=10**7
    )


async def test_feedback_that_comes_too_late_is_to_be_sent_again(tmp_path: Path) -> None:
    """A client sends again what was refused as `unavailable`, which is then the other's to
    take; it is counted once."""
    async with Server(tmp_path) as old:
        await learns(old, "exp3")
        first = await old.predict("learns", [1.0])
        assert not await old.update("learns", first.query_id, label=2.0)
        await old.engine.release(10.0)
        late = await old.predict("learns", [2.0])  # one who was accepted is answered
        assert late.output == 3.0
        for prediction in (first, late):
            with pytest.raises(Unavailable) as refused:
                await old.update("learns", prediction.query_id, label=3.0)
            assert refused.value.retry_after == 1
        async with Server(tmp_path) as new:
            assert await new.update("learns", first.query_id, label=2.0)
            state = await new.state("learns")
            assert [arm["pulls"] for arm in state["arms"]] == [1]


@pytest.mark.parametrize("policy", ["exp3", "hedge"])
async def test_an_answer_given_after_that_can_be_judged_with_its_input(
    policy: str, tmp_path: Path
) -> None:
    """Its decision is kept nowhere but in its query id."""
    async with Server(tmp_path) as old:
        await learns(old, policy)
        await old.engine.release(10.0)
        late = await old.predict("learns", [2.0])
        async with Server(tmp_path) as new:
            await eventually(lambda: new.engine.ready)
            with pytest.raises(ResendInput):
                await new.update("learns", late.query_id, label=3.0)
            again = {"label": 3.0, "input": [2.0]}
            assert not await new.update("learns", late.query_id, **again)
            assert await new.update("learns", late.query_id, **again)
            state = await new.state("learns")
            assert [arm["pulls"] for arm in state["arms"]] == [1]
