"""A leash: the kernel ends a group of processes when this process ends, in any way.

"Die with the parent" reaches a worker alone, and one that is killed cannot end what its
model has started. So the server holds a pair of sockets that nobody writes to, each of
which has been asked for SIGKILL to the worker's group, in place of SIGIO, when something
happens to it. What happens is that the other one is closed, which the kernel sees to.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket

HAVE_LEASH = hasattr(fcntl, "F_SETSIG")  # Linux


class Leash:
    """Holds the group `group`, which exists, for as long as this process lives."""

    # State: the sockets, none once it is released. Either may be closed first.

    def __init__(self, group: int) -> None:
        """Raises OSError where there are no descriptors left."""
        self._ends = [*socket.socketpair()]
        try:
            for end in self._ends:
                fcntl.fcntl(end, fcntl.F_SETOWN, -group)
                fcntl.fcntl(end, fcntl.F_SETSIG, signal.SIGKILL)
                flags = fcntl.fcntl(end, fcntl.F_GETFL)
                fcntl.fcntl(end, fcntl.F_SETFL, flags | os.O_ASYNC)
        except BaseException:
            self.release()
            raise

    def pull(self) -> None:
        """End the group. Unlike a process id, this can never mean another group that
        has got the same number since."""
        if self._ends:
            self._ends.pop().close()
        self.release()

    def release(self) -> None:
        """Let go of it. Idempotent."""
        for end in self._ends:
            fcntl.fcntl(end, fcntl.F_SETOWN, 0)
        while self._ends:
            self._ends.pop().close()
