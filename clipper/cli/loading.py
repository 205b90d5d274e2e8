"""From ``module:function`` or ``file.py:function`` to the object."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click


def load_function(text: str) -> Any:
    """What `text` names. Raises a usage error that tells which part is not there."""
    source, colon, attribute = text.rpartition(":")
    if not colon or not source or not attribute:
        raise _wrong(f"say MODULE:FUNCTION, as in models:predict, not {text!r}")
    try:
        module = _load_file(Path(source)) if source.endswith(".py") else _load(source)
    except click.UsageError:
        raise
    except Exception as error:
        raise _wrong(
            f"importing {source} raised {type(error).__name__}: {error}"
        ) from error
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise _wrong(f"there is no {attribute!r} in {source}") from None
    return found


def _load(name: str) -> ModuleType:
    """The module as Python in this directory would import it."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name + ".").startswith(error.name + "."):
            raise _wrong(f"there is no module {name!r} here or installed") from None
        raise


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise _wrong(f"there is no file {path}")
    if str(path.parent.absolute()) not in sys.path:  # its neighbours, as when it is run
        sys.path.insert(0, str(path.parent.absolute()))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _wrong(sentence: str) -> click.BadParameter:
    return click.BadParameter(sentence, param_hint="MODULE:FUNCTION")
