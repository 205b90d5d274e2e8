from __future__ import annotations

import pytest

from clipper.batching.registry import CONTROLLERS, MAX_BATCH_SIZE, make_controller
from clipper.errors import InvalidInput
from clipper.records import BatchingSettings

from .contract import serve


@pytest.mark.parametrize("name", CONTROLLERS)
def test_every_name_makes_a_controller(name: str) -> None:
    controller = make_controller(BatchingSettings(name, 8), 0.5)
    assert controller.objective == 0.5
    assert 1 <= controller.cap <= 8


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
    ],
)
def test_wrong_settings_are_refused(settings: BatchingSettings, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        make_controller(settings, 0.5)
