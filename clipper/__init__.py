"""Clipper: a low-latency prediction server.

Names load on first use, so that a worker process which needs only the wire format does
not import the HTTP stack.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from clipper.version import __version__

if TYPE_CHECKING:
    from clipper.client import AsyncClipper as AsyncClipper
    from clipper.client import Clipper as Clipper
    from clipper.errors import ClipperError as ClipperError
    from clipper.server import Server as Server
    from clipper.values import Prediction as Prediction

_HOMES = {
    # talk to a server
    "Clipper": "clipper.client",
    "AsyncClipper": "clipper.client",
    # be a server
    "Server": "clipper.server",
    # values and errors
    "Prediction": "clipper.values",
    "ClipperError": "clipper.errors",
}

__all__ = [
    "AsyncClipper",
    "Clipper",
    "ClipperError",
    "Prediction",
    "Server",
    "__version__",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'clipper' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
