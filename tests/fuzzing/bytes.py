"""Drives a decoder with bytes for some seconds: by atheris where it is installed, else by
hypothesis."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

MOST_BYTES = 4096


def search(name: str, seconds: int) -> None:
    """Look for bytes that make a target raise. Ends the process."""
    try:
        import atheris
    except ImportError:
        _search_blindly(name, seconds)
        return
    with atheris.instrument_imports(include=["clipper", "fuzzing", "tomllib"]):
        from fuzzing.decoders import TARGETS, watched
    target = TARGETS[name]
    corpus = Path(tempfile.mkdtemp(prefix=f"corpus-{name}-"))
    for number, seed in enumerate(target.seeds()):
        (corpus / str(number)).write_bytes(seed)
    options = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES}",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={corpus}/",
        str(corpus),
    ]
    atheris.Setup(options, lambda data: watched(target.run, data))
    atheris.Fuzz()


def _search_blindly(name: str, seconds: int) -> None:
    import time

    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    from fuzzing.decoders import TARGETS, watched
    from fuzzing.test_decoders import changed

    target = TARGETS[name]
    until = time.monotonic() + seconds

    @settings(
        max_examples=2000,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    @given(changed(target.seeds()) | st.binary(max_size=MOST_BYTES))
    def once(data: bytes) -> None:
        watched(target.run, data)

    while time.monotonic() < until:
        once()
