"""Talking to a server from Python: `Clipper` blocks, `AsyncClipper` awaits."""

from __future__ import annotations

from clipper.client.async_client import AsyncClipper
from clipper.client.sync_client import Clipper

__all__ = ["AsyncClipper", "Clipper"]
