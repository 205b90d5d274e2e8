"""What the query port remembers of bodies is bounded over all applications."""

from __future__ import annotations

import pytest

from clipper.config import make_settings
from clipper.engine import Engine
from clipper.frontend import api
from clipper.frontend.gate import JSON
from clipper.frontend.query import Waiting
from clipper.records import ApplicationRecord
from clipper.store.memory import MemoryStore


async def test_bodies_are_remembered_within_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A body that comes again is not decoded again; the oldest makes room, whosever."""
    monkeypatch.setattr(api, "RECENT", 3)
    engine = Engine(make_settings({"ephemeral": True}), MemoryStore())
    await engine.start()
    for name, cache in (("a", True), ("b", True), ("plain", False)):
        await engine.register_application(
            ApplicationRecord(name, 0, "doubles", 1000, "-1", cache=cache)
        )
    frontend = api.QueryApi(engine)

    def ask(name: str, body: bytes) -> dict[bytes, object]:
        frontend.predict(name, JSON, body, "", Waiting())
        return dict(frontend._decoders[name][1].recent)

    assert ask("plain", b'{"input":[1]}') == {}
    assert ask("a", b'{"input":[%s]}' % (b"1," * 600 + b"1")) == {}, "too long to keep"
    first = ask("a", b'{"input":[1]}')
    assert list(first) == [b'{"input":[1]}']
    assert ask("a", b'{"input":[1]}') == first
    ask("b", b'{"input":[1]}')
    ask("a", b'{"input":[2]}')
    assert list(ask("b", b'{"input":[3]}')) == [b'{"input":[1]}', b'{"input":[3]}']
    assert list(frontend._decoders["a"][1].recent) == [b'{"input":[2]}']
    await engine.drain(0)
    await engine.close()
