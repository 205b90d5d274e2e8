"""What a server must hold and answer, as a few dictionaries: the model that a real one is
compared with. Operations give the HTTP status that the server must answer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

OK, NOT_FOUND, CONFLICT = 200, 404, 409


class Version(NamedTuple):
    """A deployed version; one that was only registered has no function."""

    function: bool
    replicas: int


class Given(NamedTuple):
    """A prediction's id, whose life of the application it was from, and its life of the
    server."""

    query_id: str
    application: str
    number: int
    life: int


@dataclass
class Application:
    number: int
    models: list[str]
    policy: str
    feedback: dict[str, float] = field(default_factory=dict)  # rewards by query id


@dataclass
class Expected:
    """All that was acknowledged."""

    applications: dict[str, Application] = field(default_factory=dict)
    versions: dict[tuple[str, str], Version] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)
    history: dict[str, list[str]] = field(default_factory=dict)
    numbers: int = 0

    # -- applications -------------------------------------------------------------------

    def add_app(self, name: str, models: list[str], policy: str) -> int:
        if name in self.applications:
            return CONFLICT
        self.numbers += 1
        self.applications[name] = Application(self.numbers, [*models], policy)
        return OK

    def delete_app(self, name: str) -> int:
        return NOT_FOUND if self.applications.pop(name, None) is None else OK

    def link(self, name: str, model: str) -> int:
        application = self.applications.get(name)
        if application is None or not self.versions_of(model):
            return NOT_FOUND
        if model in application.models:
            return CONFLICT
        application.models.append(model)
        return OK

    def unlink(self, name: str, model: str) -> int:
        application = self.applications.get(name)
        if application is None or model not in application.models:
            return NOT_FOUND
        application.models.remove(model)
        return OK

    def set_policy(self, name: str, policy: str) -> int:
        application = self.applications.get(name)
        if application is None:
            return NOT_FOUND
        application.policy = policy
        return OK

    # -- models -------------------------------------------------------------------------

    def versions_of(self, model: str) -> list[str]:
        return [version for name, version in self.versions if name == model]

    def deploy(self, model: str, version: str) -> int:
        if (model, version) in self.versions:
            return CONFLICT
        self.versions[model, version] = Version(True, 1)
        self._make_current(model, version)
        return OK

    def add_model(self, model: str, version: str) -> int:
        if (model, version) in self.versions:
            return CONFLICT
        now = self.versions.get((model, self.current.get(model, "")))
        self.versions[model, version] = Version(False, 1)
        if now is None or not now.function:
            self._make_current(model, version)
        return OK

    def set_version(self, model: str, version: str) -> int:
        if (model, version) not in self.versions:
            return NOT_FOUND
        self._make_current(model, version)
        return OK

    def rollback(self, model: str) -> int:
        if not self.versions_of(model):
            return NOT_FOUND
        before = self.history.get(model)
        if not before:
            return CONFLICT
        self.current[model] = before.pop()
        return OK

    def undeploy(self, model: str, version: str) -> int:
        if self.versions.pop((model, version), None) is None:
            return NOT_FOUND
        if self.current.get(model) == version:
            del self.current[model]
        self.history[model] = [v for v in self.history.get(model, []) if v != version]
        return OK

    def scale(self, model: str, replicas: int) -> int:
        key = (model, self.current.get(model, ""))
        if key not in self.versions:
            return NOT_FOUND
        if not self.versions[key].function:
            return CONFLICT
        self.versions[key] = Version(True, replicas)
        return OK

    def _make_current(self, model: str, version: str) -> None:
        now = self.current.get(model)
        history = [v for v in self.history.get(model, []) if v != version]
        if now is not None and now != version:
            history.append(now)
        self.current[model] = version
        self.history[model] = history

    # -- queries ------------------------------------------------------------------------

    def outputs(self, name: str) -> list[str]:
        """What may answer an application's query: the current version of each model if it
        runs; where nothing is chosen that of the first, and no other in its place."""
        application = self.applications[name]
        current = [(m, self.current[m]) for m in application.models if m in self.current]
        if application.policy == "static":
            current = current[:1]
        return [
            f"{model}:{version}"
            for model, version in current
            if (known := self.versions[model, version]).function and known.replicas
        ]

    def update(self, name: str, given: Given, reward: float) -> int:
        """Feedback on a query: known already is as good as new."""
        application = self.applications.get(name)
        if application is None or application.number != given.number:
            return NOT_FOUND
        known = application.feedback.setdefault(given.query_id, reward)
        return OK if known == reward else CONFLICT
