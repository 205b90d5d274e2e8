from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fakes_http import TOKEN, Answer, FakeServer

from clipper.batching.registry import CONTROLLERS
from clipper.cli import main
from clipper.cli.applications import _INPUT_TYPES
from clipper.cli.models import _CONTROLLERS
from clipper.inputs import InputType

ANSWER = {"query_id": "q1", "output": 6.6, "default": False}
Run = Callable[..., Result]


@pytest.fixture(autouse=True)
def own_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("CLIPPER_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("CLIPPER_TOKEN", TOKEN)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def run(server: FakeServer) -> Run:
    def run(*arguments: str, input: str | None = None) -> Result:
        ports = {
            "CLIPPER_PORT": str(server.port),
            "CLIPPER_ADMIN_PORT": str(server.admin_port),
        }
        return CliRunner().invoke(main, list(arguments), input=input, env=ports)

    return run


# -- help and exit codes ---------------------------------------------------------------


def test_help_lists_every_command_once() -> None:
    text = CliRunner().invoke(main, ["--help"]).stdout
    for name in main.commands:
        assert text.count(f"\n  {name} ") == 1
    assert text.count("...") == 1  # no sentence is cut


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_command_has_help(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0
    assert f"Usage: main {name}" in result.stdout


def test_the_server_says_no(run: Run, server: FakeServer) -> None:
    server.answers["/a/predict"] = Answer(
        {"error": "not_found", "cause": "There is no application a."}, 404
    )
    result = run("predict", "a", "[1]")
    assert result.exit_code == 1
    assert result.stderr == "Error: There is no application a.\n"
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["predict", "a"],
        ["predict", "a", "{"],
        ["apps", "--port", "http"],
        ["apps", "--port", "65536"],
        ["scale", "a/b", "1"],
        ["scale", "m", "-1"],
        ["undeploy", "m"],
        ["undeploy", "m", "a/b"],
        ["deploy", "json"],
        ["deploy", "no.such.module:f"],
        ["deploy", "no/such/file.py:f"],
        ["deploy", "json:nothing"],
        ["deploy", "json:dumps", "--env", "A"],
        ["deploy", "json:dumps", "--memory-limit", "much"],
        ["deploy", "json:dumps", "--batch-wait", "long"],
        ["deploy", "json:dumps", "--batch-wait", "-1"],
        ["deploy", "json:dumps", "--batch-wait", "nan"],
        ["deploy", "json:dumps", "--max-batch-size", "0"],
    ],
)
def test_wrong_usage(run: Run, server: FakeServer, arguments: list[str]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output
    assert server.requests == []


@pytest.mark.parametrize(
    "arguments",
    [["apps"], ["predict", "a", "[1]"], ["status"], ["logs", "m:1"], ["explain", "a"]],
)
def test_no_server(arguments: list[str]) -> None:
    nowhere = {"CLIPPER_PORT": "1", "CLIPPER_ADMIN_PORT": "1"}
    result = CliRunner().invoke(main, arguments, env=nowhere)
    assert result.exit_code == 3
    assert "No Clipper server answers at localhost:1. Start one" in result.stderr


def test_the_input_types_in_the_help_are_those_there_are() -> None:
    assert ", ".join(kind.value for kind in InputType) in _INPUT_TYPES


def test_the_controllers_in_the_help_are_those_there_are() -> None:
    assert ", ".join(CONTROLLERS) == _CONTROLLERS


def test_help_loads_neither_the_client_nor_the_server() -> None:
    program = (
        "import sys; from clipper.cli import main\n"
        "try: main(['--help'])\n"
        "finally: print({'aiohttp', 'rich', 'numpy', 'clipper.client', "
        "'clipper.server', 'sklearn'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "set()"


# -- queries ---------------------------------------------------------------------------


def test_predict(run: Run, server: FakeServer) -> None:
    server.answers["/a/predict"] = Answer(ANSWER)
    result = run("predict", "a", "[1.1, 2.2]", "--uid", "7", "--deadline-ms", "5")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "6.6\n", "")
    assert server.last.body == {"input": [1.1, 2.2], "uid": 7, "deadline_ms": 5.0}
    run("predict", "a", "-", "--uid", "x7", input='"text"')
    assert server.last.body == {"input": "text", "uid": "x7"}
    result = run("predict", "a", "[1]", "--json")
    assert json.loads(result.stdout) == ANSWER


def test_predict_tells_a_default_output(run: Run, server: FakeServer) -> None:
    server.answers["/a/predict"] = Answer(
        {**ANSWER, "output": None, "default": True, "default_explanation": "No model."}
    )
    result = run("predict", "a", "[1]")
    assert (result.stdout, result.stderr) == ("null\n", "default output: No model.\n")
    assert json.loads(run("predict", "a", "[1]", "--json").stdout)["output"] is None


def test_a_string_without_quotes_is_explained(run: Run) -> None:
    result = run("predict", "a", "hello")
    assert """A string needs its quotes, as in '"text"'.""" in result.stderr


# -- applications ----------------------------------------------------------------------


def test_register(run: Run, server: FakeServer) -> None:
    result = run(
        *("register", "a", "--model", "m", "--model", "n", "--slo-ms", "20"),
        *("--default", "-1.0", "--policy", "hedge", "--no-cache", "--raw-output"),
    )
    assert result.stdout.startswith("✓ a answers at http://localhost:")
    body = server.last.body
    assert (body["models"], body["latency_slo_micros"]) == (["m", "n"], 20_000)
    assert (body["default_output"], body["policy"]) == ("-1.0", "hedge")
    assert (body["cache"], body["parse_output"]) == (False, False)
    assert body["cache_ttl_seconds"] is None
    run("register", "a", "--cache-ttl", "0.5")
    assert server.last.body["cache_ttl_seconds"] == 0.5
    assert "not in the range" in run("register", "a", "--cache-ttl", "0").stderr


def test_link_unlink_delete(run: Run, server: FakeServer) -> None:
    assert run("link", "a", "m", "n").stdout == "✓ a is linked to m, n\n"
    assert [r.body["model_names"] for r in server.requests] == [["m"], ["n"]]
    assert run("unlink", "a", "m").stdout == "✓ a is no longer linked to m\n"
    assert run("delete", "a").stdout == "✓ a is deleted\n"
    assert (server.last.path, server.last.body) == ("/admin/delete_app", {"name": "a"})


APPS = [
    {
        "name": "hello_world",
        "input_type": "doubles",
        "latency_slo_micros": 100_000,
        "default_output": "-1.0",
        "linked_models": ["m", "n"],
    },
    {
        "name": "a",
        "input_type": "strings",
        "latency_slo_micros": 1_500,
        "default_output": None,
        "linked_models": [],
    },
]


def test_apps(run: Run, server: FakeServer) -> None:
    server.answers["/admin/get_all_applications"] = Answer(APPS)
    assert run("apps").stdout.splitlines() == [
        "APPLICATION  INPUT       SLO  DEFAULT  MODELS",
        "a            strings  1.5 ms        -  -",
        "hello_world  doubles  100 ms     -1.0  m, n",
    ]
    assert json.loads(run("apps", "--json").stdout) == APPS
    server.answers["/admin/get_all_applications"] = Answer([])
    assert run("apps").stdout.startswith("No applications yet.")
    assert json.loads(run("apps", "--json").stdout) == []


# -- models ----------------------------------------------------------------------------


def model(name: str, version: str, **fields: Any) -> dict[str, Any]:
    return {
        "model_name": name,
        "model_version": version,
        "current": True,
        "state": "LIVE",
        "reason": "",
        "replicas": {"live": 1, "target": 2},
        "queue_rows": 0,
        "batch_cap": 128,
        "in_flight": 0,
    } | fields


STATUS = {
    "applications": [
        {
            "name": "a",
            "input_type": "doubles",
            "latency_slo_micros": 20_000,
            "policy": "static",
            "models": ["sum"],
            "predictions": 12,
            "failures": 0,
            "p50_ms": 1.5,
            "p99_ms": None,
        },
        {"name": "b", "input_type": "ints", "policy": "hedge", "models": ["sum", "m"]},
    ],
    "models": [
        model("sum", "2"),
        model(
            "sum",
            "1",
            current=False,
            state="failed",
            reason="it raised\nmore",
            mean_batch_rows=2.5,
        ),
    ],
    "server": {
        "version": "0.1.0",
        "draining": False,
        "uptime_seconds": 7200,
        "cache": {"entries": 3, "hits": 1, "joins": 1, "misses": 2},
    },
}


def test_models(run: Run, server: FakeServer) -> None:
    server.answers["/admin/status"] = Answer(STATUS)
    lines = run("models").stdout.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "MODEL STATE REPLICAS BATCH CAP MEAN BATCH WAITING WHY",
        "● sum:2 live 1 of 2 128 - 0",
        "sum:1 failed 1 of 2 128 2.5 0 it raised",
    ]
    server.answers["/admin/get_all_models"] = Answer([{"model_name": "sum"}])
    assert json.loads(run("models", "--json").stdout) == [{"model_name": "sum"}]


