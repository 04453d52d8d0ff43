"""Cores, process trees and what they cost, from Linux' /proc."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@cache
def cores() -> tuple[set[int], set[int]]:
    "Cores for the server and for the client, as of the first call: one each, the same one if there is only one."
    usable = sorted(os.sched_getaffinity(0))
    return {usable[0]}, {usable[min(1, len(usable) - 1)]}


def _stat(pid: int) -> list[str]:
    "The fields of /proc/PID/stat after the command's name; empty if the process is gone."
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(root: int) -> list[int]:
    "A process and its descendants."
    parents = {int(p.name): _stat(int(p.name)) for p in Path("/proc").iterdir() if p.name.isdigit()}
    found = [root]
    for pid in found:
        found += [child for child, stat in parents.items() if stat and int(stat[1]) == pid]
    return found


def apart(pids: Iterable[int]) -> tuple[list[int], list[int]]:
    "Processes that share no core with this one, and those that do."
    own, found = os.sched_getaffinity(0), ([], [])
    for pid in pids:
        with suppress(ProcessLookupError):
            found[bool(os.sched_getaffinity(pid) & own)].append(pid)
    return found if found[0] else (found[1], [])  # one core for everybody


def _is_observer(pid: int) -> bool:
    try:
        return b"observe.observer" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


def move_observer(root: int, to: set[int]) -> bool:  # whether there was one
    "Give the observer of a service other cores than its workers have, with all its threads."
    found = [pid for pid in tree(root) if _is_observer(pid)]
    for task in (int(t.name) for pid in found for t in Path(f"/proc/{pid}/task").iterdir()):
        os.sched_setaffinity(task, to)
    return bool(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    "User and system time of processes, with that of their children that ended."
    return sum(sum(map(int, stat[11:15])) for stat in map(_stat, pids) if stat) / TICKS


def resident_mb(pids: Iterable[int]) -> float:
    "Resident memory of processes; pages they share count for each."
    return sum(int(stat[21]) for stat in map(_stat, pids) if stat) * PAGE / 1e6


def free_ports(n: int) -> list[int]:
    "Loopback ports that nobody listens on at this moment."
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    found = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return found


def start(command: list[str], *, env: dict[str, str], cwd: Path, log: Path, on: set[int]) -> subprocess.Popen:
    "Start a process in a session of its own, on given cores."
    with log.open("wb") as out:
        return subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, on),
        )  # fmt: skip


def signal_tree(root: int, number: signal.Signals) -> None:
    "Send a signal to a process and its descendants."
    for pid in tree(root):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def stop(process: subprocess.Popen, grace: float = 10.0) -> None:
    "Ask a process to end; after a grace period, end it, its group and the descendants it had."
    family = tree(process.pid) if process.poll() is None else []
    if family:
        signal_tree(process.pid, signal.SIGCONT)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)
    for pid in family:
        with suppress(ProcessLookupError):
            if os.getsid(pid) in family:  # else the number belongs to somebody else by now
                os.kill(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_cleanly() -> None:
    "Let SIGTERM unwind this process, so that it ends the servers it started."
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside; the servers were stopped"))


def describe() -> dict[str, object]:
    "The machine, as far as it matters to the figures."
    models = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    packages = ("bentoml", "msgspec", "numpy", "onnxruntime", "scikit-learn", "uvicorn", "uvloop")
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "system": platform.system(),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def _cpuinfo() -> list[str]:
    return Path("/proc/cpuinfo").read_text().splitlines()
