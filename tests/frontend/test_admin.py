from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from polling import eventually

from clipper.records import BatchingSettings, ModelRecord
from clipper.version import __version__
from clipper.workers.packaging import pack

from .admin_port import AdminPort, open_admin_port

APP = {
    "name": "digits",
    "input_type": "ints",
    "default_output": "-1",
    "latency_slo_micros": 20_000,
}
MODEL = {
    "model_name": "sum",
    "model_version": 1,
    "labels": ["new"],
    "input_type": "integers",
    "container_name": "registry.example/sum:1",
    "model_data_path": "DEPRECATED",
    "batch_size": -1,
}
SHOWN_MODEL = {
    "model_name": "sum",
    "model_version": "1",
    "labels": ["new"],
    "input_type": "integers",
    "container_name": "registry.example/sum:1",
    "model_data_path": "DEPRECATED",
    "is_current_version": True,
}


@pytest.fixture
async def admin() -> AsyncIterator[AdminPort]:
    async with open_admin_port() as admin:
        yield admin


async def deploy(admin: AdminPort, version: str, function: Any = None) -> None:
    """A version with one real worker."""
    spec = ModelRecord("sum", version, "ints", 0)
    await admin.engine.deploy(spec, pack(function or (lambda rows: rows)).blob)


async def say(text: str, admin: AdminPort, route: str, body: Any) -> None:
    answer = await admin.post(route, body)
    assert (answer.status, answer.media, answer.value) == (200, "text/plain", text)


async def refuse(status: int, words: str, admin: AdminPort, route: str, body: Any) -> None:
    answer = await admin.post(route, body)
    assert answer.status == status, answer.value
    assert set(answer.value) == {"error", "cause"}
    assert words in answer.value["cause"]


# -- the original's routes -------------------------------------------------------------


async def test_the_texts_of_success(admin: AdminPort) -> None:
    named = {"model_name": "sum", "model_version": "1"}
    link = {"app_name": "digits", "model_names": ["sum"]}
    steps: list[tuple[str, dict[str, Any], str]] = [
        ("add_app", APP, "Successfully added application with name 'digits'"),
        (
            "add_model",
            MODEL,
            "Successfully added model with name 'sum' and input type 'integers'",
        ),
        (
            "set_model_version",
            named,
            "Successfully set model with name 'sum' to version '1'",
        ),
        (
            "add_model_links",
            link,
            "Successfully linked model with name 'sum' to application 'digits'",
        ),
        ("delete_model_links", link, "Success!"),
        (
            "delete_versioned_model",
            named,
            "Successfully deleted model with name 'sum' and version '1'",
        ),
        (
            "delete_app",
            {"name": "digits"},
            "Successfully deleted application with name 'digits'",
        ),
    ]
    for route, body, text in steps:
        await say(text, admin, route, body)
    assert not admin.engine.catalog.models
    assert not admin.engine.catalog.applications


async def test_what_the_original_shows(admin: AdminPort) -> None:
    await admin.post("add_app", APP)
    await admin.post("add_model", MODEL)
    await admin.post("add_model_links", {"app_name": "digits", "model_names": ["sum"]})
    application = APP | {"input_type": "integers", "linked_models": ["sum"]}
    named = {"model_name": "sum", "model_version": 1}
    expected: list[tuple[str, dict[str, Any], Any]] = [
        ("get_all_applications", {"verbose": False}, ["digits"]),
        ("get_all_applications", {}, ["digits"]),
        ("get_all_applications", {"verbose": True}, [application]),
        ("get_application", {"name": "digits"}, application),
        ("get_linked_models", {"app_name": "digits"}, ["sum"]),
        ("get_all_models", {"verbose": False}, ["sum:1"]),
        ("get_all_models", {"verbose": True}, [SHOWN_MODEL]),
        ("get_model", named, SHOWN_MODEL),
        ("get_model", named | {"model_version": "1"}, SHOWN_MODEL),
        ("get_all_containers", {"verbose": False}, []),
        ("get_container", named | {"replica_id": 0}, {}),
    ]
    for route, body, value in expected:
        answer = await admin.post(route, body)
        assert (answer.status, answer.media) == (200, "application/json")
        assert answer.value == value, route


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("get_application", {"name": "nowhere"}),
        ("get_application", {"name": "a name, that is none!"}),
        ("get_model", {"model_name": "m", "model_version": "1"}),
        ("get_container", {"model_name": "m", "model_version": 1, "replica_id": 0}),
        ("get_state", {"app_name": "nowhere", "uid": 0}),
    ],
)
async def test_what_is_unknown_is_empty(
    admin: AdminPort, route: str, body: dict[str, Any]
) -> None:
    answer = await admin.post(route, body)
    assert (answer.status, answer.body) == (200, b"{}")


