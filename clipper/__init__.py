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
    from clipper.selection.policy import Ensemble as Ensemble
    from clipper.selection.policy import Observation as Observation
    from clipper.selection.policy import PersonalOptions as PersonalOptions
    from clipper.selection.policy import SingleChoice as SingleChoice
    from clipper.selection.registry import add_policy as add_policy
    from clipper.server import Server as Server
    from clipper.values import Prediction as Prediction

_HOMES = {
    # talk to a server
    "Clipper": "clipper.client",
    "AsyncClipper": "clipper.client",
    # be a server
    "Server": "clipper.server",
    # write a selection policy
    "Ensemble": "clipper.selection.policy",
    "Observation": "clipper.selection.policy",
    "PersonalOptions": "clipper.selection.policy",
    "SingleChoice": "clipper.selection.policy",
    "add_policy": "clipper.selection.registry",
    # values and errors
    "Prediction": "clipper.values",
    "ClipperError": "clipper.errors",
}

__all__ = [
    "AsyncClipper",
    "Clipper",
    "ClipperError",
    "Ensemble",
    "Observation",
    "PersonalOptions",
    "Prediction",
    "Server",
    "SingleChoice",
    "__version__",
    "add_policy",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'clipper' has no attribute {name!r}")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
