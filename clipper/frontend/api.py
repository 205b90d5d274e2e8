"""What the query port answers, whichever lane a request came in by."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from clipper.application import Application
from clipper.engine import Engine
from clipper.errors import ClipperError, InvalidInput, NotFound, Unavailable
from clipper.frontend.decoding import Block, Decoder
from clipper.frontend.feedback_decoding import decode_feedback, no_parameters
from clipper.frontend.gate import JSON, NPY
from clipper.frontend.newest import Newest
from clipper.frontend.schemas import ApplicationAnswer, HealthAnswer
from clipper.frontend.update import Update, UpdateReceiver
from clipper.inputs import InputType, Row
from clipper.model import Model
from clipper.query import BatchQuery, BatchReceiver, Query, Receiver

# Bodies that are remembered, over all applications with a cache, and their largest size.
RECENT = 8192
RECENT_SIZE = 1024


class AnyReceiver(Receiver, BatchReceiver, UpdateReceiver, Protocol):
    """Takes the answer of a single query, of a batch, or of feedback."""


class QueryApi:
    """Predictions, health and applications of one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._applications = engine.applications
        # All mutable state: a decoder for each application, made when it is first asked,
        # and which bodies they remember together.
        self._remembered = Newest(RECENT)
        self._decoders: dict[str, tuple[Application, Decoder]] = {}

    def predict(
        self, name: str, media: str, body: bytes, parameters: str, receiver: AnyReceiver
    ) -> Query | BatchQuery:
        """Submit the request in a body. The receiver is told once, perhaps before this
        returns. Raises the ClipperError of a request that cannot be taken."""
        known = self._decoders.get(name)
        if known is None or known[0] is not self._applications.get(name):
            known = self._meet(name)
        application, decoder = known
        if self._engine.draining:
            raise Unavailable("the server is shutting down")
        if parameters and media != NPY:
            raise InvalidInput(
                "query parameters go with npy bodies; put the fields into this one"
            )
        # an application with a cache expects to see the same bodies again; to look for
        # a large one would take longer than it is worth
        again = len(body) <= RECENT_SIZE and media == JSON and application.caching
        request = decoder.recent.get(body) if again else None
        if request is None:
            request = decoder.decode(media, body, parameters)
            if again:
                # what it said, under its exact bytes
                self._remembered.add(decoder.recent, body, request)
        rows, subject, version, deadline_ms, cache = request
        # positional all the way: this is the hot path
        if type(rows) is Row:
            return application.submit(rows, receiver, subject, version, deadline_ms, cache)
        if type(rows) is Block:
            if cache and application.caching:
                return application.submit_batch(
                    rows.split(), receiver, subject, version, deadline_ms
                )
            return application.submit_block(*rows, receiver, subject, version, deadline_ms)
        assert isinstance(rows, list)
        return application.submit_batch(
            rows, receiver, subject, version, deadline_ms, cache
        )

    def knows(self, name: str) -> bool:
        """Whether there is such an application: of one that is not, no body is awaited."""
        return name in self._applications

    def update(
        self, name: str, media: str, body: bytes, parameters: str, receiver: AnyReceiver
    ) -> Update:
        """Take the feedback in a body. The receiver is told once, perhaps before this
        returns. Raises the ClipperError of a request that cannot be taken."""
        application = self._applications.get(name)
        if application is None:
            raise self.refusal(name)
        if self._engine.draining:
            raise Unavailable("the server is shutting down")
        limits = self._engine.settings.limits
        try:
            no_parameters(parameters)
            items, single = decode_feedback(application.input_type, media, body, limits)
        except ClipperError as error:
            application.stats.refused[error.code] += 1
            raise
        update = Update(len(items), single, receiver)
        return update.begin(self._engine.feedback[name], items)

    def _meet(self, name: str) -> tuple[Application, Decoder]:
        """Make the decoder of an application that is asked for the first time."""
        application = self._applications.get(name)
        if application is None:
            raise self.refusal(name)
        if len(self._decoders) > 2 * len(self._applications):
            self._decoders.clear()
        limits = self._engine.settings.limits
        decoder = Decoder(application.input_type, limits)
        known = self._decoders[name] = (application, decoder)
        return known

    def refusal(self, name: str) -> ClipperError:
        """Why there is nobody of that name to answer."""
        try:
            self._engine.catalog.check_application(name)
        except Unavailable as error:
            return error
        return NotFound(f"there is no application {name!r:.70}")

    # -- what GET shows -----------------------------------------------------------------

    def get(self, path: str) -> tuple[int, bytes] | None:
        """Status and JSON of a GET that needs no waiting; None for paths of others."""
        if path == "/health/live":
            return 200, msgspec.json.encode(HealthAnswer("live"))
        if path == "/health/ready":
            return self._readiness()
        name = path[1:].rstrip("/")
        if name in self._engine.applications:
            return 200, msgspec.json.encode(self.describe(self._engine.applications[name]))
        return None

    def _readiness(self) -> tuple[int, bytes]:
        engine = self._engine
        models = {str(model.id): _health(model) for model in engine.models.values()}
        applications = {
            name: {"policy": "unavailable"}
            for name, application in engine.applications.items()
            if application.learner.missing is not None
        }
        damaged = engine.catalog.damaged
        for name, reason in damaged.applications.items():
            applications[name] = {"state": "failed", "reason": reason}
        for key, reason in (damaged.models | damaged.current).items():
            models[key] = {
                "state": "failed", "live_replicas": 0, "replicas": 0, "reason": reason
            }  # fmt: skip
        code, status = 200, "ready"
        if not engine.ready:
            code, status = 503, "draining" if engine.draining else "starting"
        return code, msgspec.json.encode(HealthAnswer(status, models, applications))

    def describe(self, application: Application) -> ApplicationAnswer:
        """The application as GET /{app} shows it."""
        record = application.record
        return ApplicationAnswer(
            name=record.name,
            input_type=record.input_type,
            latency_slo_micros=record.slo_micros,
            default_output=record.default_output,
            policy=record.policy.name,
            models=[str(model.id) for model in application.models]
            + [name for name in record.models if name not in _names(application)],
            example_request={"input": EXAMPLES[application.input_type]},
        )


def _health(model: Model) -> dict[str, Any]:
    replicas = model.replicas
    shown = {
        "state": replicas.state.name.lower(),
        "live_replicas": replicas.live,
        "replicas": replicas.wanted,
    }
    return shown | {"reason": replicas.reason} if replicas.reason else shown


EXAMPLES: dict[InputType, Any] = {
    InputType.INTS: [1, 2, 3],
    InputType.FLOATS: [1.5, 2.5, 3.5],
    InputType.DOUBLES: [1.1, 2.2, 3.3],
    InputType.STRINGS: "some text",
    InputType.BYTES: "Y2xpcHBlcg==",
    InputType.JSON: {"any": ["JSON", "value"]},
}


def _names(application: Application) -> set[str]:
    return {model.record.name for model in application.models}
