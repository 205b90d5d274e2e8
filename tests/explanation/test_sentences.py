"""Situations of an application, and what is said about them."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from clipper.errors import ClipperError
from clipper.explanation.facts import (
    Attainment,
    CacheUse,
    Facts,
    Failure,
    Fit,
    Latency,
    Load,
    ModelFacts,
    Overload,
    ReplicaFacts,
    Shed,
)
from clipper.explanation.sentences import MEANINGS, UNNAMED, sentences
from clipper.frontend.application_series import FAILURE_CODES

# 1 ms a batch and 0.4 ms a row: 43 rows fill 19 ms.
FIT = Fit(1.0, 400.0, spread_p95_ms=0.2, batches=500, largest_rows=43)
LOAD = Load(45.0, 410.0, 410.0, busy_share=0.21, mean_batch_rows=3.1)
MODEL = ModelFacts(
    "digits:3",
    cap_rows=43,
    objective_ms=19.0,
    fitted=FIT,
    full_batch_ms=18.2,
    capacity_rows_per_second=2362.6,
    batches=500,
    mean_batch_rows=3.1,
    recent=LOAD,
)
APP = Facts(
    "images",
    20.0,
    Attainment(1.0, 1.0, 18_204, 18_204, 45.2),
    latency=Latency(2.0, 9.0, 2.04, 9.16),
    linked=["digits"],
    models=[MODEL],
)


def app(**fields: Any) -> Facts:
    return replace(APP, **fields)


def with_model(**fields: Any) -> Facts:
    """The application over one model that differs in these fields."""
    return app(models=[replace(MODEL, **fields)])


def with_fit(**fields: Any) -> Facts:
    return with_model(fitted=replace(FIT, **fields))


def failed(recent: float | None, **failures: Failure) -> Facts:
    return app(
        attainment=Attainment(recent, 0.5, 2000, 1000 if recent is not None else 0, 45.0),
        failures=failures,
    )


def refused(offered: float, cap: int = 43, lost: int = 58, **fields: Any) -> Facts:
    """One that could not do all that came."""
    facts = failed(0.942, overloaded=Failure("the model was overloaded", "default", 99, 58))
    load = Load(45.0, offered, 2300.0, 0.97, 39.0)
    model = replace(MODEL, cap_rows=cap, recent=load, **fields)
    return replace(facts, recent_overload=Overload(lost - 8, 8, 0), models=[model])


def test_one_that_does_well() -> None:
    assert sentences(APP) == [
        "All 18,204 rows in the last 45 s were answered by a model within the 20 ms "
        "objective.",
        "Half of the answers took at most 2.04 ms, 99 % at most 9.16 ms.",
        "digits:3 runs batches of at most 43 rows: a batch takes 1 ms + 0.4 ms per row; "
        "43 rows take 18.2 ms of the 19 ms allowed.",
        "With 1 replica that makes about 2,360 rows/s; 410 rows/s came lately, on average.",
        "Its batches had 3.1 rows on average, and its replica was busy 21.0 % of the time.",
    ]


def test_one_that_is_overloaded() -> None:
    assert sentences(refused(5000.0))[:4] == [
        "94.2 % of 1,000 rows in the last 45 s were answered by a model within the 20 ms "
        "objective.",
        "5.8 % (58 rows) got the default output because the model was overloaded: 50 "
        "refused on arrival, 8 given up in the queue.",
        "Half of the answers, default outputs and errors too, took at most 2.04 ms, 99 % "
        "at most 9.16 ms.",
        "digits:3 was asked for 5,000 rows/s and can do about 2,360 rows/s with 1 replica: "
        "3 would do if there are processor cores for them (`clipper scale digits:3 3`).",
    ]


SITUATIONS: list[tuple[str, Facts, str]] = [
    # who could answer
    (
        "no model is linked",
        app(linked=[], models=[]),
        "No model is linked to images: `clipper link images MODEL` links one.",
    ),
    (
        "nothing was deployed",
        app(models=[]),
        "digits is linked but has no current version: `clipper deploy` makes one.",
    ),
    (
        "failed",
        with_model(state="failed", reason="workers keep ending.\nmore", replicas_ready=0),
        "digits:3 does not answer, it has failed: workers keep ending. `clipper logs "
        "digits:3` shows what its workers printed.",
    ),
    (
        "scaled to none",
        with_model(state="stopped", reason="scaled to 0 replicas", replicas_ready=0),
        "digits:3 does not answer: scaled to 0 replicas.",
    ),
    (
        "starting",
        with_model(state="starting", replicas_ready=0),
        "digits:3 does not answer yet, it is starting.",
    ),
    (
        "a replica is missing",
        with_model(replicas_wanted=4, replicas_ready=3, reason="a worker ended: killed"),
        "Only 3 of 4 replicas of digits:3 answer: a worker ended: killed.",
    ),
    # what became of the rows
    (
        "nothing was asked",
        app(attainment=Attainment()),
        "Nothing has been asked of images yet.",
    ),
    (
        "nothing lately",
        app(attainment=Attainment(None, 0.5, 10, 0, 31.6)),
        "Nothing was asked in the last 32 s.",
    ),
    (
        "nothing lately, but before",
        app(attainment=Attainment(None, 0.5, 10, 0, 31.6)),
        "50.0 % of 10 rows since the start were answered by a model within the 20 ms "
        "objective.",
    ),
    (
        "one row",
        app(attainment=Attainment(1.0, 1.0, 1, 1, 0.2)),
        "The only row in the last 1 s was answered by a model within the 20 ms objective.",
    ),
    (
        "one row, not in time",
        app(attainment=Attainment(0.0, 0.0, 1, 1, 3.0)),
        "The only row in the last 3 s was not answered by a model within the 20 ms "
        "objective.",
    ),
    (
        "none of several",
        app(attainment=Attainment(0.0, 0.9, 100, 7, 3.0)),
        "None of 7 rows in the last 3 s was answered by a model within the 20 ms "
        "objective.",
    ),
    (
        "nearly all is not all",
        app(attainment=Attainment(0.99999, 1.0, 10**6, 10**6, 60.0)),
        "More than 99.9 % of 1,000,000 rows in the last 60 s were answered by a model "
        "within the 20 ms objective.",
    ),
    (
        "all failed",
        failed(0.0, no_model=Failure(MEANINGS["no_model"], "error", 1500, 1000)),
        "All got an error because no replica of a linked model was there to answer.",
    ),
    (
        "few failed",
        failed(0.9995, model_hung=Failure(MEANINGS["model_hung"], "default", 1, 1)),
        "0.1 % (1 row) got the default output because the model hung and its worker was "
        "stopped.",
    ),
    (
        "failures of long ago",
        failed(None, deadline_exceeded=Failure("no model answered", "error", 500, 0)),
        "25.0 % (500 rows) got an error because no model answered.",
    ),
    # why it was too much
    (
        "bursts",
        refused(1000.0),
        "digits:3 was asked for 1,000 rows/s on average and can do about 2,360 rows/s with "
        "1 replica: the rows came in bursts, or its batches took longer for a while.",
    ),
    (
        "batches that still grow",
        refused(5000.0, cap=8),
        "digits:3 was asked for 5,000 rows/s and can do about 2,360 rows/s with 1 replica "
        "so far; its batches may still grow.",
    ),
    (
        "several replicas are not enough",
        refused(5000.0, replicas_ready=2, replicas_wanted=2),
        "digits:3 was asked for 5,000 rows/s and can do about 2,360 rows/s with 2 replicas"
        ": 5 would do if there are processor cores for them (`clipper scale digits:3 5`).",
    ),
    # how fast it is
    (
        "nothing is known",
        with_model(fitted=None, batches=0),
        "digits:3 has answered no batch yet: nothing is known of its speed.",
    ),
    (
        "a controller that predicts nothing",
        with_model(fitted=None, controller="mine", cap_rows=4),
        "digits:3 runs batches of at most 4 rows; its controller, mine, keeps no record of "
        "how long they take.",
    ),
    (
        "one row is too much",
        with_fit(fixed_ms=35.0),
        "One row alone takes digits:3 35.4 ms, longer than the 19 ms that a batch may take"
        ": no batch size can meet the objective. Raise the objective or make the model "
        "faster.",
    ),
    (
        "a model that costs by the batch alone",
        with_fit(fixed_ms=0.05, per_row_us=0.0),
        "digits:3 runs batches of at most 43 rows: a batch takes 50 µs, whatever its size; "
        "43 rows take 50 µs of the 19 ms allowed.",
    ),
    (
        "only single rows came",
        with_fit(per_row_us=0.0, largest_rows=1),
        "digits:3 runs batches of at most 43 rows: a batch takes 1 ms with one row, and no "
        "larger one came yet.",
    ),
    (
        "cold",
        with_fit(batches=7),
        "Only 7 batches of digits:3 went into this yet; the figures will settle.",
    ),
    (
        "little load so far",
        with_model(cap_rows=8),
        "More would fit; larger batches of digits:3 are tried when more rows wait.",
    ),
    (
        "a bound of its own",
        with_model(cap_rows=8, bound_rows=8),
        "More would fit, but max_batch_size is 8.",
    ),
    (
        "slower than before",
        with_fit(fixed_ms=9.0),
        "The batches of digits:3 are too large now; the next will be smaller.",
    ),
    (
        "a fixed size that is too large",
        with_model(controller="fixed", cap_rows=64, bound_rows=64),
        "Full batches of digits:3 take longer than they may: lower max_batch_size, or "
        'deploy it with batching="aimd".',
    ),
    (
        "a fixed size that is too small",
        with_model(
            controller="fixed", cap_rows=4, bound_rows=4, fitted=replace(FIT, fixed_ms=4.0)
        ),
        "By these figures batches of 30 rows would be in time too and do 2.6 times as many "
        'rows/s: deploy digits:3 with batching="aimd".',
    ),
    (
        "no batching",
        with_model(controller="none", cap_rows=1, bound_rows=1),
        "digits:3 evaluates each row alone: that takes 1.4 ms of the 19 ms that a batch "
        "may take.",
    ),
    (
        "no batching, and busy",
        with_model(
            controller="none",
            cap_rows=1,
            bound_rows=1,
            fitted=Fit(1.4, 0.0, batches=900, largest_rows=1),
            recent=Load(45.0, 700.0, 700.0, 0.98, 1.0),
        ),
        "digits:3 is busy 98.0 % of the time with batches of one row; whether larger ones "
        'would be faster, batching="aimd" would find out.',
    ),
    (
        "batches that vary",
        with_fit(spread_p95_ms=4.0),
        "One in 20 takes at least 4 ms more than that, which keeps the batches smaller.",
    ),
    (
        "single rows that vary",
        with_model(
            controller="none",
            cap_rows=1,
            bound_rows=1,
            fitted=replace(FIT, spread_p95_ms=4.0),
        ),
        "One in 20 takes at least 4 ms more than that.",
    ),
    (
        "batches that vary too much",
        with_fit(spread_p95_ms=30.0),
        "One in 20 takes at least 30 ms more than that: some of them are late whatever "
        "their size.",
    ),
    (
        "a slow replica",
        with_model(
            replicas_ready=2,
            replicas_wanted=2,
            replicas=[
                ReplicaFacts(0, 43, times_as_long=0.3),
                ReplicaFacts(1, 14, times_as_long=3.1),
            ],
        ),
        "Replica 1 of digits:3 takes 3.1 times as long as the others for the same batch; "
        "it gets less to do.",
    ),
    (
        "the speed of which replica",
        with_model(
            replicas=[ReplicaFacts(0, 43), ReplicaFacts(1, 14, times_as_long=3.1)],
        ),
        "digits:3 runs batches of at most 43 rows: a batch takes 1 ms + 0.4 ms per row; "
        "43 rows take 18.2 ms of the 19 ms allowed, on replica 0.",
    ),
    # queues and losses
    (
        "a queue",
        with_model(queue_rows=120, queue_ms=50.8),
        "120 rows waiting for digits:3 now would take 50.8 ms.",
    ),
    (
        "expired",
        with_model(recent_shed=Shed(expired_rows=1)),
        "1 row ran out of time in the queue of digits:3 before a replica was free.",
    ),
    (
        "abandoned",
        with_model(recent_shed=Shed(abandoned_rows=12)),
        "12 rows left the queue of digits:3 unevaluated because nobody waited any more: "
        "the deadline was over, or the client gone.",
    ),
    (
        "failed batches",
        with_model(recent_shed=Shed(failed_batches=2)),
        "2 batches of digits:3 failed; `clipper logs digits:3` may say why.",
    ),
    (
        "hedged",
        with_model(recent_shed=Shed(hedged_rows=1500)),
        "1,500 rows went to a second replica of digits:3 as well, because the first was "
        "late.",
    ),
    (
        "the cache",
        app(cache=CacheUse(True, None, 1000, 0.4)),
        "The cache spared 40.0 % of 1,000 rows an evaluation, all applications since the "
        "start.",
    ),
]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [(facts, expected) for _, facts, expected in SITUATIONS],
    ids=[name for name, _, _ in SITUATIONS],
)
def test_a_situation(facts: Facts, expected: str) -> None:
    assert expected in sentences(facts)


@pytest.mark.parametrize(
    ("facts", "unsaid"),
    [
        (APP, "More would fit"),
        (APP, "Only"),
        (with_model(cap_rows=43, bound_rows=43), "max_batch_size"),
        (with_fit(largest_rows=1, per_row_us=0.0), "More would fit"),
        (with_model(controller="fixed", cap_rows=40, bound_rows=40), "aimd"),
        (with_model(state="failed", replicas_ready=0), "runs batches"),
        (refused(1000.0, lost=9), "in bursts"),
        (app(attainment=Attainment(None, 1.0, 5, 0, 45.0)), "in bursts"),
        (refused(5000.0, fitted=replace(FIT, fixed_ms=35.0)), "scale"),
        (with_model(controller="none", bound_rows=1, cap_rows=1), "batches had"),
        (with_fit(fixed_ms=1.9), "too large"),
        (refused(5000.0), "that makes about"),
        (refused(5000.0, cap=8), "clipper scale"),
        (app(models=[replace(MODEL, recent=None)]), "came lately"),
        (app(cache=CacheUse(False, None, 1000, 0.4)), "cache"),
        (failed(0.9, no_model=Failure("x", "error", 10, 0)), "because x"),
    ],
)
def test_what_is_not_said(facts: Facts, unsaid: str) -> None:
    assert unsaid not in " ".join(sentences(facts))


def test_versions_that_nobody_asks_for_are_not_spoken_of() -> None:
    old = replace(MODEL, model="digits:2", current=False, recent=None)
    assert not any("digits:2" in line for line in sentences(app(models=[MODEL, old])))
    asked = replace(old, recent=LOAD)
    assert any("digits:2" in line for line in sentences(app(models=[MODEL, asked])))
    idle = replace(MODEL, model="other:1", batches=0, fitted=None)
    lines = sentences(app(models=[MODEL, idle], linked=["digits", "other"]))
    assert not any("other" in line for line in lines)


def test_every_code_has_a_meaning() -> None:
    assert set(MEANINGS) >= set(FAILURE_CODES)
    assert not {*MEANINGS.values(), UNNAMED} & {ClipperError.__doc__, ""}


@pytest.mark.parametrize("facts", [facts for _, facts, _ in SITUATIONS])
def test_sentences_are_sentences(facts: Facts) -> None:
    for line in sentences(facts):
        assert line.endswith(".") and not line.endswith("..") and "\n" not in line
        assert "None " not in line.replace("None of", "") and "nan" not in line
