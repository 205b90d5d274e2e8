"""Requests made from the OpenAPI documents that a running server gives out, valid ones
and such as break the document in one place, by schemathesis with all of its checks."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from .documents import Kind, for_admin, for_applications
from .target import APPLICATIONS, MODELS, Target, serving

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
)

# Checks that do not hold for a route, and why. A route is matched by its path.
EXCEPTIONS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "^/[{]app[}]/(predict|update)$",
        ("positive_data_acceptance",),
        "what an application takes follows from its input type, models and policy, which a "
        "document for all of them cannot say; the narrow routes do",
    ),
    (
        "^/[a-z]+/(predict|update)/?$",
        ("negative_data_rejection",),
        "a narrow route speaks only of a part of what is taken; the wide one is asked",
    ),
)


class Run(NamedTuple):
    """What one run of schemathesis came to."""

    name: str
    seed: int
    code: int
    output: str

    def __str__(self) -> str:
        return f"{self.name} port, seed {self.seed}: exit code {self.code}\n{self.output}"


async def fetch(url: str, token: str) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url) as response,
    ):
        assert response.status == 200, await response.text()
        found: dict[str, Any] = await response.json()
        return found


async def query_document(target: Target) -> dict[str, Any]:
    document = await fetch(f"{target.client.query_url}/openapi.json", target.token)
    return for_applications(
        document,
        {
            name: Kind(kind, 1 if policy == "static" else 2, policy == "hedge")
            for name, (kind, policy) in APPLICATIONS.items()
        },
    )


async def admin_document(target: Target) -> dict[str, Any]:
    url = f"{target.client.admin_url}/admin/openapi.json"
    models = [*(f"m-{kind}" for kind in MODELS), "one"]
    return for_admin(await fetch(url, target.token), [*APPLICATIONS], models)


def configuration(token: str) -> str:
    """The settings of schemathesis: what is left out, and the token."""
    lines = [f'headers = {{ Authorization = "Bearer {token}" }}', "[checks]"]
    lines += [f"{check}.enabled = true" for check in CHECKS]
    for pattern, checks, reason in EXCEPTIONS:
        lines += [
            f"# {reason}",
            "[[operations]]",
            f"include-path-regex = '{pattern}'",
            *(f"checks.{check}.enabled = false" for check in checks),
        ]
    return "\n".join(lines) + "\n"


async def run(
    name: str, document: dict[str, Any], target: Target, seed: int, *options: str
) -> Run:
    """Run schemathesis on a document and wait for it."""
    folder = target.process.directory
    place, settings = folder / f"{name}.json", folder / "schemathesis.toml"
    place.write_text(json.dumps(document))
    settings.write_text(configuration(target.token))
    here = Path(__file__).parent
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "fuzzing.hooks",
        "PYTHONPATH": os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")]),
    }
    url = target.client.query_url if name == "query" else target.client.admin_url
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(settings)]
    command += ["run", str(place), "--url", url, "--no-color", "--seed", str(seed)]
    command += ["--continue-on-failure", "--warnings", "off", *options]
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Run(name, seed, process.returncode, output.decode(errors="replace"))


async def run_both(directory: Path, seeds: Sequence[int], *options: str) -> list[Run]:
    """Requests to both ports of one server, the admin port last, for it may delete what
    the other asks. The server must be as good afterwards as before."""
    async with serving(directory) as target:
        document = await query_document(target)
        found = [await run("query", document, target, seed, *options) for seed in seeds]
        target.check()
        document = await admin_document(target)
        found += [await run("admin", document, target, seed, *options) for seed in seeds]
    return found


async def run_for(directory: Path, minutes: float) -> list[Run]:
    """The same with all phases for so many minutes, and new seeds again and again."""
    until = time.monotonic() + minutes * 60
    found: list[Run] = []
    while (left := until - time.monotonic()) > 0:
        place = directory / str(len(found))
        place.mkdir()
        share = f"--max-time={max(10, min(150, int(left / 2)))}"
        found += await run_both(place, [random.randrange(2**32)], share)
    return found
