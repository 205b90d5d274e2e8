"""What one application has learned: a fold over its entries of the feedback log.

Invariant: states change by `apply` alone, in the order of the log, after the commit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from clipper.errors import InvalidInput
from clipper.learning.bloom import Bloom
from clipper.learning.events import Event, Feedback, Halt, PolicyChange, Prior
from clipper.learning.experience import Experience, begin, complain
from clipper.learning.users import User, Users
from clipper.records import PolicySettings
from clipper.selection import crowd
from clipper.selection.combine import make_combiner
from clipper.selection.losses import make_loss
from clipper.selection.policy import (
    Arm,
    Ensemble,
    Observation,
    SelectionPolicy,
    State,
    Total,
)
from clipper.selection.registry import make_policy
from clipper.selection.totals import prune

logger = logging.getLogger(__name__)


class Learner:
    """The policy of one application, the population's experience and its users'."""

    def __init__(
        self,
        application: int,
        generation: int,
        settings: PolicySettings,
        known: Bloom,
        most_users: int,
        loss: str = "zero_one",
    ) -> None:
        self.application = application
        self._loss = loss
        # All mutable state beside the users: the policy as of the last entry, why it
        # cannot be had (None if it can) and whether for what was learned, which cannot be
        # read, the population, its version, which rises with
        # what is learned, arms that a guard took out with the reason, and how many
        # entries came since the last snapshot, and since when; and, beside the fold, what
        # its users have in common, with the arms that were there lately, and the generation
        # that was asked for last, which the log may not know yet.
        self.users = Users(application, known, most_users)
        self.missing: str | None = None
        self.damaged = False
        self.wanted = generation
        self.set_policy(generation, settings)
        self.population = Experience(self.policy)
        self.version = 0
        self.halted: dict[Arm, str] = {}
        self.unsaved = 0
        self.unsaved_since: float | None = None

    def __repr__(self) -> str:
        seq, users = self.population.seq, len(self.users)
        return f"<Learner {self.policy.name} seq={seq} users={users}>"

    def set_policy(self, generation: int, settings: PolicySettings) -> None:
        """Choose by this policy from now on; states follow with `apply`."""
        self.generation = generation
        self.settings = settings
        self.arms: tuple[Arm, ...] = ()
        self.policy: SelectionPolicy
        try:
            self.policy = self._make_policy(settings)
            self.missing = None
        except InvalidInput as error:
            # a program's own policy that it did not add this time, or one that an earlier
            # version took: what it learned must not be overwritten, and predictions go on
            self.missing = str(error)
            self.policy = make_policy(PolicySettings())
            logger.error(
                "the first model answers, and no feedback is taken: %s", self.missing
            )
        self.crowd = self._make_crowd()

    def give_up(self, reason: str) -> None:
        """What was learned cannot be read: others must not suffer for it, and it must stay
        as it is until somebody has seen to it."""
        self.damaged = True
        self.missing = (
            f"what was learned cannot be read ({reason}); put that right, or restore the "
            "data directory from a backup, and start the server again; or delete the "
            "application and register it again to begin anew"
        )
        self.policy = make_policy(PolicySettings())
        self.population = Experience(self.policy)
        self.crowd = None
        self.users.counted = True  # nobody's experience is to be read
        logger.error(
            "application %d: the first model answers, and no feedback is taken: %s",
            self.application,
            self.missing,
        )

    def _make_policy(self, settings: PolicySettings) -> SelectionPolicy:
        policy = make_policy(settings)
        if isinstance(policy, Ensemble):
            make_combiner(policy, make_loss(self._loss))
        return policy

    def _make_crowd(self) -> crowd.Crowd | None:
        try:
            return self.policy.make_crowd()
        except Exception:
            complain(self.policy)
            return None

    @property
    def sticky(self) -> bool:
        """Whether a user's draw is always the same."""
        return getattr(self.policy, "sticky", False)

    # -- the fold -----------------------------------------------------------------------

    def apply(self, seq: int, uid: str | None, event: Event) -> None:
        """Take one entry over. The experience of its user must be in memory by then. An
        entry that is in already changes nothing."""
        if seq <= self.population.seq:
            return
        if isinstance(event, Feedback):
            self._learn(seq, uid, event)
        elif isinstance(event, PolicyChange):
            self.set_policy(event.generation, event.settings)
            self.population.adopt(self.policy)
            self._recall()
            self.halted = {}
        elif event.generation != self.generation:
            pass  # it was of a policy that is gone
        elif isinstance(event, Halt):
            # beyond the bound the first ones go: a guard takes out again who is still there
            self.halted[event.arm] = event.reason
            prune(self.halted, ())
        else:
            prior = crowd.Prior(event.rate, event.weights)
            self.population.adopt(self.policy)
            self._take_prior(prior)
        self.population.seq = seq
        self.version += 1
        self.unsaved += 1

    def _take_prior(self, prior: crowd.Prior) -> None:
        everybody = self.population
        try:
            everybody.state = self.policy.with_prior(everybody.state, prior)
        except Exception:
            complain(self.policy)

    def _learn(self, seq: int, uid: str | None, event: Feedback) -> None:
        seen, everybody = event.observation(), self.population
        if uid is None or not self.policy.personal:
            everybody.observe(self.policy, seen, seq)
            return
        user = self.users.get(uid)
        if user is None or user.experience is None:
            user = self.admit(uid, None)
        assert user.experience is not None
        own = user.experience
        # where it was kept later than the population's it can have this in already, and be
        # another policy's by then
        fresh = own.seq < seq
        if self.crowd is not None and fresh:  # before anybody has learned of it
            self._judge(self.crowd, own, seen)
        everybody.observe(self.policy, seen, seq)
        own.observe(self.policy, seen, seq)
        if self.crowd is not None and fresh:
            self._count(self.crowd, user, own.state, seen)
        user.dirty = True
        user.version += 1

    def _judge(self, users: crowd.Crowd, own: Experience, seen: Observation) -> None:
        everybody = self.population
        if not everybody.policy == own.policy == self.policy.name:
            return
        try:
            users.judge(everybody.state, own.state, seen)
        except Exception:
            complain(self.policy)

    def _count(self, users: crowd.Crowd, user: User, own: State, seen: Observation) -> None:
        if not (seen.losses and seen.arms):
            return
        before = None
        if user.suits is not None and user.suits[0] is users:
            before = user.suits[1]
        try:
            user.suits = (users, users.count(own, seen.arms, before))
        except Exception:
            complain(self.policy)
        self.arms = seen.arms

    def _recall(self) -> None:
        if self.crowd is None or self.population.policy != self.policy.name:
            return
        try:
            prior = self.policy.prior_of(self.population.state)
        except Exception:
            complain(self.policy)
            return
        if prior is not None:
            self.crowd.recall(prior)

    def news(self) -> Prior | None:
        """What the log should hold of the users, if it does not yet."""
        if self.crowd is None or self.missing is not None:
            return None
        found = self.crowd.news(self.arms)
        return found and Prior(self.generation, found.rate, found.weights)

    def admit(self, uid: str, kept: bytes | None) -> User:
        """A user's experience as it was kept, or a new one; now it is in memory."""
        experience = Experience(self.policy) if kept is None else Experience.unpack(kept)
        self.users.count(uid)
        user = self.users.get(uid)
        if user is None:
            return self.users.put(uid, experience)
        if user.experience is None:
            user.experience = experience
        return user

    # -- snapshots ----------------------------------------------------------------------

    def pack(self) -> bytes:
        """Everything but the users."""
        return self.begin_pack()()

    def begin_pack(self) -> Callable[[], bytes]:
        """The same in two steps, each of which takes some milliseconds where a policy has
        large arrays. What the second gives is as of the first."""
        parts = (self.generation, self.settings, dict(self.halted), self.population.pack())
        return lambda: msgspec.msgpack.encode(parts)

    def unpack(self, data: bytes) -> None:
        generation, settings, self.halted, population = msgspec.msgpack.decode(
            data, type=tuple[int, PolicySettings, dict[Arm, str], bytes]
        )
        self.set_policy(generation, settings)
        self.population = Experience.unpack(population)
        self._recall()
        self.version += 1

    # -- what follows from it -----------------------------------------------------------

    def state_for(self, user: User | None) -> State:
        """What a choice follows from: the population's state, or a user's own with the
        population's as its prior. Not to be changed."""
        population = self.population
        if user is None or user.experience is None or not self.policy.personal:
            return population.state
        own = user.experience
        state = own.state
        if own.policy != self.policy.name:
            state = begin(self.policy, own.totals)
        return self.policy.blend(population.state, state)

    def score(self, arms: Sequence[Arm], user: User | None = None) -> list[Total]:
        """How often each arm's loss was learned, and the sum."""
        experience = self.population
        if user is not None and user.experience is not None:
            experience = user.experience
        return [experience.totals.get(arm, Total(0.0, 0.0)) for arm in arms]