def test_status(run: Run, server: FakeServer) -> None:
    server.answers["/admin/status"] = Answer(STATUS)
    text = run("status").stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[:3] == [
        f"Clipper 0.1.0 is running at http://localhost:{server.port}",
        "up for 2.0 h",
        "cache: 3 outputs, 50 % of 4 rows found in it",
    ]
    assert "a doubles 20 ms 1.5 ms - 12 0 sum" in lines
    assert "b ints - - - - - sum, m (hedge)" in lines
    assert "● sum:2 live 1 of 2 128 - 0" in lines
    assert json.loads(run("status", "--json").stdout) == STATUS
    server.answers["/admin/status"] = Answer({"applications": [], "models": []})
    assert "Applications\n  none" in run("status").stdout


def explained(*models: dict[str, Any], sentences: Sequence[str] = ()) -> dict[str, Any]:
    return {"application": "a", "sentences": list(sentences), "models": list(models)}


def version(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": name,
        "current": True,
        "controller": "aimd",
        "cap_rows": 43,
        "objective_ms": 19.0,
        "full_batch_ms": 18.2,
        "capacity_rows_per_second": 2362.6,
        "mean_batch_rows": 3.1,
        "rows": 1234,
        "queue_rows": 0,
        "fitted": {"fixed_ms": 1.0, "per_row_us": 400.0},
        "shed": {"refused_rows": 5, "shed_rows": 6},
    } | fields


