"""Imports go down only, packages of one layer do not see each other, and what is heavy or
dangerous stays behind the one module that needs it."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

import clipper

ROOT = Path(clipper.__file__).parent

# From the bottom up. A module or package of a row may import those of the rows below it
# and itself, nothing else of the project.
LAYERS = (
    ("errors", "version", "clock", "metrics", "records", "logs", "memory"),
    ("values", "config", "runtime", "tasks", "outline", "listening", "changes"),
    ("inputs", "handover"),
    ("layout", "eviction", "pieces"),
    ("batching", "selection", "workers", "store", "cache", "deadlines", "query_id"),
    ("registration", "rendering", "learning", "client", "query_keys"),
    ("choosing", "guarding", "attainment", "background"),
    ("model", "query"),
    ("panel", "evaluation", "roster", "loading", "rows", "prepared"),
    ("shadowing",),
    ("catalog", "watching"),
    ("application",),
    ("judging", "appending", "replay"),
    ("feedback",),
    ("inventory",),
    ("deploys",),
    ("engine", "explanation"),
    ("frontend", "dashboard", "embedded"),
    ("server",),
    ("succession",),
    ("serving",),
    ("cli+demo",),
    ("__main__",),
)
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units}
TOGETHER = {"cli": "cli+demo", "demo": "cli+demo"}

# Third-party packages, and the units that may import them. Others are free.
HOMES = {
    "aiohttp": {"frontend", "dashboard", "client"},
    "httptools": {"frontend"},
    "prometheus_client": {"frontend", "cli+demo"},
    "click": {"cli+demo"},
    "rich": {"cli+demo", "client"},
    "uvloop": {"serving"},
    "sqlite3": {"store"},
    "redis": {"store"},
    "ray": {"workers"},
    "pickle": {"workers"},
    "cloudpickle": {"workers"},
    "subprocess": {"workers", "client", "cli+demo", "handover"},
}

# What may not come along with `import clipper`, nor into a worker: its start is its
# imports.
HEAVY = ("aiohttp", "httptools", "uvloop", "sqlite3", "click", "rich", "prometheus_client")


class Import(NamedTuple):
    module: str  # who imports
    target: str  # the module, or package, that is imported
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules() -> list[tuple[str, Path]]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found.append((".".join(parts).removesuffix(".__init__"), path))
    return found


MODULES = [name for name, _ in modules()]


def unit_of(module: str) -> str | None:
    """The part of a module's name that has a layer; None for the package itself."""
    parts = module.split(".")
    return TOGETHER.get(parts[1], parts[1]) if len(parts) > 1 else None


class Walk(ast.NodeVisitor):
    """Collects imports, also those inside functions, but not those for types alone."""

    def __init__(self, module: str, path: Path) -> None:
        self.module = module
        self.package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.found: list[Import] = []

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for statement in node.orelse:
                self.visit(statement)
        else:
            self.generic_visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(self.module, name.name, node.lineno) for name in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            up = self.package.split(".")[: len(self.package.split(".")) - node.level + 1]
            base = ".".join([*up, *filter(None, [base])])
        for name in node.names:
            full = f"{base}.{name.name}"
            target = full if full in MODULES else base
            self.found.append(Import(self.module, target, node.lineno))


@cache
def imports() -> tuple[Import, ...]:
    found: list[Import] = []
    for module, path in modules():
        walk = Walk(module, path)
        walk.visit(ast.parse(path.read_text("utf-8")))
        found += walk.found
    return tuple(found)


def own() -> Iterator[tuple[Import, str, str]]:
    """Imports of the project's own modules, with both units."""
    for found in imports():
        target, source = unit_of(found.target), unit_of(found.module)
        if found.target.split(".")[0] == "clipper" and source and target:
            yield found, source, target


# -- the rules -------------------------------------------------------------------------


def test_every_module_has_a_layer() -> None:
    units = {unit for unit in map(unit_of, MODULES) if unit is not None}
    assert units - RANK.keys() == set(), "say in LAYERS where it belongs"


def test_imports_go_down_only() -> None:
    wrong = [
        str(found)
        for found, source, target in own()
        if source != target and RANK[target] >= RANK[source]
    ]
    assert not wrong


def test_each_dependency_stays_behind_its_module() -> None:
    wrong = [
        str(found)
        for found in imports()
        if (homes := HOMES.get(found.target.split(".")[0])) is not None
        and unit_of(found.module) not in homes
    ]
    assert not wrong


def test_only_the_command_line_uses_the_client() -> None:
    wrong = [
        str(found)
        for found, source, target in own()
        if target == "client" and source not in ("client", "cli+demo")
    ]
    assert not wrong


