"""The interface of a selection policy.

A policy is a stateless object: what it learns lives in a state that is passed in and
given back, so that the state is a pure fold over the feedback. Policies do not draw:
they say how probable each arm is, and one place draws (clipper.selection.draw), so that
the propensity that is logged is exactly the one that was drawn with.

A state holds plain values (dicts, lists, strings, numbers) and numpy arrays, keyed by arm.
Arms come and go with deployments, unannounced: an arm that a state does not know yet is
one without evidence, and what is known of an arm that left is kept for when it returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeAlias

import msgspec

from clipper.values import ModelId

if TYPE_CHECKING:
    from clipper.selection.crowd import Crowd, Prior

# One version of one model, as "name:version#generation": a version that is deployed again
# after its deletion is another arm.
Arm: TypeAlias = str

# A policy's own; every other part of the program only hands it on.
State: TypeAlias = Any

# Statistics of arms that are not in use are dropped, oldest first: of other versions of
# models that are in use beyond MOST_LEFT, which only a rollback needs again and each user
# has, and of all beyond MOST_ARMS. A model that is out of use may only be out of order.
MOST_ARMS = 128
MOST_LEFT = 8


def make_arm(model: ModelId, generation: int) -> Arm:
    return f"{model.name}:{model.version}#{generation}"


def model_of(arm: Arm) -> ModelId:
    name, _, version = arm.partition("#")[0].partition(":")
    return ModelId(name, version)


def generation_of(arm: Arm) -> int:
    return int(arm.partition("#")[2])


class Subject(NamedTuple):
    """What a policy may look at: whose query it is and the features that came with it."""

    uid: str | None = None
    context: Any = None


class Observation(NamedTuple):
    """What feedback told of one query. All that `observe` may know: no clock, no chance.

    `arms` are those there were to choose from. `losses` holds every loss that is known,
    each in [0, 1]: of all arms, of some, or, under a reward for an ensemble, of none.
    `chosen` are the arms whose output was the answer: one under a single choice, those
    that agreed with the answer under an ensemble, none where there was no decision
    (feedback by input). `propensity` is the probability of that answer as it was logged
    when it was chosen, and `loss` the answer's loss.
    `context` is what `SelectionPolicy.features` made of the query's context. `outputs`
    and `label` are there for policies that set `needs_outputs`.
    """

    arms: tuple[Arm, ...]
    losses: Mapping[Arm, float]
    chosen: tuple[Arm, ...] = ()
    propensity: float = 1.0
    loss: float | None = None
    context: Any = None
    outputs: Mapping[Arm, Any] | None = None
    label: Any = None


class Total(msgspec.Struct, frozen=True, array_like=True):
    """How often an arm's loss became known, and the sum of these losses."""

    count: float
    loss: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.count, self.loss))

    @property
    def mean(self) -> float | None:
        return self.loss / self.count if self.count else None


class Score(NamedTuple):
    """How an arm does, as a guard looks at it: queries it was chosen for and how many of
    them it failed, a high quantile of its latency in seconds (None: no answer yet), and
    its losses under feedback."""

    queries: int
    failures: int
    latency: float | None
    total: Total


