"""Deploying: package a function here, send it, follow the stages."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from clipper.batching.registry import Batching, batching_fields
from clipper.client.bodies import JSON, to_json
from clipper.client.progress import make_progress
from clipper.client.transport import Transport
from clipper.errors import ClipperError
from clipper.values import check_name


async def deploy(
    transport: Transport,
    function: Any,
    manifest: dict[str, Any],
    progress: bool | None,
) -> dict[str, Any]:
    """Deploy `function` under `manifest`; the last event, when the version is live."""
    from clipper.workers.packaging import pack

    title = f"{manifest['model_name']}:{manifest['model_version']}"
    with make_progress(title, progress) as shown:
        shown.stage({"stage": "packaging"})
        packed = await asyncio.to_thread(pack, function)
        shown.stage(
            {
                "stage": "uploading",
                "bytes": len(packed.blob),
                "by_value": list(packed.by_value),
            }
        )
        manifest |= {
            "python": packed.python,
            "packages": packed.packages,
            "source": packed.source,
        }
        parts = [
            ("manifest", JSON, to_json(manifest)),
            ("function", "application/octet-stream", packed.blob),
        ]
        async for event in transport.stream("/admin/deploy", parts):
            if event:
                shown.stage(event)
            if event.get("stage") == "live":
                return event
    raise ClipperError(
        f"the server ended the deploy of {title} without a word; "
        "`clipper status` shows what became of it"
    )


def make_manifest(
    name: object,
    version: object,
    input_type: object,
    *,
    labels: list[str] | None,
    num_replicas: int,
    batching: Batching,
    max_batch_size: int | None,
    example: Any,
    retry: bool,
    environment: Mapping[str, str] | None,
    memory_limit: int | None,
    spares: int = 0,
    recycle_after: int | None = None,
    recycle_memory: int | None = None,
) -> dict[str, Any]:
    """What the server is told about a function, but for the packaging. Options that came
    with a later version are named where they are used: servers of before take the rest."""
    later = {
        "spares": spares or None,
        "recycle_after": recycle_after,
        "recycle_memory": recycle_memory,
    }
    return {
        "model_name": check_name("the model's name", name),
        "model_version": check_name("the version", version),
        "input_type": getattr(input_type, "value", input_type),
        "labels": list(labels or ()),
        "num_replicas": num_replicas,
        "batching": batching_fields(batching, max_batch_size),
        "retry": retry,
        "example": example,
        "environment": {key: str(value) for key, value in (environment or {}).items()},
        "memory_limit": memory_limit,
        **{name: value for name, value in later.items() if value is not None},
    }
