"""A leash: the kernel ends a group of processes when this process ends, in any way.

"Die with the parent" reaches a worker alone, and one that is killed cannot end what its
model has started. So the server holds a pipe that it never writes to, and has asked for
SIGKILL to the worker's group, in place of SIGIO, when something happens to the reading
end. What happens is that the writing end is closed, which the kernel sees to.
"""

from __future__ import annotations

import fcntl
import os
import signal

HAVE_LEASH = hasattr(fcntl, "F_SETSIG")  # Linux


class Leash:
    """Holds the group `group`, which exists, for as long as this process lives."""

    # State: the descriptors of the pipe, -1 once it is closed.

    def __init__(self, group: int) -> None:
        """Raises OSError where there are no descriptors left."""
        # Of what a process leaves open Linux lets go of the highest number first, which
        # must be the writing end: the lowest free numbers are given in order, so it is.
        self._reading, self._writing = os.pipe()
        try:
            fcntl.fcntl(self._reading, fcntl.F_SETOWN, -group)
            fcntl.fcntl(self._reading, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(self._reading, fcntl.F_GETFL)
            fcntl.fcntl(self._reading, fcntl.F_SETFL, flags | os.O_ASYNC)
        except BaseException:
            self.release()
            raise

    def pull(self) -> None:
        """End the group. Unlike a process id, this can never mean another group that
        has got the same number since."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1
        self.release()

    def release(self) -> None:
        """Let go of it. Idempotent."""
        for descriptor in (self._reading, self._writing):
            if descriptor >= 0:
                os.close(descriptor)
        self._reading = self._writing = -1
