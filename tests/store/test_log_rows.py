from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from clipper.store.checks import from_steps, to_steps
from clipper.store.log_rows import kept, uid_of, unkept, who

# Mostly what `kept` changes.
TEXTS = st.text(alphabet=st.sampled_from("\0\1\2=a\\") | st.characters(codec="utf-8"))


@given(TEXTS, TEXTS)
def test_texts_stay_different_and_in_order(one: str, other: str) -> None:
    assert unkept(kept(one)) == one
    assert "\0" not in kept(one)
    assert (kept(one) < kept(other)) == (one < other)


@given(st.none() | TEXTS)
def test_a_person_is_told_from_its_key(uid: str | None) -> None:
    assert uid_of(who(uid)) == uid


@given(TEXTS)
def test_json_in_sqlite_keeps_a_text(text: str) -> None:
    connection = sqlite3.connect(":memory:")
    text = kept(text)
    [(found,)] = connection.execute(
        "SELECT json_extract(json_array(json_extract(json_array(?), '$[0]')), '$[0]')",
        (text,),
    )
    connection.close()
    assert found == text


@given(st.floats(2.0**30, 2.0**39))
def test_a_time_of_a_clock_is_kept_exactly(at: float) -> None:
    assert from_steps(to_steps(at)) == at
