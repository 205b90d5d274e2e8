"""Start a server, put a function on it, ask it: the quick start as one program.

Run it: python examples/quickstart.py
"""

from __future__ import annotations

import numpy as np

from clipper import Clipper


def feature_sum_function(xs):
    """The model: gets a list of feature vectors, returns a list of strings."""
    return [str(np.sum(x)) for x in xs]


def main() -> None:
    # Port 0 takes free ports, so that this runs beside a server of yours. At the end of
    # the block the server stops, because it was started here.
    with Clipper("localhost", port=0, admin_port=0) as clipper:
        clipper.start(ephemeral=True)

        clipper.register_application(
            "hello_world", "feature_sum_model", "doubles", "-1.0", 100000
        )
        print(clipper.get_all_apps())

        # There is no model yet, so the application gives its default output.
        prediction = clipper.predict("hello_world", [1.1, 2.2, 3.3])
        print(prediction.output, "-", prediction.default_explanation)

        clipper.deploy_predict_function(
            "feature_sum_model", 1, feature_sum_function, "doubles"
        )
        prediction = clipper.predict("hello_world", [1.1, 2.2, 3.3], uid=0)
        print(prediction.output)


if __name__ == "__main__":
    main()