async def test_an_application_with_all_our_settings(admin: AdminPort) -> None:
    body = APP | {
        "default_output": None,
        "models": ["a", "b"],
        "policy": {"name": "static", "options": {"model": "b"}},
        "cache": False,
        "cache_ttl_seconds": 2,
        "parse_output": False,
        "on_overload": "reject",
        "loss": "absolute",
        "something_of_a_later_release": 1,
    }
    assert (await admin.post("add_app", body)).status == 200
    record = admin.engine.application("digits").record
    assert (record.default_output, record.models) == (None, ["a", "b"])
    assert record.policy.options == {"model": "b"}
    assert (record.cache, record.parse_output) == (False, False)
    assert record.cache_ttl_seconds == 2.0
    shown = await admin.post("get_application", {"name": "digits"})
    assert shown.value["cache_ttl_seconds"] == 2.0
    assert (record.on_overload, record.loss) == ("reject", "absolute")


async def test_an_application_as_the_oldest_clients_register_it(admin: AdminPort) -> None:
    body = APP | {"candidate_model_names": ["sum"], "policy": "static"}
    assert (await admin.post("add_app", body)).status == 200
    assert (await admin.post("get_linked_models", {"app_name": "digits"})).value == ["sum"]
    both = body | {"name": "other", "models": ["sum"]}
    await refuse(400, "either models or candidate", admin, "add_app", both)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"default_output": -1.0}, "default_output must be a string"),
        ({"name": None}, "Expected a string, got null at $.name"),
        ({"name": "admin"}, "which is a route"),
        ({"name": "a b"}, "application name must match"),
        ({"input_type": "images"}, "input_type must be one of ints"),
        ({"latency_slo_micros": 0}, "latency_slo_micros must lie between"),
        ({"latency_slo_micros": "1"}, "Expected an integer, got a string at $.latency"),
        ({"latency_slo_micros": 10**30}, "latency_slo_micros must lie between"),
        ({"latency_slo_micros": 10**4299 * 9}, "latency_slo_micros must lie between"),
        ({"models": "sum"}, "Expected an array or null, got a string at $.models"),
        ({"models": ["a", 1]}, "at $.models[1]"),
        ({"models": ["a", "a"]}, "a model is named twice"),
        ({"policy": "thompson_of_tomorrow"}, "policy must be one of"),
        ({"policy": {"name": "static", "option": {}}}, "unknown field option"),
        ({"policy": {"name": "static", "options": {"x": 1}}}, "no option 'x'"),
        ({"cache": 1}, "Expected a boolean, got an integer at $.cache"),
        ({"cache_ttl_seconds": 0}, "cache_ttl_seconds must be a positive number"),
        ({"cache_ttl_seconds": "1"}, "got a string at $.cache_ttl_seconds"),
        ({"on_overload": "panic"}, "on_overload must be one of"),
        ({"loss": "none"}, "loss must be zero_one, absolute"),
    ],
)
async def test_applications_that_are_refused(
    admin: AdminPort, change: dict[str, Any], words: str
) -> None:
    await refuse(400, words, admin, "add_app", APP | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "DEFAULT_BATCH_SIZE, which is -1"),
        ({"batch_size": -2}, "DEFAULT_BATCH_SIZE, which is -1"),
        ({"batch_size": 2**31}, "at $.batch_size"),
        ({"model_name": "a:b"}, "model name must match"),
        ({"model_version": "a,b"}, "model_version must match"),
        ({"model_version": True}, "at $.model_version"),
        ({"model_version": 1.5}, "at $.model_version"),
        ({"labels": ["a:b"]}, "label must match"),
        ({"labels": ["a"] * 65}, "at $.labels"),
        ({"input_type": "d,"}, "input_type must be one of"),
        ({"container_name": "x" * 4097}, "at $.container_name"),
    ],
)
async def test_models_that_are_refused(
    admin: AdminPort, change: dict[str, Any], words: str
) -> None:
    await refuse(400, words, admin, "add_model", MODEL | change)


