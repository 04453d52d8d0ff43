"Requests that come whether or not earlier ones were answered: python -m benchmarks.flood home port key rate seconds connections"

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter, deque
from contextlib import suppress
from itertools import cycle
from pathlib import Path

import httptools
import uvloop

from benchmarks.contenders import CONTENDERS
from benchmarks.machine import end_cleanly
from benchmarks.prepare import Prepared

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


def requests_of(prepared: Prepared, port: int, key: Path) -> list[bytes]:
    "Whole requests, with the API key."
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key.read_text()}\r\n"
    made = (CONTENDERS["ours"].request(prepared, slice(i, i + 1))[1] for i in range(len(prepared.requests)))
    return [
        f"{head}Content-Type: application/json\r\nContent-Length: {len(b.encode())}\r\n\r\n{b}".encode() for b in made
    ]


async def flood(port: int, requests: list[bytes], rate: float, seconds: float, connections: int) -> None:
    "Send, and print the counts of each second as a line of JSON."
    sender = Flood(port, requests, connections)
    sending = asyncio.create_task(sender.send(rate, seconds))
    while not sending.done():
        await asyncio.sleep(1)
        print(json.dumps(sender.take()[1]), flush=True)


def main() -> None:
    home, port, key, rate, seconds, connections = sys.argv[1:]
    end_cleanly()
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))  # those who measure beside it come first
    requests = requests_of(Prepared(Path(home)), int(port), Path(key))
    uvloop.run(flood(int(port), requests, float(rate), float(seconds), int(connections)))


if __name__ == "__main__":
    main()
