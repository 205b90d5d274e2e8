"""Nothing that a client says makes a table of the server grow without a bound.

After a warm-up the same kinds of requests come again with other texts in them, more of
each kind than any bound that is small: every container that can be reached from the server
has to be where it was, or to be one whose bound is said here.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import types
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from itertools import count
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from clipper import Server
from clipper.records import PolicySettings

from .raw import chunked, connect, predict, request, serving, update, with_trailer
from .routes import QUESTIONS, authorization, furnish

LOOPS = ("uvloop",)
pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.fault("A4"),
    pytest.mark.fault("M1"),
]

ROUND = 3_000  # requests with texts of their own

# Containers that are meant to remember, and what bounds them.
BOUNDED = {
    "Decisions": "64 MiB of decisions (learning/decisions.py)",
    "Subject": "contexts of the decisions above, and of the bodies below",
    "PredictionCache": "Settings.cache_bytes (cache.py)",
    "Lane": "4,096 heads (frontend/heads.py)",
    "Newest": "which heads and bodies these are (frontend/newest.py)",
    "Decoder": "8,192 bodies together (frontend/api.py)",
    "LatencyModel": "256 batches of each replica (batching/latency.py)",
    "HangRule": "some batches of each replica (workers/hang.py)",
    "_Application": "100,000 entries of an ephemeral log (store/memory_log.py)",
    "MemoryLog": "chunks of decisions, 64 MiB (store/memory_log.py)",
}
CONTAINERS = (dict, list, set, deque, OrderedDict, Counter, bytearray)
OPAQUE = (type, types.ModuleType, types.CodeType, types.FrameType)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def furnished() -> AsyncIterator[Server]:
    async with serving() as server:
        await furnish(server)
        await server.engine.set_policy("echo", PolicySettings("epsilon_greedy"))
        yield server


def sizes(root: object) -> dict[str, int]:
    """How much is in the containers that can be reached from the server or a module of
    ours, by the classes and attributes on the way from the nearest object of ours."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    waiting: deque[tuple[object, str]] = deque([(root, type(root).__name__)])
    for name, module in [*sys.modules.items()]:
        if is_ours(name):
            waiting += [(value, f"{name} {key}") for key, value in vars(module).items()]
    while waiting:
        item, place = waiting.popleft()
        if id(item) in seen or isinstance(item, OPAQUE) or is_elsewhere(item):
            continue
        seen.add(id(item))
        if isinstance(item, CONTAINERS):
            found[place] += len(item)
        elif is_ours(type(item).__module__) or type(item).__module__ == "asyncio":
            place = type(item).__name__
        for name, value in children(item):
            waiting.append((value, f"{place}.{name}" if name else place))
    return dict(found)


def is_ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == "clipper"


def children(item: object) -> Iterator[tuple[str, object]]:
    if isinstance(item, dict):
        yield from (("", value) for value in [*item.values()])
    elif isinstance(item, (list, tuple, set, frozenset, deque)):
        yield from (("", value) for value in [*item])
    elif isinstance(item, types.MethodType):
        yield "", item.__self__
        yield "", item.__func__
    elif isinstance(item, types.FunctionType):
        for cell in item.__closure__ or () if is_ours(item.__module__) else ():
            with suppress(ValueError):  # not filled yet
                yield "", cell.cell_contents
    elif isinstance(item, partial):
        yield from (("", value) for value in (item.func, *item.args, item.keywords))
    else:
        names = [*getattr(item, "__dict__", ())]
        for kind in type(item).__mro__:
            names += getattr(kind, "__slots__", ())
        for name in names:
            value = getattr(item, name, None)
            if value is not None:
                yield str(name), value


def is_elsewhere(value: object) -> bool:
    """Whether it belongs to no server: the loop, and what libraries share."""
    simple = (str, bytes, int, float, type(None))
    return isinstance(value, (asyncio.AbstractEventLoop, *simple))


