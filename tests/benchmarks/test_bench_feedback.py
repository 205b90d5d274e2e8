from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import clipper.application
from benchmarks import feedback, feedback_cost, feedback_load, stragglers, straggling
from benchmarks.__main__ import main
from benchmarks.feedback_app import Commits, count_commits
from benchmarks.feedback_cost import Costs, Difference, Spent, measure_costs
from benchmarks.feedback_disk import Sizes, flush_seconds
from benchmarks.feedback_load import Generator, Said, pieces_by_id, requests_of
from benchmarks.feedback_rate import (
    Form,
    Ids,
    LearningServer,
    RateSample,
    make_noisy,
    make_said,
    measure,
)
from benchmarks.feedback_report import Found, blocks, goals, make_report, remarks
from benchmarks.stragglers import StragglerSample, measure_stragglers
from benchmarks.straggling import CLIPPER, PAPER, WAITS
from clipper.inputs import Row
from clipper.panel import Panel
from clipper.selection.vote import Vote
from clipper.store.database import Database, Outcome, Read

ABOUT = {
    "processor": "a processor", "cores": 2, "system": "a system", "python": "3.11",
    "when": "today", "flush_ms": 0.1, "runs": 1,
}  # fmt: skip
RATE = RateSample(
    lane="exp3", form=Form(1, 256), round=0, rate=20_000.0, pieces=40_000, p50=0.008,
    p99=0.02, loop_cpu=25e-6, store_cpu=8e-6, worker_cpu=0.0, commits=200.0,
    commit_pieces=100.0, commit_seconds=0.002, faults=0, generator=0.3, other_cores=0.0,
    exhausted=False,
)  # fmt: skip
STRAGGLER = StragglerSample(
    lane="clipper", members=4, round=0, queries=300, mean=0.009, p50=0.008, p99=0.021,
    worst=0.022, missing=0.02, unwaited=0.2, refused=0.0, accuracy=0.9, defaults=0.0,
    lag=0.0005, other_cores=0.0,
)  # fmt: skip


def silent(text: str) -> None:
    pass


# -- the generator ---------------------------------------------------------------------


def test_every_query_id_is_used_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def ask(port: int, application: str, said: Said, start: int, count: int) -> list[bytes]:
        asked.append((start, count))
        return [b"id%d" % number for number in range(start, start + count)]

    monkeypatch.setattr(feedback_load, "ask", ask)
    said = Said(["[1]", "[2]"], [1, 0])
    pieces = list(pieces_by_id(1, "app", said, 250, reward=False))
    assert asked == [(0, 100), (100, 100), (200, 50)]
    assert len(set(pieces)) == 250
    assert pieces[1] == b'{"query_id":"id1","label":0}'
    rewards = pieces_by_id(1, "app", said, 1, reward=True)
    assert list(rewards) == [b'{"query_id":"id0","reward":1}']


def test_what_does_not_fill_a_list_is_not_sent() -> None:
    pieces = [b'{"a":%d}' % number for number in range(7)]
    lists = list(requests_of("host", "/app/update", iter(pieces), 3))
    assert len(lists) == 2
    assert lists[1].endswith(b'\r\n\r\n{"feedback":[{"a":3},{"a":4},{"a":5}]}')
    single = list(requests_of("host", "/app/update", iter(pieces), 1))
    assert len(single) == 7 and single[6].endswith(b'\r\n\r\n{"a":6}')


async def test_the_generator_sends_each_request_once_and_counts_what_was_taken() -> None:
    answers = [
        b'{"accepted":true,"duplicate":false}',
        b'{"accepted":true,"duplicate":true}',
        b'{"error":"not_found","cause":"no such query id"}',
        b'{"feedback":[{"accepted":true,"duplicate":false},{"error":"x","cause":"y"}]}',
    ]
    got: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = b""
        with suppress(ConnectionError):
            while chunk := await reader.read(1000):
                data += chunk
                if not data.endswith(b"{}"):
                    continue
                got.append(data)
                body, data = answers[len(got) % 4], b""
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                writer.write(head)
                await writer.drain()
                writer.write(body)
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    pieces = (b"{}" for _ in range(40))
    requests = list(requests_of("host", "/app/update", pieces, 1))
    generator = Generator(requests)
    seen = await generator.run(port, 1, 30.0)
    await generator.close()
    await ended.wait()
    server.close()
    await server.wait_closed()
    assert seen.exhausted and len(got) == 40
    assert (seen.accepted, seen.duplicates, seen.refused) == (20, 10, 20)
    assert 0 < seen.p50 <= seen.p99


