"""A function or model as bytes that another process can load.

A package is a small msgpack head, which anyone may read, and a pickle, which is loaded in
a worker and nowhere else: `unpack` is the only place that runs what is in it.
"""

from __future__ import annotations

import inspect
import io
import pickle
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import msgspec

from clipper.errors import ClipperError, InvalidInput

MIB = 1024 * 1024
_SOURCE_LIMIT = 64 * 1024
_MAGIC = b"clipper-package-1\n"


class PackagingError(ClipperError):
    """A package that cannot be loaded in this worker; `detail` is a traceback."""

    status = 422
    code = "deploy_failed"

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.detail = detail


class Manifest(msgspec.Struct, frozen=True):
    """What is known of a package without loading it.

    `packages` maps a distribution to the version it had; `modules` maps what one imports
    to the distribution that brings it.
    """

    python: str  # major.minor
    packages: dict[str, str] = {}
    modules: dict[str, str] = {}
    source: str = ""
    by_value: list[str] = []


@dataclass(frozen=True, slots=True)
class Package:
    """`blob` is what is uploaded and stored; the rest describes it for people.
    `by_value` names the local modules whose code came along."""

    blob: bytes = field(repr=False)
    python: str
    packages: dict[str, str]
    source: str = field(repr=False)
    by_value: list[str]


class PredictorFunction:
    """An object with a `predict` method, called like a function."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __call__(self, inputs: Any) -> Any:
        return self.model.predict(inputs)


def python_version() -> str:
    return ".".join(platform.python_version_tuple()[:2])


# -- packing, where the function is written --------------------------------------------


def pack(model: Any) -> Package:
    """Package a function of a list of inputs, or an object with such a `predict`.

    Code of modules that are installed nowhere goes along by value; what is installed is
    imported again in the worker. Raises InvalidInput with a sentence that says what
    cannot be sent.
    """
    function = _as_function(model)
    with _local_modules_by_value() as local:
        try:
            pickled, used = _pickle(function)
        except Exception as error:
            raise InvalidInput(_why_unpicklable(function, error)) from error
    packages, modules = _distributions_of(used - set(local))
    manifest = Manifest(
        python=python_version(),
        packages=packages,
        modules=modules,
        source=_source_of(model),
        by_value=sorted(used & set(local)),
    )
    return Package(
        blob=_join(manifest, pickled),
        python=manifest.python,
        packages=packages,
        source=manifest.source,
        by_value=manifest.by_value,
    )


def _as_function(model: Any) -> Callable[[Any], Any]:
    if inspect.isclass(model):
        raise InvalidInput(
            f"{model.__name__} is a class; deploy an instance of it or a function"
        )
    target = model if inspect.isroutine(model) else getattr(model, "predict", model)
    if not callable(target):
        raise InvalidInput(
            "the model must be a function or an object with a predict method, "
            f"got {type(model).__name__}"
        )
    if inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target):
        raise InvalidInput("the function must be a plain function, not async")
    return model if target is model else PredictorFunction(model)


@contextmanager
def _local_modules_by_value() -> Iterator[list[str]]:
    """Have cloudpickle take the code of local modules along; undone at the end."""
    import cloudpickle

    names = []
    before = cloudpickle.list_registry_pickle_by_value()
    try:
        for name, module in list(sys.modules.items()):
            if name not in before and _is_local(name, module):
                cloudpickle.register_pickle_by_value(module)
                names.append(name)
        yield names
    finally:
        for name in names:
            with suppress(ValueError):
                cloudpickle.unregister_pickle_by_value(sys.modules[name])


def _is_local(name: str, module: ModuleType | None) -> bool:
    """Whether a worker would probably not find this module."""
    if not isinstance(module, ModuleType) or module.__name__ != name:
        return False
    top = name.partition(".")[0]
    if top in ("__main__", "clipper") or top in sys.stdlib_module_names:
        return False
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith((".py", ".pyc")):
        return False  # built in, or compiled: there is no code to take along
    path = Path(file)
    if {"site-packages", "dist-packages"} & set(path.parts):
        return False
    return not any(path.is_relative_to(root) for root in _installed_roots())


def _installed_roots() -> tuple[str, ...]:
    import sysconfig

    paths = sysconfig.get_paths()
    return tuple(paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))


def _source_of(model: Any) -> str:
    try:
        target = model if inspect.isroutine(model) else type(model)
        return inspect.getsource(target)[:_SOURCE_LIMIT]
    except (OSError, TypeError):
        return ""


def _pickle(function: Callable[[Any], Any]) -> tuple[bytes, set[str]]:
    """The pickle, and the names of the modules whose things are in it."""
    import cloudpickle

    used = {"cloudpickle"}

    class Recorder(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, ModuleType):
                used.add(obj.__name__)
            elif isinstance(name := getattr(obj, "__module__", None), str):
                used.add(name)
            return super().reducer_override(obj)

    file = io.BytesIO()
    Recorder(file).dump(function)
    return file.getvalue(), used


def _distributions_of(names: set[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Installed packages that bring these modules: versions, and who brings what."""
    from importlib import metadata

    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    packages: dict[str, str] = {}
    modules: dict[str, str] = {}
    brought_by = metadata.packages_distributions()
    for top in sorted(tops - {"clipper", "__main__"}):
        for distribution in brought_by.get(top, ())[:1]:
            with suppress(metadata.PackageNotFoundError):
                packages[distribution] = metadata.version(distribution)
                modules[top] = distribution
    return packages, modules


