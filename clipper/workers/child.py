"""The worker process: ``python -m clipper.workers.child FD PARENT KERNEL MEMORY``.

FD is the inherited socket, PARENT the server's process id, KERNEL 1 to let the kernel end
us with the server, MEMORY a limit in bytes or 0. Only the server starts this.
"""

from __future__ import annotations

import os
import socket
import sys

from clipper.workers import guard


def main(arguments: list[str]) -> None:
    """Protect the process first, import the heavy rest, then serve until the end."""
    fd, parent, kernel, memory = map(int, arguments)
    guard.die_with_parent(fd, parent, kernel=bool(kernel))
    guard.settle(memory)
    from clipper.workers.session import Session

    # Last, so that no file that happens to lie there shadows an installed module.
    sys.path.append(os.getcwd())
    Session(socket.socket(fileno=fd)).run()


if __name__ == "__main__":
    main(sys.argv[1:])