async def test_conflicts_and_unknown_names(admin: AdminPort) -> None:
    await admin.post("add_app", APP)
    await admin.post("add_model", MODEL)
    link = {"app_name": "digits", "model_names": ["sum"]}
    await admin.post("add_model_links", link)
    await admin.post("add_model", MODEL | {"model_name": "text", "input_type": "strings"})
    version = {"model_name": "sum", "model_version": 17}
    cases: list[tuple[int, str, str, dict[str, Any]]] = [
        (409, "application 'digits' already exists", "add_app", APP),
        (409, "version '1' already exists", "add_model", MODEL),
        (
            409,
            "is not compatible",
            "add_model",
            MODEL | {"model_version": 2, "input_type": "bytes"},
        ),
        (409, "already linked to 'digits'", "add_model_links", link),
        (
            409,
            "incompatible input_type 'strings'",
            "add_model_links",
            link | {"model_names": ["text"]},
        ),
        (404, "No model with name 'x'", "add_model_links", link | {"model_names": ["x"]}),
        (400, "Please provide the name", "add_model_links", link | {"model_names": []}),
        (404, "'nowhere'", "add_model_links", link | {"app_name": "nowhere"}),
        (
            404,
            "nonexistent link between app digits and model text",
            "delete_model_links",
            link | {"model_names": ["text"]},
        ),
        (404, "'nowhere'", "get_linked_models", {"app_name": "nowhere"}),
        (404, "'nowhere'", "delete_app", {"name": "nowhere"}),
        (404, "version '17' does not exist", "delete_versioned_model", version),
        (404, "non-existent version '17'", "set_model_version", version),
        (
            404,
            "nonexistent model 'x'",
            "set_model_version",
            version | {"model_name": "x"},
        ),
    ]
    for status, words, route, body in cases:
        await refuse(status, words, admin, route, body)


async def test_several_models_are_linked_at_once(admin: AdminPort) -> None:
    await admin.post("add_app", APP)
    for name in ("a", "b"):
        await admin.post("add_model", MODEL | {"model_name": name})
    await say(
        "Successfully linked models with names 'a', 'b' to application 'digits'",
        admin,
        "add_model_links",
        {"app_name": "digits", "model_names": ["a", "b"]},
    )
    answer = await admin.post("get_linked_models", {"app_name": "digits"})
    assert answer.value == ["a", "b"]


async def test_a_batch_size_bounds_the_batches(admin: AdminPort) -> None:
    await admin.post("add_model", MODEL | {"batch_size": 9})
    record = admin.engine.model("sum", "1").record
    assert record.batching == BatchingSettings("aimd", 9)


async def test_the_state_of_an_application(admin: AdminPort) -> None:
    await admin.post("add_app", APP | {"models": ["sum"]})
    await admin.post("add_model", MODEL)
    answer = await admin.post("get_state", {"app_name": "digits", "uid": 0})
    assert (answer.status, answer.media) == (200, "application/json")
    state = answer.value
    assert (state["policy"], state["uid"], state["known"]) == ("static", "0", False)
    assert [arm["model"] for arm in state["arms"]] == ["sum:1"]
    assert state["state"] == {}


