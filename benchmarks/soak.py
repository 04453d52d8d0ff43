"""The service under five times what it can answer, for minutes: python -m benchmarks.soak --help"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path
from statistics import median

import httptools
import uvloop
from rich.progress import track

from benchmarks import show
from benchmarks.contenders import CONTENDERS
from benchmarks.machine import apart, cores, describe, end_cleanly, resident_mb, tree
from benchmarks.prepare import ROOT, prepare
from benchmarks.running import Running
from benchmarks.serving import HOME

TICK = 0.002  # seconds between two looks at what is due


class Flood:
    "Sends requests when they are due, whether or not earlier ones were answered."

    def __init__(self, port: int, requests: list[bytes], most: int):
        self.port, self.requests, self.most = port, cycle(requests), most
        self.idle: deque[Line] = deque()
        self.open, self.seconds, self.counts = 0, [], Counter()

    def take(self) -> tuple[list[float], Counter]:
        "Seconds of the accepted requests and counts of all outcomes since the last call."
        found = sorted(self.seconds), self.counts
        self.seconds, self.counts = [], Counter()
        return found

    async def send(self, rate: float, seconds: float) -> None:
        "Requests at a rate; one that finds every connection busy is counted and dropped."
        begun, sent, end = time.perf_counter(), 0, time.perf_counter() + seconds
        while (now := time.perf_counter()) < end:
            due = int(rate * (now - begun)) - sent
            for _ in range(due):
                await self._one()
            sent += due
            await asyncio.sleep(TICK)

    async def _one(self) -> None:
        if self.idle:
            return self.idle.pop().ask()
        if self.open >= self.most:
            self.counts["no connection"] += 1
            return None
        self.open += 1
        with suppress(OSError):
            _, line = await asyncio.get_running_loop().create_connection(lambda: Line(self), "127.0.0.1", self.port)
            line.ask()
        return None


class Line(asyncio.Protocol):
    "A keep-alive connection with at most one request in flight."

    def __init__(self, flood: Flood):
        self.flood, self.asked = flood, 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.parser = transport, httptools.HttpResponseParser(self)

    def ask(self) -> None:
        self.asked = time.perf_counter()
        self.transport.write(next(self.flood.requests))

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        status, flood = self.parser.get_status_code(), self.flood
        if status == 200:
            flood.seconds.append(time.perf_counter() - self.asked)
        flood.counts[str(status)] += 1
        flood.idle.append(self)

    def connection_lost(self, error: Exception | None) -> None:
        self.flood.open -= 1
        self.flood.counts["closed"] += 1
        with suppress(ValueError):
            self.flood.idle.remove(self)


async def watch(flood: Flood, rate: float, seconds: float, servers: list[int], what: str) -> list[dict]:
    "One entry a second: what was accepted and refused, how long it took, and the memory of the servers."
    sending, found = asyncio.create_task(flood.send(rate, seconds)), []
    for second in track(range(int(seconds)), description=f"{what:<28}", console=show.PROGRESS, transient=True):
        await asyncio.sleep(1)
        times, counts = flood.take()
        p99 = times[int(len(times) * 0.99)] * 1e3 if times else None
        found.append({"second": second, "p99_ms": p99, "rss_mb": resident_mb(servers), **counts})
    await sending
    return found


def requests_of(server: Running) -> list[bytes]:
    "Whole requests, with the API key."
    head = (
        f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAuthorization: Bearer {server.key.read_text()}\r\n"
    )
    made = (server.contender.request(server.prepared, slice(i, i + 1))[1] for i in range(len(server.prepared.requests)))
    return [
        f"{head}Content-Type: application/json\r\nContent-Length: {len(b.encode())}\r\n\r\n{b}".encode() for b in made
    ]


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
        servers, requests = apart(tree(server.process.pid))[0], requests_of(server)

        async def phases() -> dict[str, list[dict]]:
            flood = Flood(server.port, requests, given.connections)
            calm = await watch(flood, capacity / 5, 20, servers, "a fifth of capacity")
            over = await watch(flood, capacity * given.times, given.seconds, servers, f"{given.times:g} times capacity")
            after = await watch(flood, capacity / 5, 20, servers, "a fifth again")
            return {"unloaded": calm, "overloaded": over, "afterwards": after}

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
