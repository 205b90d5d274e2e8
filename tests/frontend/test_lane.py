"""What the connections of the query port share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec.structs import replace

from clipper.config import Limits, Settings
from clipper.frontend.gate import Gate
from clipper.frontend.heads import Heads
from clipper.frontend.lane import Lane


class FakeConnection:
    def __init__(self) -> None:
        self.ticks: list[int] = []
        self.finished = self.aborted = False
        self.transport = self
        self.broken = False

    def overdue(self, tick: int) -> None:
        self.ticks.append(tick)
        if self.broken:
            raise ZeroDivisionError

    def finish(self) -> None:
        self.finished = True

    def abort(self) -> None:
        self.aborted = True


def make_lane(**limits: Any) -> Lane:
    every = replace(Limits(), **limits)
    heads = Heads(Gate(Settings(), "secret", admin=False), every.body)
    return Lane(None, heads, every, asyncio.Protocol)  # type: ignore[arg-type]


async def test_connections_are_counted_in_both_lanes() -> None:
    lane = make_lane(connections=3)
    connections: list[Any] = [FakeConnection() for _ in range(3)]
    assert lane.add(connections[0])
    lane.handed_over = 1
    assert lane.add(connections[1])
    assert not lane.add(connections[2])
    lane.remove(connections[2])
    lane.remove(connections[2])
    assert not lane.add(connections[2])
    lane.handed_over = 0
    lane.remove(connections[2])
    assert lane.add(connections[2])
    lane.close()
    assert all(connection.aborted for connection in connections)


async def test_a_draining_lane_has_no_room() -> None:
    lane = make_lane()
    first: Any = FakeConnection()
    assert lane.add(first)
    lane.drain()
    assert first.finished
    late: Any = FakeConnection()
    assert not lane.add(late)
    lane.close()


async def test_bytes_in_flight_have_a_bound() -> None:
    lane = make_lane(bytes_in_flight=10)
    assert lane.reserve(6, "a")
    assert not lane.reserve(5, "b")
    assert lane.bytes_in_flight == 6
    assert lane.reserve(4, "b")
    lane.release(6, "a")
    assert lane.reserve(6, "a")
    for name, size in (("a", 6), ("b", 4)):
        lane.release(size, name)
    assert lane.bytes_in_flight == 0 and not lane._in_flight_of


@pytest.mark.fault("N3")
async def test_one_application_leaves_the_others_a_part() -> None:
    lane = make_lane(bytes_in_flight=100, body=10)
    assert [lane.reserve(25, "a") for _ in range(4)] == [True, True, True, False]
    assert lane.reserve(25, "b")
    lane.release(25, "a")
    assert lane.reserve(25, "a")
    alone = make_lane(bytes_in_flight=100, body=100)
    assert alone.reserve(100, "a")


async def test_the_sweep_runs_only_while_there_are_connections() -> None:
    lane = make_lane()
    assert lane._timer is None
    connection: Any = FakeConnection()
    lane.add(connection)
    assert lane._timer is not None
    lane._timer.cancel()
    lane._sweep()
    assert connection.ticks == [1]
    assert lane._timer is not None
    lane.remove(connection)
    lane._timer.cancel()
    lane._sweep()
    assert lane._timer is None
    lane.add(connection)
    assert lane._timer is not None
    lane.close()


async def test_one_broken_connection_does_not_end_the_sweep() -> None:
    lane = make_lane()
    broken: Any = FakeConnection()
    broken.broken = True
    lane.add(broken)
    assert lane._timer is not None
    lane._timer.cancel()
    with pytest.raises(ZeroDivisionError):
        lane._sweep()
    assert lane._timer is not None
    lane.close()


async def test_waiting_for_the_last_connection() -> None:
    lane = make_lane()
    await lane.wait_closed(0.0)
    connection: Any = FakeConnection()
    lane.add(connection)
    waiting = asyncio.ensure_future(lane.wait_closed(10.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    lane.remove(connection)
    await waiting
    lane.add(connection)
    await lane.wait_closed(0.0)  # in vain, within the bound
    lane.close()


def test_shows_its_counts() -> None:
    assert "bytes_in_flight=0" in repr(make_lane())