def test_rows_and_labels_come_back_from_their_file(tmp_path: Path) -> None:
    said = make_said(20)
    said.write(tmp_path / "rows")
    assert Said.read(tmp_path / "rows") == said
    assert set(said.labels) == {0, 1}


def test_noisy_models_err_the_more_the_higher_their_number() -> None:
    rows = np.random.default_rng(1).random((5000, 10)).round(6)
    truth = (rows.sum(axis=1) * 1e3).astype(int) % 2
    for model in range(4):
        wrong = float((make_noisy(model)(rows) != truth).mean())
        assert wrong == pytest.approx(model / 10, abs=0.03)


def test_a_load_gets_more_ids_than_it_used_the_last_time() -> None:
    ids = Ids(2.0, quick=False)
    assert ids.wanted("lane") == 20_000
    ids.saw("lane", RATE)
    assert ids.wanted("lane") == 54_000
    ids.saw("lane", replace(RATE, rate=1e6))
    assert ids.wanted("lane") == 200_000


# -- the server ------------------------------------------------------------------------


def test_commits_are_counted_but_not_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(database: Any, group: Any) -> list[Outcome]:
        return [Outcome() for _ in group]

    monkeypatch.setattr(Database, "run", run)
    count_commits(tmp_path / "counts")
    assert Commits.read(tmp_path / "counts") == Commits()
    work: Any = lambda connection: None  # noqa: E731
    read = Read(work)
    database: Any = SimpleNamespace()
    for group in ([work, read], [read], [work]):
        assert len(Database.run(database, group)) == len(group)
    counts = Commits.read(tmp_path / "counts")
    assert (counts.groups, counts.works) == (2, 3)
    assert counts.since(Commits(1, 1, 0.0))[:2] == (1, 2)


def test_a_server_under_feedback_is_measured(tmp_path: Path) -> None:
    make_said(100).write(tmp_path / "rows")
    with LearningServer(tmp_path, "test") as server:
        server.deploy("noisy", make_noisy(1))
        server.register_policy("app", ["noisy"], "epsilon_greedy")
        form = Form(10, 4)
        sample = measure(
            server, "app", "app", form, tmp_path / "rows", ids=400, seconds=5.0, round_=0
        )
    assert sample.exhausted and sample.faults == 0
    assert 0 < sample.pieces <= 400
    assert sample.rate > 0 and sample.commits > 0 and sample.commit_pieces >= 1


def test_the_disk_is_asked_for_its_speed(tmp_path: Path) -> None:
    assert flush_seconds(tmp_path, 3) > 0
    assert not list(tmp_path.iterdir())


# -- costs -----------------------------------------------------------------------------


async def test_policies_are_compared_on_the_whole_way_of_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feedback_cost, "TARGETS", {"exp3": 3.0, "hedge": None})
    monkeypatch.setattr(feedback_cost, "WARM", 3)
    monkeypatch.setattr(feedback_cost, "ARMS", 2)
    costs = await measure_costs(tmp_path, 2, 20, silent)
    found = {(one.policy, one.mode): one for one in costs.differences}
    assert len(found) == 6
    for one in found.values():
        assert len(one.over) == 2
        assert one.base_median(lambda spent: spent.loop) > 0
    # to ask all models takes longer than one
    assert found["hedge", "quiet"].median(lambda spent: spent.loop) > 0


# -- stragglers ------------------------------------------------------------------------


