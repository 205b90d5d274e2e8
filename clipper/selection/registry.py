"""Selection policies by name."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from importlib import import_module

import msgspec

from clipper.errors import InvalidInput
from clipper.records import PolicySettings
from clipper.selection.draw import normalised
from clipper.selection.policy import Ensemble, SelectionPolicy, SingleChoice
from clipper.values import check_name

# Where each is found. Loaded when it is first asked for: most servers need one or two.
_BUILT_IN = {
    "static": "static:Static",
    "epsilon_greedy": "epsilon_greedy:EpsilonGreedy",
    "ucb1": "ucb1:UCB1",
    "discounted_ucb": "discounted_ucb:DiscountedUCB",
    "thompson": "thompson:Thompson",
    "exp3": "exp3:Exp3",
    "exp3_ix": "exp3_ix:Exp3IX",
    "linucb": "linucb:LinUCB",
    "squarecb": "squarecb:SquareCB",
    "majority": "majority:Majority",
    "exp4": "exp4:Exp4",
    "hedge": "hedge:Hedge",
    "log_pool": "log_pool:LogPool",
    "canary": "canary:Canary",
    "shadow": "shadow:Shadow",
}

# All mutable state: policies that the program added.
_ADDED: dict[str, type[SelectionPolicy]] = {}


def add_policy(policy: type[SelectionPolicy]) -> type[SelectionPolicy]:
    """Make a policy of one's own known by its `name`. Usable as a decorator. Applications
    that a store brings back need it before the server starts."""
    if not (isinstance(policy, type) and issubclass(policy, SelectionPolicy)):
        raise InvalidInput(f"{policy!r:.100} is not a class derived from SelectionPolicy")
    name = check_name("the policy's name", getattr(policy, "name", None))
    if name in _BUILT_IN:
        raise InvalidInput(f"there is a policy called {name} already")
    _ADDED[name] = policy
    return policy


def load_policy(place: str) -> type[SelectionPolicy]:
    """Add the policy at "module:Class", as the configuration names it."""
    module, _, name = place.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (Exception, SystemExit) as error:  # the module is a program's own
        raise InvalidInput(
            f"cannot load the policy {place!r:.100}: {type(error).__name__}: {error}"
        ) from error
    return add_policy(found)


def names() -> list[str]:
    return [*_BUILT_IN, *_ADDED]


def policy_class(name: str) -> type[SelectionPolicy]:
    """Raises InvalidInput for a name that nobody has."""
    if name in _ADDED:
        return _ADDED[name]
    if name not in _BUILT_IN:
        raise InvalidInput(f"policy must be one of {', '.join(names())}, got {name!r:.60}")
    module, _, attribute = _BUILT_IN[name].partition(":")
    found: type[SelectionPolicy] = getattr(
        import_module(f"clipper.selection.{module}"), attribute
    )
    return found


def make_policy(settings: PolicySettings) -> SelectionPolicy:
    """The policy that the settings name, with its options checked."""
    kind = policy_class(settings.name)
    try:
        options = msgspec.convert(settings.options, kind.Options)
    except msgspec.ValidationError as error:
        raise InvalidInput(_told(settings.name, str(error))) from None
    try:
        policy = kind(options)
        named = policy.candidates(())
        _try(policy)
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(
            f"policy {settings.name} does not work: {error!r:.300}"
        ) from error
    for name in named:
        _check_arm(name)
    return policy


def _try(policy: SelectionPolicy) -> None:
    """A policy that fails at once must not become an application's."""
    state, arms = policy.init(), ("some:1#1", "other:1#2")
    if isinstance(policy, Ensemble):
        check_weights(policy.weights(state, arms), len(arms))
    elif isinstance(policy, SingleChoice) and not policy.contextual:
        normalised(check_weights(policy.probabilities(state, arms, None), len(arms)))


def check_weights(found: Sequence[float], count: int) -> list[float]:
    """What a policy gave for `count` arms, as numbers. Raises ValueError if it is not."""
    weights = [float(weight) for weight in found]
    if len(weights) != count or not all(0 <= weight < math.inf for weight in weights):
        raise ValueError(f"not {count} probabilities: {weights!r:.100}")
    return weights


def _told(name: str, message: str) -> str:
    """The fault in the options of a policy, in plain words."""
    unknown = re.search(r"unknown field `(.+?)`", message)
    if unknown:
        return f"policy {name} has no option {unknown[1]!r:.60}"
    missing = re.search(r"missing required field `(.+?)`", message)
    if missing:
        return f"policy {name} needs the option {missing[1]}"
    message = re.sub(r" - at `\$\.?(.*?)`", r" in option \1", message).replace("`", "")
    return f"policy {name}: {message}"


def _check_arm(name: str) -> None:
    model, colon, version = name.partition(":")
    check_name("an arm's model", model)
    if colon:
        check_name("an arm's version", version)
