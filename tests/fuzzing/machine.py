"""Random operations on a real server, and beside it on a model of one: after each, what
the server answers and lists is what the model says, through restarts and kill -9."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import requests
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from served import ServeProcess

from clipper.workers.packaging import pack

from .expected import CONFLICT, NOT_FOUND, OK, Expected, Given

APPS = st.sampled_from(["a0", "a1"])
MODELS = st.sampled_from(["m0", "m1"])
VERSIONS = st.sampled_from(["1", "2", "3"])
POLICIES = st.sampled_from(["static", "exp3", "ucb1"])
REWARDS = st.sampled_from([0.0, 0.5, 1.0])

SLO_MICROS = 20_000_000  # a busy machine is no difference
DEFAULT = "nobody"
LIMITS = "[limits]\nreplicas = 12\n"


def predictor(text: str) -> Callable[[Any], list[str]]:
    """A function that answers who it is."""
    return lambda rows: [text for _ in rows]


class Real:
    """The process and its HTTP interface. `life` counts its starts."""

    def __init__(self, directory: Path) -> None:
        configuration = directory / "clipper.toml"
        configuration.write_text(LIMITS)
        self.process = ServeProcess(
            directory, uuid.uuid4().hex, "--config", str(configuration)
        )
        self.session = requests.Session()
        self.life = 0

    def start(self) -> None:
        self.life += 1
        self.process.start()
        client = asyncio.run(self._client())
        self.query_url, self.admin_url = client
        token = (self.process.data / "admin-token").read_text().strip()
        self.session.headers["Authorization"] = f"Bearer {token}"
        for _ in range(2000):
            if self.session.get(f"{self.query_url}/health/ready", timeout=30).ok:
                return
            self._wait(0.02)
        raise AssertionError(self.process.log.read_text())

    async def _client(self) -> tuple[str, str]:
        async with await self.process.client() as client:
            return client.query_url, client.admin_url

    def _wait(self, seconds: float) -> None:
        self.process.process.poll()
        asyncio.run(asyncio.sleep(seconds))

    def kill(self) -> None:
        self.process.kill()
        asyncio.run(self.process.no_workers())

    def drain(self) -> None:
        status, _ = self.admin("drain", {})
        assert status == 202
        assert self.process.process.wait(30) == 0, self.process.log.read_text()
        asyncio.run(self.process.no_workers())

    def close(self) -> None:
        self.session.close()
        self.process.kill()

    def admin(self, route: str, body: dict[str, Any]) -> tuple[int, Any]:
        return self._post(f"{self.admin_url}/admin/{route}", body)

    def ask(self, app: str, verb: str, body: dict[str, Any]) -> tuple[int, Any]:
        return self._post(f"{self.query_url}/{app}/{verb}", body)

    def _post(self, url: str, body: dict[str, Any]) -> tuple[int, Any]:
        response = self.session.post(url, json=body, timeout=60)
        text = response.headers["Content-Type"].startswith("text/plain")
        return response.status_code, response.text if text else response.json()

    def get(self, route: str) -> Any:
        response = self.session.get(f"{self.admin_url}/admin/{route}", timeout=60)
        assert response.ok, response.text
        return response

    def deploy(self, model: str, version: str) -> int:
        function = pack(predictor(f"{model}:{version}")).blob
        manifest = {"model_name": model, "model_version": version, "input_type": "doubles"}
        response = self.session.post(
            f"{self.admin_url}/admin/deploy",
            data=msgspec.msgpack.encode({"manifest": manifest, "function": function}),
            headers={"Content-Type": "application/msgpack"},
            timeout=120,
        )
        if response.ok:
            last = msgspec.json.decode(response.content.splitlines()[-1])
            assert last.get("stage") == "live", last
        return response.status_code

    def clear(self) -> None:
        """Without applications and models again."""
        for name in self.admin("get_all_applications", {})[1]:
            assert self.admin("delete_app", {"name": name})[0] == OK
        for key in self.admin("get_all_models", {})[1]:
            model, _, version = key.partition(":")
            body = {"model_name": model, "model_version": version}
            assert self.admin("undeploy", body)[0] == OK


class Machine(RuleBasedStateMachine):
    """Both, side by side. `real` is set by `machine_for`."""

    real: Real

    def __init__(self) -> None:
        super().__init__()
        self.real.clear()
        self.expected = Expected()
        self.given: list[Given] = []

    def both(self, route: str, expected: int, **body: Any) -> None:
        status, answer = self.real.admin(route, body)
        assert status == expected, (route, body, answer)

    # -- applications -------------------------------------------------------------------

    @rule(name=APPS, models=st.lists(MODELS, unique=True), policy=POLICIES)
    def add_app(self, name: str, models: list[str], policy: str) -> None:
        self.both(
            "add_app",
            self.expected.add_app(name, models, policy),
            name=name,
            input_type="doubles",
            default_output=DEFAULT,
            latency_slo_micros=SLO_MICROS,
            models=models,
            policy=policy,
        )

    @precondition(lambda self: len(self.expected.applications) > 1)
    @rule(name=APPS)
    def delete_app(self, name: str) -> None:
        self.both("delete_app", self.expected.delete_app(name), name=name)

    @rule(name=APPS, model=MODELS)
    def link(self, name: str, model: str) -> None:
        expected = self.expected.link(name, model)
        self.both("add_model_links", expected, app_name=name, model_names=[model])

    @rule(name=APPS, model=MODELS)
    def unlink(self, name: str, model: str) -> None:
        expected = self.expected.unlink(name, model)
        self.both("delete_model_links", expected, app_name=name, model_names=[model])

    @rule(name=APPS, policy=POLICIES)
    def set_policy(self, name: str, policy: str) -> None:
        expected = self.expected.set_policy(name, policy)
        self.both("set_policy", expected, app_name=name, policy=policy)

    # -- models -------------------------------------------------------------------------

    @rule(model=MODELS, version=VERSIONS)
    def deploy(self, model: str, version: str) -> None:
        assert self.real.deploy(model, version) == self.expected.deploy(model, version)

    @rule(model=MODELS, version=VERSIONS)
    def add_model(self, model: str, version: str) -> None:
        self.both(
            "add_model",
            self.expected.add_model(model, version),
            model_name=model,
            model_version=version,
            input_type="doubles",
        )

    @rule(model=MODELS, version=VERSIONS)
    def set_version(self, model: str, version: str) -> None:
        expected = self.expected.set_version(model, version)
        self.both("set_model_version", expected, model_name=model, model_version=version)

    @rule(model=MODELS)
    def rollback(self, model: str) -> None:
        self.both("rollback", self.expected.rollback(model), model_name=model)

    @precondition(lambda self: len(self.expected.versions) > 2)
    @rule(model=MODELS, version=VERSIONS)
    def undeploy(self, model: str, version: str) -> None:
        expected = self.expected.undeploy(model, version)
        self.both("undeploy", expected, model_name=model, model_version=version)

    @rule(model=MODELS, replicas=st.integers(0, 2))
    def scale(self, model: str, replicas: int) -> None:
        expected = self.expected.scale(model, replicas)
        self.both("scale", expected, model_name=model, num_replicas=replicas)

    # -- queries ------------------------------------------------------------------------

    @rule(name=APPS, number=st.integers(0, 9))
    def predict(self, name: str, number: int) -> None:
        status, answer = self.real.ask(name, "predict", {"input": [float(number)]})
        if name not in self.expected.applications:
            assert status == NOT_FOUND
            return
        assert status == OK, answer
        allowed = self.expected.outputs(name)
        if answer["default"]:
            assert answer["output"] == DEFAULT
            assert not allowed, (answer, allowed)
        else:
            assert answer["output"] in allowed, (answer, allowed)
        application = self.expected.applications[name]
        given = Given(answer["query_id"], name, application.number, self.real.life)
        self.given.append(given)

    @precondition(lambda self: self.given)
    @rule(data=st.data(), name=APPS, own=st.booleans(), reward=REWARDS)
    def update(self, data: st.DataObject, name: str, own: bool, reward: float) -> None:
        """Feedback on an answer, sometimes to another application, sometimes again."""
        given = self.given[data.draw(st.integers(0, len(self.given) - 1))]
        name = given.application if own else name
        application = self.expected.applications.get(name)
        known = application is not None and given.query_id in application.feedback
        expected = self.expected.update(name, given, reward)
        body = {"query_id": given.query_id, "reward": reward}
        status, answer = self.real.ask(name, "update", body)
        lost = status == CONFLICT and answer["error"] == "resend_input"
        if lost and given.life < self.real.life:  # what a kill may take with it
            status, answer = self.real.ask(name, "update", {**body, "input": [0.0]})
        assert status == expected, (body, answer)
        if status == OK:
            assert answer == {"accepted": True, "duplicate": known}

    # -- lives --------------------------------------------------------------------------

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        self.real.drain() if clean else self.real.kill()
        self.real.start()

    # -- what is listed -----------------------------------------------------------------

    @invariant()
    def the_applications_are_those(self) -> None:
        _, listed = self.real.admin("get_all_applications", {"verbose": True})
        expected = self.expected.applications
        assert {each["name"] for each in listed} == expected.keys()
        for each in listed:
            application = expected[each["name"]]
            assert each["linked_models"] == application.models
            policy = each.get("policy", {"name": "static"})["name"]
            assert policy == application.policy
            lines = self.real.get(f"feedback/{each['name']}").content.splitlines()
            entries = [msgspec.json.decode(line) for line in lines]
            rewards = [e["reward"] for e in entries if e["kind"] == "feedback"]
            assert sorted(rewards) == sorted(application.feedback.values())

    @invariant()
    def the_models_are_those(self) -> None:
        _, listed = self.real.admin("get_all_models", {"verbose": True})
        found = {(m["model_name"], m["model_version"]) for m in listed}
        assert found == self.expected.versions.keys()
        current = {
            m["model_name"]: m["model_version"] for m in listed if m["is_current_version"]
        }
        assert current == self.expected.current
        for model in self.real.get("status").json()["models"]:
            key = (model["model_name"], model["model_version"])
            version = self.expected.versions[key]
            wanted = version.replicas if version.function else 0
            assert model["replicas"]["target"] == wanted, model


@contextmanager
def machine_for(examples: int, steps: int) -> Iterator[type[Machine]]:
    """A machine on a server of its own, that runs so many examples of so many steps. The
    first that fails is told as it is: to make it smaller would take an hour."""
    with tempfile.TemporaryDirectory() as directory:
        real = Real(Path(directory))
        real.start()

        class Ready(Machine):
            pass

        Ready.real = real
        Ready.TestCase.settings = settings(
            max_examples=examples,
            stateful_step_count=steps,
            phases=[Phase.generate],
            deadline=None,
            database=None,
            suppress_health_check=[*HealthCheck],
        )
        try:
            yield Ready
            assert real.process.process.poll() is None
        finally:
            real.close()


def run(examples: int, steps: int) -> None:
    with machine_for(examples, steps) as ready:
        ready.TestCase().runTest()
