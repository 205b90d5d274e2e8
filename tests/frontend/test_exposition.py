"""What a scrape shows, parsed by the parsers of those who scrape."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Iterator
from math import isnan
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from clipper.config import make_settings
from clipper.engine import Engine
from clipper.frontend.application_series import FAILURE_CODES, MAX_CODES
from clipper.frontend.exposition import SLICE, Exposition
from clipper.learning.events import Feedback
from clipper.records import ApplicationRecord, ModelRecord, PolicySettings
from clipper.shadowing import Comparison
from clipper.store.memory import MemoryStore
from clipper.values import FailureKind, ModelId, RowError
from clipper.version import __version__

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
FORMATS: list[tuple[str, Callable[[str], Iterator[Any]]]] = [
    ("", parse_text),
    (OPENMETRICS, parse_openmetrics),
]

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """An engine with the application `digits` on version 1 of the model `sum`, neither
    of which has done anything."""
    engine = Engine(make_settings({"ephemeral": True}), MemoryStore())
    await engine.start()
    await engine.add_model(ModelRecord("sum", "1", "doubles", 0))
    await engine.register_application(
        ApplicationRecord("digits", 0, "doubles", 20_000, models=["sum"])
    )
    yield engine
    await engine.drain(0)
    await engine.close()


@pytest.fixture(params=FORMATS, ids=["text", "openmetrics"])
def scrape(request: pytest.FixtureRequest, engine: Engine) -> Callable[..., Samples]:
    """Renders and parses: values by name and labels. No series may come twice."""
    accept, parse = request.param

    def scrape(**parts: Any) -> Samples:
        _, body = render(Exposition(engine, **parts), accept)
        found: Samples = {}
        for family in parse(body.decode()):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in found
                found[key] = sample.value
        return found

    return scrape


def render(exposition: Exposition, accept: str) -> tuple[str, bytes]:
    content_type, pieces = exposition.pieces(accept)
    return content_type, b"".join(pieces)


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def of_app(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return key(f"clipper_application_{name}", application="digits", **labels)


def of_model(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return key(f"clipper_model_{name}", model="sum", version="1", **labels)


def test_an_application_shows_its_counters(
    engine: Engine, scrape: Callable[..., Samples]
) -> None:
    stats = engine.applications["digits"].stats
    stats.predictions = 7
    stats.cancelled = 3
    stats.failures["overloaded"] = 2
    stats.latency.observe(0.001)
    stats.latency.observe(0.0011)
    stats.latency.observe(1000.0)
    found = scrape()
    assert found[of_app("predictions_total")] == 7
    assert found[of_app("cancelled_total")] == 3
    assert found[of_app("failures_total", code="overloaded")] == 2
    assert found[of_app("slo_seconds")] == 0.02
    assert found[of_app("latency_seconds_bucket", le="0.00075")] == 0
    assert found[of_app("latency_seconds_bucket", le="0.001")] == 1
    assert found[of_app("latency_seconds_bucket", le="0.002")] == 2
    assert found[of_app("latency_seconds_bucket", le="60.0")] == 2
    assert found[of_app("latency_seconds_bucket", le="+Inf")] == 3
    assert found[of_app("latency_seconds_count")] == 3
    assert found[of_app("latency_seconds_sum")] == pytest.approx(1000.0021)


def test_attainment_is_of_what_came_lately(
    engine: Engine, scrape: Callable[..., Samples]
) -> None:
    assert scrape()[of_app("slo_attainment")] == 1.0  # nothing was missed
    stats = engine.applications["digits"].stats
    stats.predictions = 3
    stats.fail(RowError("overloaded", "too much"))
    assert scrape()[of_app("slo_attainment")] == 0.75
    stats.turn(engine.clock.now() + 1000.0)
    assert stats.recent(engine.clock.now() + 1000.0).rows == 0


def test_the_first_failure_of_a_kind_is_an_increase(
    scrape: Callable[..., Samples],
) -> None:
    """A series that appears with its first failure would hide it from rate()."""
    found = scrape()
    for code in FAILURE_CODES:
        assert found[of_app("failures_total", code=code)] == 0


def test_codes_that_nobody_planned_are_shown_up_to_a_bound(
    engine: Engine, scrape: Callable[..., Samples]
) -> None:
    failures = engine.applications["digits"].stats.failures
    failures.update({f"odd_{number}": number + 1 for number in range(1000)})
    failures['two\nlines and "quotes"'] = 5000
    found = scrape()
    shown = [at for at in found if at[0] == "clipper_application_failures_total"]
    assert len(shown) <= MAX_CODES + len(FAILURE_CODES)
    assert found[of_app("failures_total", code='two\nlines and "quotes"')] == 5000


def test_a_model_version_shows_its_batches(
    engine: Engine, scrape: Callable[..., Samples]
) -> None:
    dispatcher = engine.models[ModelId("sum", "1")].dispatcher
    stats = dispatcher.stats
    stats.batches, stats.rows = 5, 80
    stats.retried_rows, stats.expired_rows, stats.abandoned_rows = 1, 2, 3
    stats.shed_rows = 4
    stats.failed_batches[FailureKind.HUNG] = 6
    stats.batch_rows.observe_many(16, 5)
    stats.service_seconds.observe(0.25)
    found = scrape()
    assert found[of_model("batches_total")] == 5
    assert found[of_model("rows_total")] == 80
    assert found[of_model("retried_rows_total")] == 1
    assert found[of_model("expired_rows_total")] == 2
    assert found[of_model("abandoned_rows_total")] == 3
    assert found[of_model("shed_rows_total")] == 4
    assert found[of_model("failed_batches_total", kind="hung")] == 6
    assert found[of_model("failed_batches_total", kind="crashed")] == 0
    assert found[of_model("batch_rows_bucket", le="8.0")] == 0
    assert found[of_model("batch_rows_bucket", le="16.0")] == 5
    assert found[of_model("batch_rows_sum")] == 80
    assert found[of_model("service_seconds_count")] == 1
    assert found[of_model("service_seconds_sum")] == 0.25
    assert found[of_model("queue_rows")] == 0
    assert found[of_model("in_flight_batches")] == 0
    assert found[of_model("batch_cap_rows")] == dispatcher.controller.cap
    assert found[of_model("batch_objective_seconds")] == dispatcher.controller.objective


def test_a_model_version_shows_its_speed(
    engine: Engine, scrape: Callable[..., Samples]
) -> None:
    found = scrape()
    assert isnan(found[of_model("fixed_seconds")])
    assert isnan(found[of_model("row_seconds")])
    assert found[of_model("capacity_rows_per_second")] == 0  # nobody answers
    model = engine.models[ModelId("sum", "1")]
    for rows in (1, 2, 4, 8):
        model.dispatcher.controller.record(rows, 0.001 + 0.0004 * rows)
    model.dispatcher.stats.refused_rows = 5
    model.dispatcher.stats.hedged_rows = 6
    model.replicas.live = 2
    found = scrape()
    assert found[of_model("fixed_seconds")] == pytest.approx(0.001)
    assert found[of_model("row_seconds")] == pytest.approx(0.0004)
    capacity = 2 * 8 / (0.001 + 0.0004 * 8)  # 16 rows were never tried
    assert found[of_model("capacity_rows_per_second")] == pytest.approx(capacity)
    assert found[of_model("refused_rows_total")] == 5
    assert found[of_model("hedged_rows_total")] == 6


def test_a_model_version_shows_its_replicas(scrape: Callable[..., Samples]) -> None:
    found = scrape()
    assert found[of_model("replicas_live")] == 0
    assert found[of_model("replicas_target")] == 0
    assert found[of_model("replica_deaths_total")] == 0
    assert found[of_model("replica_restarts_total")] == 0
    assert found[of_model("spares_ready")] == found[of_model("spares_target")] == 0
    for reason in ("batches", "memory"):
        assert found[of_model("replicas_recycled_total", reason=reason)] == 0
    states = {
        dict(labels)["state"]: value
        for (name, labels), value in found.items()
        if name == "clipper_model_state"
    }
    assert states == {"starting": 1, "live": 0, "failed": 0, "stopped": 0}


def test_a_model_version_shows_its_spares_and_what_was_recycled(
    engine: Engine, scrape: Callable[..., Samples], monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas = engine.models[ModelId("sum", "1")].replicas
    statistics = dataclasses.replace(
        replicas.statistics(),
        spares=1,
        spares_wanted=2,
        recycled={"batches": 3, "memory": 4},
    )
    monkeypatch.setattr(replicas, "statistics", lambda: statistics)
    found = scrape()
    assert found[of_model("spares_ready")] == 1
    assert found[of_model("spares_target")] == 2
    assert found[of_model("replicas_recycled_total", reason="batches")] == 3
    assert found[of_model("replicas_recycled_total", reason="memory")] == 4


def test_the_cache_and_the_server_are_shown(
    engine: Engine, scrape: Callable[..., Samples]
) -> None:
    cache = engine.cache
    cache.finish(b"key", cache, b"output")  # type: ignore[arg-type]
    cache.hits, cache.misses, cache.joins, cache.evictions = 1, 2, 3, 4
    found = scrape()
    assert found[key("clipper_cache_entries")] == 1
    assert found[key("clipper_cache_bytes")] == cache.bytes > 0
    assert found[key("clipper_cache_limit_bytes")] == engine.settings.cache_bytes
    assert found[key("clipper_cache_hits_total")] == 1
    assert found[key("clipper_cache_misses_total")] == 2
    assert found[key("clipper_cache_joins_total")] == 3
    assert found[key("clipper_cache_evictions_total")] == 4
    assert found[key("clipper_ready")] == 1
    versions = [
        dict(labels)["version"] for name, labels in found if name == "clipper_server_info"
    ]
    assert versions == [__version__]


def test_the_process_is_shown(scrape: Callable[..., Samples]) -> None:
    found = scrape()
    assert found[key("process_resident_memory_bytes")] > 1e6
    assert found[key("process_cpu_seconds_total")] > 0


def test_gate_and_lane_are_shown_where_they_are_given(
    scrape: Callable[..., Samples],
) -> None:
    gate = SimpleNamespace(unauthorized=9)
    lane = SimpleNamespace(connections={1, 2}, handed_over=3, bytes_in_flight=4096)
    found = scrape(gates={"query": gate, "admin": gate}, lane=lane)
    for port in ("query", "admin"):
        assert found[key("clipper_http_unauthorized_requests_total", port=port)] == 9
    assert found[key("clipper_http_connections")] == 5
    assert found[key("clipper_http_in_flight_bytes")] == 4096
    assert not any(name.startswith("clipper_http_") for name, _ in scrape())


def test_a_lane_that_comes_later_is_shown(engine: Engine) -> None:
    exposition = Exposition(engine)
    exposition.lane = SimpleNamespace(connections=(), handed_over=1, bytes_in_flight=0)
    assert b"\nclipper_http_connections 1.0\n" in render(exposition, "")[1]


async def test_what_is_deleted_is_no_longer_shown(
    engine: Engine, scrape: Callable[..., Samples]
) -> None:
    await engine.delete_application("digits")
    await engine.delete_model("sum", "1")
    assert not any(
        "digits" in str(labels) or "sum" in str(labels) for _, labels in scrape()
    )


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/html, application/json;q=0.9", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        (";;=,,\x00version", "text/plain; version=0.0.4; charset=utf-8"),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (
            "text/plain, Application/OpenMetrics-Text; version=not-a-number",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
        (
            "application/openmetrics-text; version=99.0.0 injected",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_the_content_type_follows_accept_and_never_repeats_it(
    engine: Engine, accept: str, content_type: str
) -> None:
    assert render(Exposition(engine), accept)[0] == content_type


def test_only_openmetrics_ends_with_its_mark(engine: Engine) -> None:
    exposition = Exposition(engine)
    assert render(exposition, OPENMETRICS)[1].endswith(b"\n# EOF\n")
    assert render(exposition, OPENMETRICS)[1].count(b"# EOF") == 1
    assert b"# EOF" not in render(exposition, "")[1]


@pytest.fixture
async def crowd(engine: Engine) -> Engine:
    """100 applications on 100 models."""
    for number in range(99):
        await engine.add_model(ModelRecord(f"model-{number}", "1", "doubles", 0))
        await engine.register_application(
            ApplicationRecord(
                f"app-{number}", 0, "doubles", 20_000, models=[f"model-{number}"]
            )
        )
    return engine


def test_a_hundred_applications_and_models_stay_bounded(
    crowd: Engine, scrape: Callable[..., Samples]
) -> None:
    found = scrape()
    assert sum(n == "clipper_application_predictions_total" for n, _ in found) == 100
    assert sum(n == "clipper_model_batches_total" for n, _ in found) == 100
    assert len(found) < 150 * 100


@pytest.mark.parametrize(("accept", "parse"), FORMATS, ids=["text", "openmetrics"])
def test_pieces_are_small_and_make_one_text(
    crowd: Engine, accept: str, parse: Callable[[str], Iterator[Any]]
) -> None:
    """Between two pieces the loop may answer queries, so each must be short; and a
    family that is cut still has one head."""
    _, pieces = Exposition(crowd).pieces(accept)
    texts = list(pieces)
    assert max(text.count(b"\n") for text in texts) < 50 * SLICE
    whole = b"".join(texts)
    assert len(whole) < 1_500_000
    names = [family.name for family in parse(whole.decode())]
    assert len(names) == len(set(names))
    heads = [line for line in whole.splitlines() if line.startswith(b"# TYPE")]
    assert len(heads) == len(names)


async def test_tasks_of_the_loop_are_counted(scrape: Callable[..., Samples]) -> None:
    before = scrape()[key("clipper_event_loop_tasks")]
    async with asyncio.TaskGroup() as group:
        release = asyncio.Event()
        for _ in range(3):
            group.create_task(release.wait())
        assert scrape()[key("clipper_event_loop_tasks")] == before + 3 >= 4
        release.set()


async def test_what_goes_away_between_two_pieces_does_no_harm(crowd: Engine) -> None:
    _, pieces = Exposition(crowd).pieces("")
    texts = [next(pieces) for _ in range(20)]
    await crowd.delete_application("app-98")
    await crowd.delete_model("model-98", "1")
    texts += list(pieces)
    assert sum(1 for _ in parse_text(b"".join(texts).decode())) > 20


async def test_what_is_learned(engine: Engine, scrape: Callable[..., Samples]) -> None:
    """Arms are labels, users never are."""
    for name in ("one", "two"):
        await engine.add_model(ModelRecord(name, "1", "doubles", 0))
    policy = PolicySettings("hedge", {"eta": 1.0})
    await engine.register_application(
        ApplicationRecord("learns", 0, "doubles", 20_000, None, ["one", "two"], policy)
    )
    application = engine.applications["learns"]
    arms = tuple(application.arms)
    for seq in range(1, 4):
        event = Feedback(arms, {arms[0]: 0.0, arms[1]: 1.0})
        application.learner.apply(seq, f"user-{seq}", event)
    stats = application.stats
    stats.feedback, stats.duplicates = 3, 2
    stats.refused["conflict"] += 1
    stats.missing["two:1"] += 4
    shadow = application.watch.comparisons[arms[1]] = Comparison()
    shadow.agreed, shadow.differed, shadow.failed = 3, 1, 2
    found = scrape()

    def of(name: str, **labels: str) -> float:
        return found[key(f"clipper_application_{name}", application="learns", **labels)]

    assert of("feedback_total") == 3
    assert of("feedback_duplicates_total") == 2
    assert of("feedback_refused_total", code="conflict") == 1
    assert of("feedback_refused_total", code="disk_full") == 0
    assert of("users_in_memory") == 3
    assert of("arm_weight", arm="one:1") > 0.5 > of("arm_weight", arm="two:1")
    assert of("arm_mean_loss", arm="two:1") == 1.0
    assert of("arm_feedback", arm="one:1") == 3
    assert of("arm_halted", arm="one:1") == 0
    assert of("missing_members_total", arm="two:1") == 4
    assert of("shadow_agreement", arm="two:1") == 0.75
    assert of("shadow_failures_total", arm="two:1") == 2
    assert found[key("clipper_decisions_lost_total")] == 0
    labels = {value for _, pairs in found for _, value in pairs}
    assert not any(value.startswith("user-") for value in labels)
