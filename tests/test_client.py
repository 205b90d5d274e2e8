from __future__ import annotations

import asyncio
import gc
import io
import math
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import pytest
from fakes_http import TOKEN, Answer, FakeServer

from clipper import runtime
from clipper.client import AsyncClipper, Clipper
from clipper.client.progress import format_bytes, make_progress
from clipper.client.upload import make_manifest
from clipper.errors import (
    ClipperError,
    Conflict,
    DeployFailed,
    Forbidden,
    InvalidInput,
    ModelFailed,
    NotFound,
    Overloaded,
    ServerUnreachable,
    Unauthorized,
)
from clipper.inputs import InputType
from clipper.records import BatchingSettings

ANSWER = {"query_id": "q1", "output": 6.6, "default": False}


@pytest.fixture(autouse=True)
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server and no token of this machine's user is seen by these tests."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CLIPPER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CLIPPER_TOKEN", raising=False)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.answers["/a/predict"] = Answer(ANSWER)
        yield server


@pytest.fixture
def clipper(server: FakeServer) -> Iterator[Clipper]:
    with Clipper(port=server.port, admin_port=server.admin_port, token=TOKEN) as clipper:
        yield clipper


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- queries ---------------------------------------------------------------------------


def test_a_prediction(clipper: Clipper, server: FakeServer) -> None:
    prediction = clipper.predict("a", [1.1, 2.2, 3.3], uid=0)
    assert (prediction.query_id, prediction.output) == ("q1", 6.6)
    assert not prediction.default
    assert prediction.missing == []
    assert server.last.method == "POST"
    assert server.last.content_type == "application/json"
    assert server.last.body == {"uid": 0, "input": [1.1, 2.2, 3.3]}
    assert server.last.token is None  # the token stays off the query port


def test_all_that_a_prediction_can_say(clipper: Clipper, server: FakeServer) -> None:
    server.answers["/a/predict"] = Answer(
        {
            "query_id": "q",
            "output": "no",
            "default": True,
            "default_explanation": "why",
            "confidence": 0.5,
            "missing": ["m:1"],
        }
    )
    prediction = clipper.predict(
        "a", "x", uid="u", context=[1], version=2, deadline_ms=5, cache=False
    )
    assert prediction.default_explanation == "why"
    assert (prediction.confidence, prediction.missing) == (0.5, ["m:1"])
    assert server.last.body == {
        "input": "x",
        "uid": "u",
        "context": [1],
        "version": "2",
        "deadline_ms": 5,
        "cache": False,
    }


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        (np.arange(3), [0, 1, 2]),
        (np.float32([0.5, 1.5]), [0.5, 1.5]),
        (np.ones((2, 2)), [[1.0, 1.0], [1.0, 1.0]]),
        ([np.float64(1.5), np.int32(2)], [1.5, 2]),
        ((1, 2), [1, 2]),
        (b"\x00\xff", "AP8="),
        ({"k": np.int64(1)}, {"k": 1}),
    ],
)
def test_inputs_of_many_kinds(
    clipper: Clipper, server: FakeServer, value: Any, sent: Any
) -> None:
    clipper.predict("a", value)
    assert server.last.body == {"input": sent}


@pytest.mark.parametrize("value", [[1.0, math.nan], np.array([np.inf, 1.0])])
def test_numbers_that_json_does_not_have_are_sent_as_they_are(
    clipper: Clipper, server: FakeServer, value: Any
) -> None:
    clipper.predict("a", value)
    assert server.last.content_type == "application/msgpack"
    np.testing.assert_equal(server.last.body["input"], list(value))


def test_an_input_that_cannot_be_sent(clipper: Clipper, server: FakeServer) -> None:
    with pytest.raises(InvalidInput, match="a object is no JSON value"):
        clipper.predict("a", object())
    assert server.requests == []


