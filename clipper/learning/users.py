"""The users of one application whose experience is in memory, the others on disk."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator
from itertools import islice
from typing import Any

from clipper.learning.bloom import Bloom
from clipper.learning.experience import Experience
from clipper.selection.crowd import Crowd
from clipper.selection.policy import Arm

_LOOKED_AT = 8  # how many users an eviction looks at before it lets memory grow instead
FORGOTTEN = 10_000  # users of one application of whom it is known when they were forgotten


class User:
    """One user. `experience` is None while it is read from the disk; `compiled` is for
    whoever chooses by it."""

    __slots__ = ("compiled", "dirty", "experience", "pins", "suits", "version")

    def __init__(self, experience: Experience | None) -> None:
        self.experience = experience
        self.pins = 0  # feedback on its way to the log
        self.dirty = False  # learned since the last snapshot
        self.version = 0  # rises with what is learned
        self.compiled: Any = None
        # what the crowd that is named made of the user
        self.suits: tuple[Crowd, dict[Arm, float]] | None = None


class Users:
    """Keeps the users that were asked for last; those with something unsaved stay.

    `known` tells who may have a kept state; until the kept ones were counted in, anybody
    may.
    """

    def __init__(self, application: int, known: Bloom, most: int) -> None:
        self._application = application
        self._known = known
        self._most = most
        # All mutable state beside the above: users, the one asked for last at the end,
        # how often each is being forgotten, when those forgotten last were, in that order,
        # and whether all that are kept were told to `known`.
        self._users: OrderedDict[str, User] = OrderedDict()
        self.leaving: Counter[str] = Counter()
        self._forgotten: dict[str, float] = {}
        self.counted = False

    def __len__(self) -> int:
        return len(self._users)

    def __iter__(self) -> Iterator[tuple[str, User]]:
        return iter(self._users.items())

    def get(self, uid: str) -> User | None:
        """The user, if the experience is in memory or on its way there."""
        user = self._users.get(uid)
        if user is not None:
            self._users.move_to_end(uid)
        return user

    def holds(self, uid: str, user: User) -> bool:
        """Whether this is still the user of that uid."""
        return self._users.get(uid) is user

    def keeps(self, uid: str, user: User) -> bool:
        """Whether this is still the user of that uid, and will be."""
        return self.holds(uid, user) and uid not in self.leaving

    def may_be_kept(self, uid: str) -> bool:
        return not self.counted or (self._application, uid) in self._known

    def count(self, uid: str) -> None:
        """A user has a kept state, or will have one."""
        self._known.add((self._application, uid))

    def put(self, uid: str, experience: Experience | None) -> User:
        """Take a user into memory; None where the experience will follow."""
        user = self._users[uid] = User(experience)
        self._users.move_to_end(uid)
        self._evict()
        return user

    def remove(self, uid: str) -> None:
        self._users.pop(uid, None)

    def forget(self, uid: str, at: float) -> None:
        """A user was forgotten, at this time (seconds since the epoch)."""
        self.remove(uid)
        self._forgotten.pop(uid, None)
        self._forgotten[uid] = at
        if len(self._forgotten) > FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]

    def has_forgotten(self, uid: str, asked: float) -> bool:
        """Whether what a user asked at this time is nobody's by now. Query ids count whole
        seconds, so that those of the second in which the user was forgotten are."""
        return uid in self.leaving or self._forgotten.get(uid, 0.0) > asked

    def give_up(self, uid: str, user: User) -> None:
        """The experience of a user did not come; feedback on its way may still bring it."""
        if user.experience is None and not user.pins and self.holds(uid, user):
            del self._users[uid]

    @property
    def crowded(self) -> bool:
        """Whether half as many again as may be are in memory: the others must stay, most
        of them until a snapshot."""
        return len(self._users) > self._most * 3 // 2

    def trim(self) -> None:
        """Let go of those beyond the bound who need not stay: after a snapshot nearly
        nobody need."""
        excess = len(self._users) - self._most
        if excess > 0:
            idle = (uid for uid, user in self._users.items() if not _stays(user))
            for uid in list(islice(idle, excess)):
                del self._users[uid]

    def _evict(self) -> None:
        # never the newest: whoever takes a user into memory goes on with it
        for _ in range(min(_LOOKED_AT, len(self._users) - 1)):
            if len(self._users) <= self._most:
                return
            uid = next(iter(self._users))
            if _stays(self._users[uid]):
                self._users.move_to_end(uid)
            else:
                del self._users[uid]


def _stays(user: User) -> bool:
    return user.dirty or user.pins > 0 or user.experience is None