def kinds(server: Server) -> list[Any]:
    """For each kind of request, how one with a text of its own looks."""
    token = authorization(server)

    def admin(route: str, /, **content: Any) -> tuple[int, bytes]:
        body = msgspec.json.encode(content)
        return server.admin_port, request("POST", f"/admin/{route}", body, token)

    port = server.port
    found: list[Any] = [
        lambda text: (port, request("GET", f"/{text}")),
        lambda text: (port, predict(text, b'{"input": 1}')),
        lambda text: (port, predict("json", b'{"input": "%b"}' % text.encode())),
        lambda text: (port, predict("echo", b'{"input": 1, "uid": "%b"}' % text.encode())),
        lambda text: (port, predict("echo", b'{"input":1,"version":"%b"}' % text.encode())),
        lambda text: (
            port,
            predict("echo", b'{"input":1,"context":{"%b":1}}' % text.encode()),
        ),
        lambda text: (port, predict("json", b'{"%b": 1, "input": 1}' % text.encode())),
        lambda text: (port, predict("json", b'{"input": 1}', f"X-Trace: {text}")),
        lambda text: (port, predict("json", b'{"input": 1}', f"X-{text}: 1")),
        lambda text: (port, request("POST", f"/json/predict?{text}=1", b'{"input": 1}')),
        lambda text: (port, predict("json", b"{", media=f"x/{text}")),
        lambda text: (port, request("GET", "/json", None, host=f"{text}.example")),
        lambda text: (port, request("GET", "/json", None, f"Origin: http://{text}")),
        lambda text: (port, request("GET", "/metrics", None, f"Accept: x/{text}")),
        lambda text: (
            port,
            update("echo", b'{"query_id":"%b","label":1}' % text.encode()),
        ),
        lambda text: (
            port,
            update("echo", b'{"input":"%b","label":1,"uid":"u"}' % text.encode()),
        ),
        lambda text: (
            server.admin_port,
            request("GET", f"/admin/logs/{text}/1", None, token),
        ),
        lambda text: (server.admin_port, request("GET", f"/admin/{text}", None, token)),
        lambda text: admin("delete_app", name=text),
        lambda text: admin("rollback", model_name=text),
        lambda text: admin("scale", model_name=text, num_replicas=1),
        lambda text: admin("set_policy", app_name="json", policy=text),
        lambda text: admin("set_policy", app_name=text, policy="static"),
        lambda text: admin("undeploy", model_name="m", model_version=text),
        lambda text: admin("add_model_links", app_name="json", model_names=[text]),
        lambda text: admin("forget_user", app_name=text, uid=text),
    ]
    found += [
        lambda text, name=name, content=content: admin(
            name, **{key: text for key in content if isinstance(content[key], str)}
        )
        for name, content in QUESTIONS.items()
    ]
    return found


async def say(server: Server, made: Iterator[int], rounds: int) -> None:
    """Every kind of request, `rounds` times, each with a text nobody said before: some in
    the hot lane, each on a connection of its own as a refusal leaves it, others in aiohttp,
    a body in chunks among them."""
    for kind in kinds(server):
        texts = [f"t{next(made):08d}" for _ in range(rounds)]
        for lane, some in ((bytes, texts[::2]), (with_trailer, texts[1::2])):
            while some:
                async with await connect(kind("x")[0]) as wire:
                    while some:
                        data = kind(some.pop())[1]
                        chunks = b"Content-Length" in data and len(some) % 2
                        await wire.send(lane(chunked(data) if chunks else data))
                        if (await wire.answer()).closes or lane is bytes:
                            break


async def settle(server: Server) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()


async def test_no_table_grows_with_what_clients_say(furnished: Server) -> None:
    made = count()
    each = ROUND // len(kinds(furnished))
    await say(furnished, made, each // 3)
    await settle(furnished)
    before = sizes(furnished)
    await say(furnished, made, each)
    await settle(furnished)
    after = sizes(furnished)
    grown = {
        place: (before.get(place, 0), size)
        for place, size in after.items()
        if size - before.get(place, 0) > each // 3
        and place.partition(".")[0] not in BOUNDED
    }
    assert grown == {}
    # what is meant to remember does: the walk gets everywhere
    assert after["Lane.plans"] > each
    assert any(place.startswith("Decisions") for place in after)
    assert len(after) > 60


async def test_a_table_that_grows_is_seen(furnished: Server) -> None:
    before = sizes(furnished)
    furnished.engine.catalog.leak = {  # type: ignore[attr-defined]
        number: number for number in range(ROUND)
    }
    try:
        after = sizes(furnished)
    finally:
        del furnished.engine.catalog.leak  # type: ignore[attr-defined]
    assert after["Catalog.leak"] - before.get("Catalog.leak", 0) == ROUND