async def test_states_of_users(admin: AdminPort) -> None:
    await admin.post("add_app", APP | {"policy": "ucb1"})
    answer = await admin.post("get_state", {"app_name": "digits"})
    assert (answer.value["policy"], answer.value["uid"]) == ("ucb1", None)
    for uid in (True, 1.5, [], "a" * 300, 2**63):
        answer = await admin.post("get_state", {"app_name": "digits", "uid": uid})
        assert answer.status == 400, uid
        assert "$.uid" in answer.value["cause"]
    answer = await admin.post("get_state", {"app_name": "nowhere", "uid": 0})
    assert answer.value == {}


async def test_an_application_shows_what_is_not_as_in_the_original(
    admin: AdminPort,
) -> None:
    policy = {"name": "hedge", "options": {"eta": 1.0}}
    await admin.post("add_app", APP)
    await admin.post(
        "add_app", APP | {"name": "b", "policy": policy, "loss": "absolute(2)"}
    )
    plain = (await admin.post("get_application", {"name": "digits"})).value
    assert not {"policy", "loss"} & plain.keys()
    other = (await admin.post("get_application", {"name": "b"})).value
    assert (other["policy"], other["loss"]) == (policy, "absolute(2)")


async def test_forgetting_a_user(admin: AdminPort) -> None:
    await admin.post("add_app", APP | {"policy": "ucb1"})
    answer = await admin.post("forget_user", {"app_name": "digits", "uid": 7})
    assert (answer.status, answer.value) == (200, {"app_name": "digits", "uid": "7"})
    for body, status in (
        ({"app_name": "nowhere", "uid": 7}, 404),
        ({"app_name": "digits"}, 400),
        ({"app_name": "digits", "uid": None}, 400),
        ({"app_name": "digits", "uid": 7, "all": True}, 400),
    ):
        assert (await admin.post("forget_user", body)).status == status


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        ("nonsense", "policy must be one of static"),
        ({"name": "hedge", "options": {"etta": 1}}, "policy hedge has no option 'etta'"),
        ({"name": "hedge", "options": {"eta": "1"}}, "in option eta"),
        ({"name": "canary"}, "policy canary needs the option weights"),
        ({"name": "ucb1", "options": {"arms": ["other"]}}, "is not among"),
        ({"name": "hedge", "eta": 1}, "$.policy"),
        (7, "$.policy"),
    ],
)
async def test_policies_that_are_refused(admin: AdminPort, policy: Any, words: str) -> None:
    await admin.post("add_app", APP | {"models": ["sum"]})
    answer = await admin.post("set_policy", {"app_name": "digits", "policy": policy})
    assert answer.status == 400
    assert words in answer.value["cause"]


# -- ours ------------------------------------------------------------------------------


async def test_a_model_with_workers(admin: AdminPort) -> None:
    """Containers, scaling, a rollback, a version that is added without a function, and
    undeploying, with real workers."""
    await admin.post("add_app", APP | {"models": ["sum"]})
    await deploy(admin, "1")
    await deploy(admin, "2")
    assert (await admin.post("get_all_containers", {})).value == ["sum:1:0", "sum:2:0"]

    scaled = await admin.post("scale", {"model_name": "sum", "num_replicas": 2})
    expected = {"model_name": "sum", "model_version": "2", "num_replicas": 2}
    assert (scaled.status, scaled.value) == (200, expected)
    containers = (await admin.post("get_all_containers", {"verbose": True})).value
    assert containers[2] == {
        "model_id": "sum:2",
        "model_name": "sum",
        "model_version": "2",
        "model_replica_id": 1,
        "input_type": "integers",
    }
    named = {"model_name": "sum", "model_version": 2}
    found = await admin.post("get_container", named | {"replica_id": 1})
    assert found.value == containers[2]
    for number in (2, -1):
        missing = await admin.post("get_container", named | {"replica_id": number})
        assert missing.value == {}

    await admin.post("add_model", MODEL | {"model_version": 3})
    current = admin.engine.catalog.current("sum")
    assert current is not None and current.version == "2"

    back = await admin.post("rollback", {"model_name": "sum"})
    assert back.value == {"model_name": "sum", "model_version": "1"}
    await refuse(409, "no earlier version", admin, "rollback", {"model_name": "sum"})

    gone = await admin.post("undeploy", named)
    assert gone.value == {"model_name": "sum", "model_version": "2"}
    assert (await admin.post("get_all_models", {})).value == ["sum:1", "sum:3"]


