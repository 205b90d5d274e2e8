"""Figures as SVG files: lines, bars and points, drawn by matplotlib.

matplotlib is imported by the functions, so that a benchmark runs without it as long as
nobody asks for a figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import fill
from typing import Any

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # label -> (x, y)

WIDTH, HEIGHT = 7.2, 4.2  # inches
MARKERS = "osD^vPX*"
# Distinguishable with most kinds of colour vision (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
CROWDED = 40  # points on a line past which they get no marker each


def line_plot(
    path: Path | str,
    title: str,
    x_label: str,
    y_label: str,
    series: Series,
    *,
    log_x: bool = False,
    log_y: bool = False,
    marks: Mapping[str, float] | None = None,
) -> None:
    """One line for each of `series`. `marks` are vertical lines: text -> x."""
    with _figure(path, title, y_label, log_y=log_y) as axes:
        for index, (label, (xs, ys)) in enumerate(series.items()):
            marker = MARKERS[index % len(MARKERS)] if len(xs) <= CROWDED else None
            axes.plot(xs, ys, label=label, marker=marker, markersize=4, linewidth=1.4)
        for text, x in (marks or {}).items():
            axes.axvline(x, color="0.5", linestyle="--", linewidth=1)
            place = (x, 0.99)
            axes.annotate(
                f" {text}", place, xycoords=("data", "axes fraction"), va="top", color="0.3"
            )
        axes.set_xlabel(x_label)
        if log_x:
            _count_in_powers(axes)
        _legend(axes, series)


def bar_plot(
    path: Path | str,
    title: str,
    y_label: str,
    groups: Sequence[str],
    series: Mapping[str, Sequence[float]],
    *,
    log_y: bool = False,
) -> None:
    """One bar in every group for each of `series`, which has a value per group."""
    width = 0.8 / max(1, len(series))
    with _figure(path, title, y_label, log_y=log_y) as axes:
        for index, (label, values) in enumerate(series.items()):
            offset = (index - (len(series) - 1) / 2) * width
            places = [group + offset for group in range(len(groups))]
            axes.bar(places, values, width, label=label)
        axes.set_xticks(range(len(groups)), [fill(group, 14) for group in groups])
        if len(series) > 1:  # inside, it would lie over bars
            axes.figure.legend(
                loc="outside lower center", ncols=5, frameon=False, fontsize=9
            )


def scatter_plot(
    path: Path | str,
    title: str,
    x_label: str,
    y_label: str,
    series: Series,
    lines: Series | None = None,
) -> None:
    """Points for each of `series`, and `lines` through or over them. A line called as a
    series are the points has their colour."""
    colours = dict(zip(series, COLOURS * (1 + len(series) // len(COLOURS)), strict=False))
    with _figure(path, title, y_label) as axes:
        for label, (xs, ys) in series.items():
            axes.scatter(
                xs, ys, s=8, alpha=0.5, linewidths=0, c=colours[label], label=label
            )
        for label, (xs, ys) in (lines or {}).items():
            known = label in series
            colour = colours[label] if known else "0.3"
            axes.plot(xs, ys, color=colour, linewidth=1.2, label=None if known else label)
        axes.set_xlabel(x_label)
        _legend(axes, {**series, **(lines or {})})


@contextmanager
def _figure(
    path: Path | str, title: str, y_label: str, *, log_y: bool = False
) -> Iterator[Any]:
    """The axes of a new figure, which is written to `path` in the end. The same data
    gives the same file."""
    import matplotlib
    from cycler import cycler
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    settings: dict[Any, Any] = {
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.right": False,
        "axes.spines.top": False,
        "font.size": 10,
        "svg.fonttype": "none",  # text stays text: small files that can be searched
        "svg.hashsalt": "clipper",
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained", facecolor="white")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.set_title(title, fontsize=11)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
        if log_y:
            axes.set_yscale("log")
        yield axes
        if not log_y:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        figure.savefig(path, format="svg", metadata={"Date": None})


def _count_in_powers(axes: Any) -> None:
    """A logarithmic x axis with plain numbers on it: 1, 2, 5, 10 ..."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _legend(axes: Any, series: Mapping[str, Any]) -> None:
    if len(series) > 1:
        axes.legend(framealpha=0.85, edgecolor="none", fontsize=9)
