from __future__ import annotations

import pytest

from clipper.batching.job import Job, Slice
from clipper.batching.recovery import RETRIES, Parts, Recovery, recover
from clipper.values import FailureKind

from .test_queue import block, job

RETURNED, CRASHED, RAISED = (
    FailureKind.RETURNED,
    FailureKind.CRASHED,
    FailureKind.RAISED,
)


def parts(rows: int = 3) -> tuple[Job, Slice]:
    return job(5.0), block(rows, 5.0).cut(rows)


def rows_of(group: Parts) -> list[tuple[object, int]]:
    """Each row of a group: its job or block, and where in that it is."""
    rows: list[tuple[object, int]] = []
    for part in group:
        if isinstance(part, Job):
            rows.append((part, 0))
        else:
            rows += [(part.block, part.start + i) for i in range(part.rows)]
    return rows


@pytest.mark.parametrize(
    ("kind", "retry", "what"),
    [
        (FailureKind.RETURNED, True, "queued"),
        (FailureKind.RETURNED, False, "queued"),
        (FailureKind.CRASHED, True, "alone"),
        (FailureKind.CRASHED, False, "failed"),
        (FailureKind.RAISED, True, "alone"),
        (FailureKind.RAISED, False, "failed"),
        (FailureKind.HUNG, True, "alone"),
        (FailureKind.HUNG, False, "failed"),
        (FailureKind.WRONG_COUNT, True, "alone"),
        (FailureKind.WRONG_COUNT, False, "failed"),
    ],
)
def test_what_becomes_of_a_batch(kind: FailureKind, retry: bool, what: str) -> None:
    work = list(parts())
    recovery = recover(kind, work, 4, retry)
    assert [name for name, some in recovery._asdict().items() if some] == [what]
    again = [part for group in recovery.alone for part in group]
    everything = [*recovery.queued, *again, *recovery.failed]
    assert rows_of(everything) == rows_of(work)
    if what != "alone":
        assert everything == work  # the parts themselves, uncut


def test_two_rows_are_few_enough_to_be_told_apart() -> None:
    pair: Parts = [job(5.0), job(5.0)]
    assert recover(RAISED, pair, 2, True) == Recovery(alone=(pair[:1], pair[1:]))
    assert recover(RAISED, pair, 9, True) == Recovery(alone=(pair[:1], pair[1:]))
    assert recover(RAISED, pair[:1], 2, True) == Recovery(alone=[pair[:1]])
    assert recover(RAISED, pair[:1], 1, True) == Recovery(failed=pair[:1])


@pytest.mark.parametrize("kind", FailureKind)
def test_of_nothing_nothing_becomes(kind: FailureKind) -> None:
    assert not any(recover(kind, [], 4, True))


def test_every_kind_is_in_the_table() -> None:
    table = test_what_becomes_of_a_batch.pytestmark[0].args[1]  # type: ignore[attr-defined]
    assert {kind for kind, _, _ in table} == set(FailureKind)


# -- a worker that died ----------------------------------------------------------------


@pytest.mark.parametrize("kind", [CRASHED, FailureKind.HUNG])
def test_after_a_death_each_row_is_alone(kind: FailureKind) -> None:
    single, piece = parts(3)
    recovery = recover(kind, [single, piece], 4, True)
    assert [len(group) for group in recovery.alone] == [1] * 4
    assert [group[0].rows for group in recovery.alone] == [1] * 4
    assert [group[0].attempts for group in recovery.alone] == [1] * 4


def test_a_row_under_which_too_many_died_is_given_up() -> None:
    suspect, fresh = parts(1)
    suspect.attempts = RETRIES
    recovery = recover(CRASHED, [suspect, fresh], 2, True)
    assert recovery == Recovery(alone=[[fresh]], failed=[suspect])


def test_what_came_back_untouched_waits_alone_if_it_was_suspect_before() -> None:
    suspect, fresh = parts()
    suspect.attempts = 1
    recovery = recover(RETURNED, [suspect, fresh], 4, True)
    assert recovery == Recovery(queued=[fresh], alone=[[suspect]])
    assert (suspect.attempts, fresh.attempts) == (1, 0)


# -- a function that raised ------------------------------------------------------------


def test_a_batch_that_raised_is_halved_and_no_row_blamed() -> None:
    work = list(parts(4))
    recovery = recover(RAISED, work, 5, True)
    assert [sum(part.rows for part in group) for group in recovery.alone] == [2, 3]
    assert all(part.attempts == 0 for group in recovery.alone for part in group)


def test_a_row_that_raised_alone_is_to_blame() -> None:
    work: Parts = [job(5.0)]
    assert recover(RAISED, work, 1, True) == Recovery(failed=work)


def test_a_row_that_is_left_of_a_larger_batch_is_not_yet_to_blame() -> None:
    """The others were answered by another replica, and may be what raised."""
    work: Parts = [job(5.0)]
    assert recover(RAISED, work, 5, True) == Recovery(alone=[work])


# -- a wrong number of outputs ---------------------------------------------------------


def test_after_a_wrong_count_each_row_is_alone_and_none_is_blamed() -> None:
    recovery = recover(FailureKind.WRONG_COUNT, list(parts(3)), 4, True)
    assert [[part.rows for part in group] for group in recovery.alone] == [[1]] * 4
    assert all(part.attempts == 0 for group in recovery.alone for part in group)


def test_a_wrong_count_for_one_row_is_its_own() -> None:
    work: Parts = [job(5.0)]
    assert recover(FailureKind.WRONG_COUNT, work, 1, True) == Recovery(failed=work)