@pytest.mark.parametrize("name", ["../admin", "a/b", "", "ä", "a?b"])
def test_a_name_never_becomes_another_path(clipper: Clipper, name: str) -> None:
    with pytest.raises(InvalidInput, match="must match"):
        clipper.predict(name, [1.0])
    with pytest.raises(InvalidInput, match="must match"):
        clipper.logs(name, 1)


def test_a_batch(clipper: Clipper, server: FakeServer) -> None:
    failed = {"query_id": "q2", "error": "model_failed", "cause": "The model raised."}
    server.answers["/a/predict"] = Answer({"batch_predictions": [ANSWER, failed]})
    first, second = clipper.predict_batch("a", np.ones((2, 1)), return_exceptions=True)
    assert server.last.body == {"input_batch": [[1.0], [1.0]]}
    assert first.output == 6.6
    assert isinstance(second, ModelFailed)
    with pytest.raises(ModelFailed, match="The model raised"):
        clipper.predict_batch("a", iter([[1.0], [1.0]]))


# -- errors ----------------------------------------------------------------------------


def test_the_servers_own_sentence(clipper: Clipper, server: FakeServer) -> None:
    server.answers["/a/predict"] = Answer(
        {"error": "overloaded", "cause": "Too much."}, 503, {"Retry-After": "3"}
    )
    with pytest.raises(Overloaded, match=r"^Too much\.$") as caught:
        clipper.predict("a", [1.0])
    assert caught.value.retry_after == 3


@pytest.mark.parametrize(
    "answer",
    [
        Answer("<h1>nginx</h1>", 502, content_type="text/html"),
        Answer({"detail": "no"}, 500),
        Answer([], 500),
        Answer("", 302, {"Location": "http://127.0.0.1:1/"}),
    ],
)
def test_an_answer_of_something_else(
    clipper: Clipper, server: FakeServer, answer: Answer
) -> None:
    server.answers["/a/predict"] = answer
    with pytest.raises(ClipperError, match=f"answered {answer.status}"):
        clipper.predict("a", [1.0])


def test_nobody_there() -> None:
    port = free_port()
    with Clipper(port=port) as clipper, pytest.raises(ServerUnreachable) as caught:
        clipper.predict("a", [1.0])
    assert str(caught.value) == (
        f"No Clipper server answers at localhost:{port}. "
        "Start one with `clipper serve`, or with start() from Python."
    )


def test_a_wrong_token(server: FakeServer) -> None:
    with (
        Clipper(port=server.port, admin_port=server.admin_port, token="x") as clipper,
        pytest.raises(Unauthorized, match="The token is wrong"),
    ):
        clipper.get_all_apps()


@pytest.mark.parametrize("host", ["http://localhost", "", "me@there", "a/b", None])
def test_a_host_is_no_url(host: Any) -> None:
    with pytest.raises(InvalidInput, match="host must be"):
        Clipper(host)


@pytest.mark.parametrize("port", [-1, 65536, "1337", True])
def test_a_port_is_a_number(port: Any) -> None:
    with pytest.raises(InvalidInput, match="port must be"):
        Clipper(port=port)


def test_a_server_elsewhere_needs_its_token_and_is_not_started() -> None:
    with Clipper("models.example.org") as clipper:
        with pytest.raises(Unauthorized, match=r"models\.example\.org needs its token"):
            clipper.get_all_apps()
        with pytest.raises(Forbidden, match="run `clipper serve` there"):
            clipper.start()
        with pytest.raises(Forbidden, match=r"not on models\.example\.org"):
            clipper.stop()


# -- finding a server ------------------------------------------------------------------


def announce(server: FakeServer, token: str | None = TOKEN) -> None:
    here = "127.0.0.1"
    runtime.announce(server.port, server.admin_port, here, here, os.getpid(), None, token)


def test_the_token_of_a_local_server_is_found(server: FakeServer) -> None:
    announce(server)
    with Clipper(port=server.port) as clipper:  # the admin port is found, too
        clipper.connect()
    assert server.last.token == TOKEN