def test_members_say_and_take_the_same_every_time() -> None:
    seconds = straggling._make_seconds(3)
    delays = [seconds(number) for number in range(20_000)]
    assert delays[:100] == [straggling._make_seconds(3)(number) for number in range(100)]
    assert min(delays) >= straggling.LEAST and max(delays) <= straggling.MOST
    late = sum(delay > straggling.SLO for delay in delays) / len(delays)
    assert late == pytest.approx(1 / 29, abs=0.006)
    answer = straggling._make_answer(3)
    right = [answer(number) == straggling.truth_of(number) for number in range(20_000)]
    assert sum(right) / len(right) == pytest.approx(0.795, abs=0.015)


def test_a_batch_takes_as_long_as_its_slowest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    rows = np.arange(50.0).reshape(-1, 1)
    answers = straggling.make_member(2)(rows)
    seconds = straggling._make_seconds(2)
    assert slept == [max(seconds(number) for number in range(50))]
    assert len(answers) == 50


class Waiting:
    def __init__(self) -> None:
        self.outputs: list[Any] = []

    def job_done(self, output: Any) -> None:
        self.outputs.append(output)


def panel_of(kind: type[Panel]) -> tuple[Panel, Waiting]:
    application: Any = SimpleNamespace(
        rendering=SimpleNamespace(text=lambda output: output), rng=Random(1)
    )
    choice: Any = SimpleNamespace(
        arms=("a:1#1", "b:1#2", "c:1#3"), odds=[1 / 3] * 3, models=()
    )
    panel, waiting = kind(application, choice, Vote()), Waiting()
    panel.begin(waiting, Row(b"1"), 0.0, False)
    return panel, waiting


@pytest.mark.parametrize(
    ("lane", "counts"), [(CLIPPER, [0, 1, 1]), (WAITS, [0, 0, 1]), (PAPER, [0, 0, 0])]
)
def test_lanes_answer_when_they_are_meant_to(
    lane: straggling.Lane, counts: list[int]
) -> None:
    panel, waiting = panel_of(lane.panel)
    for index, count in enumerate(counts):
        panel.member_done(index, b"1")
        assert len(waiting.outputs) == count


def test_an_application_has_the_panels_of_its_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clipper.application, "Panel", Panel)
    straggling.use_panels()
    choice: Any = SimpleNamespace(arms=())
    for lane in straggling.LANES:
        application: Any = SimpleNamespace(name=lane.application(4))
        made = clipper.application.Panel(application, choice, Vote())  # type: ignore[attr-defined]
        assert type(made) is lane.panel


async def test_ensembles_are_measured_at_every_lane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clipper.application, "Panel", Panel)
    monkeypatch.setattr(stragglers, "DRAIN", 0.0)
    found = await measure_stragglers((2,), 1, 0.4, 20.0, silent)
    assert [sample.lane for sample in found] == ["clipper", "waits for all", "prototype"]
    for sample in found:
        assert sample.queries > 0 and sample.members == 2
        assert 0 <= sample.accuracy <= 1 and sample.mean > 0
        shares = (sample.missing, sample.unwaited, sample.refused)
        assert min(shares) >= 0 and sum(shares) <= 1
    assert found[1].missing == 0.0


# -- the report ------------------------------------------------------------------------


@pytest.fixture
def found() -> Found:
    spent = Spent(30e-6, 31e-6, 35e-6)
    costs = []
    for policy, over in (("exp3", 2.5e-6), ("linucb", 40e-6)):
        for mode in feedback_cost.MODES:
            one = Difference(policy, mode)
            for _ in range(10):
                one.add(spent, Spent(30e-6 + over, 31e-6 + over, 35e-6 + over))
            costs.append(one)
    joins = [
        replace(RATE, lane="by query id", form=Form(1, 64), rate=20_000.0),
        replace(RATE, lane="by input, evaluated", form=Form(1, 64), rate=5_000.0),
    ]
    return Found(
        dict(ABOUT),
        rate=[RATE, replace(RATE, lane="hedge", rate=12_000.0)],
        join=joins,
        sizes=[Sizes("exp3", 205.0, 322.0, 12.0)],
        costs=Costs(costs, 2000, 0.0),
        stragglers=[STRAGGLER, replace(STRAGGLER, lane="prototype", p99=0.03)],
    )


