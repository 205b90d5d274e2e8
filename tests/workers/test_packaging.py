"""Functions as packages: what comes along, what cannot, what a worker says of it."""

from __future__ import annotations

import ast
import functools
import pickle
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import cloudpickle
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import clipper
from clipper.errors import InvalidInput
from clipper.inputs import InputType
from clipper.workers import packaging
from clipper.workers.packaging import (
    PackagingError,
    pack,
    python_version,
    split,
    unpack,
)

from . import local_helper
from .conftest import StartWorker

LOCK = threading.Lock()


def uses_helper(xs: Any) -> Any:
    return local_helper.scale(xs)


def uses_numpy(xs: Any) -> Any:
    return np.sum(xs, axis=1)


def test_a_package_describes_itself() -> None:
    package = pack(uses_numpy)
    assert package.python == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert package.packages == {
        "cloudpickle": cloudpickle.__version__,
        "numpy": np.__version__,
    }
    assert package.source.startswith("def uses_numpy(xs")
    assert __name__ in package.by_value
    assert len(package.blob) < 10_000
    manifest, _ = split(package.blob)
    assert manifest is not None
    assert manifest.packages == package.packages
    assert manifest.source == package.source
    assert "blob" not in repr(package)


def test_unpack_gives_the_function_back() -> None:
    assert unpack(pack(lambda xs: xs * 2).blob)(4) == 8
    assert unpack(pack(functools.partial(max, 3)).blob)(2) == 3
    assert unpack(bytearray(cloudpickle.dumps(len)))("abc") == 3


def test_objects_with_predict() -> None:
    scaler = local_helper.Scaler(2.0)
    package = pack(scaler)
    assert list(unpack(package.blob)(np.ones((2, 3)))) == [6.0, 6.0]
    assert "class Scaler" in package.source
    assert list(unpack(pack(scaler.predict).blob)(np.ones((1, 2)))) == [4.0]


def test_registrations_are_undone() -> None:
    before = cloudpickle.list_registry_pickle_by_value()
    with pytest.raises(InvalidInput):
        pack(lambda xs: LOCK)
    pack(uses_helper)
    assert cloudpickle.list_registry_pickle_by_value() == before
    cloudpickle.register_pickle_by_value(local_helper)
    try:
        pack(uses_helper)
        assert local_helper.__name__ in cloudpickle.list_registry_pickle_by_value()
    finally:
        cloudpickle.unregister_pickle_by_value(local_helper)


async def plain_coroutine(xs: Any) -> Any:
    return xs


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()

    def predict(self, xs: Any) -> Any:
        return xs


def calls_one_with_a_lock(xs: Any) -> Any:
    return uses_lock(xs)


def uses_lock(xs: Any) -> Any:
    with LOCK:
        return xs


