"""Two workers of the service against one, with two clients: python -m benchmarks.workers --help"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks import show
from benchmarks.contenders import CONTENDERS
from benchmarks.machine import describe, end_cleanly
from benchmarks.prepare import ROOT, prepare
from benchmarks.running import Running
from benchmarks.serving import HOME

CLIENTS = 2
LOADS = {"1 record": (16, 1), "100 records": (4, 100)}  # connections of each client, records of a request


def shares() -> tuple[set[int], set[int]]:
    "Cores for the workers and for the clients; with three or fewer they have to share."
    usable = sorted(os.sched_getaffinity(0))
    return (set(usable), set(usable)) if len(usable) < 4 else (set(usable[:2]), set(usable[2:]))


class Workers(Running):
    "The service with some workers, without the observer, which would want a core of its own."

    def __init__(self, workers: int, on: set[int]):
        variables = {"PRODML_SERVE_WORKERS": str(workers), "PRODML_SERVE_OBSERVER": "off"}
        told = {"name": f"workers-{workers}", "variables": variables}
        super().__init__(replace(CONTENDERS["ours_unobserved"], **told), prepare(HOME), on=on)

    def close(self) -> None:
        self.end()


def together(server: Workers, connections: int, rows: int, seconds: float) -> dict[str, float]:
    "All clients at once."
    command = server.load_command(connections, rows, seconds, 1.0)
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
        "records/s": rate * rows,
        "server CPU cores": busy,
        "client CPU cores": sum(f["client_cpu"] for f in found),
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
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="for workers.json")
    given = parser.parse_args()
    end_cleanly()
    on, clients = shares()
    if on & clients:
        print(
            f"{len(on)} cores hold workers and clients: with one record a request the clients are what is short, "
            "with a hundred they take a few per cent",
            file=sys.stderr,
        )
    found: dict[str, dict[int, list[dict[str, float]]]] = {load: {1: [], 2: []} for load in LOADS}
    for _ in range(given.rounds):
        for workers in (1, 2):
            with closing(Workers(workers, on)) as server:
                for load, (connections, rows) in LOADS.items():
                    found[load][workers].append(together(server, connections, rows, given.seconds))
    told = {
        load: {n: {m: median(r[m] for r in results) for m in results[0]} for n, results in each.items()}
        for load, each in found.items()
    }
    for load, each in told.items():
        factor = each[2]["requests/s"] / each[1]["requests/s"]
        rows = [[str(n), *(f"{v:,.2f}" for v in values.values())] for n, values in each.items()]
        show.plain_table(
            f"{load} a request: two workers answer {factor:.2f} times as much", ["workers", *each[1]], rows
        )
    given.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": describe(), "rounds": given.rounds, "seconds": given.seconds, "loads": told}
    (given.out / "workers.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
