"""What a worker does to itself before anything else: die with its parent, keep limits,
leave its streams and signals as the server expects them. Light imports only."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import select
import signal
import sys
import threading
from contextlib import suppress
from typing import TextIO

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with_parent(fd: int, parent: int, *, kernel: bool) -> None:
    """End this process when the server's end of the socket `fd` closes.

    On Linux the kernel kills us when the parent ends, unless `kernel` is false; that works
    even while the model holds the interpreter. Everywhere a thread waits for the hang-up
    of the socket; it never wakes for data, so it costs the request path nothing. It also
    ends what the model forked, which the kernel's signal does not.
    """
    if kernel and sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        end_group()
    threading.Thread(target=_watch, args=(fd,), name="parent-watch", daemon=True).start()


def _watch(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, 0)  # hang-up and errors are always reported
    while not poll.poll():
        pass
    end_group()


def end_group() -> None:
    """Leave at once, and take along everything the model forked.

    A process that was forked from the worker is no leader: it ends alone.
    """
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def settle(memory_limit: int) -> None:
    """Signals, limits and streams. `memory_limit` is bytes of address space, 0 for none."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if memory_limit:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        limit = memory_limit if hard < 0 else min(memory_limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    # When memory runs out the kernel is to take us, not the server.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIO) or hasattr(stream, "reconfigure"):
            stream.reconfigure(  # type: ignore[union-attr]
                encoding="utf-8", errors="backslashreplace", line_buffering=True
            )
