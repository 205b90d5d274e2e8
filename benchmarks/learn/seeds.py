"""One piece of work for each of many seeds, on all cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any, TypeVar

Found = TypeVar("Found")


def for_seeds(
    work: Callable[..., Found], seeds: Sequence[int], processes: int, *given: Any
) -> list[Found]:
    """work(*given, seed) for each seed, in their order. With one process it runs in this
    one; otherwise `work` must be importable and what is given is copied to the others."""
    if processes == 1 or len(seeds) == 1:
        return [work(*given, seed) for seed in seeds]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(processes, len(seeds)), context) as pool:
        return list(pool.map(partial(work, *given), seeds))