async def test_a_version_without_replicas_answers_at_once(admin: AdminPort) -> None:
    await deploy(admin, "1")
    body = {"model_name": "sum", "model_version": 1, "num_replicas": 0}
    assert (await admin.post("scale", body)).value["num_replicas"] == 0
    model = admin.engine.model("sum", "1")
    assert not model.connected and admin.engine.ready
    (shown,) = (await admin.get("status")).value["models"]
    assert (shown["state"], shown["reason"]) == ("stopped", "scaled to 0 replicas")
    assert shown["replicas"] == {
        "live": 0,
        "target": 0,
        "spares": 0,
        "spares_target": 0,
    }
    await admin.post("scale", body | {"num_replicas": 1})
    assert model.connected and model.replicas.live == 1


@pytest.mark.parametrize(
    ("status", "words", "route", "body"),
    [
        (404, "no current version", "scale", {"model_name": "x", "num_replicas": 1}),
        (
            404,
            "does not exist",
            "scale",
            {"model_name": "x", "model_version": 1, "num_replicas": 1},
        ),
        (400, "$.num_replicas", "scale", {"model_name": "x", "num_replicas": -1}),
        (400, "unknown field", "scale", {"model_name": "x", "num_replicas": 1, "n": 1}),
        (404, "'x'", "rollback", {"model_name": "x"}),
        (400, "missing required field model_name", "rollback", {}),
        (404, "does not exist", "undeploy", {"model_name": "x", "model_version": 1}),
        (400, "unknown field", "undeploy", {"model_name": "x", "model_version": 1, "v": 1}),
        (404, "'x'", "set_policy", {"app_name": "x", "policy": "static"}),
        (400, "$.policy", "set_policy", {"app_name": "x", "policy": 1}),
        (400, "unknown field", "drain", {"seconds": 1}),
    ],
)
async def test_changes_that_are_refused(
    admin: AdminPort, status: int, words: str, route: str, body: dict[str, Any]
) -> None:
    await refuse(status, words, admin, route, body)


async def test_a_model_without_a_function_cannot_be_scaled(admin: AdminPort) -> None:
    await admin.post("add_model", MODEL)
    body = {"model_name": "sum", "num_replicas": 1}
    await refuse(409, "containerless model sum:1", admin, "scale", body)
    (shown,) = (await admin.get("status")).value["models"]
    assert (shown["state"], shown["reason"]) == ("stopped", "it has no function")


async def test_no_more_workers_than_allowed() -> None:
    async with open_admin_port({"replicas": 2}) as admin:
        await deploy(admin, "1")
        body = {"model_name": "sum", "num_replicas": 3}
        await refuse(429, "1 replicas run and 2 are allowed", admin, "scale", body)


async def test_tables_are_bounded() -> None:
    async with open_admin_port({"applications": 1, "models": 1}) as admin:
        await admin.post("add_app", APP)
        await admin.post("add_model", MODEL)
        await refuse(429, "the most allowed", admin, "add_app", APP | {"name": "b"})
        await refuse(
            429, "the most allowed", admin, "add_model", MODEL | {"model_name": "b"}
        )


