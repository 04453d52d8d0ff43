"""A server that is up, asked by hand or under load."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.machine import cores, free_ports, move_observer, signal_tree, start, stop
from benchmarks.prepare import ROOT, Prepared

STRIDE = 7  # between the beginnings of two requests of many records


class Running:
    "A contender's process, ready to answer."

    def __init__(self, contender: Contender, prepared: Prepared, *, on: set[int] | None = None, patience: float = 90):
        self.contender, self.prepared = contender, prepared
        self.folder, self.port = prepared.home / "run" / contender.name, free_ports(1)[0]
        command, env = contender.launch(prepared, self.folder, self.port)
        self.key = self.folder / "key" if contender.has_key else None
        self.log = prepared.home / "run" / f"{contender.name}.log"
        self.process = start(command, env=env, cwd=self.folder, log=self.log, on=cores()[0] if on is None else on)
        deadline = time.monotonic() + patience
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.end()
                raise SystemExit(
                    f"{contender.name} did not become ready; the end of its log:\n{self.log.read_text()[-3000:]}"
                )
            time.sleep(0.1)
        while contender.has_observer and not move_observer(self.process.pid, cores()[1]):
            time.sleep(0.1)

    def _is_ready(self) -> bool:
        try:
            return self.ask(slice(0, 1))[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def ask(self, which: slice) -> tuple[int, bytes]:
        "Status and body of the answer about some of the records."
        path, body = self.contender.request(self.prepared, which)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            known = {"Authorization": f"Bearer {self.key.read_text()}"} if self.key else {}
            connection.request("POST", path, body, {"Content-Type": "application/json"} | known)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def scores(self, which: slice) -> list[float]:
        "What it answers about some of the records."
        status, body = self.ask(which)
        if status != 200:
            raise SystemExit(f"{self.contender.name} answered {status}: {body[:500].decode(errors='replace')}")
        return self.contender.scores(json.loads(body))

    def pause(self) -> None:
        "Stop its processes while others are measured."
        signal_tree(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        signal_tree(self.process.pid, signal.SIGCONT)

    def end(self) -> None:
        stop(self.process)

    def load_command(self, connections: int, rows: int, seconds: float, warmup: float) -> list[str]:
        "The client's command line; every request asks about other records."
        bodies = self.folder / f"bodies-{rows}.json"
        if not bodies.exists():
            n = len(self.prepared.requests)
            starts = range(n) if rows == 1 else range(0, n - rows, STRIDE)
            bodies.write_text(
                json.dumps([self.contender.request(self.prepared, slice(s, s + rows))[1] for s in starts])
            )
        path = self.contender.request(self.prepared, slice(0, rows))[0]
        return [
            sys.executable, "-m", "benchmarks.client", str(self.port), path, str(bodies), "--pid", str(self.process.pid),
            "--connections", str(connections), "--seconds", str(seconds), "--warmup", str(warmup),
            *(["--key", str(self.key)] if self.key else []),
        ]  # fmt: skip

    def load(self, connections: int, rows: int, seconds: float, warmup: float) -> dict:
        "Measure one load from the client's core."
        command = self.load_command(connections, rows, seconds, warmup)
        done = subprocess.run(command, cwd=ROOT, env=client_env(), capture_output=True, text=True, preexec_fn=to_client)
        if done.returncode:
            raise SystemExit(f"the client of {self.contender.name} failed: {done.stderr[-2000:]}")
        found = json.loads(done.stdout)
        told = self.folder / "state" / "observer.json"
        lag = json.loads(told.read_bytes())["lag"] if self.contender.has_observer and told.exists() else 0.0
        return found | {"rows_per_second": found["requests_per_second"] * rows, "lag_seconds": lag}


def client_env() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(ROOT))}


def to_client() -> None:
    os.sched_setaffinity(0, cores()[1])