def test_explain(run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = {"fixed_ms": 3.0, "per_row_us": 0.5}
    replicas = [
        {"replica": 0, "cap_rows": 43, "busy": True, "fitted": fit, "times_as_long": 0.5},
        {"replica": 1, "cap_rows": 20, "busy": False},
    ]
    long = " ".join(["word"] * 40) + "."
    answer = explained(
        version("m:2", replicas=replicas),
        version("m:1", current=False, fitted=None, full_batch_ms=None),
        sentences=["All is well.", long],
    )
    server.answers["/admin/applications/a/explain"] = Answer(answer)
    monkeypatch.setenv("COLUMNS", "100")
    text = run("explain", "a").stdout
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "• All is well."
    assert text.count("word") == 40 and max(map(len, text.splitlines())) <= 100
    assert "● m:2 aimd 43 3.1 1 ms + 0.4 ms/row 18.2 of 19 ms 2,363/s" in lines
    assert "m:1 aimd 43 3.1 - - 2,363/s" in lines
    assert "● m:2 1234 5 6" in lines
    assert "● m:2 0 43 3 ms + 0.5 µs/row 0.5x busy" in lines
    assert "● m:2 1 20 - - idle" in lines
    assert json.loads(run("explain", "a", "--json").stdout) == answer


def test_explain_without_models(run: Run, server: FakeServer) -> None:
    only = explained(sentences=["No model is linked to a."])
    server.answers["/admin/applications/a/explain"] = Answer(only)
    assert run("explain", "a").stdout == "• No model is linked to a.\n"
    server.answers["/admin/applications/a/explain"] = Answer(
        {"error": "not_found", "cause": "No application with name 'a' exists."}, 404
    )
    assert run("explain", "a").exit_code == 1
    assert run("explain", "a/b").exit_code == 1


def test_replicas(run: Run, server: FakeServer) -> None:
    one = {"model_id": "m:1", "model_replica_id": 0, "input_type": "doubles"}
    server.answers["/admin/get_all_containers"] = Answer([one])
    assert run("replicas").stdout.splitlines()[1].split() == ["m:1", "0", "doubles"]
    assert json.loads(run("replicas", "--json").stdout) == [one]
    server.answers["/admin/get_all_containers"] = Answer([])
    assert run("replicas").stdout == "No replicas run.\n"


def test_scale_rollback_undeploy(run: Run, server: FakeServer) -> None:
    assert run("scale", "m", "3").stdout == "✓ m runs 3 replicas\n"
    assert run("scale", "m:2", "1").stdout == "✓ m:2 runs 1 replica\n"
    assert server.last.body == {
        "model_name": "m",
        "model_version": "2",
        "num_replicas": 1,
    }
    server.answers["/admin/rollback"] = Answer({"model_name": "m", "model_version": "1"})
    assert run("rollback", "m").stdout == "✓ m:1 answers now\n"
    assert run("rollback", "m:2").stdout == "✓ m:2 answers now\n"
    assert server.last.path == "/admin/set_model_version"
    assert run("rollback", "m", "3").stdout == "✓ m:3 answers now\n"
    assert run("undeploy", "m", "1").stdout == "✓ m:1 is removed\n"
    assert run("undeploy", "m:1").stdout == "✓ m:1 is removed\n"
    assert server.last.body == {"model_name": "m", "model_version": "1"}


def test_logs(run: Run, server: FakeServer) -> None:
    server.answers["/admin/logs/m/1"] = Answer("one\ntwo\n3", content_type="text/plain")
    assert run("logs", "m:1").stdout == "one\ntwo\n3\n"
    assert run("logs", "m", "1").stdout == "one\ntwo\n3\n"
    assert run("logs", "m:1", "-n", "2").stdout == "two\n3\n"


# -- deploying -------------------------------------------------------------------------

LIVE = [{"stage": "received"}, {"stage": "live", "model_name": "m", "model_version": "1"}]


def test_deploy_a_function_of_a_module(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    server.answers["/admin/deploy"] = Answer(lines=LIVE)
    (tmp_path / "cli_models.py").write_text(
        "def total(xs):\n    return [sum(x) for x in xs]\n"
    )
    result = run(
        *("deploy", "cli_models:total", "--version", "3", "--example", "[1.0]"),
        *("--env", "A=b=c", "--memory-limit", "2G", "--replicas", "2", "--no-retry"),
        *("--label", "x", "--max-batch-size", "8", "--batching", "fixed"),
        *("--batch-wait", "2.5", "--spares", "1", "--recycle-after", "900"),
        *("--recycle-memory", "512M"),
    )
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines()[0] == "total:3: packaging the function"
    assert "takes along cli_models" in result.stderr
    assert "total:3: live after" in result.stderr.splitlines()[-1]
    manifest = json.loads(server.last.body["manifest"][1])
    assert (manifest["model_name"], manifest["model_version"]) == ("total", "3")
    assert manifest["environment"] == {"A": "b=c"}
    assert (manifest["memory_limit"], manifest["retry"]) == (2 * 10**9, False)
    assert (manifest["spares"], manifest["recycle_after"]) == (1, 900)
    assert manifest["recycle_memory"] == 512 * 10**6
    assert manifest["batching"] == {
        "controller": "fixed",
        "max_batch_size": 8,
        "batch_wait": 2.5,
    }
    assert (manifest["num_replicas"], manifest["labels"]) == (2, ["x"])
    assert manifest["example"] == [1.0]


def test_deploy_a_function_of_a_file(run: Run, server: FakeServer, tmp_path: Path) -> None:
    server.answers["/admin/deploy"] = Answer(lines=LIVE)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "cli_helper.py").write_text("FACTOR = 2\n")
    (folder / "cli_file.py").write_text(
        "from cli_helper import FACTOR\n"
        "class Model:\n    def predict(self, xs): return [FACTOR * x for x in xs]\n"
        "model = Model()\n"
    )
    result = run("deploy", "folder/cli_file.py:model.predict", "--name", "m", "--quiet")
    assert (result.exit_code, result.output) == (0, "")
    manifest = json.loads(server.last.body["manifest"][1])
    assert manifest["model_name"] == "m"
    assert manifest["batching"] == {"controller": "aimd", "batch_wait": "auto"}


def test_a_module_that_raises(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cli_broken.py").write_text("import no_such_thing\n")
    result = run("deploy", "cli_broken:f")
    assert result.exit_code == 2
    assert "importing cli_broken raised ModuleNotFoundError: No module named 'no_such" in (
        " ".join(result.stderr.split())
    )


def test_a_deploy_that_fails(run: Run, server: FakeServer) -> None:
    failure = {"error": "deploy_failed", "cause": "NameError: x"}
    server.answers["/admin/deploy"] = Answer(lines=[LIVE[0], failure])
    result = run("deploy", "json:dumps", "--quiet")
    assert result.exit_code == 1
    assert result.stderr == "Error: NameError: x\n"


# -- learning --------------------------------------------------------------------------

TAKEN = {"accepted": True, "duplicate": False}


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (["q", "--label", "7"], {"query_id": "q", "label": 7}),
        (["q", "--label", "null"], {"query_id": "q", "label": None}),
        (["q", "--reward", "0.9"], {"query_id": "q", "reward": 0.9}),
        (
            ["--input", "[1.5]", "--label", '"x"', "--uid", "7", "--feedback-id", "f"],
            {"input": [1.5], "label": "x", "uid": 7, "feedback_id": "f"},
        ),
        (
            ["q", "--label", "1", "--input", "[2]", "--context", "[3]"],
            {"query_id": "q", "label": 1, "input": [2], "context": [3]},
        ),
    ],
)
def test_update(
    run: Run, server: FakeServer, arguments: list[str], body: dict[str, Any]
) -> None:
    server.answers["/a/update"] = Answer(TAKEN)
    result = run("update", "a", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout == "✓ a has learned from it\n"
    assert (server.last.path, server.last.body) == ("/a/update", body)


def test_update_says_what_was_known(run: Run, server: FakeServer) -> None:
    server.answers["/a/update"] = Answer({"accepted": True, "duplicate": True})
    assert run("update", "a", "q", "--label", "1").stdout == "✓ a knew that already\n"
    result = run("update", "a", "q", "--label", "1", "--json")
    assert json.loads(result.stdout) == {"accepted": True, "duplicate": True}


@pytest.mark.parametrize(
    "arguments",
    [
        ["update", "a"],
        ["update", "a", "q"],
        ["update", "a", "q", "--label", "1", "--reward", "1"],
        ["update", "a", "q", "--reward", "1.5"],
        ["update", "a", "q", "--label", "{"],
        ["update", "a", "--label", "1"],
        ["policy", "a", "--option", "eta=1"],
        ["policy", "a", "hedge", "--option", "eta"],
        ["policy", "a", "hedge", "--option", "eta=1", "--option", "eta=2"],
        ["register", "a", "--policy-option", "=1"],
        ["feedback", "a", "--after", "-1"],
    ],
)
def test_wrong_usage_of_learning(run: Run, arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


STATE = {
    "policy": "hedge",
    "options": {"eta": 0.5},
    "contextual": False,
    "personal": True,
    "unavailable": None,
    "uid": "al",
    "known": False,
    "arms": [
        {
            "model": "m:1", "weight": 0.9, "pulls": 12, "mean_loss": 0.05, "halted": None,
        },
        {"model": "n:2", "weight": 1e-5, "pulls": 0, "mean_loss": None, "halted": "slow"},
    ],
    "former_arms": [{"model": "m:0", "pulls": 3, "mean_loss": 0.5}],
}  # fmt: skip


def test_policy(run: Run, server: FakeServer) -> None:
    server.answers["/admin/get_state"] = Answer(STATE)
    assert run("policy", "a").stdout == "hedge (eta=0.5)\n"
    shown = {"policy": "hedge", "options": {"eta": 0.5}}
    assert json.loads(run("policy", "a", "--json").stdout) == shown
    settings = {"name": "canary", "options": {"weights": {"m:1": 1}, "stable": "m:1"}}
    server.answers["/admin/set_policy"] = Answer({"app_name": "a", "policy": settings})
    result = run(
        "policy", "a", "canary", "--option", 'weights={"m:1": 1}', "--option", "stable=m:1"
    )
    assert server.last.body == {"app_name": "a", "policy": settings}
    assert result.stdout == ('✓ a chooses by canary (weights={"m:1":1}, stable="m:1")\n')


def test_state(run: Run, server: FakeServer) -> None:
    server.answers["/admin/get_state"] = Answer(STATE)
    assert run("state", "a", "--uid", "al").stdout.splitlines() == [
        "hedge (eta=0.5), of al",
        "Nothing was learned of al yet: the weights are everybody's.",
        "  ARM  WEIGHT  FEEDBACK  MEAN LOSS",
        "  m:1  90.0 %        12      0.050",
        "  n:2  <0.1 %         0          -",
        "  m:0       -         3      0.500",
        "  n:2 was taken out: slow",
        "  m:0 is no candidate now.",
    ]
    assert server.last.body == {"app_name": "a", "uid": "al"}
    assert json.loads(run("state", "a", "--json").stdout) == STATE
    server.answers["/admin/get_state"] = Answer({})
    result = run("state", "a")
    assert (result.exit_code, result.stderr) == (1, "Error: there is no application 'a'\n")


def test_state_of_nothing_says_what_to_do(run: Run, server: FakeServer) -> None:
    arms = [{**STATE["arms"][0], "pulls": 0}]
    new = STATE | {"uid": None, "arms": arms, "former_arms": []}
    server.answers["/admin/get_state"] = Answer(new)
    assert "`clipper update a QUERY_ID --label ...`" in run("state", "a").stdout
    server.answers["/admin/get_state"] = Answer(new | {"personal": False})
    assert (
        "It keeps nothing of users: `clipper state a`"
        in run("state", "a", "--uid", "al").stdout
    )


def test_feedback_prints_the_log(run: Run, server: FakeServer) -> None:
    lines = [{"seq": 1, "kind": "feedback"}, {"seq": 2, "kind": "halt"}]
    server.answers["/admin/feedback/a"] = Answer(lines=lines)
    result = run("feedback", "a", "--after", "0")
    assert [json.loads(line) for line in result.stdout.splitlines()] == lines
    assert run("feedback", "a", "--decisions").exit_code == 0


def test_forget_asks(run: Run, server: FakeServer) -> None:
    result = run("forget", "a", "al", input="n\n")
    assert result.exit_code == 1
    assert server.requests == []
    assert run("forget", "a", "al", input="y\n").exit_code == 0
    result = run("forget", "a", "7", "--yes")
    assert result.stdout == "✓ a has forgotten 7\n"
    assert server.last.body == {"app_name": "a", "uid": 7}


def test_register_with_a_policy_and_a_loss(run: Run, server: FakeServer) -> None:
    arguments = [
        "--policy",
        "hedge",
        "--policy-option",
        "eta=0.1",
        "--loss",
        "absolute(10)",
    ]
    assert run("register", "a", "--model", "m", *arguments).exit_code == 0
    body = server.last.body
    assert body["policy"] == {"name": "hedge", "options": {"eta": 0.1}}
    assert body["loss"] == "absolute(10)"


def test_explain_shows_the_arms(run: Run, server: FakeServer) -> None:
    arms = [
        {"model": "m:1", "weight": 0.9, "feedback": 12, "mean_loss": 0.05},
        {
            "model": "n:2", "weight": 0.1, "feedback": 0, "mean_loss": None,
            "shadow": {"agreement": 0.5, "compared": 4, "failed": 1, "p95_ms": 1250.0},
        },
    ]  # fmt: skip
    found = {"sentences": ["Well."], "choosing": {"policy": "shadow", "arms": arms}}
    server.answers["/admin/applications/a/explain"] = Answer(found)
    assert run("explain", "a").stdout.splitlines() == [
        "• Well.",
        "",
        "Arms of shadow",
        "  ARM  WEIGHT  FEEDBACK  MEAN LOSS  AGREES  COMPARED  FAILED     P95",
        "  m:1  90.0 %        12      0.050       -         -       -       -",
        "  n:2  10.0 %         0          -  50.0 %         4       1  1.25 s",
    ]


@pytest.mark.parametrize("columns", [70, 80, 120])
def test_no_line_of_explain_is_wider_than_the_terminal(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    name, long = "a-model-with-a-long-name:version-12", " ".join(["word"] * 40) + "."
    guard = {"queries": 123_456, "failures": 1234, "p95_ms": 12.5}
    arm = {"model": name, "weight": 0.99, "feedback": 12, "mean_loss": 0.5, "guard": guard}
    replicas = [
        {"replica": n, "fitted": {"fixed_ms": 12.25, "per_row_us": 6543.0}, "cap_rows": 9}
        for n in range(2)
    ]
    shed = dict.fromkeys(("refused_rows", "shed_rows", "expired_rows", "hedged_rows"), 9999)
    found = explained(version(name, shed=shed, queue_rows=12_345, replicas=replicas))
    found["sentences"] = [long]
    found["choosing"] = {"policy": "canary", "arms": [arm, {**arm, "halted": "it is slow"}]}
    server.answers["/admin/applications/a/explain"] = Answer(found)
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = run("explain", "a").stdout.splitlines()
    assert max(map(len, lines)) <= columns
    text = " ".join(" ".join(lines).split())
    for said in (
        "123456",
        "1234",
        "12345",
        "12.2 ms + 6.54 ms/row",
        "9999",
        "yes",
        "99.0 %",
    ):
        assert said in text
