"""Every server, the same model and requests, turn by turn: python -m benchmarks.serving --help"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import show, stages
from benchmarks.contenders import CONTENDERS
from benchmarks.machine import cores, describe, end_cleanly
from benchmarks.prepare import ROOT, prepare
from benchmarks.results import bars, ratios, summarize, within_rounds
from benchmarks.running import Running

HOME = ROOT / ".bench"
LOADS = {
    "1 connection": (1, 1),
    "8 connections": (8, 1),
    "64 connections": (64, 1),
    "4 connections × 100 records": (4, 100),
}
TOLERANCE, COMPARED = 1e-5, 200


def check_equal(servers: list[Running]) -> float:  # the largest difference
    "Every server with a model gives the same probabilities, alone and in batches; or nothing is measured."
    with_model = [s for s in servers if s.contender.scores]
    answers = {
        s.contender.name: s.scores(slice(0, COMPARED)) + [p for i in range(20) for p in s.scores(slice(i, i + 1))]
        for s in with_model
    }
    reference = np.array(next(iter(answers.values())))
    differences = {name: float(np.abs(np.array(found) - reference).max()) for name, found in answers.items()}
    if wrong := {name: f"{d:.2g}" for name, d in differences.items() if not d <= TOLERANCE}:
        raise SystemExit(
            f"these servers do not answer what {next(iter(answers))} answers, so speed means nothing: {wrong}"
        )
    return max(differences.values())


def run(servers: list[Running], rounds: int, seconds: float, warmup: float) -> list[dict]:
    "Each round: each load: each server in turn, the others stopped."
    found = []
    with Progress(
        TextColumn("{task.description:<60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True, refresh_per_second=2,
    ) as bar:  # fmt: skip
        task = bar.add_task("", total=rounds * len(LOADS) * len(servers))
        for number in range(rounds):
            found.append({load: {} for load in LOADS})
            for load, (connections, rows) in LOADS.items():
                for server in servers:
                    name = server.contender.name
                    bar.update(task, description=f"round {number + 1}, {load}: {name}")
                    server.resume()
                    found[-1][load][name] = server.load(connections, rows, seconds, warmup)
                    server.pause()
                    bar.advance(task)
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nox -s bench --",
        description="Measure the service beside others that answer the same requests with the same model.",
        epilog="Example: nox -s bench -- --rounds 3 --seconds 10 --servers ours,fastapi_onnx,uvicorn_empty",
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns of every server at every load (default 3)")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (default 10)")
    parser.add_argument("--servers", default=",".join(CONTENDERS), help=f"some of: {', '.join(CONTENDERS)}")
    parser.add_argument(
        "--quick", action="store_true", help="one round of two seconds; figures to look at, not to quote"
    )
    parser.add_argument("--out", type=Path, help="where serving.json and serving.png go (default: benchmarks/results)")
    given = parser.parse_args()
    given.servers = given.servers.split(",")
    if unknown := [name for name in given.servers if name not in CONTENDERS]:
        parser.error(f"no server {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    if given.quick:
        given.rounds, given.seconds = 1, 2.0
    given.out = given.out or (HOME / "quick" if given.quick else ROOT / "benchmarks" / "results")
    return given


def main() -> None:
    given = parse()
    end_cleanly()
    prepared = prepare(HOME)
    server_cores, client_cores = cores()
    os.sched_setaffinity(0, client_cores)
    if server_cores == client_cores:
        print(
            "this machine has one usable core: server and client share it, and the figures say little", file=sys.stderr
        )
    with ExitStack() as stack:
        servers = []
        for name in given.servers:
            print(f"starting {name}: {CONTENDERS[name].configuration}", file=sys.stderr)
            servers.append(Running(CONTENDERS[name], prepared))
            stack.callback(servers[-1].end)
        difference = check_equal(servers)
        for server in servers:
            server.pause()
        rounds = run(servers, given.rounds, given.seconds, min(1.0, given.seconds / 2))
    summary = summarize(rounds)
    inside = stages.measure(prepared)
    report = {
        "machine": describe(),
        "rounds": given.rounds,
        "seconds": given.seconds,
        "largest_difference_of_answers": difference,
        "servers": {name: CONTENDERS[name].configuration for name in given.servers},
        "summary": summary,
        "ours_over_other": ratios(summary),
        "ours_over_other_within_rounds": within_rounds(rounds),
        "ours_over_other_per_cpu_second": ratios(summary, "per_cpu_second"),
        "bars": bars(summary),
        "stages_us": inside,
        "stages_outside_us": stages.outside(summary),
    }
    for name in given.servers:
        show.CONSOLE.print(f"{name:<16} {CONTENDERS[name].configuration}")
    show.measured(summary, report["ours_over_other_within_rounds"])
    show.against_bars(report["bars"])
    stages.show_both(report["stages_outside_us"], inside)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "serving.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    show.plot(summary, given.out / "serving.png")
    if failed := sum(m["errors"] for r in rounds for load in r.values() for m in load.values()):
        raise SystemExit(f"{failed} requests were not answered with 200; the figures above count only those that were")


if __name__ == "__main__":
    main()
