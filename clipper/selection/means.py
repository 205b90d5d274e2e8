"""What policies have in common that go by the count and the mean of each arm's losses."""

from __future__ import annotations

from collections.abc import Mapping

from clipper.selection import totals
from clipper.selection.policy import (
    Arm,
    Observation,
    PersonalOptions,
    SingleChoice,
    State,
    Total,
)


class ExploringOptions(PersonalOptions, frozen=True, forbid_unknown_fields=True):
    """`epsilon` is the share of queries that go to all arms evenly: where it is 0 and the
    policy itself leaves nothing to chance, no log can be replayed for another policy."""

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.epsilon <= 1:
            raise ValueError("epsilon must lie between 0 and 1")


class MeanLosses(SingleChoice):
    """The state is {"totals": clipper.selection.totals.Totals}. Learns from every loss
    that is known, whoever was chosen."""

    full_information = True

    @property
    def discount(self) -> float:
        """The weight that past evidence keeps at each observation."""
        return 1.0

    def init(self) -> State:
        return {"totals": {}}

    def observe(self, state: State, seen: Observation) -> State:
        totals.add(state["totals"], seen, self.discount)
        return state

    def blend(self, population: State, own: State) -> State:
        prior: float = self.options.prior
        return {"totals": totals.shrink(population["totals"], own["totals"], prior)}

    def begin(self, known: Mapping[Arm, Total]) -> State:
        return {"totals": totals.begin(known, self.discount)}
