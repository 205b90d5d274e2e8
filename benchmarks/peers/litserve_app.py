"""LitServe: one API server and one worker with dynamic batching over its fast queue.

PEER_WORK=sum python -m benchmarks.peers.litserve_app --port 8000

PEER_MAX_BATCH_SIZE (512) bounds batches; requests that waited longer than PEER_TIMEOUT_MS
(LitServe's 30,000) are given up.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import litserve

from benchmarks.work import make_model, make_rows, predict


class Predict(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = make_model(os.environ["PEER_WORK"])
        predict(self.model, make_rows(os.environ["PEER_WORK"], 1))  # numpy is loaded

    # LitServe reads the annotation of `request`: without one it takes any JSON object.
    def decode_request(self, request):  # type: ignore[no-untyped-def]
        return request["input"]

    def batch(self, inputs: list[list[float]]) -> list[list[float]]:
        return inputs

    def predict(self, rows: list[list[float]]) -> list[Any]:
        return predict(self.model, rows)

    def unbatch(self, output: list[Any]) -> list[Any]:
        return output

    def encode_response(self, output: Any) -> dict[str, Any]:
        return {"output": output}


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--port", type=int, required=True)
    largest = int(os.environ.get("PEER_MAX_BATCH_SIZE", 512))
    api = Predict(max_batch_size=largest, batch_timeout=0.002)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=1,
        timeout=float(os.environ.get("PEER_TIMEOUT_MS", 30_000)) / 1e3,
        fast_queue=True,
    )
    server.run(
        host="127.0.0.1",
        port=options.parse_args().port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="error",
        access_log=False,
    )
