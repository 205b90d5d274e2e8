"""What a client said of which answers, and what of it a server acknowledged.

Models, inputs and labels are such that the ledger can tell from an entry of the log alone
whether it says what the client said and what the models answered.
"""

from __future__ import annotations

import base64
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from clipper.inputs import InputType, encode_json_value
from clipper.learning import events
from clipper.records import PolicySettings
from clipper.selection.policy import Arm, model_of
from clipper.store.base import Entry

# How many of ten inputs each model gets right.
SKILLS = {"poor": 4, "fair": 6, "good": 8}

FEATURES = 3
UIDS = 300
MOST_OPEN = 2000  # queries without feedback that are remembered

# The policies of each application; where there are several it changes between them.
POLICIES: dict[str, list[PolicySettings]] = {
    "single": [
        PolicySettings("epsilon_greedy", {"epsilon": 0.3}),
        PolicySettings("ucb1"),
        PolicySettings("static"),
        PolicySettings("exp3_ix"),
        PolicySettings("discounted_ucb"),
    ],
    "exp3": [PolicySettings("exp3")],
    "people": [PolicySettings("hedge"), PolicySettings("hedge", {"share": 0.01})],
    "thompson": [PolicySettings("thompson")],
    "context": [PolicySettings("linucb", {"features": FEATURES})],
    "mixed": [PolicySettings("thompson"), PolicySettings("exp4"), PolicySettings("hedge")],
    "static": [PolicySettings("static")],
}
PERSONAL = ("people", "single", "mixed")


def answer_of(model: str, x: float) -> int:
    """What a model answers: right for its share of inputs, else a number of its own."""
    place = list(SKILLS).index(model)
    luck = (int(x) * 2654435761 + place * 40503) // 64 % 10
    return truth(x) if luck < SKILLS[model] else 10 + place


def truth(x: float) -> int:
    return int(x) % 3


def make_model(name: str) -> Callable[[Any], list[int]]:
    def predict(rows: Any) -> list[int]:
        return [answer_of(name, float(row[0])) for row in rows]

    return predict


class Asked:
    """A query with its answer."""

    def __init__(
        self, app: str, x: float, uid: str | None, context: Any, answer: dict[str, Any]
    ) -> None:
        self.app, self.x, self.uid, self.context = app, x, uid, context
        self.query_id: str = answer["query_id"]
        self.output: Any = answer["output"]
        self.default: bool = answer["default"]
        self.ensemble = "confidence" in answer

    @property
    def key(self) -> str:
        """The key of feedback on it in the log."""
        token, _, row = self.query_id.partition(".")
        nonce = int.from_bytes(base64.urlsafe_b64decode(token)[22:30], "little")
        return f"{nonce:x}.{int(row or 0):x}"


class Said:
    """One piece of feedback. `key` is that of its entry in the log; without a name of its
    own it is known by its input."""

    def __init__(
        self, app: str, key: str, x: float, body: dict[str, Any], asked: Asked | None
    ) -> None:
        self.app, self.key, self.x, self.body, self.asked = app, key, x, body, asked
        self.tells_uid = "uid" in body
        # All that changes beside the body: how often it was sent and answered as new.
        self.sent = self.fresh = 0
        self.acknowledged = False

    @property
    def repeatable(self) -> bool:
        return not self.key.startswith("i:")

    def bring_input(self) -> None:
        """Say it again as `resend_input` asks for."""
        assert self.asked is not None
        self.body["input"] = [self.x]
        if self.asked.context is not None:
            self.body["context"] = self.asked.context
        if self.asked.uid is not None:
            self.body["uid"] = self.asked.uid

    def check(self, entry: Entry, event: events.Feedback) -> None:
        """Whether an entry of the log is what was said, of what was answered."""
        assert (event.label, event.reward) == (
            self.body.get("label"),
            self.body.get("reward"),
        )
        if self.asked is None:
            assert entry.uid == self.body.get("uid")
            self._check_losses(event)
        else:
            # a lost decision takes its uid along if the client does not tell it
            wanted = {self.asked.uid} if self.tells_uid else {self.asked.uid, None}
            assert entry.uid in wanted
            if not self.asked.default:
                self._check_decision(event, self.asked)

    def _check_decision(self, event: events.Feedback, asked: Asked) -> None:
        lost = asked.ensemble and not event.chosen
        assert lost or event.chosen
        for arm in event.chosen:
            assert answer_of(_name(arm), asked.x) == asked.output
        if event.reward is not None:
            # nothing is known of the members of an ensemble whose decision is lost
            assert event.loss == (None if lost else 1.0 - event.reward)
            self._check_rewarded(event, asked)
        else:
            assert event.loss == (None if lost else float(event.label != asked.output))
            self._check_losses(event)

    def _check_rewarded(self, event: events.Feedback, asked: Asked) -> None:
        """Losses under a reward: those of who answered, and that others were wrong."""
        for arm, loss in event.losses.items():
            if answer_of(_name(arm), asked.x) == asked.output:  # in time or too late
                assert loss == event.loss
            else:
                assert (event.reward, loss) == (1.0, 1.0)

    def _check_losses(self, event: events.Feedback) -> None:
        """Those under a label."""
        assert event.losses
        for arm, loss in event.losses.items():
            assert loss == float(event.label != answer_of(_name(arm), self.x)), arm


