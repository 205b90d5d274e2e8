"""Two versions of a scikit-learn model: roll out the better one, and roll back.

Run it: python examples/digits.py
"""

from __future__ import annotations

import sys

import numpy as np

from clipper import Clipper

try:
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import SGDClassifier
    from sklearn.model_selection import train_test_split
except ImportError:
    sys.exit("This example needs scikit-learn: pip install 'clipper-serving[demo]'")


def accuracy(clipper: Clipper, images: np.ndarray, digits: np.ndarray) -> float:
    """How often the application's answers are right."""
    answers = clipper.predict_batch("digits", images)
    return float(np.mean([answer.output for answer in answers] == digits))


def main() -> None:
    images, digits = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits, test_size=0.3, random_state=0
    )
    linear = SGDClassifier(random_state=0).fit(train_x, train_y)
    forest = RandomForestClassifier(random_state=0).fit(train_x, train_y)

    with Clipper(port=0, admin_port=0) as clipper:
        clipper.start(ephemeral=True)
        clipper.register_application("digits", "digits", "doubles", slo_micros=2_000_000)

        # A model with a predict method is deployed as it is. It runs an example before
        # it goes live.
        clipper.deploy_model("digits", 1, linear, "doubles", example=images[0])
        print(f"version 1 (linear): {accuracy(clipper, test_x, test_y):.1%} right")

        clipper.deploy_model("digits", 2, forest, "doubles", example=images[0])
        print(f"version 2 (forest): {accuracy(clipper, test_x, test_y):.1%} right")

        # The old version can still be asked by name, and come back at once.
        old = clipper.predict("digits", test_x[0], version=1)
        print(f"version 1 sees a {old.output}, it is a {test_y[0]}")
        clipper.rollback("digits")
        version = clipper.get_current_model_version("digits")
        print(f"rolled back to version {version}")


if __name__ == "__main__":
    main()
