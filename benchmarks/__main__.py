"""python -m benchmarks NAME [options]"""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = {
    "serving": "serving speed beside a bare HTTP floor, Mosec and LitServe",
    "batching": "the Clipper paper's figures 3, 4 and 5 on MNIST: controllers and waits",
    "caching": "hit ratios of the cache policies, SIEVE and LRU, and what they cost",
    "overload": "open load past what can be answered: goodput, recovery, the cap",
    "feedback": "durable feedback, what policies cost a query, ensembles that straggle",
    "faults": "what each fault costs: deaths, bad rows, deploys, restarts, a long soak",
    "learning": "what selection policies are worth: failures, libraries, users, confidence",
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m benchmarks NAME [options]\n")
        for name, about in BENCHMARKS.items():
            print(f"  {name:12} {about}")
        return 0 if arguments else 2
    if arguments[0] not in BENCHMARKS:
        print(f"no benchmark {arguments[0]!r}; there are: {', '.join(BENCHMARKS)}")
        return 2
    module = import_module(f"benchmarks.{arguments[0]}")
    status: int = module.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
