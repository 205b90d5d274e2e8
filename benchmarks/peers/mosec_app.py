"""Mosec: its Rust front end and one Python worker with dynamic batching.

    PEER_WORK=sum python -m benchmarks.peers.mosec_app --port 8000

The options of the command line are Mosec's own. PEER_MAX_BATCH_SIZE (512) bounds batches;
requests older than PEER_TIMEOUT_MS (Mosec's 3,000) are given up.
"""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker

from benchmarks.work import make_model, make_rows, predict


class Predict(Worker):
    def __init__(self) -> None:
        self.model = make_model(os.environ["PEER_WORK"])
        predict(self.model, make_rows(os.environ["PEER_WORK"], 1))  # numpy is loaded

    def forward(self, data: list[dict[str, Any]]) -> list[dict[str, Any]]:
        outputs = predict(self.model, [request["input"] for request in data])
        return [{"output": output} for output in outputs]


if __name__ == "__main__":
    if "PEER_TIMEOUT_MS" in os.environ:
        os.environ["MOSEC_TIMEOUT"] = os.environ["PEER_TIMEOUT_MS"]
    largest = int(os.environ.get("PEER_MAX_BATCH_SIZE", 512))
    server = Server()
    server.append_worker(Predict, num=1, max_batch_size=largest, max_wait_time=2)
    server.run()