def closure_over_a_file() -> Any:
    file = sys.stdout.buffer

    def read(xs: Any) -> Any:
        return [file for _ in xs]

    return read


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (uses_lock, "because of the global 'LOCK', a lock "),
        (calls_one_with_a_lock, "because of the global 'LOCK', a lock "),
        (Holder(), "because of the attribute 'lock', a lock "),
        (closure_over_a_file(), "because of the variable 'file', "),
        (Holder, "Holder is a class; deploy an instance"),
        (plain_coroutine, "must be a plain function, not async"),
        (5, "must be a function or an object with a predict method, got int"),
        (None, "got NoneType"),
    ],
)
def test_what_cannot_be_packaged_is_named(model: Any, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        pack(model)


def damaged(manifest: packaging.Manifest, pickled: bytes = b"") -> bytes:
    return packaging._join(manifest, pickled)


def test_another_python_is_said_plainly() -> None:
    blob = damaged(packaging.Manifest(python="3.8"), pickle.dumps(len))
    with pytest.raises(PackagingError) as caught:
        unpack(blob)
    assert caught.value.cause == (
        f"the function was packaged by Python 3.8 and the worker runs {python_version()}; "
        f"deploy it again from Python {python_version()}"
    )


def test_a_missing_module_is_named_with_what_to_install() -> None:
    pickled = b"\x80\x04cabsent.inner\nf\n."
    manifest = packaging.Manifest(
        python=python_version(),
        packages={"absent-kit": "1.2"},
        modules={"absent": "absent-kit"},
    )
    with pytest.raises(PackagingError, match=r"install absent-kit==1\.2 there") as caught:
        unpack(damaged(manifest, pickled))
    assert "ModuleNotFoundError" in caught.value.detail
    with pytest.raises(PackagingError, match="has no module 'absent'; install it there"):
        unpack(pickled)


def test_other_versions_are_told_when_loading_fails() -> None:
    manifest = packaging.Manifest(python=python_version(), packages={"numpy": "0.1"})
    with pytest.raises(PackagingError, match=r"packaged with numpy 0.1, here "):
        unpack(damaged(manifest, b"\x80\x04cnumpy\nabsent\n."))


def test_a_pickle_of_no_function_is_refused() -> None:
    with pytest.raises(PackagingError, match="must be a function"):
        unpack(pickle.dumps(5))


@given(st.binary(max_size=100) | st.binary(max_size=50).map(lambda b: packaging._MAGIC + b))
def test_junk_has_no_manifest(blob: bytes) -> None:
    with suppress(PackagingError):
        assert split(blob)[0] is None or blob.startswith(packaging._MAGIC)


def test_reading_a_manifest_runs_nothing() -> None:
    canary = pickle.dumps(pytest.fail)[:-1] + b"(X\x06\x00\x00\x00loadedtR."
    with pytest.raises(BaseException, match="loaded"):
        pickle.loads(canary)
    split(canary)
    split(damaged(packaging.Manifest(python="3.11"), canary))


def test_the_package_unpickles_in_one_place_only() -> None:
    found = []
    for path in Path(clipper.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in (
                "loads",
                "load",
                "Unpickler",
            ):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                if "pickle" in owner:
                    found.append(path.name)
    assert found == ["packaging.py"]


def test_importing_packaging_does_not_import_cloudpickle() -> None:
    code = "import sys, clipper.workers.packaging; sys.exit('cloudpickle' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


SCRIPT = """
import sys
from clipper.workers.packaging import pack

offset = 10

def helper(x):
    return float(x.sum()) + offset

def model(xs):
    return [helper(x) for x in xs]

sys.stdout.buffer.write(pack(model).blob)
"""


@pytest.mark.usefixtures("no_leaks")
async def test_a_function_of_a_script(start_worker: StartWorker, tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    blob = subprocess.run(  # noqa: ASYNC221
        [sys.executable, str(path)], stdout=subprocess.PIPE, check=True
    ).stdout
    worker = await start_worker(blob)
    assert await worker.call([1.0, 2.0]) == [b"13.0"]


@pytest.mark.usefixtures("no_leaks")
async def test_local_modules_come_along(start_worker: StartWorker) -> None:
    package = pack(uses_helper)
    assert local_helper.__name__ in package.by_value
    worker = await start_worker(package.blob)
    assert await worker.call([1.0, 2.0]) == [b"9.0"]
    worker = await start_worker(local_helper.Scaler(0.5))
    assert await worker.call([1.0, 2.0], [3.0, 3.0]) == [b"1.5", b"3.0"]


@pytest.mark.usefixtures("no_leaks")
async def test_a_scikit_learn_model(start_worker: StartWorker) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    model = linear.LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
    package = pack(model)
    assert "scikit-learn" in package.packages
    worker = await start_worker(package.blob, example=[0.5])
    results = await worker.call([0.0], [2.0])
    assert isinstance(results, list)
    assert [round(float(text), 6) for text in results] == [1.0, 5.0]  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_leaks")
async def test_strings_to_strings(start_worker: StartWorker) -> None:
    worker = await start_worker(lambda xs: [x.upper() for x in xs], InputType.STRINGS)
    assert await worker.call("cat", "5") == [b'"CAT"', "5"]


def test_manifest_is_small_data() -> None:
    manifest, _ = split(pack(uses_numpy).blob)
    assert (
        msgspec.json.decode(msgspec.json.encode(manifest), type=packaging.Manifest)
        == manifest
    )