async def test_a_policy_is_changed(admin: AdminPort) -> None:
    await admin.post("add_app", APP | {"models": ["a", "b"]})
    policy = {"name": "static", "options": {"model": "b"}}
    answer = await admin.post("set_policy", {"app_name": "digits", "policy": policy})
    assert (answer.status, answer.value) == (200, {"app_name": "digits", "policy": policy})
    record = admin.engine.application("digits").record
    assert (record.policy.options, record.policy_generation) == ({"model": "b"}, 2)
    plain = await admin.post("set_policy", {"app_name": "digits", "policy": "static"})
    assert plain.value["policy"] == {"name": "static", "options": {}}


async def test_draining(admin: AdminPort) -> None:
    answer = await admin.post("drain", {})
    assert (answer.status, answer.value) == (202, {"status": "draining"})
    assert admin.drains == 1
    admin.engine.begin_drain()
    await refuse(503, "shutting down", admin, "add_app", APP)
    await refuse(503, "shutting down", admin, "delete_app", {"name": "digits"})


async def test_the_status(admin: AdminPort) -> None:
    await admin.post("add_app", APP | {"models": ["sum"]})
    await deploy(admin, "1")
    status = (await admin.get("status")).value
    assert status["applications"] == [
        {
            "name": "digits",
            "input_type": "ints",
            "latency_slo_micros": 20_000,
            "policy": "static",
            "models": ["sum"],
            "predictions": 0,
            "failures": 0,
            "failures_by_code": {},
            "p50_ms": None,
            "p99_ms": None,
        }
    ]
    (model,) = status["models"]
    assert model.pop("created") > 1.7e9
    assert model == {
        "model_name": "sum",
        "model_version": "1",
        "input_type": "ints",
        "current": True,
        "state": "live",
        "reason": "",
        "replicas": {"live": 1, "target": 1, "spares": 0, "spares_target": 0},
        "queue_rows": 0,
        "batch_cap": 1,
        "batches": 0,
        "rows": 0,
        "mean_batch_rows": None,
        "restarts": 0,
        "recycled": 0,
        "labels": [],
    }
    server = status["server"]
    assert server.pop("uptime_seconds") >= 0
    assert server == {
        "version": __version__,
        "draining": False,
        "cache": dict.fromkeys(
            ("entries", "bytes", "hits", "misses", "joins", "evictions"), 0
        ),
    }


async def test_an_explanation(admin: AdminPort) -> None:
    await admin.post("add_app", APP | {"models": ["sum"]})
    await deploy(admin, "1")
    for path in ("applications/digits/explain", "applications/digits/explain/"):
        answer = await admin.get(path)
        assert (answer.status, answer.media) == (200, "application/json")
    found = answer.value
    assert set(found) == {
        "application", "slo_ms", "attainment", "failures", "recent_overload", "latency",
        "cache", "linked", "models", "choosing", "sentences",
    }  # fmt: skip
    assert (found["application"], found["slo_ms"], found["linked"]) == (
        "digits",
        20.0,
        ["sum"],
    )
    assert found["attainment"]["rows"] == 0 and found["failures"] == {}
    (model,) = found["models"]
    assert (model["model"], model["state"], model["controller"]) == (
        "sum:1",
        "live",
        "aimd",
    )
    assert (model["cap_rows"], model["fitted"], model["objective_ms"]) == (
        1,
        None,
        pytest.approx(20.0, rel=0.2),
    )
    assert set(model["shed"]) == {
        "refused_rows", "shed_rows", "expired_rows", "abandoned_rows", "hedged_rows",
        "retried_rows", "failed_batches",
    }  # fmt: skip
    assert found["sentences"][0] == "Nothing has been asked of digits yet."


async def test_an_explanation_of_nothing(admin: AdminPort) -> None:
    answer = await admin.get("applications/nowhere/explain")
    assert (answer.status, answer.value["error"]) == (404, "not_found")
    assert "'nowhere'" in answer.value["cause"]
    posted = await admin.post("applications/nowhere/explain", {})
    assert posted.status == 405


