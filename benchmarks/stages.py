"""Where the microseconds of one of our own requests go."""

from __future__ import annotations

import asyncio
import gc
import shutil
from collections import defaultdict
from statistics import median
from time import perf_counter

from benchmarks import show
from benchmarks.prepare import Prepared
from benchmarks.results import Summary

SIZES = (1, 8, 64, 100)
REPEATS = 400


def measure(prepared: Prepared) -> dict[str, dict[str, float]]:  # size -> stage -> µs
    "Median µs of every stage, called in this process as the service calls it."
    from prodml_nb.serve.service import open_endpoint
    from prodml_nb.settings import Settings, StateSettings

    root = prepared.home / "run" / "stages"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(prepared.state, root, ignore=shutil.ignore_patterns("runs", "site"))
    endpoint = open_endpoint(Settings(state=StateSettings(root=root)))
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        return {str(n): asyncio.run(_of_size(endpoint, prepared, n)) for n in SIZES}
    finally:
        gc.enable()
        endpoint.router.stop()
        endpoint.recorder.close()


async def _of_size(endpoint, prepared: Prepared, n: int) -> dict[str, float]:
    "Stages of requests of n records, and the whole endpoint beside their sum."
    starts = range(0, len(prepared.requests) - n, max(1, n // 3))
    bodies = [prepared.requests[s : s + n] for s in starts][:REPEATS]
    bodies = [b[0] if n == 1 else b"[" + b",".join(b) + b"]" for b in bodies]
    times: dict[str, list[float]] = defaultdict(list)
    for body in bodies[:50]:
        await _whole(endpoint, body)
    for body in bodies:
        for stage, seconds in await _stages(endpoint, body):
            times[stage].append(seconds)
        times["whole endpoint"].append(await _whole(endpoint, body))
    found = {stage: median(seconds) * 1e6 for stage, seconds in times.items()}
    whole = found.pop("whole endpoint")
    return found | {"future, turn and reply": whole - sum(found.values()), "whole endpoint": whole}


def _scope(body: bytes) -> dict:
    "What uvicorn hands to the middleware."
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    scope = {"type": "http", "method": "POST", "path": "/predict", "query_string": b"", "server": ("127.0.0.1", 1)}
    return scope | {"headers": headers}


async def _whole(endpoint, body: bytes) -> float:
    "One request through the endpoint, from ASGI to ASGI."

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict) -> None:
        if message.get("status", 200) != 200:
            raise SystemExit(f"the endpoint answered {message['status']} to a record of the benchmark")

    scope, started = _scope(body), perf_counter()
    await endpoint(scope, receive, send)
    return perf_counter() - started


async def _stages(endpoint, body: bytes) -> list[tuple[str, float]]:
    "One request, step by step, and what each step took."
    from prodml_nb.record.journal import now
    from prodml_nb.serve.answers import Limits, Turn, Waiting, answer_of, write_up
    from prodml_nb.serve.endpoint import encode, find_operation, find_path
    from prodml_nb.serve.fallback import score_rows
    from prodml_nb.serve.guard import read_head

    async def receive() -> dict:
        return {"type": "http.request", "body": body, "more_body": False}

    scope, marks = _scope(body), [("", perf_counter())]

    def mark(stage: str) -> None:
        marks.append((stage, perf_counter()))

    operation = find_operation(scope, find_path(scope))
    endpoint.access.check(read_head(scope, endpoint.max_bytes), scope["server"], operation.scope)
    await endpoint.readers.read(receive, endpoint.max_bytes)
    mark("path, guard and access")
    route = endpoint.leading()
    mark("route")
    batch = route.leader.decoder.decode(body)
    mark("decode and policies")
    scored = score_rows(route, batch.numbers, batch.categories, batch.features, batch.fallback)
    mark("score")
    ood = route.leader.ood and route.leader.ood.score(batch.numbers, batch.categories)
    turn = Turn(scored, ood, now(), perf_counter())
    mark("OOD score")
    waiting = Waiting(route, batch, marks[0][1], None, None, False, marks[0][1])
    records = write_up(waiting, turn, Limits())
    mark("write up")
    endpoint.recorder.append(records)
    mark("journal")
    answers = [answer_of(record, []) for record in records]
    encode(answers[0] if batch.single else answers)
    mark("encode")
    endpoint.meters.turned("flights", turn, 1e-5, 1e-6, 1e-4, 1e-5)
    endpoint.meters.answered("/predict", 200, 1e-4)
    mark("meters")
    return [(stage, at - before) for (_, before), (stage, at) in zip(marks, marks[1:])]


def outside(summary: Summary) -> dict[str, dict[str, float]]:  # load -> part -> µs of CPU a request
    "Transport, middleware and endpoint, by difference between servers with less and less in them; and all of it on the fast path."
    found = {}
    for load, servers in summary.items():
        if {"uvicorn_empty", "door_empty", "ours_long_way", "ours"} <= servers.keys():
            names = ("uvicorn_empty", "door_empty", "ours_long_way", "ours")
            floor, door, long_way, fast = (servers[n]["cpu_us"][0] for n in names)
            parts = {"transport": floor, "BentoML and its middleware": door - floor, "endpoint": long_way - door}
            found[load] = parts | {"all of it, the long way": long_way, "all of it, on the fast path": fast}
    return found


def show_both(around: dict[str, dict[str, float]], inside: dict[str, dict[str, float]]) -> None:
    "Both breakdowns as tables."
    if around:
        rows = [[part, *(f"{around[load][part]:,.0f}" for load in around)] for part in next(iter(around.values()))]
        show.plain_table("our request from outside, µs of CPU, by difference of servers", ["part", *around], rows)
    rows = [[stage, *(f"{inside[n][stage]:,.1f}" for n in inside)] for stage in next(iter(inside.values()))]
    show.plain_table("our request from inside, µs, by records in the request", ["stage", *inside], rows)
