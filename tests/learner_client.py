"""A client that asks and gives feedback of every form, until the server is gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from learner_ledger import FEATURES, PERSONAL, POLICIES, Asked, Ledger, Said, State

from clipper.client import AsyncClipper
from clipper.errors import ClipperError, ServerUnreachable


class Gone(Exception):
    """The server was killed."""


class Connection:
    """One keep-alive connection to the query port."""

    def __init__(self, client: AsyncClipper, ledger: Ledger) -> None:
        self._url = client.query_url
        self.ledger = ledger
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1))
        # All that changes: how single feedback was answered, as status and error code.
        self.answers: set[tuple[int, str | None]] = set()

    async def close(self) -> None:
        await self._session.close()

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        try:
            async with self._session.post(
                f"{self._url}{path}",
                data=msgspec.json.encode(body),
                headers={"Content-Type": "application/json"},
            ) as answer:
                return answer.status, msgspec.json.decode(await answer.read())
        except (aiohttp.ClientError, OSError) as error:
            raise Gone from error

    # -- queries ------------------------------------------------------------------------

    async def ask(self, app: str, rows: int = 0) -> None:
        """A query, or a batch of so many."""
        ledger = self.ledger
        rng = ledger.rng
        largest = rng.choice([100, 10**9])
        xs = [float(rng.randrange(largest)) for _ in range(max(rows, 1))]
        body: dict[str, Any] = {"input_batch": [[x] for x in xs]} if rows else {}
        if not rows:
            body["input"] = [xs[0]]
        uid = ledger.uid() if app in PERSONAL and rng.random() < 0.8 else None
        if uid is not None:
            body["uid"] = uid
        context = [rng.random() for _ in range(FEATURES)] if app == "context" else None
        if context is not None:
            body["context"] = context
        status, answer = await self.post(f"/{app}/predict", body)
        assert status == 200, answer
        answers = answer["batch_predictions"] if rows else [answer]
        for x, one in zip(xs, answers, strict=True):
            ledger.note_asked(Asked(app, x, uid, context, one))

    # -- feedback -----------------------------------------------------------------------

    async def give(self, said: Said) -> bool:
        """Say one thing. Whether it was acknowledged."""
        state = self._sending(said)
        try:
            status, answer = await self.post(f"/{said.app}/update", said.body)
        except Gone:
            self._doubt([said])
            raise
        self.answers.add((status, answer.get("error")))
        return self.ledger.settle(said, state, answer)

    async def give_list(self, several: Sequence[Said]) -> None:
        """Say several things to one application."""
        states = [self._sending(said) for said in several]
        body = {"feedback": [said.body for said in several]}
        try:
            status, answer = await self.post(f"/{several[0].app}/update", body)
        except Gone:
            self._doubt(several)
            raise
        assert status == 200, answer
        for said, state, one in zip(several, states, answer["feedback"], strict=True):
            self.ledger.settle(said, state, one)

    async def contradict(self, said: Said) -> None:
        """Say something else on the same query, which is refused."""
        body = {k: v for k, v in said.body.items() if k not in {"label", "reward"}}
        body["label"] = 1000
        status, answer = await self.post(f"/{said.app}/update", body)
        if (
            answer.get("error") == "resend_input"
        ):  # whether it is other is known after the join
            body["input"] = [said.x]
            if said.asked is not None and said.asked.context is not None:
                body["context"] = said.asked.context
            status, answer = await self.post(f"/{said.app}/update", body)
        error = answer.get("error")
        assert (status, error) in {(409, "conflict"), (503, "unavailable")}, answer
        self.ledger.counts["contradictions"] += status == 409

    def _sending(self, said: Said) -> State:
        said.sent += 1
        return State(said.acknowledged, "input" in said.body)

    def _doubt(self, several: Sequence[Said]) -> None:
        for said in several:
            if not said.acknowledged:
                self.ledger.doubtful[said] = None

    # -- load ---------------------------------------------------------------------------

    async def load(self) -> None:
        """Everything by turns, until the server is gone."""
        ledger = self.ledger
        rng = ledger.rng
        while True:
            turn = rng.random()
            if turn < 0.35 or len(ledger.open) < 10:
                await self.ask(rng.choice(list(POLICIES)))
            elif turn < 0.4:
                await self.ask(rng.choice(list(POLICIES)), rng.randint(2, 4))
            elif turn < 0.7:
                await self.give(ledger.say(ledger.take_open()))
            elif turn < 0.8:
                await self.give_some()
            elif turn < 0.9:
                await self.give(ledger.say_of_input("people", rng.random() < 0.7))
            elif turn < 0.95:
                await self.repeat()
            elif turn < 0.98 and ledger.acknowledged:
                said = rng.choice(ledger.acknowledged)
                if said.asked is not None:
                    await self.contradict(said)

    async def give_some(self) -> None:
        """A list for one application, in which one thing may be said twice."""
        ledger = self.ledger
        several = [ledger.say(ledger.take_open()) for _ in range(8)]
        app = several[0].app
        others = [said for said in several if said.app != app]
        several = [said for said in several if said.app == app]
        again = several[-1:] if ledger.rng.random() < 0.3 else []
        await self.give_list([*several, *again])
        for said in others:
            await self.give(said)

    async def repeat(self) -> None:
        """Say what was acknowledged again, or something new twice at the same time."""
        ledger = self.ledger
        if ledger.rng.random() < 0.5:
            said = ledger.say(ledger.take_open())
            await asyncio.gather(self.give(said), self.give(said))
        elif ledger.acknowledged:
            said = ledger.rng.choice(ledger.acknowledged)
            if said.repeatable:
                await self.give(said)

    async def settle(self, acknowledged: int) -> None:
        """After a restart: say what is in doubt until it is acknowledged, and some of
        what was acknowledged again."""
        ledger = self.ledger
        while doubtful := [said for said in ledger.doubtful if said.repeatable]:
            for said in doubtful:
                if not said.acknowledged:
                    await self.give(said)
        several = ledger.rng.sample(
            ledger.acknowledged, min(acknowledged, len(ledger.acknowledged))
        )
        for said in several:
            while said.repeatable and not await self.give(said):
                pass  # it needed its input, or a model that is not up yet


async def change_policies(client: AsyncClipper, ledger: Ledger) -> None:
    """Change policies now and then until the server is gone."""
    changing = [app for app, policies in POLICIES.items() if len(policies) > 1]
    while True:
        await asyncio.sleep(ledger.rng.uniform(0, 0.5))
        app = ledger.rng.choice(changing)
        policy = ledger.rng.choice(POLICIES[app])
        try:
            await client.set_policy(app, policy.name, **policy.options)
        except ServerUnreachable:
            raise Gone from None
        except ClipperError as error:
            raise AssertionError(f"{app} does not take {policy}: {error}") from error
        ledger.counts["policies"] += 1


@asynccontextmanager
async def connected(client: AsyncClipper, ledger: Ledger) -> AsyncIterator[Connection]:
    connection = Connection(client, ledger)
    try:
        yield connection
    finally:
        await connection.close()