def test_the_environments_token_wins(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(server, "another")
    monkeypatch.setenv("CLIPPER_TOKEN", TOKEN)
    with Clipper(port=server.port) as clipper:
        clipper.get_all_apps()
        assert server.last.token == TOKEN
    with Clipper(port=server.port, token="mine") as clipper, pytest.raises(Unauthorized):
        clipper.get_all_apps()


def test_the_token_is_read_from_the_data_directory(
    server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "admin-token").write_text(TOKEN + "\n")
    ports = {"port": server.port, "admin_port": server.admin_port}
    with Clipper(**ports) as clipper:  # $CLIPPER_DATA_DIR
        clipper.get_all_apps()
    with Clipper(**ports, data_dir=tmp_path / "data") as clipper:
        clipper.get_all_apps()
    assert [request.token for request in server.requests] == [TOKEN, TOKEN]


def test_another_server_with_another_token_came_to_the_port(server: FakeServer) -> None:
    announce(server, "old")
    with Clipper(port=server.port) as clipper:
        with pytest.raises(Unauthorized):
            clipper.get_all_apps()
        announce(server)
        clipper.get_all_apps()
        assert [request.token for request in server.requests] == ["old", "old", TOKEN]


def test_a_query_port_that_asks_for_the_token() -> None:
    with FakeServer(query_needs_token=True) as server:
        server.answers["/a/predict"] = Answer(ANSWER)
        announce(server)
        with Clipper(port=server.port) as clipper:
            clipper.predict("a", [1.0])
            clipper.predict("a", [1.0])
        assert [request.token for request in server.requests] == [None, TOKEN, TOKEN]


def test_a_server_that_does_not_end() -> None:
    # os.write: a handler may come in the middle of a print
    deaf = "import os, signal, time; signal.signal(15, lambda *_: os.write(1, b'no\\n'));"
    deaf += "os.write(1, b'yes\\n'); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, Clipper(port=4711) as clipper:
        process.stdout.readline()
        here = "127.0.0.1"
        runtime.announce(4711, 4712, here, here, process.pid, None, "token")
        with pytest.raises(ClipperError, match=r"has not ended after 0\.1 s"):
            clipper.stop(timeout=0.1)
        assert process.stdout.readline() == b"no\n"
        process.kill()


# -- applications and models -----------------------------------------------------------


def test_register_application(
    clipper: Clipper, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    clipper.register_application(
        "hello_world", "feature_sum_model", "doubles", "-1.0", 100000
    )
    assert capsys.readouterr().out == "Success!\n"
    assert (server.last.path, server.last.token) == ("/admin/add_app", TOKEN)
    assert server.last.body == {
        "name": "hello_world",
        "input_type": "doubles",
        "default_output": "-1.0",
        "latency_slo_micros": 100000,
        "models": ["feature_sum_model"],
        "policy": "static",
        "cache": True,
        "cache_ttl_seconds": None,
        "parse_output": True,
        "on_overload": "default",
        "loss": "zero_one",
    }

    clipper.register_application("fresh", "m", cache_ttl_seconds=1.5)
    assert server.last.body["cache_ttl_seconds"] == 1.5


@pytest.mark.parametrize(
    ("default", "sent"),
    [(None, None), ("x", "x"), (-1.0, "-1.0"), ({"a": [1]}, '{"a":[1]}')],
)
def test_default_outputs(
    clipper: Clipper, server: FakeServer, default: Any, sent: str | None
) -> None:
    clipper.register_application("a", input_type=InputType.INTS, default_output=default)  # type: ignore[arg-type]
    assert server.last.body["default_output"] == sent
    assert server.last.body["input_type"] == "ints"
    assert server.last.body["models"] == []


def test_one_model_or_several(clipper: Clipper, server: FakeServer) -> None:
    clipper.register_application("a", models=["m", "n"], policy="hedge")
    assert server.last.body["models"] == ["m", "n"]
    with pytest.raises(InvalidInput, match="either model"):
        clipper.register_application("a", "m", models=["n"])


@pytest.mark.parametrize(
    ("verb", "arguments", "path", "body"),
    [
        ("unregister_application", ("a",), "delete_app", {"name": "a"}),
        ("delete_application", ("a",), "delete_app", {"name": "a"}),
        (
            "link_model_to_app",
            ("a", "m"),
            "add_model_links",
            {"app_name": "a", "model_names": ["m"]},
        ),
        (
            "unlink_model_from_app",
            ("a", "m"),
            "delete_model_links",
            {"app_name": "a", "model_names": ["m"]},
        ),
        (
            "set_model_version",
            ("m", 2),
            "set_model_version",
            {"model_name": "m", "model_version": "2"},
        ),
        ("undeploy", ("m", 2), "undeploy", {"model_name": "m", "model_version": "2"}),
        ("scale", ("m", 3), "scale", {"model_name": "m", "num_replicas": 3}),
        (
            "set_num_replicas",
            ("m", 0, 2),
            "scale",
            {"model_name": "m", "num_replicas": 0, "model_version": "2"},
        ),
        ("get_all_apps", (), "get_all_applications", {"verbose": False}),
        ("get_all_models", (True,), "get_all_models", {"verbose": True}),
        ("get_all_model_replicas", (), "get_all_containers", {"verbose": False}),
        ("get_linked_models", ("a",), "get_linked_models", {"app_name": "a"}),
        ("drain", (), "drain", {}),
    ],
)
def test_verbs_and_their_routes(
    clipper: Clipper,
    server: FakeServer,
    verb: str,
    arguments: tuple[Any, ...],
    path: str,
    body: Any,
) -> None:
    getattr(clipper, verb)(*arguments)
    assert (server.last.method, server.last.path) == ("POST", f"/admin/{path}")
    assert server.last.body == body


def test_what_is_not_known_is_none(clipper: Clipper, server: FakeServer) -> None:
    assert clipper.get_app_info("a") is None
    assert clipper.get_model_info("m", 1) is None
    server.answers["/admin/get_application"] = Answer({"name": "a"})
    assert clipper.get_app_info("a") == {"name": "a"}


def test_rollback_tells_the_version(clipper: Clipper, server: FakeServer) -> None:
    server.answers["/admin/rollback"] = Answer({"model_name": "m", "model_version": "1"})
    assert clipper.rollback("m") == "1"


def test_logs_are_those_of_the_current_version(
    clipper: Clipper, server: FakeServer
) -> None:
    server.answers["/admin/get_all_models"] = Answer(
        [
            {"model_name": "m", "model_version": "1", "is_current_version": False},
            {"model_name": "m", "model_version": "2", "is_current_version": True},
        ]
    )
    server.answers["/admin/logs/m/2"] = Answer("hello\n", content_type="text/plain")
    assert clipper.logs("m") == "hello\n"
    assert clipper.get_current_model_version("m") == "2"
    with pytest.raises(NotFound, match="no model named n"):
        clipper.logs("n")


def test_text_that_is_labelled_json(clipper: Clipper, server: FakeServer) -> None:
    server.answers["/admin/add_app"] = Answer("Successfully added application")
    clipper.register_application("a")


# -- deploying -------------------------------------------------------------------------

STAGES: list[Any] = [
    {"stage": "received"},
    {"stage": "loading"},
    {"stage": "example"},
    {"stage": "ready", "replicas": 1, "of": 1},
    {"stage": "live", "model_name": "m", "model_version": "1"},
]


def total(xs: Any) -> list[float]:
    return [float(x.sum()) for x in xs]


def test_deploy(
    clipper: Clipper, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/admin/deploy"] = Answer(lines=STAGES)
    clipper.deploy_predict_function(
        "m", 1, total, "doubles", num_replicas=2, example=np.ones(2), environment={"N": 1}
    )
    kind, manifest = server.last.body["manifest"]
    assert (kind, server.last.token) == ("application/json", TOKEN)
    sent = msgspec.json.decode(manifest)
    assert (sent["model_name"], sent["model_version"]) == ("m", "1")
    assert (sent["input_type"], sent["labels"]) == ("doubles", [])
    assert (sent["num_replicas"], sent["example"]) == (2, [1.0, 1.0])
    assert sent["batching"] == {"controller": "aimd"}
    assert sent["environment"] == {"N": "1"}
    assert "def total" in sent["source"]
    kind, blob = server.last.body["function"]
    assert kind == "application/octet-stream"
    assert len(blob) > 10
    assert capsys.readouterr() == ("", "")  # no terminal, not asked: quiet


def test_deploy_shows_its_stages_when_asked(
    clipper: Clipper, server: FakeServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["/admin/deploy"] = Answer(lines=STAGES)
    clipper.deploy_model("m", 1, total, "doubles", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "m:1: packaging the function"
    assert lines[1].startswith("m:1: uploading ")
    assert lines[2:6] == [
        "m:1: received",
        "m:1: loading the function",
        "m:1: running the example",
        "m:1: 1 of 1 replicas ready",
    ]
    assert lines[6].startswith("m:1: live after ")


def test_a_deploy_that_fails(clipper: Clipper, server: FakeServer) -> None:
    failure = {"error": "deploy_failed", "cause": "Traceback ...\nNameError: x"}
    server.answers["/admin/deploy"] = Answer(lines=[*STAGES[:2], failure])
    with pytest.raises(DeployFailed, match="NameError: x"):
        clipper.deploy_predict_function("m", 1, total, "doubles")
    server.answers["/admin/deploy"] = Answer({"error": "conflict", "cause": "Taken."}, 409)
    with pytest.raises(Conflict, match="Taken"):
        clipper.deploy_predict_function("m", 1, total, "doubles")


def test_a_deploy_that_breaks_off(clipper: Clipper, server: FakeServer) -> None:
    server.answers["/admin/deploy"] = Answer(lines=STAGES[:2])
    with pytest.raises(ClipperError, match="ended the deploy of m:1 without a word"):
        clipper.deploy_predict_function("m", 1, total, "doubles")
    server.answers["/admin/deploy"] = Answer(lines=STAGES[:2], hang_up=True)
    with pytest.raises(ServerUnreachable, match="broke"):
        clipper.deploy_predict_function("m", 1, total, "doubles")
    server.answers["/admin/deploy"] = Answer(lines=[b"<html>\n"])
    with pytest.raises(ClipperError, match="no JSON line"):
        clipper.deploy_predict_function("m", 1, total, "doubles")


def manifest_of(
    batching: Any = "aimd", max_batch_size: int | None = None, **later: int | None
) -> dict[str, Any]:
    return make_manifest(
        "m",
        1,
        "ints",
        labels=None,
        num_replicas=1,
        batching=batching,
        max_batch_size=max_batch_size,
        example=None,
        retry=True,
        environment=None,
        memory_limit=None,
        **later,  # type: ignore[arg-type]
    )


def batching_of(batching: Any, max_batch_size: int | None = None) -> dict[str, Any]:
    return dict(manifest_of(batching, max_batch_size)["batching"])


def test_servers_of_before_are_not_told_of_options_that_are_not_used() -> None:
    later = {"spares", "recycle_after", "recycle_memory"}
    assert not later & manifest_of(spares=0).keys()
    told = manifest_of(spares=1, recycle_after=2, recycle_memory=3)
    assert [told[name] for name in sorted(later)] == [2, 3, 1]


def test_batching_by_name_settings_or_record() -> None:
    assert batching_of("fixed", 8) == {"controller": "fixed", "max_batch_size": 8}
    assert batching_of({"controller": "none"}) == {"controller": "none"}
    record = BatchingSettings("aimd", 4)
    assert batching_of(record) == {
        "controller": "aimd",
        "max_batch_size": 4,
        "batch_wait": "auto",
    }
    with pytest.raises(InvalidInput, match="batching must be"):
        batching_of(8)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_leaves_one_line() -> None:
    out = Terminal()
    with make_progress("m:1", None, out) as progress:
        for event in STAGES:
            progress.stage(event)
    assert "✓ m:1  live" in click.unstyle(out.getvalue().splitlines()[-1])
    with pytest.raises(DeployFailed), make_progress("m:2", None, out) as progress:
        progress.stage({"stage": "loading"})
        raise DeployFailed("no")
    assert "✗ m:2  not live" in click.unstyle(out.getvalue().splitlines()[-1])


def test_progress_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)
    out = Terminal()
    with make_progress("m:1", None, out) as progress:
        progress.stage({"stage": "loading"})
    assert out.getvalue() == "m:1: loading the function\n"


def test_format_bytes() -> None:
    assert [format_bytes(n) for n in (0, 999, 1000, 1_234_567)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.2 MB",
    ]


# -- loops and threads -----------------------------------------------------------------


def test_an_explanation(clipper: Clipper, server: FakeServer) -> None:
    answer = {"application": "a", "sentences": ["Nothing has been asked of a yet."]}
    server.answers["/admin/applications/a/explain"] = Answer(answer)
    assert clipper.explain("a") == answer
    assert (server.last.method, server.last.token) == ("GET", TOKEN)
    with pytest.raises(InvalidInput, match="the application must match"):
        clipper.explain("../status")


async def test_async_client(server: FakeServer) -> None:
    async with AsyncClipper(
        port=server.port, admin_port=server.admin_port, token=TOKEN
    ) as clipper:
        answers = await asyncio.gather(*(clipper.predict("a", [1.0]) for _ in range(20)))
        assert [answer.output for answer in answers] == [6.6] * 20
        await clipper.register_application("a")
        assert await clipper.get_app_info("a") is None


def test_an_async_client_in_two_loops(server: FakeServer) -> None:
    clipper = AsyncClipper(port=server.port, admin_port=server.admin_port, token=TOKEN)

    async def once() -> Any:
        try:
            return (await clipper.predict("a", [1.0])).output
        finally:
            await clipper.close()

    assert [asyncio.run(once()), asyncio.run(once())] == [6.6, 6.6]


async def test_the_blocking_client_inside_a_running_loop(clipper: Clipper) -> None:
    assert clipper.predict("a", [1.0]).output == 6.6


def test_the_blocking_client_from_several_threads(clipper: Clipper) -> None:
    outputs: list[Any] = []

    def ask() -> None:
        outputs.extend(clipper.predict("a", [1.0]).output for _ in range(5))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == [6.6] * 20


def test_closing_ends_the_thread_and_a_later_call_starts_again(clipper: Clipper) -> None:
    clipper.predict("a", [1.0])
    clipper.close()
    assert not any(t.name == "clipper-client" for t in threading.enumerate())
    assert clipper.predict("a", [1.0]).output == 6.6


def test_a_client_that_is_dropped_ends_its_thread(server: FakeServer) -> None:
    clipper = Clipper(port=server.port, admin_port=server.admin_port)
    clipper.predict("a", [1.0])
    del clipper
    gc.collect()
    assert not any(t.name == "clipper-client" for t in threading.enumerate())


def _ask_in_child(clipper: Clipper, answers: Any) -> None:
    answers.put(clipper.predict("a", [1.0]).output)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_client_survives_a_fork(clipper: Clipper) -> None:
    clipper.predict("a", [1.0])
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    child = context.Process(target=_ask_in_child, args=(clipper, answers))
    child.start()
    child.join(20)
    assert child.exitcode == 0
    assert answers.get() == 6.6


def test_the_verbs_of_both_clients_are_the_same() -> None:
    verbs = {name for name in vars(AsyncClipper) if not name.startswith("_")}
    assert verbs == {name for name in vars(Clipper) if not name.startswith("_")}
    for name in verbs:
        assert getattr(Clipper, name).__doc__ or name in {
            "unlink_model_from_app",
            "admin_url",
        }


def test_what_a_client_says_of_itself(clipper: Clipper, server: FakeServer) -> None:
    assert repr(clipper) == f"<Clipper http://localhost:{server.port}>"
