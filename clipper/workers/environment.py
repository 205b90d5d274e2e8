"""The environment variables a worker starts with.

The rule: a model sees what the server sees, less everything that looks like a secret and
less Clipper's own settings; what its deployer set for it comes over that. A name looks
like a secret when one of its words (between underscores) is, or ends in, TOKEN, SECRET,
PASSWORD, KEY and the like, or when it belongs to a cloud's credentials; a value does when
it is a private key or a URL with a password in it. Numeric libraries are held to one
thread, since several workers share the processors, unless somebody says otherwise.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import clipper

_SECRET_WORDS = frozenset(
    ("AUTH", "COOKIE", "COOKIES", "DSN", "JWT", "PASS", "PASSCODE", "PAT", "PWD")
)
_ENDS = ("CREDENTIAL", "KEY", "PASSPHRASE", "PASSWD", "PASSWORD", "SECRET", "TOKEN")
_SECRET_ENDS = (*_ENDS, *(f"{end}S" for end in _ENDS))
_SECRET_PREFIXES = ("CLIPPER_", "AWS_", "AZURE_")
_SECRET_NAMES = frozenset(
    ("CONNECTION_STRING", "DATABASE_URL", "NETRC", "PGPASSFILE", "REDIS_URL")
)
_SECRET_VALUE = re.compile(r"://[^/?#\s@]*:[^/?#\s@]+@|-----BEGIN [A-Z ]*PRIVATE KEY-----")
_DIRECTORIES = frozenset(("PWD", "OLDPWD"))

_ONE_THREAD = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


def looks_secret(name: str, value: str = "") -> bool:
    upper = name.upper()
    words = upper.split("_")
    return (
        upper in _SECRET_NAMES
        or upper.startswith(_SECRET_PREFIXES)
        or upper.endswith("_CONNECTION_STRING")
        or any(word.endswith(_SECRET_ENDS) for word in words)
        or (not _SECRET_WORDS.isdisjoint(words) and upper not in _DIRECTORIES)
        or _SECRET_VALUE.search(value) is not None
    )


def worker_environment(
    extra: Mapping[str, str], inherited: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables of a worker: inherited ones by the rule above, `extra` over them."""
    result = {
        name: text for name, text in inherited.items() if not looks_secret(name, text)
    }
    for name in _ONE_THREAD:
        result.setdefault(name, "1")
    result.update(extra)
    root = Path(clipper.__file__).parent.parent
    if root.name not in ("site-packages", "dist-packages"):
        # We run from a source tree, which the worker must find as well.
        path = result.get("PYTHONPATH")
        result["PYTHONPATH"] = f"{path}{os.pathsep}{root}" if path else str(root)
    return result