async def test_logs(admin: AdminPort) -> None:
    def talkative(rows: Any) -> Any:
        print("a word from the worker", flush=True)  # noqa: T201
        return rows

    spec = ModelRecord("sum", "1", "ints", 0, example=[1])
    await admin.engine.deploy(spec, pack(talkative).blob)

    async def told() -> bool:
        return "a word from the worker" in (await admin.get("logs/sum/1")).value

    await eventually(told)  # the output comes by a pipe of its own
    answer = await admin.get("logs/sum/1")
    assert (answer.status, answer.media) == (200, "text/plain")
    missing = await admin.get("logs/sum/2")
    assert (missing.status, missing.value["error"]) == (404, "not_found")


# -- HTTP ------------------------------------------------------------------------------


async def test_ping(admin: AdminPort) -> None:
    for path in ("ping", "ping/"):
        answer = await admin.get(path)
        assert (answer.status, answer.media, answer.value) == (200, "text/plain", "PONG")
    head = await admin.send("HEAD", "/admin/ping")
    assert (head.status, head.body) == (200, b"")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/admin/add_app", 405),
        ("POST", "/admin/ping", 405),
        ("POST", "/admin/status", 405),
        ("GET", "/admin/deploy", 405),
        ("DELETE", "/admin/add_app", 405),
        ("GET", "/admin/nothing", 404),
        ("GET", "/", 404),
        ("POST", "/digits/predict", 404),
        ("OPTIONS", "/admin/add_app", 403),
    ],
)
async def test_routes_that_are_not_there(
    admin: AdminPort, method: str, path: str, status: int
) -> None:
    answer = await admin.send(method, path)
    assert answer.status == status
    assert set(answer.value) == {"error", "cause"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the body is malformed"),
        (b"{", "the body is malformed"),
        (b"[]", "Expected an object, got an array"),
        (b'{"name": "\xff"}', "the body is not valid UTF-8"),
        (b'{"name":' + b"1" * 5000 + b"}", "at $.name"),
        (b'{"policy": {"name": "static", "options": ' + b'{"a":' * 50_000, "the body is"),
    ],
    ids=["empty", "cut", "array", "latin", "long", "deep"],
)
async def test_bodies_that_are_no_bodies(admin: AdminPort, data: bytes, words: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await admin.send("POST", "/admin/add_app", data=data, headers=headers)
    assert (answer.status, answer.value["error"]) == (400, "invalid_input")
    assert words in answer.value["cause"]


async def test_media_types_and_sizes() -> None:
    async with open_admin_port({"body": 100}) as admin:
        for kind in ("text/plain", "application/x-www-form-urlencoded"):
            headers = {"Content-Type": kind}
            answer = await admin.send("POST", "/admin/add_app", data=b"{}", headers=headers)
            assert answer.status == 415
        await refuse(413, "at most 100 bytes", admin, "add_app", APP | {"name": "x" * 200})


async def test_every_route_asks_for_the_token(admin: AdminPort) -> None:
    for method, path in [
        ("GET", "/admin/ping"),
        ("GET", "/admin/status"),
        ("GET", "/admin/applications/digits/explain"),
        ("POST", "/admin/add_app"),
        ("POST", "/admin/deploy"),
        ("GET", "/nowhere"),
    ]:
        wrong = {"Authorization": "Bearer 0"}
        answer = await admin.send(method, path, headers=wrong)
        assert (answer.status, answer.value["error"]) == (401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_without_authentication() -> None:
    async with open_admin_port(auth=False) as admin:
        answer = await admin.send("GET", "/admin/ping", headers={"Authorization": ""})
        assert answer.status == 200
        origin = {"Origin": "http://elsewhere.example"}
        answer = await admin.send("GET", "/admin/ping", headers=origin)
        assert answer.status == 403


async def test_answers_are_not_kept(admin: AdminPort) -> None:
    for answer in (await admin.get("ping"), await admin.get("status")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
