"""Asking a server without this package: any language that speaks HTTP and JSON can.

The first part starts a server and puts a model on it; the second uses nothing but the
standard library. Run it: python examples/http_client.py
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from clipper import Clipper


def word_counts(texts):
    """The model: how many words each text has."""
    return [len(text.split()) for text in texts]


def post(url: str, body: Any) -> Any:
    """The JSON that a server answers to a JSON body."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def main() -> None:
    with Clipper(port=0, admin_port=0) as clipper:
        clipper.start(ephemeral=True)
        clipper.register_application("words", "counter", "strings", slo_micros=100_000)
        clipper.deploy_predict_function("counter", 1, word_counts, "strings")
        ask(clipper.query_url)


def ask(server: str) -> None:
    answer = post(f"{server}/words/predict", {"input": "the quick brown fox"})
    print("one input:", answer["output"])

    batch = ["one", "two words", "three words here"]
    answer = post(f"{server}/words/predict", {"input_batch": batch})
    print("a batch:", [row["output"] for row in answer["batch_predictions"]])

    # Every error is a JSON object with a stable code and a sentence.
    try:
        post(f"{server}/words/predict", {"input": 42})
    except urllib.error.HTTPError as error:
        print("a mistake:", error.code, json.load(error))

    # What an application is, and an example of how to ask it.
    with urllib.request.urlopen(f"{server}/words", timeout=10) as response:
        print("the application:", json.load(response))


if __name__ == "__main__":
    main()