def test_targets_are_met_or_missed(found: Found) -> None:
    verdicts = {goal.text: goal.verdict for goal in goals(found)}
    assert verdicts["pieces/s, exp3, one piece, 256 connections, label"] == "met"
    assert verdicts["pieces/s, hedge, one piece, 256 connections, label"] == "MISSED"
    assert (
        verdicts["pieces/s, static, lists of 10, 64 connections, label"] == "not measured"
    )
    assert verdicts["feedback by query id, times that by input, evaluated"] == "met"
    assert verdicts["exp3 over static, quiet, us"] == "met"
    assert verdicts["linucb over static, feedback, us"] == "MISSED"
    assert verdicts["ucb1 over static, quiet, us"] == "not measured"
    assert verdicts["p99 with 4 members, ms"] == "met"
    assert verdicts["mean with 4 members, ms"] == "met"


def test_blocks_of_windows() -> None:
    assert blocks([1.0, 3.0, 2.0, 5.0, 5.0, 6.0, 1.0, 1.0, 9.0, 9.0]) == [2, 3.5, 5.5, 1, 9]
    assert blocks([]) == []


def test_the_report_has_every_table(found: Found, tmp_path: Path) -> None:
    text = make_report(found)
    for words in ("Durable feedback", "ways to say so", "On the disk", "on the way of a",
                  "Stragglers", "paper, without", "Targets"):  # fmt: skip
        assert words in text
    assert "Note:" not in text
    found.write(tmp_path / "found.json")
    assert '"stragglers"' in (tmp_path / "found.json").read_text()


def test_a_report_of_nothing() -> None:
    assert "not measured" in make_report(Found(dict(ABOUT)))


def test_what_spoils_figures_is_told(found: Found) -> None:
    found.rate.append(replace(RATE, other_cores=1.2, faults=3, exhausted=True))
    found.stragglers += [
        replace(STRAGGLER, members=16, lag=0.01),
        replace(STRAGGLER, members=16, lane="prototype"),
    ]
    told = "\n".join(remarks(found))
    for words in ("1.20 cores", "3 pieces", "1 loads ended early", "10.0 ms", "of 16"):
        assert words in told


def test_figures_are_drawn(found: Found, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from benchmarks.feedback_figures import draw

    everything = [
        replace(RATE, lane=policy)
        for policy in ("static", "epsilon_greedy", "exp3", "hedge")
    ]
    found.rate = everything
    assert found.costs is not None
    found.costs.differences = [
        Difference(policy, mode, [Spent(1, 1, 1)], [Spent(1e-6, 1e-6, 1e-6)])
        for policy in feedback_cost.TARGETS
        for mode in feedback_cost.MODES
    ]
    draw(found, tmp_path / "plots")
    names = {path.name for path in (tmp_path / "plots").iterdir()}
    assert names == {
        "feedback-rate.svg", "feedback-cost.svg", "stragglers-mean.svg",
        "stragglers-p99.svg", "stragglers-missing.svg", "stragglers-right.svg",
    }  # fmt: skip


# -- the command line ------------------------------------------------------------------


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    yield


def test_one_part_alone(
    tmp_path: Path,
    handlers: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def part(found: Found, scratch: Path, chosen: Any) -> None:
        assert chosen.short and chosen.runs == 1
        found.rate.append(RATE)

    monkeypatch.setitem(feedback.PARTS, "rate", part)
    json = str(tmp_path / "json")
    assert main(["feedback", "--short", "--only", "rate", "--json", json]) == 0
    assert "20,000" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options", [["--only", "nothing"], ["--seconds", "0"], ["--rate", "0"], ["--runs", "0"]]
)
def test_bad_options(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        feedback.parse(options)
    assert error.value.code == 2
    assert "error" in capsys.readouterr().err
