"""A server and its directory: one server for each, one that can be written, and one that
goes away while it is used."""

from __future__ import annotations

import os
import random
import shutil
import uuid
from pathlib import Path

import pytest
from learner_client import Connection
from learner_ledger import Ledger, make_model
from served import ServeProcess

from clipper.errors import StoreError

pytestmark = pytest.mark.fault("D4")

APP = "exp3"


def last_words(server: ServeProcess) -> str:
    assert server.process.wait(60) == 3, server.log.read_text()
    return server.log.read_text().strip().splitlines()[-1]


async def test_a_second_server_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    first = ServeProcess(tmp_path, uuid.uuid4().hex)
    (tmp_path / "other").mkdir()
    second = ServeProcess(tmp_path / "other", uuid.uuid4().hex)
    second.arguments = ("--data-dir", str(first.data))
    try:
        first.start()
        async with await first.client() as client:
            second.start()
            said = last_words(second)
            assert f"is in use by another server (process {first.process.pid})" in said
            assert "choose another directory with --data-dir" in said
            assert await client.get_all_apps() == []
    finally:
        first.kill()
        second.kill()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes where nobody may")
def test_a_directory_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    server.data.mkdir(mode=0o500)
    server.start()
    assert "make it a directory this user can write to" in last_words(server)


async def test_predictions_go_on_without_the_directory(tmp_path: Path) -> None:
    server = ServeProcess(tmp_path, uuid.uuid4().hex)
    ledger = Ledger(random.Random(1))
    ledger.excused.add("store_error")
    try:
        server.start()
        async with await server.client() as client:
            await client.deploy_predict_function("good", 1, make_model("good"), "doubles")
            await client.register_application(
                APP, None, "doubles", "-1", 5_000_000, models=["good"], policy="exp3"
            )
            connection = Connection(client, ledger)
            await connection.ask(APP)
            assert await connection.give(ledger.say(ledger.take_open()))
            shutil.rmtree(server.data)
            for _ in range(20):
                await connection.ask(APP)
                asked = ledger.take_open()
                assert not asked.default
                assert not await connection.give(ledger.say(asked))
            assert connection.answers == {(200, None), (503, "store_error")}
            with pytest.raises(StoreError):
                await client.register_application("b", None, "doubles", "-1", 5_000_000)
            await connection.close()
    finally:
        server.kill()