class Verdict(NamedTuple):
    """An arm that has to go, and why."""

    arm: Arm
    reason: str


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Options of every policy. `arms` names the candidates, each as a model (its current
    version) or as model:version; by default the current versions of the application's
    models."""

    arms: list[str] | None = None


class PersonalOptions(Options, frozen=True, forbid_unknown_fields=True):
    """Options of policies that can learn for each user. `prior` is how many observations
    the population's experience counts for in a user's own."""

    personal: bool = True
    prior: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.prior <= 1e6:
            raise ValueError("prior must lie between 0 and 1000000")


class SelectionPolicy(ABC):
    """What single choices and ensembles have in common.

    A subclass sets `name`, may bring `Options` of its own (a frozen msgspec.Struct; what
    its `__post_init__` raises as ValueError is told to the user) and takes one instance.
    """

    name: ClassVar[str]
    Options: ClassVar[type[Options]] = Options
    ensemble: ClassVar[bool] = False
    contextual: ClassVar[bool] = False  # the choice depends on the query's context
    full_information: ClassVar[bool] = False  # learns from losses without a decision
    needs_outputs: ClassVar[bool] = False  # learns from the outputs, not the losses alone
    learns: ClassVar[bool] = True
    reroutes: ClassVar[bool] = True  # arms that cannot be asked at present are left out
    logged: ClassVar[bool] = (
        True  # decisions are kept on disk, for late feedback and replay
    )

    def __init__(self, options: Any = None) -> None:
        self.options: Any = self.Options() if options is None else options

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.options!r}>"

    @property
    def personal(self) -> bool:
        """Whether there is a state for each user beside the population's."""
        return self.learns and getattr(self.options, "personal", False)

    def candidates(self, models: Sequence[str]) -> Sequence[str]:
        """The models, or model:version, that the application's `models` leave to choose
        from."""
        return models if self.options.arms is None else self.options.arms

    def features(self, context: Any) -> Any:
        """What a context means to this policy. Raises InvalidInput, with the path, for
        one that means nothing. JSON-able; called once for each query."""
        return None

    @abstractmethod
    def init(self) -> State:
        """The state before any feedback."""

    @abstractmethod
    def observe(self, state: State, seen: Observation) -> State:
        """The state after one piece of feedback. It may change `state` in place and give
        it back: whoever calls keeps no other. A pure function of its arguments."""

    def blend(self, population: State, own: State) -> State:
        """The state a user's choices follow from: their own evidence, with the
        population's as a prior whose weight fades as evidence grows. Changes neither."""
        raise NotImplementedError

    def make_crowd(self) -> Crowd | None:
        """What finds the prior of new users, None where blend makes do without."""
        return None

    def with_prior(self, state: State, prior: Prior) -> State:
        """The population's state under another prior of its users."""
        return state

    def prior_of(self, state: State) -> Prior | None:
        """What `with_prior` said last of the population's users."""
        return None

    def begin(self, totals: Mapping[Arm, Total]) -> State:
        """The state to start from where another policy has been at work before."""
        return self.init()


class SingleChoice(SelectionPolicy):
    """One arm answers a query.

    `sticky` makes the draw a hash of the uid in place of chance: a user stays with an arm
    as long as the probabilities stay, and few users move where they change.
    """

    sticky: ClassVar[bool] = False

    @abstractmethod
    def probabilities(
        self, state: State, arms: Sequence[Arm], context: Any
    ) -> Sequence[float]:
        """How probable each of `arms` is to be chosen, in order: non-negative, sum 1.
        `arms` is not empty. Does not change the state."""

    def seat(self, arm: Arm) -> str:
        """What a user of a sticky policy stays with, by the name that it goes by: unless
        the policy says otherwise, the version, `model:version`."""
        return str(model_of(arm))

    guards: ClassVar[bool] = False  # it judges its arms
    shadow_share: float = 0.0  # of the queries after which the shadows are asked

    def shadows(self, arms: Sequence[Arm]) -> Sequence[Arm]:
        """Arms that are asked as well, after the answer and at low priority, so that what
        they would have answered is known."""
        return ()

    def judge(self, scores: Mapping[Arm, Score]) -> Verdict | None:
        """An arm that must not be chosen any more, if there is one."""
        return None


class Ensemble(SelectionPolicy):
    """All arms answer a query and their outputs are combined.

    `combination` is how: "vote" (or what suits the application's loss), "sample" (one
    answer is drawn by weight, each of the different ones with at least `exploration` over
    their number) or "pool" (outputs are probabilities).
    """

    ensemble = True
    full_information = True
    combination: ClassVar[str] = "vote"
    exploration: float = 0.0

    @abstractmethod
    def weights(self, state: State, arms: Sequence[Arm]) -> Sequence[float]:
        """How much each of `arms` counts, in order: non-negative, sum 1 ("vote" and
        "sample"); exponents that need not sum to 1 ("pool"). Does not change the state."""
