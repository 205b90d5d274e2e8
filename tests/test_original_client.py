"""The Python client of the original Clipper, release 0.4.1, drives our server.

Its session was recorded by tests/data/record_original_client.py, requests as they went
out and what the client made of the answers. Here the same bytes are sent again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from clipper.config import make_settings
from clipper.server import Server

STEPS: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "original_client_session.json").read_text()
)

# What release 0.4.1 of the original answered to a success, by the client's verb.
TEXTS = {
    "register_application": "Successfully added application with name '{0}'",
    "unregister_application": "Successfully deleted application with name '{0}'",
    "delete_application": "Successfully deleted application with name '{0}'",
    "set_model_version": "Successfully set model with name '{0}' to version '{1}'",
    "link_model_to_app": "Successfully linked model with name '{1}' to application '{0}'",
    "unlink_model_from_app": "Success!",
}
APPLICATION = {
    "name": str,
    "input_type": str,
    "default_output": str,
    "latency_slo_micros": int,
    "linked_models": list,
}
MODEL = {
    "model_name": str,
    "model_version": str,
    "input_type": str,
    "labels": list,
    "container_name": str,
    "model_data_path": str,
    "is_current_version": bool,
}
INPUT_TYPES = {"integers", "floats", "doubles", "strings", "bytes"}


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Server]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    values = {"ephemeral": True, "auth": False, "port": 0, "admin_port": 0}
    async with Server(listen=True, settings=make_settings(values)) as server:
        yield server


async def send(server: Server, request: dict[str, Any]) -> tuple[int, str]:
    """One recorded request over a connection of its own; status and body."""
    port = server.port if request["port"] == "query" else server.admin_port
    lines = [f"{request['method']} {request['path']} HTTP/1.1", f"Host: localhost:{port}"]
    lines += [f"{name}: {value}" for name, value in request["headers"].items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head + (request["body"] or "").encode())
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in fields if line)
        body = await reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), body.decode()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_the_session_goes_as_it_was_recorded(server: Server) -> None:
    for step in STEPS:
        for request in step["requests"]:
            status, body = await send(server, request)
            where = f"{step['call']}{step['args']} {request['path']}: {body}"
            assert status == request["status"], where
            if "answer" in request:
                assert body == request["answer"], where
        if step["call"] == "predict":
            answer = json.loads(body)
            assert isinstance(answer.pop("query_id"), str)
            assert answer == step["returned"]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["call"])
def test_the_client_understood(step: dict[str, Any]) -> None:
    """What was recorded is what the client's own tests ask for."""
    failed = any(request["status"] != 200 for request in step["requests"])
    if failed:
        assert step["raised"] == "ClipperException"
        assert set(json.loads(step["requests"][-1]["answer"])) == {"error", "cause"}
        return
    if step["call"] in TEXTS:
        answer = step["requests"][-1]["answer"]
        assert answer == TEXTS[step["call"]].format(*step["args"])
    if step["call"].endswith("_info"):
        # unknown is `{}`, which the client turns into None
        assert step["returned"] == (json.loads(step["requests"][0]["answer"]) or None)
    if step["call"].startswith(("get_all", "get_linked")):
        assert step["returned"] == json.loads(step["requests"][0]["answer"])
        assert isinstance(step["returned"], list)


def returned(*calls: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for step in STEPS:
        if step["call"] in calls:
            values = step["returned"] if isinstance(step["returned"], list) else []
            values = values or [step["returned"]]
            found += [value for value in values if isinstance(value, dict)]
    return found


@pytest.mark.parametrize(
    ("shape", "shown"),
    [
        (APPLICATION, returned("get_all_apps", "get_app_info")),
        (MODEL, returned("get_all_models", "get_model_info")),
    ],
    ids=["applications", "models"],
)
def test_the_shapes_are_the_original_ones(
    shape: dict[str, type], shown: list[dict[str, Any]]
) -> None:
    assert len(shown) >= 3
    for value in shown:
        assert {key: type(item) for key, item in value.items()} == shape
        assert value["input_type"] in INPUT_TYPES


def test_calls_that_failed_and_that_did_not() -> None:
    outcomes: dict[str, list[str]] = {}
    for step in STEPS:
        outcome = "raised" if "raised" in step else "returned"
        outcomes.setdefault(step["call"], []).append(outcome)
    assert outcomes["register_application"] == ["returned", "raised", "returned"]
    assert outcomes["get_current_model_version"] == ["returned", "raised", "returned"]
    assert outcomes["set_num_replicas"] == ["raised", "raised", "returned"]
    assert outcomes["link_model_to_app"] == ["returned"] + ["raised"] * 4
    assert outcomes["stop_versioned_models"] == ["returned", "raised"]
    assert outcomes["start_clipper"] == ["returned"]
