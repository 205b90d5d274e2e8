"""The candidates of an application: what each counts for, and what feedback said of it."""

from __future__ import annotations

from typing import Any

import msgspec

from clipper.application import Application
from clipper.errors import ClipperError
from clipper.explanation.facts import ArmFacts, Choosing, GuardFacts, ShadowFacts
from clipper.learning.experience import Experience
from clipper.learning.service import Learning
from clipper.learning.users import User
from clipper.metrics import Histogram
from clipper.selection.policy import Arm, Score, Total, model_of
from clipper.shadowing import Comparison
from clipper.store.base import Person

MAX_CODES = 32  # of refused feedback

_NOTHING = Total(0.0, 0.0)


def choosing(application: Application) -> Choosing:
    """How an application chooses, as of now."""
    learner, stats = application.learner, application.stats
    settings, policy = application.record.policy, learner.policy
    return Choosing(
        policy=settings.name,
        options=settings.options,
        kind="ensemble" if policy.ensemble else "single",
        contextual=policy.contextual,
        personal=policy.personal,
        learns=policy.learns,
        unavailable=learner.missing,
        feedback=stats.feedback,
        duplicates=stats.duplicates,
        refused=dict(stats.refused.most_common(MAX_CODES)),
        users_in_memory=len(learner.users),
        arms=arm_facts(application),
    )


def arm_facts(application: Application) -> list[ArmFacts]:
    """One for each arm, in the order of the candidates."""
    scores, missing = application.watch.scores(), application.stats.missing
    weights = weights_of(application)
    found = []
    for arm in application.arms:
        model = str(model_of(arm))
        total = application.learner.population.totals.get(arm, _NOTHING)
        found.append(
            ArmFacts(
                arm=arm,
                model=model,
                weight=weights.get(arm),
                feedback=round(total.count),
                mean_loss=_rounded(total.mean),
                halted=application.learner.halted.get(arm),
                missing=missing[model],
                guard=_guard(scores.get(arm)),
                shadow=_shadow(application.watch.comparisons.get(arm)),
            )
        )
    return found


def weights_of(application: Application, user: User | None = None) -> dict[Arm, float]:
    """The weight of each arm, 0 for one that is not open to choice; none at all where the
    context decides."""
    if application.learner.policy.contextual:
        return {}
    weights = dict.fromkeys(application.arms, 0.0) | application.weights(user)
    return {arm: round(weight, 6) for arm, weight in weights.items()}


def _guard(score: Score | None) -> GuardFacts | None:
    if score is None:
        return None
    return GuardFacts(score.queries, score.failures, _ms(score.latency))


def _shadow(comparison: Comparison | None) -> ShadowFacts | None:
    if comparison is None:
        return None
    latency: Histogram = comparison.latency
    return ShadowFacts(
        _rounded(comparison.agreement),
        comparison.agreed + comparison.differed,
        comparison.failed,
        _ms(latency.quantile(0.5)),
        _ms(latency.quantile(0.95)),
    )


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


# -- what was learned --------------------------------------------------------------------


async def learned(
    learning: Learning, application: Application, uid: str | None = None
) -> dict[str, Any]:
    """What an application has learned, or what it has learned of one user.

    `arms` are the present ones, each with its `weight` as in ArmFacts, for a user that of
    the user's own experience over everybody's; `pulls`, how often feedback told its loss,
    and its `mean_loss`, for a user by the user's own feedback. `former_arms` were learned
    about and are no candidates now. `state` is the policy's own.
    """
    user = None if uid is None else await _user(learning, application, uid)
    learner, record = application.learner, application.record
    policy = learner.policy
    found: dict[str, Any] = {
        "application": application.name,
        "policy": record.policy.name,
        "options": record.policy.options,
        "generation": learner.generation,
        "ensemble": policy.ensemble,
        "contextual": policy.contextual,
        "personal": policy.personal,
        "unavailable": learner.missing,
        "uid": uid,
    }
    experience: Experience | None = learner.population
    if uid is not None:
        experience = None if user is None else user.experience
        found["known"] = experience is not None
    if experience is None:
        experience = Experience(policy)
    weights, totals = weights_of(application, user), experience.totals
    found["arms"] = [
        {
            **_score(arm, totals.get(arm, _NOTHING)),
            "weight": weights.get(arm),
            "halted": learner.halted.get(arm),
        }
        for arm in application.arms
    ]
    found["former_arms"] = [
        _score(arm, total) for arm, total in totals.items() if arm not in application.arms
    ]
    found["state"] = _plain(experience.state)
    return found


async def _user(learning: Learning, application: Application, uid: str) -> User | None:
    """The user with an experience, which comes from the disk where it is not in memory;
    memory stays as it is."""
    learner = application.learner
    user = learner.users.get(uid)
    if user is not None and user.experience is not None:
        return user
    if user is None and not learner.users.may_be_kept(uid):
        return None
    kept = await learning.log.state_of(Person(application.number, uid))
    user = learner.users.get(uid)  # there may have been feedback meanwhile
    if user is not None and user.experience is not None:
        return user
    return None if kept is None else User(Experience.unpack(kept))


def _score(arm: Arm, total: Total) -> dict[str, Any]:
    return {
        "arm": arm,
        "model": str(model_of(arm)),
        "pulls": round(total.count),
        "mean_loss": _rounded(total.mean),
    }


def _plain(state: Any) -> Any:
    def plain(value: Any) -> Any:
        if hasattr(value, "tolist"):
            return value.tolist()
        raise ClipperError("the policy's state cannot be shown")

    return msgspec.to_builtins(state, enc_hook=plain)
