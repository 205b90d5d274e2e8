from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clipper.frontend.newest import Newest


@given(st.lists(st.integers(0, 1), max_size=30), st.integers(1, 5))
def test_the_newest_of_all_tables_stay(entered: list[int], most: int) -> None:
    tables: list[dict[bytes, int]] = [{}, {}]
    newest = Newest(most)
    for number, at in enumerate(entered):
        newest.add(tables[at], b"%d" % number, number)
        first = max(0, number + 1 - most)
        kept = sorted(value for table in tables for value in table.values())
        assert kept == list(range(first, number + 1))
    for at, table in enumerate(tables):
        assert all(entered[value] == at for value in table.values())


def test_a_table_may_be_emptied() -> None:
    table: dict[bytes, int] = {}
    newest = Newest(2)
    for number in range(2):
        newest.add(table, b"%d" % number, number)
    table.clear()
    for number in range(2, 4):
        newest.add(table, b"%d" % number, number)
    assert list(table.values()) == [2, 3]
