"""The environment variables a worker starts with.

The rule: a model sees what the server sees, less everything that looks like a secret and
less Clipper's own settings; what its deployer set for it comes over that. A name looks
like a secret when one of its words (between underscores) is TOKEN, SECRET, PASSWORD and
the like, or when it belongs to a cloud's credentials. Numeric libraries are held to one
thread, since several workers share the processors, unless somebody says otherwise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import clipper

_SECRET_WORDS = {"AUTH", "CREDENTIAL", "CREDENTIALS", "DSN", "KEY", "KEYS", "APIKEY"}
_SECRET_WORDS |= {"PASS", "PASSPHRASE", "PASSWD", "PASSWORD"}
_SECRET_WORDS |= {"SECRET", "SECRETS", "TOKEN", "TOKENS"}
_SECRET_PREFIXES = ("CLIPPER_", "AWS_", "AZURE_")
_SECRET_NAMES = frozenset(("DATABASE_URL", "REDIS_URL", "NETRC", "PGPASSFILE"))

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def looks_secret(name: str) -> bool:
    upper = name.upper()
    return (
        upper in _SECRET_NAMES
        or upper.startswith(_SECRET_PREFIXES)
        or not _SECRET_WORDS.isdisjoint(upper.split("_"))
    )


def worker_environment(
    extra: Mapping[str, str], inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables of a worker: inherited ones by the rule above, `extra` over them."""
    result = {name: text for name, text in inherited.items() if not looks_secret(name)}
    for name in _ONE_THREAD:
        result.setdefault(name, "1")
    result.update(extra)
    root = Path(clipper.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        # We run from a source tree, which the worker must find as well.
        path = result.get("PYTHONPATH")
        result["PYTHONPATH"] = f"{path}{os.pathsep}{root}" if path else str(root)
    return result