def test_the_server_in_the_package_is_imported_by_the_command_line_alone() -> None:
    wrong = [
        str(found)
        for found, source, target in own()
        if target in ("server", "frontend")
        and source not in ("server", "serving", "frontend", "cli+demo")
    ]
    assert not wrong


@pytest.mark.parametrize(
    "unit",
    [
        "batching",
        "selection",
        "cache",
        "eviction",
        "deadlines",
        "query_id",
        "inputs",
        "catalog",
    ],
)
def test_the_core_does_no_io(unit: str) -> None:
    """What decides does not act: no sockets, processes, threads or files."""
    doing = {"socket", "subprocess", "threading", "signal", "pathlib", "shutil", "tempfile"}
    wrong = [
        str(found)
        for found in imports()
        if unit_of(found.module) == unit and found.target.split(".")[0] in doing
    ]
    assert not wrong


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def test_nothing_is_unpickled_but_by_the_packaging_of_workers() -> None:
    wrong = []
    for module, path in modules():
        for call in calls(ast.parse(path.read_text("utf-8"))):
            text = ast.unparse(call.func)
            loads = text.endswith(("pickle.loads", "pickle.load", "Unpickler", "np.load"))
            if loads and module != "clipper.workers.packaging":
                wrong.append(f"{module}:{call.lineno}")
            if any(k.arg == "allow_pickle" for k in call.keywords):
                wrong.append(f"{module}:{call.lineno}")
    assert not wrong


def test_only_a_worker_unpacks_a_function() -> None:
    by_name = re.compile(r"packaging\.unpack\b|packaging import [^\n]*\bunpack\b")
    users = {
        module for module, path in modules() if by_name.search(path.read_text("utf-8"))
    }
    assert users == {"clipper.workers.session"}


def test_nothing_is_evaluated_and_nothing_printed_but_for_people() -> None:
    wrong = []
    for module, path in modules():
        for call in calls(ast.parse(path.read_text("utf-8"))):
            text = ast.unparse(call.func)
            if text in ("eval", "exec", "os.system"):
                wrong.append(f"{module}:{call.lineno} {text}")
            if text == "print" and unit_of(module) != "cli+demo":
                wrong.append(f"{module}:{call.lineno} {text}")
    assert not wrong


# -- fresh interpreters ----------------------------------------------------------------


def python(script: str) -> str:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_each_module_can_be_imported_alone() -> None:
    """One fork for each, of an interpreter that has only other people's modules."""
    script = f"""
        import asyncio, json, os, sys, traceback
        import aiohttp.web, click, cloudpickle, httptools, msgspec, numpy, sqlite3
        import prometheus_client, uvloop
        failed = {{}}
        for name in {MODULES!r}:
            reading, writing = os.pipe()
            if not os.fork():
                try:
                    __import__(name)
                except BaseException:
                    os.write(writing, traceback.format_exc().encode()[-2000:])
                os._exit(0)
            os.close(writing)
            with open(reading) as pipe:
                if text := pipe.read():
                    failed[name] = text
            os.wait()
        print(json.dumps(failed))
    """
    assert json.loads(python(script)) == {}


@pytest.mark.parametrize(
    "module", ["clipper", "clipper.workers.child", "clipper.client.bodies"]
)
def test_the_heavy_is_not_imported_along(module: str) -> None:
    heavy = HEAVY if module != "clipper.client.bodies" else ("uvloop", "click", "sqlite3")
    found = python(
        f"""
        import json, sys
        import {module}
        print(json.dumps(sorted(sys.modules)))
        """
    )
    loaded = set(json.loads(found))
    assert loaded.isdisjoint(heavy)
    if module == "clipper":
        assert loaded.isdisjoint({"numpy", "msgspec", "asyncio", "clipper.engine"})


def test_a_worker_loads_no_more_than_it_needs() -> None:
    found = python(
        """
        import json, sys
        import clipper.workers.child, clipper.workers.session
        print(json.dumps(sorted(sys.modules)))
        """
    )
    loaded = json.loads(found)
    assert set(loaded).isdisjoint(HEAVY) and "asyncio" not in loaded
    own = {name for name in loaded if name.startswith("clipper.")}
    assert own <= {
        "clipper.errors",
        "clipper.layout",
        "clipper.inputs",
        "clipper.outline",
        "clipper.values",
        "clipper.version",
        "clipper.workers",
        "clipper.workers.child",
        "clipper.workers.guard",
        "clipper.workers.outputs",
        "clipper.workers.packaging",
        "clipper.workers.session",
        "clipper.workers.wire",
    }


def test_every_public_name_can_be_had() -> None:
    assert set(dir(clipper)) == set(clipper.__all__)
    for name in clipper.__all__:
        assert getattr(clipper, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        clipper.nonsense  # noqa: B018
