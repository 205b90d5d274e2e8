from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="figures need the extra `bench`")

from benchmarks.plot import bar_plot, line_plot, scatter_plot

LINES = {
    "aimd": ([1.0, 2.0, 4.0], [900.0, 1800.0, 1900.0]),
    "none": ([1.0, 2.0], [5.0, 6.0]),
}
POINTS = {"model": ([1.0, 2.0, 3.0], [1.1, 1.9, 3.2])}


def draw_lines(path: Path) -> None:
    line_plot(path, "Goodput", "offered", "good", LINES, log_x=True, marks={"full": 2.0})


def draw_bars(path: Path) -> None:
    values = {"aimd": [10.0, 200.0], "none": [1.0, 2.0]}
    bar_plot(path, "Goodput", "good", ["svm", "forest"], values, log_y=True)


def draw_points(path: Path) -> None:
    lines = {"model": ([1.0, 3.0], [1.0, 3.0]), "objective": ([1.0, 3.0], [2.0, 2.0])}
    scatter_plot(path, "Goodput", "rows", "good", POINTS, lines)


@pytest.mark.parametrize("draw", [draw_lines, draw_bars, draw_points])
def test_a_figure_is_svg_and_the_same_every_time(
    draw: Callable[[Path], None], tmp_path: Path
) -> None:
    draw(tmp_path / "one.svg")
    draw(tmp_path / "two.svg")
    text = (tmp_path / "one.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text == (tmp_path / "two.svg").read_text()
    shown = "".join(ElementTree.fromstring(text).itertext())
    assert "Goodput" in shown and "good" in shown


def test_labels_and_marks_are_in_the_figure(tmp_path: Path) -> None:
    draw_lines(tmp_path / "lines.svg")
    draw_points(tmp_path / "points.svg")
    for text in ("aimd", "none", "full", "offered"):
        assert text in (tmp_path / "lines.svg").read_text()
    for text in ("model", "objective", "rows"):
        assert text in (tmp_path / "points.svg").read_text()


def test_a_figure_may_be_empty(tmp_path: Path) -> None:
    line_plot(tmp_path / "empty.svg", "Nothing", "x", "y", {})
    assert (tmp_path / "empty.svg").exists()
