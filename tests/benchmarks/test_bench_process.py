from __future__ import annotations

import sys
from pathlib import Path

import pytest
from polling import block_until

from benchmarks import process
from benchmarks.process import Process, free_ports, read_stat, read_tree

# A parent and a child that both ignore a polite request to end.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) == 1:
    subprocess.Popen([sys.executable, __file__, "spawn_main"], start_new_session=True)
while True:
    sum(range(1000))
"""


@pytest.fixture
def stubborn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.1)
    program = tmp_path / "stubborn.py"
    program.write_text(STUBBORN)
    return Process([sys.executable, str(program)], tmp_path / "log")


def test_a_tree_is_weighed_and_leaves_nothing_behind(stubborn: Process) -> None:
    try:
        block_until(lambda: len(read_tree(stubborn.pid)) == 2)
        block_until(lambda: stubborn.cpu().workers > 0 and stubborn.cpu().front > 0)
        memory = stubborn.memory()
        assert 1e6 < memory.pss <= memory.rss
        tree = read_tree(stubborn.pid)
        stubborn.pause()
        block_until(lambda: {stat.state for stat in read_tree(stubborn.pid)} == {"T"})
        stubborn.resume()
        assert stubborn.alive
    finally:
        stubborn.stop()
    for stat in tree:
        # Whoever adopted the child has yet to take note of its end: a zombie is gone.
        block_until(lambda pid=stat.pid: _is_gone(pid))


def _is_gone(pid: int) -> bool:
    stat = read_stat(pid)
    return stat is None or stat.state in "ZX"


def test_ports_are_distinct() -> None:
    assert len(set(free_ports(5))) == 5


def test_the_end_of_the_output_is_kept(tmp_path: Path) -> None:
    writer = Process([sys.executable, "-c", "print('a\\nb\\nc')"], tmp_path / "log")
    block_until(lambda: not writer.alive)
    writer.stop()
    assert writer.log_tail(2) == "b\nc"
