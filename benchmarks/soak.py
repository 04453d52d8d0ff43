"""The service under five times what it can answer, for minutes: python -m benchmarks.soak --help"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import uvloop
from rich.progress import track

from benchmarks import show
from benchmarks.contenders import CONTENDERS
from benchmarks.flood import Flood, requests_of
from benchmarks.machine import apart, cores, describe, end_cleanly, resident_mb, tree
from benchmarks.prepare import ROOT, prepare
from benchmarks.running import Running, client_env
from benchmarks.serving import HOME

PROBED = 200  # requests a second whose time is measured, by a client beside the flood


async def watch(server: Running, rate: float, seconds: float, connections: int, what: str) -> list[dict]:
    "One entry a second: what was accepted and refused, how long that took for a client beside the flood, and the memory."
    home, key = str(server.prepared.home), str(server.key)
    command = [
        sys.executable,
        "-m",
        "benchmarks.flood",
        home,
        *map(str, (server.port, key, rate, seconds, connections)),
    ]
    crowd = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT, env=client_env())
    probe = Flood(server.port, requests_of(server.prepared, server.port, server.key), most=64)
    asking, found = asyncio.create_task(probe.send(PROBED, seconds + 5)), []
    servers = apart(tree(server.process.pid))[0]
    for second in track(range(int(seconds)), description=f"{what:<28}", console=show.PROGRESS, transient=True):
        counts = Counter(json.loads(await crowd.stdout.readline()))
        times, own = probe.take()
        p99 = times[int(len(times) * 0.99)] * 1e3 if times else None
        found.append({"second": second, "p99_ms": p99, "rss_mb": resident_mb(servers), **(counts + own)})
    asking.cancel()
    await crowd.wait()
    return found


def summary(seconds: list[dict], skip: int = 3) -> dict[str, float]:
    "Medians over the seconds, without the first ones, and how memory went from the first third to the last."
    kept = seconds[skip:]
    third = max(1, len(kept) // 3)
    rss = [s["rss_mb"] for s in kept]
    return {
        "accepted/s": median(s.get("200", 0) for s in kept),
        "refused/s (503)": median(s.get("503", 0) for s in kept),
        "not sent/s": median(s.get("no connection", 0) for s in kept),
        "closed": sum(s.get("closed", 0) for s in kept),
        "others": sum(n for s in kept for k, n in s.items() if k.isdigit() and k not in ("200", "503")),
        "p99 ms of accepted": median(s["p99_ms"] for s in kept if s["p99_ms"] is not None),
        "RSS MB": median(rss),
        "RSS growth %": 100 * (median(rss[-third:]) / median(rss[:third]) - 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="nox -s bench_soak --", description="Offer the service a multiple of what it can answer, and watch it.",
        epilog="Example: nox -s bench_soak -- --seconds 180 --times 5",
    )  # fmt: skip
    parser.add_argument("--seconds", type=float, default=180, help="of overload (default 180)")
    parser.add_argument("--times", type=float, default=5, help="capacity that is offered (default 5)")
    parser.add_argument("--connections", type=int, default=1000, help="at most (default 1000)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="for soak.json and soak.png")
    given = parser.parse_args()
    end_cleanly()
    prepared = prepare(HOME)
    os.sched_setaffinity(0, cores()[1])
    with ExitStack() as stack:
        server = Running(CONTENDERS["ours"], prepared)
        stack.callback(server.end)
        capacity = server.load(64, 1, 10, 1)["requests_per_second"]

        async def phases() -> dict[str, list[dict]]:
            def phase(rate: float, seconds: float, what: str):
                return watch(server, rate, seconds, given.connections, what)

            calm = await phase(capacity / 5, 20, "a fifth of capacity")
            over = await phase(capacity * given.times, given.seconds, f"{given.times:g} times capacity")
            return {"unloaded": calm, "overloaded": over, "afterwards": await phase(capacity / 5, 20, "a fifth again")}

        found = uvloop.run(phases())
    told = {name: summary(seconds) for name, seconds in found.items()}
    rows = [[name, *(f"{v:,.1f}" for v in s.values())] for name, s in told.items()]
    show.plain_table(f"capacity {capacity:,.0f} requests/s at 64 connections", ["phase", *told["unloaded"]], rows)
    given.out.mkdir(parents=True, exist_ok=True)
    report = {"machine": describe(), "capacity": capacity, "times": given.times, "summary": told, "seconds": found}
    (given.out / "soak.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    show.plot_soak(found, capacity, given.out / "soak.png")
    if told["overloaded"]["others"]:
        sys.exit("some requests were answered neither 200 nor 503; the table counts them")


if __name__ == "__main__":
    main()
