"""Every row of the fault table has a test that carries its mark, and a line in
docs/reliability.md."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TEXT = (HERE.parent / "docs" / "reliability.md").read_text()

# Workers, the server, its disk, the network, administration, time and the machine, load,
# memory, and what is found by trying at random.
NUMBERS = {"W": 14, "S": 3, "D": 5, "N": 12, "A": 4, "T": 3, "L": 4, "M": 1, "F": 4}
ROWS = [f"{letter}{n}" for letter, most in NUMBERS.items() for n in range(1, most + 1)]

# Rows without a marked test, and rows whose figure is not in the document yet. What is
# done has to leave these lists: both must become empty.
MISSING: set[str] = set()
ABSENT: set[str] = set()

NO_FIGURE = "**absent**"


@cache
def marked() -> dict[str, set[str]]:
    """The functions with marks, by row. A mark of a whole module stands for the module;
    one that is given a name and used in a decorator stands where it was made."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in sorted(HERE.rglob("test_*.py")):
        for place, row in _marks(ast.parse(path.read_text())):
            found[row].add(f"{path.relative_to(HERE)}::{place}")
    return found


def _marks(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in tree.body:
        name = getattr(node, "name", "the module")
        for each in ast.walk(node):
            if isinstance(each, ast.Call) and ast.unparse(each.func).endswith("mark.fault"):
                yield from _rows(name, each, tree)


def _rows(name: str, call: ast.Call, tree: ast.Module) -> Iterator[tuple[str, str]]:
    for argument in call.args:
        if isinstance(argument, ast.Constant):
            yield name, str(argument.value)
        else:  # a variable of a comprehension: the texts it goes over
            for node in ast.walk(tree):
                if isinstance(node, ast.ListComp) and call in ast.walk(node):
                    texts = ast.walk(node.generators[0].iter)
                    for text in texts:
                        if isinstance(text, ast.Constant):
                            yield name, str(text.value)


def lines() -> dict[str, list[str]]:
    """The cells of each row's line in the document."""
    found = {}
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"[A-Z]\d+", cells[0]):
            assert cells[0] not in found, f"{cells[0]} has two lines"
            found[cells[0]] = cells[1:]
    return found


@pytest.mark.parametrize("row", ROWS)
def test_a_row_has_a_test_with_its_mark(row: str) -> None:
    tests = marked().get(row, set())
    if row in MISSING:
        assert not tests, f"{row} has tests by now: take it out of MISSING"
    else:
        assert tests, f"no test carries the mark fault({row!r})"


def test_no_mark_is_of_a_row_that_there_is_not() -> None:
    assert set(marked()) <= set(ROWS)


def test_the_document_has_a_line_for_every_row() -> None:
    assert list(lines()) == ROWS
    for row, cells in lines().items():
        assert len(cells) == 4 and all(cells), f"{row}: fault, what holds, shown by, figure"


def test_figures_that_are_absent_are_listed() -> None:
    absent = {row for row, cells in lines().items() if NO_FIGURE in cells[3]}
    assert absent == ABSENT


@pytest.mark.parametrize("row", ROWS)
def test_what_shows_a_row_exists(row: str) -> None:
    """Files of tests, and parts of the benchmark."""
    from benchmarks.faults import PARTS

    shown = lines()[row][2]
    files = re.findall(r"`tests/([\w/]+\.py)`", shown)
    parts = re.findall(r"`faults (\w+)`", shown)
    others = re.findall(r"`(python -m [\w. ]+)`", shown)
    assert files or parts or others
    for file in files:
        assert (HERE / file).exists(), file
    assert set(parts) <= set(PARTS)
    if row not in MISSING:
        named = {f"{place.partition('::')[0]}" for place in marked()[row]}
        assert named & set(files), f"{row}: none of {sorted(named)} is named"
