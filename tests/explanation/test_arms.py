"""What an application has learned, over fake replicas and a log in memory."""

from __future__ import annotations

import msgspec
import pytest
from fakes import FakeLoop, ManualClock
from house import House

from clipper.application import Application
from clipper.explanation.arms import arm_facts, choosing, learned, weights_of
from clipper.learning.events import Feedback, Halt
from clipper.learning.experience import Experience
from clipper.learning.learner import Learner
from clipper.model import Model
from clipper.records import PolicySettings
from clipper.selection.policy import Arm
from clipper.shadowing import Comparison
from clipper.store.base import Person, Snapshot


class School:
    """An application over two models."""

    def __init__(self, policy: str, **options: object) -> None:
        clock = ManualClock()
        self.house = House(clock, FakeLoop(clock))
        self.models: list[Model] = [self.house.model("a"), self.house.model("b")]
        settings = PolicySettings(policy, dict(options))
        self.app: Application = self.house.application(*self.models, policy=settings)
        self.app.update(self.app.record, self.models, {})
        self.learner: Learner = self.app.learner
        self.seq = 0

    @property
    def arms(self) -> list[Arm]:
        return [*self.app.arms]

    def learn(self, *losses: float, uid: str | None = None) -> None:
        self.seq += 1
        known = dict(zip(self.arms, losses, strict=False))
        chosen = (next(iter(known)),)
        self.learner.apply(
            self.seq, uid, Feedback(tuple(self.arms), known, chosen, 0.5, losses[0])
        )


async def test_every_arm_with_its_score() -> None:
    school = School("hedge", eta=1.0)
    school.learn(0.0, 1.0)
    school.learn(0.5, 1.0)
    first, second = arm_facts(school.app)
    assert (first.model, first.feedback, first.mean_loss) == ("a:1", 2, 0.25)
    assert (second.model, second.feedback, second.mean_loss) == ("b:1", 2, 1.0)
    assert first.weight is not None and second.weight is not None
    assert first.weight > 0.5 > second.weight
    assert first.weight + second.weight == pytest.approx(1.0, abs=1e-5)


async def test_how_it_chooses() -> None:
    school = School("epsilon_greedy", epsilon=0.2)
    stats = school.app.stats
    stats.feedback, stats.duplicates = 5, 1
    stats.refused["conflict"] += 2
    found = choosing(school.app)
    assert (found.policy, found.options) == ("epsilon_greedy", {"epsilon": 0.2})
    assert (found.kind, found.learns, found.personal) == ("single", True, True)
    assert (found.feedback, found.duplicates, found.refused) == (5, 1, {"conflict": 2})
    assert [arm.weight for arm in found.arms] == [0.5, 0.5]


async def test_an_arm_that_a_guard_took_out() -> None:
    school = School("canary", weights={"a": 0.5, "b": 0.5})
    halt = Halt(school.arms[1], "it is slow", school.learner.generation)
    school.learner.apply(1, None, halt)
    school.app.policy_changed()
    first, second = arm_facts(school.app)
    assert (first.weight, first.halted) == (1.0, None)
    assert (second.weight, second.halted) == (0.0, "it is slow")
    assert first.guard is not None and first.guard.queries == 0


async def test_a_shadow() -> None:
    school = School("shadow")
    found = school.app.watch.comparisons[school.arms[1]] = Comparison()
    found.agreed, found.differed, found.failed = 3, 1, 2
    found.latency.observe(0.004)
    answering, shadow = arm_facts(school.app)
    assert answering.shadow is None
    assert shadow.shadow is not None
    assert (shadow.shadow.agreement, shadow.shadow.compared) == (0.75, 4)
    assert (shadow.weight, shadow.shadow.failed) == (0.0, 2)
    assert shadow.shadow.p50_ms is not None


async def test_members_that_were_late() -> None:
    school = School("hedge")
    school.app.stats.missing["b:1"] += 3
    assert [arm.missing for arm in arm_facts(school.app)] == [0, 3]


async def test_the_context_decides() -> None:
    school = School("linucb", features=2)
    assert weights_of(school.app) == {}
    assert [arm.weight for arm in arm_facts(school.app)] == [None, None]


# -- what was learned --------------------------------------------------------------------


async def test_everybodys() -> None:
    school = School("ucb1")
    school.learn(1.0)
    found = await learned(school.house.learning, school.app)
    assert (found["policy"], found["uid"]) == ("ucb1", None)
    assert "known" not in found
    first, second = found["arms"]
    assert (first["model"], first["pulls"], first["mean_loss"]) == ("a:1", 1, 1.0)
    assert (second["pulls"], second["mean_loss"]) == (0, None)
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


async def test_a_users_own_and_what_follows_from_both() -> None:
    school = School("hedge", eta=1.0)
    for _ in range(20):
        school.learn(1.0, 0.0)
    for _ in range(20):
        school.learn(0.0, 1.0, uid="alice")
    for uid, known, pulls in (("alice", True, 20), ("bob", False, 0)):
        found = await learned(school.house.learning, school.app, uid)
        assert (found["uid"], found["known"]) == (uid, known)
        assert [arm["pulls"] for arm in found["arms"]] == [pulls, pulls]
    own = await learned(school.house.learning, school.app, "alice")
    population = await learned(school.house.learning, school.app)
    assert own["arms"][0]["weight"] > population["arms"][0]["weight"]
    assert len(school.learner.users) == 1, "to look at somebody makes no state"


async def test_a_user_on_the_disk_is_read_and_not_kept_in_memory() -> None:
    school = School("hedge")
    school.learn(0.0, 1.0, uid="alice")
    user = school.learner.users.get("alice")
    assert user is not None and user.experience is not None
    log, number = school.house.learning.log, school.app.number
    packed = user.experience.pack()
    await log.save(Snapshot(number, 0, {"alice": packed}), 10)
    school.learner.users.remove("alice")
    found = await learned(school.house.learning, school.app, "alice")
    assert (found["known"], found["arms"][0]["pulls"]) == (True, 1)
    assert school.learner.users.get("alice") is None
    assert await log.state_of(Person(number, "alice")) == packed


async def test_arms_that_left_are_told_apart() -> None:
    school = School("ucb1")
    school.learn(0.5)
    gone = school.arms[0]
    school.app.update(school.app.record, school.models[1:], {})
    found = await learned(school.house.learning, school.app)
    assert [arm["model"] for arm in found["arms"]] == ["b:1"]
    assert [arm["arm"] for arm in found["former_arms"]] == [gone]


async def test_states_with_arrays_are_shown_as_lists() -> None:
    school = School("linucb", features=2)
    arms = tuple(school.arms)
    event = Feedback(arms, {arms[0]: 0.5}, (arms[0],), 0.5, 0.5, [1.0, 2.0])
    school.learner.apply(1, None, event)
    found = await learned(school.house.learning, school.app)
    assert found["contextual"] is True
    assert found["arms"][0]["weight"] is None
    assert msgspec.json.decode(msgspec.json.encode(found["state"])) == found["state"]
    assert isinstance(school.learner.population, Experience)
