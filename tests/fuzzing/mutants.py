"""Mutation testing: change the code in small ways, and count which changes the tests of
the changed module notice.

A group of modules is copied into a folder of its own, with only the tests that are about
it and are quick: mutmut runs those for each mutant in a process forked for it. What
survives is either a test that is missing, or a change that makes no difference; the
latter are written down in EQUIVALENT, with the reason.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
GOAL = 0.85  # of the mutants of a group, those known to change nothing left out

KILLED = frozenset({1, 3, 24, -24, 36, 152, 255, -9, -11})  # exit codes of a mutant's tests
NOT_RUN = frozenset({None, 2})


class Group(NamedTuple):
    """Modules of one part of the server, and the tests that guard them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]


GROUPS = {
    "queue": Group(
        ("batching/queue.py", "batching/intake.py", "batching/job.py"),
        (
            "batching/test_queue.py",
            "batching/test_intake.py",
            "batching/test_dispatcher.py",
            "batching/test_dispatcher_load.py",
            "batching/test_dispatcher_replicas.py",
        ),
    ),
    "recovery": Group(
        (
            "batching/recovery.py",
            "batching/suspicion.py",
            "batching/trials.py",
            "workers/hang.py",
        ),
        (
            "batching/test_recovery.py",
            "batching/test_suspicion.py",
            "batching/test_trials.py",
            "workers/test_hang.py",
        ),
    ),
    "supervisor": Group(
        (
            "workers/replica_set.py",
            "workers/place.py",
            "workers/places.py",
            "workers/recycling.py",
            "workers/crash_loop.py",
        ),
        (  # no processes: those tests take a second each, and a mutant has many
            "workers/test_places.py",
            "workers/test_crossings.py",
            "workers/test_supervision.py",
            "workers/test_crash_loop.py",
        ),
    ),
    "replica": Group(
        ("workers/replica.py",),
        (
            "workers/test_replica.py",
            "workers/test_replica_rules.py",
            "workers/test_replica_start.py",
            "workers/test_faults.py",
        ),
    ),
    "policies": Group(
        (
            "selection/exp3.py",
            "selection/ucb1.py",
            "selection/thompson.py",
            "selection/epsilon_greedy.py",
            "selection/means.py",
            "selection/totals.py",
            "selection/draw.py",
            "selection/canary.py",
        ),
        (
            "selection/test_exp3.py",
            "selection/test_exp3_ix.py",
            "selection/test_ucb1.py",
            "selection/test_discounted_ucb.py",
            "selection/test_thompson.py",
            "selection/test_epsilon_greedy.py",
            "selection/test_totals.py",
            "selection/test_draw.py",
            "selection/test_canary.py",
        ),
    ),
    "ensembles": Group(
        (
            "selection/hedge.py",
            "selection/blend.py",
            "selection/vote.py",
            "selection/log_pool.py",
            "selection/exp4.py",
            "selection/losses.py",
            "selection/combine.py",
        ),
        (
            "selection/test_hedge.py",
            "selection/test_blend.py",
            "selection/test_vote.py",
            "selection/test_log_pool.py",
            "selection/test_exp4.py",
            "selection/test_losses.py",
            "selection/test_combine.py",
            "selection/test_majority.py",
        ),
    ),
    "contextual": Group(
        ("selection/ridge.py", "selection/linucb.py", "selection/squarecb.py"),
        (
            "selection/test_ridge.py",
            "selection/test_linucb.py",
            "selection/test_squarecb.py",
        ),
    ),
    "store": Group(
        (
            "store/database.py",
            "store/faults.py",
            "store/file.py",
            "store/sqlite.py",
            "store/sqlite_log.py",
            "store/memory_log.py",
            "store/feedback.py",
            "store/states.py",
            "store/rows.py",
            "store/log_rows.py",
            "store/checks.py",
            "store/migrations.py",
            "store/directory.py",
        ),
        (
            "store/test_database.py",
            "store/test_directory.py",
            "store/test_feedback.py",
            "store/test_log_rows.py",
            "store/test_memory.py",
            "store/test_migrations.py",
            "store/test_rows.py",
            "store/test_sqlite.py",
        ),
    ),
    "writer": Group(  # alone: its mutants hang, and a hang takes five times its tests' time
        ("store/writer.py",), ("store/test_writer.py",)
    ),
    "salvage": Group(
        ("store/salvage.py", "store/remains.py"),
        ("store/test_salvage_rows.py", "store/test_salvage.py", "store/test_damage.py"),
    ),
}

