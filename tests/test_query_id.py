from __future__ import annotations

import itertools
import string

import pytest
from fakes import ManualClock
from hypothesis import given, settings
from hypothesis import strategies as st

from clipper.errors import NotFound, QueryIdExpired
from clipper.query_id import LIFETIME, PERIOD, QueryIds, QueryToken, key_number

KEY = bytes(range(32))
CLOCK = ManualClock()
IDS = QueryIds(KEY, CLOCK)
ALPHABET = string.ascii_letters + string.digits + "-_"
uint32 = st.integers(0, 2**32 - 1)


def issue(ids: QueryIds = IDS, rows: int = 1, now: float = 0.0) -> str:
    return ids.stamp(3, 2, 17, 0.25).issue(now, rows).decode()


@given(uint32, uint32, uint32, st.floats(0.0, 1.0, width=32), st.integers(0, 65_535))
def test_an_id_says_what_it_was_issued_for(
    application: int, generation: int, arm: int, propensity: float, rows: int
) -> None:
    stamp = IDS.stamp(application, generation, arm, propensity)
    text = stamp.issue(CLOCK.now(), rows).decode()
    assert len(text) == 64 and set(text) <= set(ALPHABET)
    for row in {0, max(0, rows - 1)}:
        token = IDS.read(f"{text}.{row}")
        assert token == QueryToken(
            int(CLOCK.wall()), application, generation, arm, propensity, token.nonce, row
        )
    assert IDS.read(text).row == 0
    with pytest.raises(NotFound):
        IDS.read(f"{text}.{max(rows, 1)}")


def test_no_two_ids_are_the_same() -> None:
    stamp = IDS.stamp(1, 1, 1, 1.0)
    assert len({stamp.issue(0.0) for _ in range(1000)}) == 1000
    nonces = {QueryIds(KEY, CLOCK).read(issue(QueryIds(KEY, CLOCK))).nonce for _ in "ab"}
    assert len(nonces) == 2  # two lives of a server


@settings(max_examples=300)
@given(st.integers(0, 63), st.sampled_from(ALPHABET))
def test_a_changed_character_is_refused(place: int, character: str) -> None:
    text = issue()
    changed = text[:place] + character + text[place + 1 :]
    if changed != text:
        with pytest.raises(NotFound, match="no such query id"):
            IDS.read(changed)


@given(st.text(max_size=140) | st.text(ALPHABET, min_size=64, max_size=64))
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(NotFound):
        IDS.read(text)


SAMPLE = issue(rows=20)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        SAMPLE + ".",
        SAMPLE + ".-1",
        SAMPLE + ".+1",
        SAMPLE + ".01",
        SAMPLE + ".1 ",
        SAMPLE + ".1.1",
        SAMPLE + ".20",
        SAMPLE + ".99999",
        SAMPLE + ".100000",
        SAMPLE + ".١",
        SAMPLE + ".²",
        SAMPLE + "\n",
        SAMPLE[:-1],
        SAMPLE[:-1] + "=",
        SAMPLE[:-1] + "é",
        " " + SAMPLE[1:],
        SAMPLE.swapcase(),
    ],
    ids=itertools.count(),  # which sample it is differs from run to run
)
def test_there_is_one_spelling(text: str) -> None:
    IDS.read(SAMPLE + ".19")
    with pytest.raises(NotFound):
        IDS.read(text)


def test_the_other_base64_alphabet_is_refused() -> None:
    for _ in range(1000):
        text = issue()
        if "-" in text:
            with pytest.raises(NotFound):
                IDS.read(text.replace("-", "+"))
            return
    raise AssertionError("no id had a dash")


def test_another_key_does_not_know_the_id() -> None:
    with pytest.raises(NotFound):
        QueryIds(bytes(32), CLOCK).read(issue())
    with pytest.raises(NotFound):
        QueryIds(KEY, CLOCK, 1).read(issue())


def test_an_id_lives_for_seven_days() -> None:
    clock = ManualClock()
    ids = QueryIds(KEY, clock)
    text = issue(ids)
    clock.move(LIFETIME)
    ids.read(text)
    clock.move(1.5)
    with pytest.raises(QueryIdExpired, match="older than 7 days"):
        ids.read(text)


def test_a_stamp_keeps_the_time() -> None:
    clock = ManualClock()
    stamp = QueryIds(KEY, clock).stamp(1, 1, 1, 1.0)
    ids = QueryIds(KEY, clock)
    first = ids.read(stamp.issue(clock.now()).decode()).issued
    for _ in range(5):
        clock.move(0.7)
        issued = ids.read(stamp.issue(clock.now()).decode()).issued
        assert abs(issued - clock.wall()) <= 2
    assert issued > first


def test_ids_of_batches_hold_all_rows_that_the_settings_allow() -> None:
    text = issue(rows=65_535)
    assert IDS.read(text + ".65534").row == 65_534


# -- keys --------------------------------------------------------------------------------


def test_the_number_of_the_key_follows_the_calendar() -> None:
    assert key_number(1.7e9) == key_number(1.7e9 // PERIOD * PERIOD)
    assert key_number(1.7e9 + PERIOD) == key_number(1.7e9) % 255 + 1
    numbers = {key_number(n * PERIOD) for n in range(1000)}
    assert numbers == set(range(1, 256))  # 0 is the key from before there were periods


def test_ids_of_the_last_key_are_read_after_it_changed() -> None:
    clock = ManualClock()
    ids = QueryIds(KEY, clock, 7)
    old = ids.stamp(1, 1, 1, 1.0).issue(clock.now()).decode()
    ids.sign_with(bytes(32), 8)
    new = ids.stamp(1, 1, 1, 1.0).issue(clock.now()).decode()
    assert ids.number == 8
    assert ids.read(old).arm == ids.read(new).arm == 1
    later = QueryIds(bytes(32), clock, 8)
    with pytest.raises(NotFound):
        later.read(old)
    later.accept(KEY, 7)
    assert later.read(old).arm == 1
    ids.sign_with(b"3" * 32, 9)
    with pytest.raises(NotFound):
        ids.read(old)  # the one before the last


def test_a_stamp_goes_over_to_the_new_key_within_a_second() -> None:
    clock = ManualClock()
    ids = QueryIds(KEY, clock, 7)
    stamp = ids.stamp(1, 1, 1, 1.0)
    stamp.issue(clock.now())
    ids.sign_with(bytes(32), 8)
    assert QueryIds(KEY, clock, 7).read(stamp.issue(clock.now()).decode()).arm == 1
    clock.move(1.0)
    assert QueryIds(bytes(32), clock, 8).read(stamp.issue(clock.now()).decode()).arm == 1


def test_to_sign_with_the_same_key_again_loses_none() -> None:
    clock = ManualClock()
    ids = QueryIds(KEY, clock, 7)
    old = ids.stamp(1, 1, 1, 1.0).issue(clock.now()).decode()
    for _ in range(2):
        ids.sign_with(bytes(32), 8)
    assert ids.read(old).arm == 1
