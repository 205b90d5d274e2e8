"""Pickles on the wire: no route unpickles anything, whatever a client says it is."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from clipper import Server

from .raw import JSON, chunked, predict, serving, update, with_trailer
from .routes import MSGPACK, ask_all, authorization, furnish, port_of, routes_of, state_of

LOOPS = ("uvloop",)
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.fault("N10")]

# What servers that unpickled were told in Content-Type, and what else one might try.
MEDIA = (
    "application/vnd.bentoml+pickle",
    "application/vnd.bentoml.pickle",
    "application/pickle",
    "application/x-pickle",
    "application/x-python-pickle",
    "application/python-pickle",
    "application/x-python-serialize",
    "application/octet-stream",
    "application/x-joblib",
    "application/x-cloudpickle",
    "multipart/form-data; boundary=x",
    "multipart/mixed; boundary=x",
    "image/*",
    "*/*",
    JSON,
    MSGPACK,
    "application/x-npy",
)
# Headers by which a client chose how its body was read.
LINES = (
    "Payload-Container: DefaultContainer",
    "Payload-Container: NdarrayContainer",
    "Payload-Container: PandasDataFrameContainer",
    "Payload-Meta: {}",
    "Args-Number: 1",
    "Yatai-Runner: 1",
    "Bentoml-Payload-Compression: none",
    "X-Content-Type: application/vnd.bentoml+pickle",
)  # fmt: skip


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def bodies(path: Path) -> dict[str, bytes]:
    """Pickles as such, and where a decoder might hand them on."""
    plain = pickle.dumps(Canary(path), 4)
    assert plain.startswith(b"\x80\x04")
    text = pickle.dumps(Canary(path), 0)
    npy = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    part = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    return {
        "protocol 4": plain,
        "protocol 0": text,
        "an array of objects": b"\x93NUMPY\1\0%b%b%b"
        % (len(npy).to_bytes(2, "little"), npy, plain),
        "bytes in msgpack": msgspec.msgpack.encode({"input": plain, "label": plain}),
        "an extension of msgpack": msgspec.msgpack.encode(
            {"input": msgspec.msgpack.Ext(42, plain)}
        ),
        "text in JSON": msgspec.json.encode({"input": text.decode("latin-1"), "py/id": 1}),
        "a type in JSON": b'{"py/object": "builtins.open", "input": [{"py/reduce": []}]}',
        "a part": part % (b"manifest", plain) + part % (b"function", plain) + b"--x--\r\n",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def furnished() -> AsyncIterator[Server]:
    async with serving() as server:
        await furnish(server)
        yield server


async def test_the_canary_sings_when_it_is_unpickled(tmp_path: Path) -> None:
    for name, body in list(bodies(tmp_path / "canary").items())[:2]:
        pickle.loads(body).close()
        assert (tmp_path / "canary").exists(), name
        (tmp_path / "canary").unlink()


@pytest.mark.parametrize("media", MEDIA)
async def test_no_route_unpickles(furnished: Server, tmp_path: Path, media: str) -> None:
    """Every path of both ports, with the right token, in both lanes and in chunks."""
    canary = tmp_path / "canary"
    before = state_of(furnished)
    paths = {(r.admin, r.path): r for r in routes_of(furnished)}.values()
    asked = [
        (
            port_of(furnished, route),
            send(
                route.request(
                    authorization(furnished), *LINES, method="POST", body=body, media=media
                )
            ),
        )
        for route in paths
        for body in bodies(canary).values()
        for send in (bytes, with_trailer, chunked)
        if not route.path.endswith("/")
    ]
    for answer in await ask_all(asked):
        assert answer.status in (400, 405, 415, 422, 200, 503), answer
    assert not canary.exists()
    after = state_of(furnished)
    assert (after[0], after[3:]) == (before[0], before[3:])


@pytest.mark.parametrize("media", [m for m in MEDIA if m not in (JSON, MSGPACK)])
@pytest.mark.parametrize("app", ["json", "bytes", "doubles"])
async def test_unknown_media_types_are_refused_as_such(
    furnished: Server, tmp_path: Path, media: str, app: str
) -> None:
    canary = tmp_path / "canary"
    for body in bodies(canary).values():
        asks = [predict(app, body, *LINES, media=media)]
        if media != "application/x-npy":
            asks.append(update(app, body, *LINES, media=media))
        answers = await ask_all(
            (furnished.port, send(data))
            for data in asks
            for send in (bytes, with_trailer, chunked)
        )
        expected = 400 if media == "application/x-npy" else 415
        assert {answer.status for answer in answers} == {expected}
    assert not canary.exists()
