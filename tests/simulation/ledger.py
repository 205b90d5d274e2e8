"""What was committed, deployed, asked and said: what answers and logs are held against."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from clipper.errors import ClipperError
from clipper.learning import events
from clipper.pieces import Item
from clipper.records import ApplicationRecord, ModelRecord
from clipper.selection.policy import Arm, generation_of, model_of
from clipper.store.base import (
    Appended,
    Change,
    DeleteModel,
    Entry,
    Logged,
    Person,
    PutApplication,
    PutModel,
    SetCurrent,
)

from .processes import Function

if TYPE_CHECKING:
    from .core import Core
    from .critics import Asked

NEVER = math.inf


class Span:
    """From the commit of something to the news that it is over."""

    __slots__ = ("begun", "ended")

    def __init__(self, begun: float) -> None:
        self.begun = begun
        self.ended = NEVER


class Ledger:
    """Told by the disk of all that is committed, and by visitors of all they are told."""

    # State: what went wrong; when each generation was the current one of its model, and
    # when it was there at all; the function of each generation; the first record of each
    # application; what was asked, by the key its feedback has; what was said of it; which
    # of that was acknowledged, how often as new; who was forgotten; and which
    # applications' logs may be gone; and what became of feedback.

    def __init__(self, world: Core) -> None:
        self.world = world
        self.broken: list[str] = []
        self.current: dict[str, dict[int, Span]] = {}
        self.existing: dict[int, Span] = {}
        self.functions: dict[int, Function] = {}
        self.registered: dict[int, ApplicationRecord] = {}
        self.asked: dict[tuple[int, str], Asked] = {}
        self.said: dict[tuple[int, str], list[Item]] = {}
        self.acked: Counter[tuple[int, str]] = Counter()
        self.forgotten: set[Person] = set()
        self.dropped: set[int] = set()
        self.entries = 0
        self.outcomes: Counter[str] = Counter()
        self._generations: dict[tuple[str, str], int] = {}
        self._closing: dict[int, list[Span]] = {}

    def expect(self, condition: object, message: str) -> None:
        if not condition:
            self.broken.append(message)

    # -- records -------------------------------------------------------------------------

    def committed(self, changes: Sequence[Change]) -> None:
        """The disk has taken these; the server does not know yet."""
        now = self.world.clock.now()
        closing = self._closing.setdefault(id(changes), [])
        for change in changes:
            if isinstance(change, PutModel):
                self._put_model(change.record, now)
            elif isinstance(change, DeleteModel):
                generation = self._generations[change.name, change.version]
                closing.append(self.existing[generation])
            elif isinstance(change, SetCurrent):
                self._set_current(change, now, closing)
            elif isinstance(change, PutApplication):
                self.registered.setdefault(change.record.number, change.record)
        self.world.note(f"commit {[type(change).__name__ for change in changes]}")

    def _put_model(self, record: ModelRecord, now: float) -> None:
        if record.generation in self.existing:
            return  # its replicas
        self._generations[record.name, record.version] = record.generation
        self.existing[record.generation] = Span(now)
        if record.blob is not None:
            self.functions[record.generation] = self.world.blobs[record.blob]

    def _set_current(self, change: SetCurrent, now: float, closing: list[Span]) -> None:
        spans = self.current.setdefault(change.name, {})
        generation = None
        if change.version is not None:
            generation = self._generations[change.name, change.version]
        for other, span in spans.items():
            if other != generation and span.ended == NEVER:
                closing.append(span)
        if generation is not None:
            before = spans.get(generation)
            if before is None or before.ended != NEVER or before in closing:
                spans[generation] = Span(min(now, before.begun if before else now))

    def told(self, changes: Sequence[Change]) -> None:
        """The server knows."""
        now = self.world.clock.now()
        for span in self._closing.pop(id(changes)):
            span.ended = now

    @property
    def under_way(self) -> bool:
        """Whether something is committed that the server does not know of."""
        return bool(self._closing)

    def begin_life(self) -> None:
        """What is committed is what there is."""
        now = self.world.clock.now()
        for closing in self._closing.values():
            for span in closing:
                span.ended = now
        self._closing.clear()

    def may_answer(self, arm: Arm, asked: float, by_version: bool) -> bool:
        """Whether that version was there for a query asked then."""
        generation = generation_of(arm)
        if by_version:
            span = self.existing.get(generation)
        else:
            span = self.current.get(model_of(arm).name, {}).get(generation)
        return span is not None and span.begun <= asked <= span.ended

    # -- feedback ------------------------------------------------------------------------

    def says(self, number: int, key: str, item: Item) -> None:
        self.said.setdefault((number, key), []).append(item)

    def logged(self, entries: Sequence[Entry], appended: Appended) -> None:
        """The disk has taken entries of the feedback log."""
        self.world.note(f"log {len(entries)}")
        for entry, outcome in zip(entries, appended.entries, strict=True):
            if isinstance(outcome, Logged):
                continue
            self.entries += 1
            event = events.decode(entry.body)
            if isinstance(event, events.Feedback):
                self._check_entry(entry, event)

    def _check_entry(self, entry: Entry, event: events.Feedback) -> None:
        number = entry.application
        key = entry.key or f"i:{event.input}"
        said = self.said.get((number, key), [])
        label = None if event.reward is not None else event.label
        alike = [i for i in said if i.reward == event.reward and _label(i) == label]
        self.expect(alike, f"nobody said {event}")
        asked = self.asked.get((number, key))
        if event.input is None and asked is not None:
            asked.check_event(event, self)
            # of a decision that was lost nobody knows that it came to nothing
            evaluated = any(item.row is not None for item in said)
            by_default = asked.failed and (not evaluated or None)
            value = asked.value
        else:
            by_default, value = False, self.world.inputs.get(event.input or "", 0)
        if event.reward is None and self.registered[number].loss == "zero_one":
            self._check_losses(event, value, by_default)

    def _check_losses(
        self, event: events.Feedback, value: int, by_default: bool | None
    ) -> None:
        """Of the default output, if `by_default`; None: or not."""
        for arm, loss in event.losses.items():
            function = self.functions.get(generation_of(arm))
            right = set()
            if function is not None:
                right = {float(int(function.answers(value)) != event.label)}
            if by_default is not False and arm in event.chosen:
                right = {float(event.label != DEFAULT)} | (
                    right if by_default is None else set()
                )
            self.expect(loss in right, f"a loss of {loss} of {arm} for {value}: {event}")

    def acknowledged(
        self, number: int, key: str, item: Item, duplicate: bool, error: ClipperError | None
    ) -> None:
        """A visitor was told what became of a piece of feedback."""
        self.world.note(f"told {key} {duplicate} {error and error.code}")
        self.outcomes[error.code if error else "known" if duplicate else "new"] += 1
        if error is not None or number in self.dropped:
            return
        if key.startswith("i:"):
            logged = [e for e in self._entries(number) if e.input == key[2:]]
            self.acked[number, key] += 1
            self.expect(len(logged) >= self.acked[number, key], "not in the log: an input")
            return
        entry = self.entry(number, key)
        self.expect(entry is not None, f"acknowledged, and not in the log: {key}")
        if entry is None:
            return
        event = events.decode(entry.body)
        assert isinstance(event, events.Feedback)
        same = event.reward == item.reward and (
            event.reward is not None or event.label == _label(item)
        )
        self.expect(same, f"acknowledged, and other feedback is in the log: {key}")
        if not duplicate:
            self.acked[number, key] += 1
            self.expect(self.acked[number, key] == 1, f"taken twice: {key}")

    def entry(self, number: int, key: str) -> Entry | None:
        found = self.world.disk.kept._applications.get(number)
        logged = None if found is None else found.of(key)
        return None if logged is None else logged.entry

    def _entries(self, number: int) -> list[events.Feedback]:
        bodies = [events.decode(e.entry.body) for e in self.world.disk.entries(number)]
        return [event for event in bodies if isinstance(event, events.Feedback)]

    def check_acknowledged(self) -> None:
        """All that was acknowledged is there, once."""
        keys = Counter(
            (entry.application, entry.key)
            for number in self.registered
            for _, entry in self.world.disk.entries(number)
            if entry.key is not None
        )
        self.expect(not keys or max(keys.values()) == 1, "a key is in the log twice")
        for number, key in self.acked:
            if number not in self.dropped and not key.startswith("i:"):
                self.expect(keys[number, key], f"lost: {key}")


def _label(item: Item) -> Any:
    return None if item.label is msgspec.UNSET else item.label


DEFAULT = -1
