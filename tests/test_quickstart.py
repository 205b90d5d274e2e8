"""Clients and commands against a real server, from start() to stop()."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from polling import block_until

from clipper import AsyncClipper, Clipper, runtime
from clipper.errors import (
    Conflict,
    DeployFailed,
    InvalidInput,
    NotFound,
    ServerUnreachable,
)

QUICKSTART = """
from clipper import Clipper
import numpy as np
clipper = Clipper("localhost")
clipper.start()
clipper.register_application("hello_world", "feature_sum_model", "doubles", "-1.0", 100000)
apps = clipper.get_all_apps()
def feature_sum_function(xs):
      return [str(np.sum(x)) for x in xs]
clipper.deploy_predict_function("feature_sum_model", 1, feature_sum_function, "doubles")
"""


@pytest.fixture(autouse=True)
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Servers of a test are seen by this test only, and none outlives it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CLIPPER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CLIPPER_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    for left in runtime.find_all():
        os.kill(left.pid, signal.SIGKILL)


@pytest.fixture
def ports() -> dict[str, int]:
    """Two ports that were free a moment ago, below those that the kernel hands out."""
    found: list[int] = []
    while len(found) < 2:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", random.randrange(20_000, 30_000)))
            found.append(probe.getsockname()[1])
    return {"port": found[0], "admin_port": found[1]}


@pytest.fixture
def clipper() -> Iterator[Clipper]:
    """A client of a server of its own that keeps nothing."""
    with Clipper(port=0, admin_port=0) as clipper:
        clipper.start(ephemeral=True)
        yield clipper


def shell(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would; it ends with `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "clipper", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@contextlib.contextmanager
def shell_server(ports: dict[str, int]) -> Iterator[subprocess.Popen[bytes]]:
    """`clipper serve` in the foreground; it must end by itself inside the block."""
    flags = [f"--{name.replace('_', '-')}={port}" for name, port in ports.items()]
    command = [sys.executable, "-m", "clipper", "serve", *flags]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        yield process
        assert process.wait(20) == 0


# -- the quick start -------------------------------------------------------------------


def test_the_quick_start(ports: dict[str, int]) -> None:
    """As it stands in the README, but for the ports."""
    arguments = f'"localhost", port={ports["port"]}, admin_port={ports["admin_port"]}'
    session: dict[str, Any] = {"__name__": "__main__"}
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(QUICKSTART.replace('"localhost"', arguments), session)
    assert out.getvalue() == "Clipper is running\nSuccess!\n"
    assert session["apps"] == ["hello_world"]
    clipper = session["clipper"]
    try:
        _ask_with_curl(ports["port"])
        _ask_with_requests(ports["port"])
        assert clipper.predict("hello_world", np.ones(3), uid=0).output == 3.0
    finally:
        clipper.stop()
        clipper.close()


def _ask_with_curl(port: int) -> None:
    if shutil.which("curl") is None:  # pragma: no cover
        return
    done = subprocess.run(
        [
            *("curl", "-s", "-X", "POST", "--header", "Content-Type:application/json"),
            *("-d", '{"uid": 0, "input": [1.1, 2.2, 3.3]}'),
            f"127.0.0.1:{port}/hello_world/predict",
        ],
        capture_output=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["output"] == pytest.approx(6.6)
    assert answer["default"] is False


def _ask_with_requests(port: int) -> None:
    answer = requests.post(
        f"http://localhost:{port}/hello_world/predict",
        headers={"Content-type": "application/json"},
        data=json.dumps({"uid": 0, "input": list(np.arange(10.0))}),
        timeout=60,
    ).json()
    assert answer["output"] == 45.0


# -- start and stop --------------------------------------------------------------------


def test_start_is_idempotent_and_stop_ends_it(
    ports: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    clipper, second = Clipper(**ports), Clipper(**ports)
    with contextlib.closing(clipper), contextlib.closing(second):
        clipper.start(ephemeral=True)
        pid = runtime.find(ports["port"]).pid  # type: ignore[union-attr]
        second.start()
        clipper.start()
        assert runtime.find(ports["port"]).pid == pid  # type: ignore[union-attr]
        assert second.connect().get_all_apps() == []
        second.stop()
        assert runtime.process_started(pid) is None
        second.stop()
        with pytest.raises(ServerUnreachable, match="No Clipper server answers"):
            clipper.get_all_apps()
    assert capsys.readouterr().out.splitlines() == [
        *["Clipper is running"] * 3,
        "Clipper has stopped",
        "Clipper was not running",
    ]


def test_a_context_manager_stops_only_what_it_started(ports: dict[str, int]) -> None:
    with Clipper(**ports) as clipper:
        clipper.start(ephemeral=True)
        with Clipper(**ports) as guest:
            guest.start()
            guest.register_application("a")
        assert clipper.get_all_apps() == ["a"]
    assert runtime.find(ports["port"]) is None


async def test_two_that_start_at_once(ports: dict[str, int]) -> None:
    async with AsyncClipper(**ports) as one, AsyncClipper(**ports) as other:
        begun = await asyncio.gather(one.start(ephemeral=True), other.start(ephemeral=True))
        assert sorted(begun) == [False, True]
        assert await one.get_all_apps() == await other.get_all_apps() == []


def test_start_waits_for_a_server_that_is_starting(ports: dict[str, int]) -> None:
    def zeros(xs: Any) -> list[int]:
        return [0 for x in xs]

    with contextlib.closing(Clipper(**ports)) as clipper:
        clipper.start()
        clipper.deploy_predict_function("m", 1, zeros, "doubles")
        clipper.stop()
        with shell_server(ports):
            block_until(lambda: runtime.find(ports["port"]))
            clipper.start()  # no second server
            assert len(runtime.find_all()) == 1
            clipper.stop()


def test_what_was_registered_and_deployed_outlives_a_restart(
    ports: dict[str, int], tmp_path: Path
) -> None:
    with contextlib.closing(Clipper(**ports, data_dir=tmp_path / "mine")) as clipper:
        clipper.start()
        clipper.register_application("a", "m")
        clipper.deploy_predict_function("m", 1, lambda xs: [x[0] for x in xs], "doubles")
        clipper.stop()
        clipper.start()
        assert clipper.predict("a", [7.0]).output == 7.0
        clipper.stop()
    assert (tmp_path / "mine" / "admin-token").exists()
    assert not (tmp_path / "data").exists()


def test_a_start_that_fails_shows_why(ports: dict[str, int]) -> None:
    with socket.create_server(("127.0.0.1", ports["port"])):
        clipper = Clipper(**ports)
        with contextlib.closing(clipper), pytest.raises(ServerUnreachable) as caught:
            clipper.start(ephemeral=True)
    text = str(caught.value)
    assert text.startswith("Clipper did not start (exit code 3). It said:\n")
    assert f"127.0.0.1:{ports['port']} is taken" in text
    assert "Traceback" not in text


def test_a_server_that_was_killed_is_started_again(ports: dict[str, int]) -> None:
    with Clipper(**ports) as clipper:
        clipper.start()
        pid = runtime.find(ports["port"]).pid  # type: ignore[union-attr]
        os.kill(pid, signal.SIGKILL)
        block_until(lambda: runtime.process_started(pid) is None)
        clipper.start()
        assert clipper.get_all_apps() == []


# -- verbs against the real server -----------------------------------------------------


def double(xs: Any) -> list[float]:
    sys.stdout.write(f"doubling {len(xs)}\n")
    return [2 * float(x[0]) for x in xs]


def test_versions(clipper: Clipper) -> None:
    clipper.register_application("a", "m")
    clipper.deploy_predict_function("m", 1, double, "doubles", example=[1.0])
    clipper.deploy_predict_function("m", "2", lambda xs: [0] * len(xs), "doubles")
    assert clipper.predict("a", [4.0]).output == 0
    assert clipper.predict("a", [4.0], version=1).output == 8.0
    assert clipper.rollback("m") == "1"
    assert clipper.predict("a", [4.0], cache=False).output == 8.0
    clipper.set_model_version("m", 2)
    assert clipper.get_current_model_version("m") == "2"
    assert sorted(clipper.get_all_models()) == ["m:1", "m:2"]
    assert clipper.get_model_info("m", 1)["model_version"] == "1"  # type: ignore[index]
    assert clipper.get_model_info("m", 3) is None
    assert "doubling 1" in clipper.logs("m", 1)
    clipper.undeploy("m", 1)
    assert clipper.get_all_models() == ["m:2"]
    with pytest.raises(NotFound):
        clipper.undeploy("m", 1)


def test_replicas(clipper: Clipper) -> None:
    clipper.deploy_predict_function("m", 1, double, "doubles")
    clipper.scale("m", 2)
    block_until(lambda: len(clipper.get_all_model_replicas()) == 2)
    assert sorted(clipper.get_all_model_replicas()) == ["m:1:0", "m:1:1"]


def test_links(clipper: Clipper) -> None:
    clipper.register_application("a", default_output="none")
    prediction = clipper.predict("a", [1.0])
    assert (prediction.output, prediction.default) == ("none", True)
    assert prediction.default_explanation == "No connected models found for query"
    clipper.deploy_predict_function("m", 1, double, "doubles")
    clipper.link_model_to_app("a", "m")
    assert clipper.get_linked_models("a") == ["m"]
    assert clipper.predict("a", [1.0]).output == 2.0
    assert clipper.get_app_info("a")["linked_models"] == ["m"]  # type: ignore[index]
    clipper.unlink_model_from_app("a", "m")
    assert clipper.get_linked_models("a") == []
    clipper.delete_application("a")
    assert clipper.get_all_apps() == []
    assert clipper.get_app_info("a") is None


def test_the_servers_sentences(clipper: Clipper) -> None:
    clipper.register_application("a", "m")
    with pytest.raises(Conflict, match="already exists"):
        clipper.register_application("a")
    with pytest.raises(NotFound):
        clipper.predict("b", [1.0])
    with pytest.raises(InvalidInput, match=r"\$\.input\[1\]"):
        clipper.predict("a", [1.0, "x"])
    with pytest.raises(InvalidInput, match="input_type must be one of"):
        clipper.register_application("c", input_type="numbers")


def test_a_batch_with_a_row_that_fails(clipper: Clipper) -> None:
    def invert(xs: Any) -> list[float]:
        return [1 / float(x[0]) if x[0] else [][0] for x in xs]

    clipper.register_application("a", "m", slo_micros=5_000_000)
    clipper.deploy_predict_function("m", 1, invert, "doubles")
    good, bad = clipper.predict_batch("a", [[2.0], [0.0]], return_exceptions=True)
    assert good.output == 0.5
    assert bad.code == "model_failed"


def test_a_model_that_cannot_be_loaded(clipper: Clipper) -> None:
    def broken(xs: Any) -> Any:
        raise ValueError("not today")

    with pytest.raises(DeployFailed, match="not today"):
        clipper.deploy_predict_function("m", 1, broken, "doubles", example=[1.0])
    assert clipper.get_all_models() == []


def test_numbers_that_json_does_not_have(clipper: Clipper) -> None:
    clipper.register_application("a", "m")
    clipper.deploy_predict_function(
        "m", 1, lambda xs: [int(np.isnan(x).sum()) for x in xs], "doubles"
    )
    assert clipper.predict("a", [1.0, float("nan"), float("nan")]).output == 2


def test_a_program_that_ends_without_a_word(ports: dict[str, int]) -> None:
    """Neither the client nor the server that goes on is complained about."""
    program = (
        "from clipper import Clipper\n"
        f"clipper = Clipper(port={ports['port']}, admin_port={ports['admin_port']})\n"
        "clipper.start(ephemeral=True)\n"
        "clipper.register_application('a')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", program],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("Clipper is running\nSuccess!\n", "")
    assert runtime.find(ports["port"]) is not None


# -- the command -----------------------------------------------------------------------


def test_serve_until_it_is_told_to_end() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "clipper", "serve", "--port=0", "--admin-port=0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        first = process.stdout.readline()
        assert first.startswith("Clipper ")
        assert first.endswith(" is running\n")
        lines = dict(process.stdout.readline().split() for _ in range(3))
        port = int(lines["queries"].rpartition(":")[2])
        assert lines["data"] == os.environ["CLIPPER_DATA_DIR"]
        assert requests.get(f"http://127.0.0.1:{port}/health/live", timeout=60).ok
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "Clipper has stopped.\n"
        assert process.wait(20) == 0
    assert runtime.find_all() == []


def test_serve_says_what_it_cannot_have(ports: dict[str, int], tmp_path: Path) -> None:
    free = ("--port=0", "--admin-port=0")
    (tmp_path / "file").write_text("")
    failed = shell("serve", *free, f"--data-dir={tmp_path / 'file'}", code=3)
    assert failed.stderr.startswith("Error: ")
    failed = shell("serve", "--config=missing.toml", code=3)
    assert failed.stderr == "Error: cannot read missing.toml: No such file or directory\n"
    failed = shell("serve", "--no-auth", "--host=0.0.0.0", code=3)
    assert "stays on loopback" in failed.stderr
    failed = shell("serve", *free, "--log-file=missing/log", code=3)
    assert failed.stderr == "Error: cannot write missing/log: No such file or directory\n"
    with socket.create_server(("127.0.0.1", ports["port"])):
        failed = shell("serve", "--ephemeral", f"--port={ports['port']}", code=3)
        assert f"{ports['port']} is taken" in failed.stderr
    shell("start", *(f"--{k.replace('_', '-')}={v}" for k, v in ports.items()))
    failed = shell("serve", *free, code=3)  # the same data directory
    assert failed.stderr.startswith("Error: ")


def test_a_session_at_the_shell(ports: dict[str, int], tmp_path: Path) -> None:
    (tmp_path / "shell_models.py").write_text(
        "def total(xs):\n    return [float(x.sum()) for x in xs]\n"
        "def zero(xs):\n    return [0 for x in xs]\n"
    )
    at = f"--port={ports['port']}"
    started = shell("start", at, f"--admin-port={ports['admin_port']}", "--ephemeral")
    said, log = started.stdout.splitlines()
    assert said == f"✓ Clipper is running at http://127.0.0.1:{ports['port']}"
    log_file = Path(log.removeprefix("  its log is "))
    assert " is running" in log_file.read_text()
    assert "was running already" in shell("start", at).stdout
    shell("register", "a", "--model", "total", at)
    deployed = shell("deploy", "shell_models:total", "--example", "[1.5]", at)
    assert "total:1: live after" in deployed.stderr
    assert shell("predict", "a", "[1.5, 2.5]", at).stdout == "4.0\n"
    shell("deploy", "shell_models:zero", "--name=total", "--version=2", "-q", at)
    assert shell("predict", "a", "[1.5, 2.5]", at).stdout == "0\n"
    assert shell("rollback", "total", at).stdout == "✓ total:1 answers now\n"
    assert json.loads(shell("predict", "a", "[1]", "--json", at).stdout)["output"] == 1.0
    assert "total:2" in shell("models", at).stdout
    assert len(json.loads(shell("models", "--json", at).stdout)) == 2
    assert len(json.loads(shell("replicas", "--json", at).stdout)) == 2
    assert [a["name"] for a in json.loads(shell("apps", "--json", at).stdout)] == ["a"]
    assert f"http://127.0.0.1:{ports['port']}" in shell("status", at).stdout
    assert json.loads(shell("status", "--json", at).stdout)["applications"]
    shell("scale", "total", "2", at)
    shell("undeploy", "total:2", at)
    shell("logs", "total", at)
    refused = shell("deploy", "shell_models:zero", "--name=total", at, code=1)
    assert "already exists" in refused.stderr
    assert shell("delete", "a", at).stdout == "✓ a is deleted\n"
    assert shell("stop", at).stdout == "✓ Clipper has stopped\n"
    assert not log_file.exists()
    assert shell("stop", at).stdout == f"No server runs at port {ports['port']}.\n"
    assert "No Clipper server answers" in shell("apps", at, code=3).stderr


def test_serve_imports_no_client() -> None:
    program = (
        "import sys, clipper.server, clipper.cli\n"
        "import clipper.frontend.ports\n"
        "print({'rich', 'clipper.client', 'cloudpickle'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"