def _name(arm: Arm) -> str:
    return model_of(arm).name


class State(NamedTuple):
    """Of something that is said: whether it had been acknowledged, and whether the input
    is said with it."""

    known: bool
    whole: bool


class Ledger:
    """What was asked, what was said, and what of it was acknowledged."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        # All that changes: errors that feedback may meet; counters; queries without
        # feedback; all that was said, by application and key; what of it is acknowledged,
        # and since the last look at the log; what has to be said again.
        self.excused = {"unavailable", "overloaded"}
        self.counts: Counter[str] = Counter()
        self.open: list[Asked] = []
        self.said: dict[tuple[str, str], Said] = {}
        self.acknowledged: list[Said] = []
        self.unchecked: list[Said] = []
        self.doubtful: dict[Said, None] = {}

    def note_asked(self, asked: Asked) -> None:
        self.counts["queries"] += 1
        self.counts["defaults"] += asked.default
        if len(self.open) >= MOST_OPEN:
            self.take_open()
        self.open.append(asked)

    def take_open(self) -> Asked:
        """A random one that no feedback was given on."""
        place = self.rng.randrange(len(self.open))
        self.open[place], self.open[-1] = self.open[-1], self.open[place]
        return self.open.pop()

    def say(self, asked: Asked) -> Said:
        body: dict[str, Any] = {"query_id": asked.query_id}
        if self.rng.random() < 0.5:
            body["reward"] = self.rng.randrange(5) / 4
        else:
            body["label"] = self._label(asked.x)
        if asked.uid is not None and self.rng.random() < 0.5:
            body["uid"] = asked.uid
        return self._note(Said(asked.app, asked.key, asked.x, body, asked))

    def say_of_input(self, app: str, named: bool) -> Said:
        """Feedback without a query. One without a name has an input of its own."""
        x = float(self.rng.randrange(10**15))
        body = {"input": [x], "label": self._label(x), "uid": self.uid()}
        row = encode_json_value(InputType.DOUBLES, [x], "$.input")
        key = f"i:{hashlib.blake2b(row.payload, digest_size=16).hexdigest()}"
        if named:
            body["feedback_id"] = f"{self.rng.randrange(10**15):x}"
            key = f"f:{body['feedback_id']}"
        return self._note(Said(app, key, x, body, None))

    def _note(self, said: Said) -> Said:
        self.said[said.app, said.key] = said
        return said

    def _label(self, x: float) -> int:
        return truth(x) if self.rng.random() < 0.9 else self.rng.choice([10, 11, 12, 99])

    def uid(self) -> str:
        return f"u{int(self.rng.triangular(0, UIDS, 0))}"

    def settle(self, said: Said, state: State, answer: dict[str, Any]) -> bool:
        """Take an answer to what was said in this state. Whether it is acknowledged."""
        known, whole = state
        if answer.get("accepted"):
            duplicate = answer["duplicate"]
            assert duplicate or not known, "known feedback was taken once more"
            assert not duplicate or said.sent > 1, "new feedback was taken for a duplicate"
            said.fresh += not duplicate
            assert said.fresh <= 1
            self.counts["duplicates"] += duplicate
            self.doubtful.pop(said, None)
            if not said.acknowledged:
                said.acknowledged = True
                self.acknowledged.append(said)
                self.unchecked.append(said)
            return True
        error = answer["error"]
        self.counts[error] += 1
        if not known:
            self.doubtful[said] = None
        if error == "resend_input":
            asked = said.asked
            assert asked is not None and not whole
            always = "reward" in said.body and not asked.ensemble and asked.context is None
            assert not always, "a reward for a single choice always works"
            said.bring_input()
        else:
            assert error in self.excused, (answer, said.body)
        return False