# Mutants that no test can kill, by a pattern of the changed line, and why.
EQUIVALENT: dict[str, str] = {
    r"assert .*, \"": "only the words of an assertion change",
    r"self\.settled = None": "None is as false as False",
    r"if rows >= self\._most": "to set what is the same again changes nothing",
    r"deadlines and deadline > self\.expires": "the slow way does the same",
    r"waiting \+ rows >= self\._limit and self\._full": "_full asks again, exactly",
    r"or work\.deadline > self\._tail": "equal deadlines keep their order in the heap too",
    r"heap\[0\]\[0\] <= line\[0\]\.deadline": "either of two equal deadlines may be first",
    r'float\("-INF"\)': "the same number",
    r"self\._tail = None": "the tail is not looked at while nothing waits",
    r"self\.shared = None": "None is as false as False",
    r"type\(None\) is not Job|work = None": "the slow way takes the same work",
    r"or work\.queue is self:|if work\.waiters or": "the slow way takes the same work",
    r"size > max_bytes or taken": "the slow way takes the same work",
    r"size >= max_bytes and taken": "the slow way takes the same work",
    r"\"[^\"a-z]*\b(FROM|SET|WHERE|PRAGMA) [^\"a-z]*\"": "SQL has no case",
    r"\"[^\"A-Z]*\b(from|set|where|pragma) [^\"A-Z]*\"": "SQL has no case",
    r"(?i)(?<![a-z])\"(begin immediate|commit)\"": "SQL has no case",
    r"\"(insert into [a-z_]+|INSERT INTO [A-Z_]+) ": "SQL has no case",
    r"\(\"desc\"|\"desc\"\)": "SQL has no case",
    r"for table in \(\"(FEEDBACK|feedback)\", \"(PERSON|person)\"\)": "SQL has no case",
    r"(?i)sum integer not null\) without rowid": "done at import, before the mutant is",
    r"_last_chunk \+= 2": "numbers of chunks rise, and need not be close",
    r"decode\(\"ASCII\"\)": "the same codec",
    r"token_hex\(None\)": "the same number of bytes",
    r"record_example\(batch\.seconds, \)": "the rows were recorded the line before",
    r"\+ {8}self\._timer = \"\"": "nothing looks at it once all is settled",
    r"_end\(None, FailureKind\.HUNG": "it has failed by then, and stays so",
    r"_due >= .* \+ self\._hang\.floor": "a short cut: no limit is below the floor",
    r"_due > .* - self\._hang\.floor": "a short cut: no limit is below the floor",
}

_CONFIGURATION = """
[mutmut]
source_paths = clipper
only_mutate =
    {modules}
pytest_add_cli_args_test_selection =
    {tests}
pytest_add_cli_args =
    --hypothesis-profile=mutants
    -p
    no:cacheprovider
do_not_mutate_patterns = ^\\s*logger\\.
timeout_multiplier = 5
timeout_constant = 4
"""


class Score(NamedTuple):
    """What became of the mutants of a module."""

    module: str
    total: int
    killed: int
    survivors: list[str]  # those that no test noticed, or none runs
    equivalent: list[str]
    left: int  # not looked at yet

    @property
    def share(self) -> float:
        counted = self.total - len(self.equivalent) - self.left
        return self.killed / counted if counted else 1.0


def prepare(name: str, folder: Path) -> None:
    """Copy the project into `folder` and say there what is to be mutated."""
    # before Python starts: a path that is not there then is never looked at again
    (folder / "mutants").mkdir(parents=True, exist_ok=True)
    for part in ("clipper", "tests"):
        shutil.copytree(
            ROOT / part,
            folder / part,
            ignore=shutil.ignore_patterns("__pycache__"),
            dirs_exist_ok=True,
        )
    group = GROUPS[name]
    configuration = _CONFIGURATION.format(
        modules="\n    ".join(f"clipper/{module}" for module in group.modules),
        tests="\n    ".join(f"tests/{test}" for test in group.tests),
    )
    (folder / "setup.cfg").write_text((ROOT / "setup.cfg").read_text() + configuration)


def run(folder: Path, names: tuple[str, ...] = (), children: int = 1) -> int:
    """Run the mutants that were not run yet, or those of a name; the exit code."""
    # the mutated modules first, in the tests and in the processes that they start
    environment = os.environ | {"PYTHONPATH": str(folder / "mutants")}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", str(children)]
    with (folder / "mutmut.log").open("wb") as log:
        return subprocess.call(
            [*command, *names], cwd=folder, env=environment, stdout=log, stderr=log
        )


def scores(folder: Path) -> Iterator[Score]:
    """Of each module, from what mutmut wrote down."""
    for path in sorted((folder / "mutants").rglob("*.py.meta")):
        codes = json.loads(path.read_text())["exit_code_by_key"]
        if codes:
            module = str(path.relative_to(folder / "mutants")).removesuffix(".meta")
            yield _score(module, codes, _changes(folder))


def _changes(folder: Path) -> Callable[[str], str]:
    """Tells the line of a mutant that is not the original's."""

    def changed(name: str) -> str:
        command = [sys.executable, "-m", "mutmut", "show", name]
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False
        )
        lines = [line for line in done.stdout.splitlines() if re.match(r"\+(?!\+)", line)]
        return "\n".join(lines)

    return changed


def _score(
    module: str, codes: dict[str, int | None], changed: Callable[[str], str]
) -> Score:
    survivors, equivalent = [], []
    killed = left = 0
    for name, code in codes.items():
        if code in NOT_RUN:
            left += 1
        elif code in KILLED:
            killed += 1
        else:
            line = changed(name)
            known = any(re.search(pattern, line) for pattern in EQUIVALENT)
            (equivalent if known else survivors).append(f"{name}  {line}")
    return Score(module, len(codes), killed, survivors, equivalent, left)


def table(found: list[Score]) -> str:
    """The scores as text, with a line for all together and the survivors' names."""
    total = Score(
        "together",
        sum(score.total for score in found),
        sum(score.killed for score in found),
        [name for score in found for name in score.survivors],
        [name for score in found for name in score.equivalent],
        sum(score.left for score in found),
    )
    lines = [f"{'module':40} mutants  killed  same  left   share"]
    lines += [
        f"{score.module:40} {score.total:7} {score.killed:7} {len(score.equivalent):5} "
        f"{score.left:5} {score.share:7.1%}"
        for score in [*found, total]
    ]
    lines += [f"survived: {name}" for name in total.survivors]
    return "\n".join(lines)
