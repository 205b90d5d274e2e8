"""What every batch controller promises. A controller's test module derives from
ControllerContract and says how one is made."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clipper.batching.controller import Backlog, BatchController, Plan
from clipper.batching.latency import LatencyModel

Make = Callable[[float, int], BatchController]  # objective in seconds, most rows


class FakeBacklog:
    """So many rows, one deadline each."""

    def __init__(self, deadlines: list[float]) -> None:
        self._deadlines = sorted(deadlines)

    @property
    def rows(self) -> int:
        return len(self._deadlines)

    @property
    def head(self) -> float:
        return self._deadlines[0]

    def deadlines(self, limit: int) -> list[float]:
        return self._deadlines[:limit]


class Known:
    """A controller that knows its replica's speed and learns nothing."""

    def __init__(
        self,
        per_row: float = 0.001,
        fixed: float = 0.01,
        *,
        cap: int = 10,
        objective: float = 1.0,
        noise: float = 0.0,
    ) -> None:
        self.objective = objective
        self.bound = self.cap = cap
        latency = LatencyModel()
        self.latency: LatencyModel | None = latency
        for turn in range(100):
            for rows in (1, 100):
                seconds = per_row * rows + fixed
                latency.record(rows, seconds + (noise if turn % 5 == 4 else 0.0))

    def plan(self, now: float, backlog: Backlog) -> Plan:
        return Plan(0, self.cap)

    def record(self, size: int, service_seconds: float) -> None:
        pass


class Blind(Known):
    """A controller that knows nothing of latencies, as a program may bring one."""

    def __init__(self, *, cap: int = 10) -> None:
        super().__init__(cap=cap)
        self.latency = None


def serve(
    controller: BatchController,
    seconds_of: Callable[[int], float],
    batches: int,
    waiting: int,
) -> list[int]:
    """The sizes of so many batches with `waiting` rows in the queue before each."""
    sizes = []
    for _ in range(batches):
        plan = controller.plan(0.0, FakeBacklog([1e9] * waiting))
        size = min(plan.take, waiting - plan.drop)
        if size:
            sizes.append(size)
            controller.record(size, seconds_of(size))
    return sizes


records = st.lists(
    st.tuples(st.integers(1, 300), st.floats(0.0, 100.0, allow_nan=False)), max_size=60
)


class ControllerContract:
    @staticmethod
    def make(objective: float, bound: int) -> BatchController:
        raise NotImplementedError

    # one test for the classes of all controllers, on purpose
    @settings(suppress_health_check=[HealthCheck.differing_executors])
    @given(
        records=records,
        objective=st.floats(1e-4, 10.0),
        bound=st.integers(1, 200),
        ahead=st.lists(st.floats(-10.0, 10.0), min_size=1, max_size=30),
    )
    def test_every_plan_makes_progress_within_the_bound(
        self,
        records: list[tuple[int, float]],
        objective: float,
        bound: int,
        ahead: list[float],
    ) -> None:
        controller = self.make(objective, bound)
        backlog = FakeBacklog([1000.0 + seconds for seconds in ahead])
        for size, seconds in [*records, (1, 0.0)]:
            plan = controller.plan(1000.0, backlog)
            assert plan.drop >= 0 and plan.take >= 0
            assert plan.drop + plan.take >= 1, "the dispatcher would turn for ever"
            assert plan.drop <= backlog.rows
            assert plan.take <= bound
            assert 1 <= controller.cap <= bound
            controller.record(size, seconds)

    def test_the_same_history_makes_the_same_plans(self) -> None:
        rng = random.Random(7)
        history = [(rng.randint(1, 50), rng.random()) for _ in range(200)]
        one, other = self.make(0.3, 64), self.make(0.3, 64)
        for size, seconds in history:
            one.record(size, seconds)
            other.record(size, seconds)
            assert one.cap == other.cap

    def test_planning_alone_teaches_nothing(self) -> None:
        controller = self.make(0.3, 64)
        backlog = FakeBacklog([1e9] * 10)
        plans = {controller.plan(float(i), backlog) for i in range(5)}
        assert len(plans) == 1

    def test_the_objective_can_be_changed(self) -> None:
        controller = self.make(0.3, 64)
        controller.objective = 0.1
        assert controller.objective == 0.1
        assert serve(controller, lambda size: 0.001, 5, 100)

    def test_without_need_nothing_is_given_up(self) -> None:
        controller = self.make(1.0, 64)
        for _ in range(20):
            plan = controller.plan(0.0, FakeBacklog([1e9] * 50))
            assert plan.drop == 0
            controller.record(min(plan.take, 50), 0.001)

    def test_a_copy_learns_apart(self) -> None:
        """A new replica begins with a copy of what its siblings have learned."""
        first = self.make(0.3, 64)
        serve(first, lambda size: 0.001 * size, 30, 100)
        other, before = deepcopy(first), first.cap
        assert (other.cap, other.objective, other.bound) == (before, 0.3, first.bound)
        serve(other, lambda size: 9.0, 300, 100)
        other.objective = 0.1
        assert (first.cap, first.objective) == (before, 0.3)

    def test_any_backlog_comes_to_its_end(self) -> None:
        controller, rng, now = self.make(0.1, 64), random.Random(3), 0.0
        deadlines = sorted(rng.uniform(0.0, 3.0) for _ in range(3000))
        for _ in range(3000):
            plan = controller.plan(now, FakeBacklog(deadlines))
            del deadlines[: plan.drop]
            size = min(plan.take, len(deadlines))
            if size:
                seconds = 0.002 * size + 0.01
                controller.record(size, seconds)
                now += seconds
                del deadlines[:size]
            if not deadlines:
                break
        assert deadlines == []