def _why_unpicklable(function: Any, error: Exception) -> str:
    found = _culprit(function, depth=4)
    reason = str(error) or type(error).__name__
    if found is None:
        return f"the function cannot be sent to a worker: {reason}"
    where, value = found
    return (
        f"the function cannot be sent to a worker because of {where}, "
        f"a {type(value).__name__} ({reason}); create it inside the function"
    )


def _culprit(function: Any, depth: int) -> tuple[str, Any] | None:
    """The innermost thing the function refers to that does not pickle, with its name."""
    import cloudpickle

    if isinstance(function, PredictorFunction):
        function = function.model
    for where, value in _references(function):
        try:
            cloudpickle.dumps(value)
        except Exception:
            inner = _culprit(value, depth - 1) if depth else None
            return inner or (where, value)
    return None


def _references(target: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(target, FunctionType):
        names = _global_names(target.__code__)
        for name in sorted(names & target.__globals__.keys()):
            yield f"the global {name!r}", target.__globals__[name]
        cells = zip(target.__code__.co_freevars, target.__closure__ or (), strict=False)
        for name, cell in cells:
            with suppress(ValueError):  # not filled yet
                yield f"the variable {name!r}", cell.cell_contents
        for value in target.__defaults__ or ():
            yield "a default argument", value
    elif not isinstance(target, ModuleType):
        for name, value in getattr(target, "__dict__", {}).items():
            yield f"the attribute {name!r}", value


def _global_names(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _global_names(constant)
    return names


# -- the envelope ----------------------------------------------------------------------


def _join(manifest: Manifest, pickled: bytes) -> bytes:
    head = msgspec.msgpack.encode(manifest)
    return b"".join((_MAGIC, len(head).to_bytes(4, "little"), head, pickled))


def split(blob: bytes | bytearray | memoryview) -> tuple[Manifest | None, memoryview]:
    """The manifest and the pickle in a package; a bare pickle has no manifest. Loads
    nothing. Raises PackagingError for what is neither."""
    view = memoryview(blob)
    if bytes(view[:1]) == b"\x80":  # what every pickle since protocol 2 begins with
        return None, view
    start = len(_MAGIC) + 4
    if bytes(view[: len(_MAGIC)]) != _MAGIC or len(view) < start:
        raise PackagingError("the upload is not a packaged function")
    end = start + int.from_bytes(view[len(_MAGIC) : start], "little")
    try:
        manifest = msgspec.msgpack.decode(view[start:end], type=Manifest)
    except (ValueError, RecursionError):
        raise PackagingError("the package is damaged") from None
    return manifest, view[end:]


# -- loading, in the worker only -------------------------------------------------------


def unpack(blob: bytes | bytearray | memoryview) -> Callable[[Any], Any]:
    """The packaged function. Runs the code in it: called in a worker and nowhere else.

    Raises PackagingError with a sentence that says what to do.
    """
    manifest, pickled = split(blob)
    if manifest is not None and manifest.python != python_version():
        raise PackagingError(
            f"the function was packaged by Python {manifest.python} and the worker runs "
            f"{python_version()}; deploy it again from Python {python_version()}"
        )
    try:
        loaded = pickle.loads(pickled)
    except ModuleNotFoundError as error:
        raise PackagingError(_missing(error, manifest), _trace(error)) from error
    except Exception as error:
        sentence = f"the function could not be loaded: {type(error).__name__}: {error}"
        raise PackagingError(sentence + _differences(manifest), _trace(error)) from error
    try:
        return _as_function(loaded)
    except InvalidInput as error:
        raise PackagingError(error.cause) from None


def _missing(error: ModuleNotFoundError, manifest: Manifest | None) -> str:
    top = (error.name or "").partition(".")[0]
    sentence = f"the worker's environment has no module {error.name!r}"
    distribution = manifest.modules.get(top) if manifest else None
    if manifest and distribution:
        return (
            f"{sentence}; install {distribution}=={manifest.packages[distribution]} there"
        )
    return f"{sentence}; install it there, or package the function where it is local"


def _differences(manifest: Manifest | None) -> str:
    """Which packages have other versions here, when that may be the reason."""
    from importlib import metadata

    other = []
    for name, version in (manifest.packages if manifest else {}).items():
        with suppress(metadata.PackageNotFoundError):
            if (here := metadata.version(name)) != version:
                other.append(f"{name} {version}, here {here}")
    return f" (packaged with {'; '.join(other)})" if other else ""


def _trace(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))
