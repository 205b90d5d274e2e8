"""Prints what the controllers make of load: `PYTHONPATH=tests python -m simulation.table`.

Arguments, in any order: names of controllers, names of models, `quick`.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from .goodput import (
    FOREST,
    ISSUE,
    LINEAR,
    ROUGH,
    SLO,
    Load,
    Trial,
    best,
    capacity,
    ideal_cap,
)
from .replicas import Nature

MODELS = {"issue": ISSUE, "rough": ROUGH, "forest": FOREST, "linear": LINEAR}
NAMES = ("aimd", "goodput", "quantile", "fifo", "none")
LOADS = (0.6, 0.95, 1.2, 2.0, 4.0, 8.0)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def goodput_table(name: str, nature: Nature, controllers: list[str], quick: bool) -> None:
    """Share of the peak goodput that is kept at each load."""
    full = capacity(nature)
    large = full > 10_000
    warm, end = (0.4, 0.7) if large else (1.0, 2.0) if quick else (1.0, 3.0)
    say(
        f"\n{name}: c={nature.fixed * 1e3:g} ms, a={nature.per_row * 1e6:g} us, "
        f"capacity {full:.0f}/s, (SLO-c)/a = {ideal_cap(nature):.0f} rows"
    )
    say(
        "            "
        + "".join(f"{load:>9g}x" for load in LOADS)
        + "   goodput, % of offered"
    )
    ideal = [best(nature, load * full) for load in LOADS]
    _row("possible", [f"{rate:.0f}" for rate in ideal], "if the future were known")
    for controller in controllers:
        trials = [
            Trial(controller, nature, [Load(0.0, load * full)], end) for load in LOADS
        ]
        good = [trial.goodput(warm, end) for trial in trials]
        peak = max(good)
        offered = [100 * g / (load * full) for g, load in zip(good, LOADS, strict=True)]
        _row(controller, [f"{g:.0f}" for g in good], " ".join(f"{o:.1f}" for o in offered))
        _row(
            "  kept",
            [f"{g / max(peak, 1):.3f}" for g in good],
            f"of peak {peak / full:.2f} x cap",
        )
        p99 = [1e3 * trial.batch_seconds(warm, end) for trial in trials]
        _row("  batch p99", [f"{p:.1f}" for p in p99], "ms")
        _row("  mean rows", [f"{t.mean_rows(warm, end):.0f}" for t in trials], "")
        _row("  busy", [f"{t.busy(warm, end):.2f}" for t in trials], "")
        late = [1e3 * trial.meter.latest for trial in trials]
        _row("  latest", [f"{x:.1f}" for x in late], "ms after the deadline")


def _row(name: str, cells: list[str], after: str) -> None:
    say(f"{name:<12}" + "".join(f"{cell:>10}" for cell in cells) + f"   {after}")


def course_table(name: str, nature: Nature, controllers: list[str]) -> None:
    """Caps and times: saturation, half the speed, little load, cold start, recovery."""
    full, ideal = capacity(nature), ideal_cap(nature)
    slower = replace(nature, jump_at=1000.0 + 3.0, jump=2.0)
    half = (SLO - 2 * nature.fixed) / (2 * nature.per_row)
    say(f"\n{name}: cap over (SLO-c)/a; seconds to be, and stay, within 15 % of it")
    say("                1.2x    2x  settle12  settle2 |  halved: 1.2x    2x | 5 %: before"
        "  min   after | cold .9x    2x  | 4x->.6x")  # fmt: skip
    for controller in controllers:
        at = {load: Trial(controller, nature, [Load(0, load * full)], 3.0)
              for load in (1.2, 2.0)}  # fmt: skip
        caps = [_mean(trial.caps(1.0, 3.0)) / ideal for trial in at.values()]
        settle = [trial.settles(ideal, 0.0, 3.0) for trial in at.values()]
        halved = [
            Trial(controller, slower, [Load(0, load * full)], 7.0).settles(half, 3.0, 7.0)
            for load in (1.2, 2.0)
        ]
        low = Trial(controller, nature, [Load(0, 1.2 * full), Load(3.0, 0.05 * full)], 13.0)
        before = _mean(low.caps(2.0, 3.0))
        after = low.caps(3.2, 13.0)
        cold = []
        for load in (0.9, 2.0):
            trial = Trial(controller, nature, [Load(0, load * full)], 3.0)
            cold.append(trial.reaches(0.9, trial.goodput(2.0, 3.0), 0.0))
        back = Trial(
            controller, nature, [Load(0, 4 * full), Load(2.0, 0.6 * full)], 5.0
        ).reaches(0.95, 0.6 * full, 2.0)
        say(f"{controller:<12}{caps[0]:>8.2f}{caps[1]:>6.2f}{settle[0]:>10.2f}"
            f"{settle[1]:>9.2f} |{halved[0]:>14.2f}{halved[1]:>6.2f} |{before:>12.0f}"
            f"{min(after):>6}{after[-1]:>7} |{cold[0]:>9.2f}{cold[1]:>6.2f}  |"
            f"{back:>6.2f}")  # fmt: skip


def _mean(numbers: list[int]) -> float:
    return sum(numbers) / max(1, len(numbers))


def main(arguments: list[str]) -> None:
    quick = "quick" in arguments
    models = [name for name in MODELS if name in arguments] or list(MODELS)
    controllers = [name for name in NAMES if name in arguments] or list(NAMES[:4])
    for name in models:
        goodput_table(name, MODELS[name], controllers, quick)
        if capacity(MODELS[name]) < 10_000 and not quick:
            course_table(name, MODELS[name], controllers)


if __name__ == "__main__":
    main(sys.argv[1:])
