"""How an application chooses among its candidates, in sentences."""

from __future__ import annotations

from clipper.explanation.facts import ArmFacts, Choosing, Facts
from clipper.explanation.words import count, duration, percent, sentence

NAMED = 4  # arms that a sentence names


def trouble(facts: Facts) -> list[str]:
    """What keeps it from choosing as it was told to."""
    app, choosing = facts.application, facts.choosing
    lines = []
    if choosing.unavailable is not None:
        lines.append(
            f"The policy {choosing.policy} of {app} cannot be had: "
            f"{sentence(choosing.unavailable)}. The first model answers, and no feedback "
            "is taken."
        )
    lines += [
        f"{arm.model} gets no more queries of {app}, a guard took it out: "
        f"{sentence(arm.halted)}. Setting the policy anew (`clipper policy {app} "
        f"{choosing.policy} ...`) would bring it back."
        for arm in choosing.arms
        if arm.halted is not None
    ]
    return lines


def choice_sentences(facts: Facts) -> list[str]:
    """Who answers, and why."""
    choosing = facts.choosing
    lines = []
    if choosing.learns and len(choosing.arms) > 1:
        lines += [*_weights(choosing), *_losses(choosing)]
    answered = round(facts.attainment.rows * (facts.attainment.since_start or 0.0))
    lines += [_missing(arm, answered) for arm in choosing.arms if arm.missing]
    for arm in choosing.arms:
        lines += [*_guard(arm), *_shadow(arm)]
    return lines + _refused(choosing)


def _weights(choosing: Choosing) -> list[str]:
    policy = choosing.policy
    if choosing.contextual:
        return [f"{policy} chooses by the context of each query."]
    arms = sorted(choosing.arms, key=lambda arm: -(arm.weight or 0.0))
    ensemble = choosing.kind == "ensemble"
    what = "weighs its members" if ensemble else "shares the queries"
    said = [f"{arm.model} {percent(arm.weight or 0.0)}" for arm in arms]
    others = choosing.personal and choosing.users_in_memory
    whom = ", for users without feedback of their own" if others else ""
    return [f"{policy} {what} so{whom}: {_listed(said)}."]


def _losses(choosing: Choosing) -> list[str]:
    judged = [arm for arm in choosing.arms if arm.mean_loss is not None]
    if not judged:
        return [
            f"No feedback has been learned from yet: {choosing.policy} knows no more than "
            "at the start."
        ]
    judged.sort(key=lambda arm: arm.mean_loss or 0.0)
    said = [
        f"{arm.model} {arm.mean_loss:.3f} over {count(arm.feedback, 'piece')}"
        for arm in judged
    ]
    return [f"Mean losses under feedback, the best first: {_listed(said)}."]


def _missing(arm: ArmFacts, answered: int) -> str:
    of = f" of {count(answered, 'answer')}" if answered >= arm.missing else ""
    return (
        f"{arm.model} came too late for {arm.missing:,}{of} since the start, which went "
        "out without it."
    )


def _guard(arm: ArmFacts) -> list[str]:
    guard = arm.guard
    if guard is None or not guard.queries or arm.halted is not None:
        return []
    latency = (
        "" if guard.p95_ms is None else f", 95 % took at most {duration(guard.p95_ms)}"
    )
    loss = "" if arm.mean_loss is None else f", its mean loss is {arm.mean_loss:.3f}"
    return [
        f"{arm.model} gets {percent(arm.weight or 0.0)} of the queries; it failed "
        f"{guard.failures:,} of {guard.queries:,}{latency}{loss}."
    ]


def _shadow(arm: ArmFacts) -> list[str]:
    shadow = arm.shadow
    if shadow is None:
        return []
    failed = f"failed on {count(shadow.failed, 'query')}" if shadow.failed else ""
    if shadow.agreement is None:
        return [f"{arm.model}, a shadow, {failed}."] if failed else []
    said = (
        f"{arm.model}, a shadow, agreed with {percent(shadow.agreement)} of "
        f"{count(shadow.compared, 'answer')}"
    )
    if shadow.p50_ms is not None and shadow.p95_ms is not None:
        said += f"; half of its own took {duration(shadow.p50_ms)}, 95 % at most "
        said += duration(shadow.p95_ms)
    return [said + (f"; it {failed}." if failed else ".")]


def _refused(choosing: Choosing) -> list[str]:
    total = sum(choosing.refused.values())
    if not total:
        return []
    most, times = max(choosing.refused.items(), key=lambda item: item[1])
    offered = total + choosing.feedback + choosing.duplicates
    were = "was" if total == 1 else "were"
    mostly = "all" if times == total else f"{times:,} of them"
    return [
        f"{total:,} of {count(offered, 'piece')} of feedback since the start {were} "
        f"refused, {mostly} with `{most}`."
    ]


def _listed(items: list[str]) -> str:
    """The first few, and how many more there are."""
    more = len(items) - NAMED
    if more > 1:
        items = [*items[:NAMED], f"{more} others"]
    return ", ".join(items)
