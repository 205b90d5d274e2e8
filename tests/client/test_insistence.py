from __future__ import annotations

import pytest

from clipper.client.insistence import LONGEST_WAIT, WAITS, batched, insist
from clipper.errors import ClipperError, NotFound, Overloaded, ServerUnreachable


class Sender:
    """Fails with these errors, one after the other, then succeeds."""

    def __init__(self, *errors: ClipperError) -> None:
        self.errors = list(errors)
        self.tries = 0
        self.waits: list[float] = []

    async def send(self) -> str:
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return "taken"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)


async def test_what_works_is_sent_once() -> None:
    sender = Sender()
    assert await insist(sender.send, True, sender.sleep) == "taken"
    assert (sender.tries, sender.waits) == (1, [])


async def test_what_may_pass_is_sent_again_after_a_while() -> None:
    sender = Sender(ServerUnreachable("gone"), ServerUnreachable("gone"))
    assert await insist(sender.send, True, sender.sleep) == "taken"
    assert sender.waits == [*WAITS]


async def test_not_for_ever() -> None:
    sender = Sender(*(ServerUnreachable(str(i)) for i in range(9)))
    with pytest.raises(ServerUnreachable, match="2"):
        await insist(sender.send, True, sender.sleep)
    assert sender.tries == 1 + len(WAITS)


async def test_not_what_could_count_twice() -> None:
    sender = Sender(ServerUnreachable("gone"))
    with pytest.raises(ServerUnreachable):
        await insist(sender.send, False, sender.sleep)
    assert sender.tries == 1


async def test_not_what_would_fail_again() -> None:
    sender = Sender(NotFound("no such query id"))
    with pytest.raises(NotFound):
        await insist(sender.send, True, sender.sleep)
    assert sender.tries == 1


async def test_the_server_says_when_to_come_again() -> None:
    sender = Sender(Overloaded("full", retry_after=1), Overloaded("full", retry_after=900))
    assert await insist(sender.send, True, sender.sleep) == "taken"
    assert sender.waits == [1.0, LONGEST_WAIT]


def test_batches() -> None:
    assert list(batched(iter(range(5)), 2)) == [[0, 1], [2, 3], [4]]
    assert list(batched([], 2)) == []
