"""Two workers of the service against one, with two clients: python -m benchmarks.workers --help"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from statistics import median

from benchmarks import show
from benchmarks.contenders import CONTENDERS
from benchmarks.machine import end_cleanly
from benchmarks.prepare import ROOT, prepare
from benchmarks.running import Running
from benchmarks.serving import HOME

CLIENTS, CONNECTIONS = 2, 16


def shares() -> tuple[set[int], set[int]]:
    "Cores for the workers and for the clients; with two or fewer they have to share."
    usable = sorted(os.sched_getaffinity(0))
    return (set(usable), set(usable)) if len(usable) < 3 else (set(usable[:2]), set(usable[2:]))


class Workers(Running):
    "The service with some workers."

    def __init__(self, workers: int, on: set[int]):
        variables = {"PRODML_SERVE_WORKERS": str(workers)}
        super().__init__(
            replace(CONTENDERS["ours"], name=f"workers-{workers}", variables=variables), prepare(HOME), on=on
        )

    def close(self) -> None:
        self.end()


def together(server: Workers, seconds: float) -> dict[str, float]:
    "Both clients at once."
    command = server.load_command(CONNECTIONS, 1, seconds, 1.0)
    clients = [
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, shares()[1])
        )
        for _ in range(CLIENTS)
    ]
    found = [json.loads(c.communicate()[0]) for c in clients]
    rate, busy = sum(f["requests_per_second"] for f in found), median(f["server_cpu"] for f in found)
    return {
        "requests/s": rate,
        "server CPU cores": busy,
        "requests per CPU second": rate / busy,
        "p99 ms": max(f["p99_ms"] for f in found),
        "errors": sum(f["errors"] for f in found),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="nox -s bench_workers --", description="Two workers of the service against one, with two clients.",
        epilog="Example: nox -s bench_workers -- --rounds 3 --seconds 10",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    end_cleanly()
    on, _ = shares()
    if len(os.sched_getaffinity(0)) < 4:
        print(
            f"{len(on)} cores are too few for two workers and two clients: they share them, so requests/s says little; "
            "compare requests per CPU second",
            file=sys.stderr,
        )
    found: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(given.rounds):
        for workers, results in found.items():
            with closing(Workers(workers, on)) as server:
                results.append(together(server, given.seconds))
    rows = [[str(n), *(f"{median(r[m] for r in results):,.1f}" for m in results[0])] for n, results in found.items()]
    show.plain_table(f"{CLIENTS} clients × {CONNECTIONS} connections, one record", ["workers", *found[1][0]], rows)


if __name__ == "__main__":
    main()
