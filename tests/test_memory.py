"""What the process of a server does with memory."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# How many blocks are mapped by themselves, before and after one more of 8 MiB, in a process
# that has freed one of 30 MiB.
PROGRAM = """
import ctypes, gc, sys
from clipper import memory
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
if sys.argv[1] == "settled":
    memory.settle()
    assert gc.get_threshold()[0] == memory.GC_THRESHOLD and gc.get_freeze_count()
large = bytes(30 << 20)
del large
before = libc.mallinfo2().hblks
block = bytes(8 << 20)
print(libc.mallinfo2().hblks - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="this is glibc's")
@pytest.mark.parametrize(("how", "mapped"), [("settled", 1), ("as-it-is", 0)])
def test_large_blocks_go_back_to_the_system_whatever_was_before(
    how: str, mapped: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == mapped
