"""What a run of the learning benchmark is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    seeds: Sequence[int]
    quick: bool = False  # short streams: does it work
    processes: int = 1
