"""What a server's process does with memory: seldom collected, and given back."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

# Net allocations of containers between collections of the youngest generation.
GC_THRESHOLD = 20_000

# Blocks of so many bytes are mapped by themselves, and so much that is free at the end of
# the heap is kept.
LARGE = 1 << 20

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # malloc.h


def settle() -> None:
    """What lives now lives to the end: keep the collector from walking it again. What a
    query allocates is freed by reference counts; the collector is for the rest, and need
    not look for it after every few hundred queries."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 50)
    # Left to itself glibc takes blocks of up to 32 MiB from the heap once one as large was
    # freed, and lets twice that lie free at its end: some MB more after every million
    # requests. To trim the heap now and then would hold the loop, 0.5 us for each hole.
    with suppress(AttributeError, OSError):  # of other C libraries
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, LARGE)
        mallopt(_TRIM_THRESHOLD, LARGE)
