"""A client that costs little: raw sockets on uvloop, one request in flight on each connection."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from itertools import cycle
from pathlib import Path

import httptools
import uvloop

from benchmarks.machine import apart, cpu_seconds, resident_mb, tree


class Load:
    "Requests in rotation, and what became of them."

    def __init__(self, port: int, path: str, bodies: list[str], key: str = ""):
        known = f"Authorization: Bearer {key}\r\n" if key else ""
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{known}Content-Type: application/json\r\nContent-Length: "
        encoded = (body.encode() for body in bodies)
        self.requests = cycle([f"{head}{len(body)}\r\n\r\n".encode() + body for body in encoded])
        self.port, self.running = port, True
        self.reset()

    def reset(self) -> None:
        "Forget what was measured."
        self.seconds: list[float] = []
        self.errors = 0

    async def connect(self) -> None:
        "Open a connection that asks until the load ends."
        await asyncio.get_running_loop().create_connection(lambda: Connection(self), "127.0.0.1", self.port)


class Connection(asyncio.Protocol):
    "One keep-alive connection."

    def __init__(self, load: Load):
        self.load = load

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.parser = transport, httptools.HttpResponseParser(self)
        self.ask()

    def ask(self) -> None:
        self.started = time.perf_counter()
        self.transport.write(next(self.load.requests))

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        load = self.load
        if self.parser.get_status_code() == 200:
            load.seconds.append(time.perf_counter() - self.started)
        else:
            load.errors += 1
        if load.running:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        if self.load.running:
            self.load.errors += 1
            asyncio.get_running_loop().create_task(self.load.connect())


async def measure(load: Load, connections: int, warmup: float, seconds: float, pid: int) -> dict:
    "Warm up, then count what is answered in a window and what the server's processes spend in it."
    await asyncio.gather(*(load.connect() for _ in range(connections)))
    await asyncio.sleep(warmup)
    servers, beside = apart(tree(pid))
    load.reset()
    begun, server, others, own = time.perf_counter(), cpu_seconds(servers), cpu_seconds(beside), time.process_time()
    await asyncio.sleep(seconds)
    elapsed, own = time.perf_counter() - begun, time.process_time() - own
    server, others = cpu_seconds(servers) - server, cpu_seconds(beside) - others
    load.running = False
    times = sorted(load.seconds)
    if not times:
        raise SystemExit(f"the server answered nothing in {seconds:g} s, with {load.errors} errors; read its log")
    return {
        "requests_per_second": len(times) / elapsed,
        "p50_ms": times[len(times) // 2] * 1e3,
        "p99_ms": times[int(len(times) * 0.99)] * 1e3,
        "per_cpu_second": len(times) / server,
        "cpu_us": server / len(times) * 1e6,
        "beside_cpu_us": others / len(times) * 1e6,
        "server_cpu": server / elapsed,
        "client_cpu": own / elapsed,
        "rss_mb": resident_mb(servers),
        "worker_mb": max(resident_mb([pid]) for pid in servers),
        "beside_rss_mb": resident_mb(beside),
        "errors": load.errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Load a server on this machine and print what happened as JSON.",
        epilog="Example: python -m benchmarks.client 3000 /predict bodies.json --pid 4242 --connections 8",
    )
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path, help="JSON array of request bodies")
    parser.add_argument("--pid", type=int, required=True, help="the server's first process")
    parser.add_argument("--key", type=Path, help="file with the API key to send")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warmup", type=float, default=1)
    given = parser.parse_args()
    key = given.key.read_text().strip() if given.key else ""
    load = Load(given.port, given.path, json.loads(given.bodies.read_bytes()), key)
    print(json.dumps(uvloop.run(measure(load, given.connections, given.warmup, given.seconds, given.pid))))


if __name__ == "__main__":
    main()
