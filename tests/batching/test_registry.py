from __future__ import annotations

from typing import Any

import pytest

from clipper.batching.aimd import AIMD
from clipper.batching.fixed import Fixed
from clipper.batching.goodput import Goodput
from clipper.batching.quantile import QuantileRegression
from clipper.batching.registry import (
    CONTROLLERS,
    MAX_BATCH_SIZE,
    MAX_WAIT,
    Batching,
    batching_fields,
    batching_settings,
    check,
    make_controller,
)
from clipper.errors import InvalidInput
from clipper.records import BatchingSettings

from .contract import serve


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_name_makes_a_controller(name: str) -> None:
    controller = make_controller(BatchingSettings(name, 8), 0.5)
    assert controller.objective == 0.5
    assert 1 <= controller.cap <= 8


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("aimd", AIMD),
        ("goodput", Goodput),
        ("quantile", QuantileRegression),
        ("fixed", Fixed),
        ("none", Fixed),
    ],
)
def test_which_controller_a_name_means(name: str, kind: type) -> None:
    assert type(make_controller(BatchingSettings(name, 8), 0.5)) is kind
    assert set(CONTROLLERS) == {"aimd", "goodput", "quantile", "fixed", "none"}


def test_a_program_may_add_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONTROLLERS, "pairs", lambda objective, bound: Fixed(objective, 2))
    controller = make_controller(batching_settings("pairs", None), 0.5)
    assert (controller.objective, controller.cap) == (0.5, 2)


def test_none_takes_single_rows() -> None:
    controller = make_controller(BatchingSettings("none", 8), 0.5)
    assert serve(controller, lambda size: 0.0, 3, 10) == [1, 1, 1]


def test_without_a_bound_batches_stay_below_the_largest_useful_size() -> None:
    controller = make_controller(BatchingSettings(), 0.5)
    assert max(serve(controller, lambda size: 0.0, 30, 10**6)) == MAX_BATCH_SIZE


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (BatchingSettings("aimd", 0), "max_batch_size must be at least 1"),
        (BatchingSettings("fixed"), "needs max_batch_size"),
        (
            BatchingSettings("magic"),
            "batching must be one of aimd, goodput, quantile, fixed, none, got 'magic'",
        ),
        (BatchingSettings(batch_wait=-1.0), "batch_wait must be"),
        (BatchingSettings(batch_wait="long"), "batch_wait must be"),
        (BatchingSettings(batch_wait=float("nan")), "batch_wait must be"),
        (BatchingSettings(batch_wait=MAX_WAIT + 1), "milliseconds from 0 to 60000, got"),
    ],
)
def test_wrong_settings_are_refused(settings: BatchingSettings, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make_controller(settings, 0.5)


@pytest.mark.parametrize("wait", ["auto", 0.0, 0.5, 2, MAX_WAIT])
def test_waits_that_can_be(wait: Any) -> None:
    check(BatchingSettings(batch_wait=wait))


# -- as a user says it -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("batching", "bound", "expected"),
    [
        ("goodput", None, BatchingSettings("goodput")),
        ("fixed", 8, BatchingSettings("fixed", 8)),
        ({}, None, BatchingSettings("aimd", None, "auto")),
        ({"batch_wait": 2}, None, BatchingSettings(batch_wait=2.0)),
        (
            {"controller": "fixed", "max_batch_size": 4, "batch_wait": 1.5},
            None,
            BatchingSettings("fixed", 4, 1.5),
        ),
        ({"max_batch_size": 4}, 8, BatchingSettings(max_batch_size=8)),
        (BatchingSettings("none"), None, BatchingSettings("none")),
        (BatchingSettings("fixed", 4), 8, BatchingSettings("fixed", 8)),
    ],
)
def test_settings_as_a_user_gives_them(
    batching: Batching, bound: int | None, expected: BatchingSettings
) -> None:
    assert batching_settings(batching, bound) == expected


def test_what_was_given_is_not_changed() -> None:
    given = {"controller": "fixed"}
    assert batching_fields(given, 8) == {"controller": "fixed", "max_batch_size": 8}
    assert given == {"controller": "fixed"}


@pytest.mark.parametrize(
    ("batching", "sentence"),
    [
        (None, "batching must be the name of a controller"),
        (8, "batching must be the name of a controller.* got 8"),
        ({"size": 8}, "unknown field `size`"),
        ({"controller": 8}, r"Expected `str`.*controller"),
        ({"max_batch_size": "8"}, r"Expected `int.*max_batch_size"),
        ({"max_batch_size": 2.5}, r"Expected `int.*max_batch_size"),
        ({"batch_wait": None}, r"Expected `.*batch_wait"),
        ({"batch_wait": True}, r"Expected `.*batch_wait"),
    ],
)
def test_what_cannot_be_settings_is_refused(batching: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        batching_settings(batching, None)
