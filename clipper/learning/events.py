"""What the feedback log holds, as JSON, one struct for each kind of entry.

The log holds everything that a state follows from and nothing that could be computed
otherwise tomorrow: losses, not the function that made them; propensities as they were.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

from clipper.errors import StoreError
from clipper.records import PolicySettings
from clipper.selection.losses import same
from clipper.selection.policy import Arm, Observation


class Feedback(msgspec.Struct, omit_defaults=True, tag="feedback", tag_field="kind"):
    """Feedback on one query. `label`, `reward` and `input` (a digest) are what the client
    said, the others what it meant; see clipper.selection.policy.Observation."""

    arms: tuple[Arm, ...] = ()
    losses: dict[Arm, float] = {}
    chosen: tuple[Arm, ...] = ()
    propensity: float = 1.0
    loss: float | None = None
    context: Any = None
    outputs: dict[Arm, Any] | None = None
    label: Any = None
    reward: float | None = None
    input: str | None = None
    policy: int = 0  # the generation that decided
    decided: float = 0.0  # seconds since the epoch

    def observation(self) -> Observation:
        return Observation(
            self.arms, self.losses, self.chosen, self.propensity, self.loss, self.context,
            self.outputs, self.label,
        )  # fmt: skip

    def says(self, other: Feedback) -> bool:
        """Whether both hold the same words of a client."""
        return (
            same(self.label, other.label)
            and self.reward == other.reward
            and self.input == other.input
        )


class PolicyChange(msgspec.Struct, tag="policy", tag_field="kind"):
    """From here on the application chooses by another policy, or with other options.
    Entries of long ago may not say what it chose by before, or of which generation that
    was (0)."""

    generation: int
    settings: PolicySettings
    before: PolicySettings | None = None
    before_generation: int = 0


class Halt(msgspec.Struct, tag="halt", tag_field="kind"):
    """A guard took an arm out: a canary rolled itself back. It says so of the policy of
    one generation; the next one has arms and guards of its own."""

    arm: Arm
    reason: str
    generation: int


class Prior(msgspec.Struct, tag="prior", tag_field="kind"):
    """What users of the policy of this generation have in common; see
    clipper.selection.crowd."""

    generation: int
    rate: float
    weights: dict[Arm, float]


Event: TypeAlias = Feedback | PolicyChange | Halt | Prior

encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Event).decode


def of_entry(seq: int, body: bytes) -> Event:
    """What entry `seq` says. Raises StoreError where that is nothing this version knows."""
    try:
        event: Event = decode(body)
    except msgspec.DecodeError as error:
        raise StoreError(
            f"entry {seq} of the feedback log makes no sense to this version: {error}"
        ) from error
    return event
