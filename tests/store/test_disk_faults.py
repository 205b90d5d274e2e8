"""Any change of the disk fails, or the power goes at any moment: what was answered is
there, once, and the directory opens."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from .power import Disk, read_log

if sys.platform != "linux" or shutil.which("gcc") is None:
    pytest.skip("needs gcc and Linux", allow_module_level=True)

STORER = Path(__file__).with_name("storer.py")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp("shim") / "faulty_disk.so"
    source = Path(__file__).with_name("faulty_disk.c")
    command = ["gcc", "-O1", "-Wall", "-shared", "-fPIC", "-o", built, source, "-ldl"]
    subprocess.run([*command, "-lpthread"], check=True)
    return built


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory in memory, where a flush costs nothing: what counts here is its order."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="clipper-", dir=memory) as directory:
        yield Path(directory)


def run_storer(shim: Path, root: Path, *arguments: str, log: Path | None = None) -> str:
    environment = os.environ | {"LD_PRELOAD": str(shim), "DISK_ROOT": str(root)}
    if log is not None:
        environment["DISK_LOG"] = str(log)
    done = subprocess.run(
        [sys.executable, str(STORER), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- a change that fails -----------------------------------------------------------------


def fail_one_by_one(shim: Path, root: Path, most: int) -> Counter[str]:
    """How lives ended in which one change of the disk failed."""
    said = run_storer(shim, root, "fail", str(root), str(most))
    return Counter(line.split(" ", 1)[1] for line in said.splitlines())


@pytest.mark.fault("D2")
def test_a_change_of_the_disk_that_fails_loses_nothing(shim: Path, root: Path) -> None:
    ends = fail_one_by_one(shim, root, 60)
    assert ends.total() >= 60
    assert ends["EIO refused: StoreError"] > 10
    assert ends["short ok"] == sum(n for end, n in ends.items() if "short" in end)


@pytest.mark.fault("D2")
@pytest.mark.long
@pytest.mark.timeout(1800)
def test_every_change_of_the_disk_fails_in_its_turn(shim: Path, root: Path) -> None:
    ends = fail_one_by_one(shim, root, 0)
    assert ends.total() > 1_500
    assert ends["short ok"] == ends.total() // 3
    assert ends["ENOSPC refused: DiskFull"] > 10


# -- the power goes ----------------------------------------------------------------------


async def cut(shim: Path, root: Path, cuts: int, dice: random.Random) -> None:
    """Record a life, cut the power at so many moments of it, and look at what is left."""
    from .storer import check

    whole, log = root / "whole", root / "log"
    whole.mkdir()
    run_storer(shim, whole, "record", str(whole), log=log)
    changes = list(read_log(log))
    moments = Counter(dice.randrange(len(changes) + 1) for _ in range(cuts))
    disk, answers = Disk(), b""
    disk.flushed_names[str(whole)] = None
    seen = 0
    for moment in range(len(changes) + 1):
        for _ in range(moments[moment]):
            left = root / "left"
            left.mkdir()
            disk.leave(str(whole), left, dice)
            told = answers.decode().splitlines()
            try:
                await check(left / "data", told)
            except BaseException as error:
                error.add_note(f"cut after change {moment} of {len(changes)}")
                raise
            seen += bool(told)
            shutil.rmtree(left)
        if moment < len(changes):
            change = changes[moment]
            disk.do(change)
            if change.path.endswith("/answers") and change.kind == "w":
                answers += change.data
    assert b"last.0" in answers and seen > cuts / 3


@pytest.mark.fault("D5")
async def test_a_loss_of_power_loses_nothing_that_was_answered(
    shim: Path, root: Path
) -> None:
    await cut(shim, root, 200, random.Random(5))


@pytest.mark.fault("D5")
@pytest.mark.long
@pytest.mark.timeout(3600)
async def test_ten_thousand_losses_of_power_lose_nothing(shim: Path, root: Path) -> None:
    await cut(shim, root, 10_000, random.Random())
