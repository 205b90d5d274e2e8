"""Replay: judge other policies on one's own traffic before they go live.

Run it: python examples/replay.py
"""

from __future__ import annotations

import subprocess
import sys
from random import Random

from clipper import Clipper

try:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.tree import DecisionTreeClassifier
except ImportError:
    sys.exit("This example needs scikit-learn: pip install 'clipper-serving[demo]'")

QUERIES = 800
CANDIDATES = ["static model=forest", "ucb1", "thompson", "exp3", "static model=tree"]


def serve(clipper: Clipper, policy: str, **options: float) -> float:
    """The share of wrong answers under a policy, with feedback on each."""
    images, digits = load_digits(return_X_y=True)
    _, test_x, _, test_y = train_test_split(images, digits, test_size=0.5, random_state=0)
    clipper.register_application(
        policy, models=["line", "tree", "forest"], input_type="doubles",
        slo_micros=1_000_000, policy={"name": policy, "options": options},
    )  # fmt: skip
    rng, wrong = Random(1), 0
    for _ in range(QUERIES):
        pick = rng.randrange(len(test_x))
        answer = clipper.predict(policy, test_x[pick])
        wrong += answer.output != int(test_y[pick])
        clipper.update(policy, answer.query_id, label=int(test_y[pick]))
    return wrong / QUERIES


def main() -> None:
    images, digits = load_digits(return_X_y=True)
    train_x, _, train_y, _ = train_test_split(images, digits, test_size=0.5, random_state=0)
    upper = LogisticRegression(max_iter=2000).fit(train_x[:, :32] / 16, train_y)
    tree = DecisionTreeClassifier(max_depth=5, random_state=0).fit(train_x, train_y)
    forest = RandomForestClassifier(50, random_state=0).fit(train_x, train_y)

    with Clipper(port=0, admin_port=0) as clipper:
        clipper.start(ephemeral=True)
        clipper.deploy_predict_function(
            "line", 1, lambda xs: upper.predict(xs[:, :32] / 16), "doubles"
        )
        clipper.deploy_model("tree", 1, tree, "doubles")
        clipper.deploy_model("forest", 1, forest, "doubles")

        # A policy that now and then tries every arm writes a log that others can be
        # judged on.
        lost = serve(clipper, "epsilon_greedy", epsilon=0.3)
        print(f"live, epsilon_greedy with epsilon 0.3 answered {lost:.1%} wrong\n")

        command = [sys.executable, "-m", "clipper", "replay", "epsilon_greedy"]
        for candidate in CANDIDATES:
            command += ["--policy", candidate]
        command += ["--port", str(clipper.port)]
        print("$ clipper", *command[3:5], "--policy ...")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        print(done.stdout or done.stderr)

        # Was it right? One of them goes live.
        print(f"live, thompson answered {serve(clipper, 'thompson'):.1%} wrong")


if __name__ == "__main__":
    main()
