"""Batching: figures 3, 4 and 5 of the Clipper paper, on MNIST images.

fig3  the latency of a batch against its size
fig4  controllers at saturation under an objective of 20 ms
fig5  delayed batching: fixed waits and batch_wait auto

Crankshaw et al., "Clipper: A Low-Latency Online Prediction Serving System" (NSDI 2017).
The server is embedded in this process, each model has one worker process, and the cache is
off. Nothing else should run on the machine. Linux only; needs the extra `bench`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import uvloop

from benchmarks import mnist
from benchmarks.batching_run import Findings, Run
from benchmarks.command import (
    SHORT,
    count,
    end_on_signals,
    fill,
    make_options,
    missing_extra,
    positive,
    refuse,
    some_of,
)
from benchmarks.goals import goal_table
from benchmarks.results import describe_machine

# name -> title, and the file of its plot
PARTS = {
    "fig3": ("Latency of a batch against its size, idle replica", "batch-latency.svg"),
    "fig4": ("Controllers at saturation, 20 ms objective", "controllers.svg"),
    "fig5": ("Delayed batching: predictions/s by batch_wait in ms", "batch-wait.svg"),
}
LANES = ("none", "quantile", "paper_aimd", "aimd", "goodput")
SHORT_MODELS = ["forest"]


def main(arguments: list[str]) -> int:
    chosen = parse(arguments)
    missing = missing_extra(mnist.missing_package(), chosen.plots)
    if missing is not None:
        return refuse(missing)
    end_on_signals()
    about = {
        **describe_machine(),
        "runs": chosen.runs,
        "seconds": chosen.seconds,
        "calls": chosen.calls,
    }
    run = Run(
        findings=Findings(about),
        models=chosen.models,
        controllers=chosen.controllers,
        runs=chosen.runs,
        seconds=chosen.seconds,
        calls=chosen.calls,
        short=chosen.short,
    )
    try:
        uvloop.run(measure(run, chosen.only))
    except KeyboardInterrupt:
        run.fail("Interrupted.")
    if chosen.short:
        run.findings.notes.append(SHORT)
    print(f"\n{make_report(run.findings)}")
    if chosen.json is not None:
        run.findings.write(chosen.json)
    if chosen.plots is not None:
        draw(run.findings, chosen.plots)
    return 1 if run.failed else 0


async def measure(run: Run, names: list[str]) -> None:
    for name in names:
        await figure(name).measure(run)


def figure(name: str) -> ModuleType:
    """The module of a figure."""
    from benchmarks import saturation, service_times, waits

    return {"fig3": service_times, "fig4": saturation, "fig5": waits}[name]


def measured(findings: Findings) -> list[str]:
    """The figures that have something to show."""
    return [name for name in PARTS if figure(name).models_of(findings)]


# -- showing ---------------------------------------------------------------------------


def make_report(findings: Findings) -> str:
    parts = [about(findings)]
    goals = []
    for name in measured(findings):
        parts.append(f"{PARTS[name][0]}\n\n{figure(name).report(findings)}")
        goals += figure(name).goals(findings)
    if goals:
        parts.append(f"Targets\n\n{goal_table(goals, 'worst', 'of all')}")
    parts += [f"Note: {note}" for note in findings.notes]
    return "\n\n".join(parts)


def about(findings: Findings) -> str:
    known = findings.about
    lines = [
        f"{known['processor']}, {known['cores']} cores, {known['system']}",
        f"Python {known['python']}, {known['when']}",
        f"Rounds: {known['runs']}; medians are shown. Callers by {known['calls']}.",
    ]
    right = [f"{name} {share:.1%}" for name, share in findings.accuracy.items()]
    if right:
        lines.append(f"Right about images that were not fitted to: {', '.join(right)}.")
    return "\n".join(lines)


def draw(findings: Findings, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in measured(findings):
        figure(name).draw(findings, directory / PARTS[name][1])


# -- the command line ------------------------------------------------------------------


def parse(arguments: list[str]) -> argparse.Namespace:
    options = make_options("batching", __doc__)
    add = options.add_argument
    add("--runs", type=count, help="rounds (3)")
    add("--seconds", type=positive, help="of a load of fig4; fig5 takes 0.3 of it (1)")
    add("--only", type=some_of(PARTS), help=f"comma-separated, of {', '.join(PARTS)}")
    add("--models", type=some_of(mnist.TITLES), help=f"of {', '.join(mnist.TITLES)}")
    add("--controllers", type=some_of(LANES), help=f"of fig4: {', '.join(LANES)}")
    add(
        "--calls",
        choices=("predict", "submit"),
        default="predict",
        help="how callers of fig4 ask: `await server.predict`, or what is below it",
    )
    add("--json", type=Path, metavar="FILE", help="write every sample there")
    add("--plots", type=Path, metavar="DIRECTORY", help="write a figure of each part there")
    add("--short", action="store_true", help="half a minute in all: does it work")
    chosen = options.parse_args(arguments)
    short = chosen.short
    fill(
        chosen,
        runs=1 if short else 3,
        seconds=0.3 if short else 1.0,
        only=list(PARTS),
        models=SHORT_MODELS if short else list(mnist.TITLES),
        controllers=list(LANES),
    )
    return chosen
