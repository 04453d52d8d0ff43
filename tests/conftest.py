"What tests of a running service share: a deployment whose versions are a few lines of arithmetic."

import math
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from prodml_nb.contract.spec import Category, Flag, ModelSpec, Number
from prodml_nb.record.artifacts import register
from prodml_nb.record.ledger import Ledger
from prodml_nb.record.vault import Vault
from prodml_nb.settings import Settings, load_settings

LATE = ModelSpec(
    name="late",
    task="binary",
    target="late",
    classes=("on time", "late"),
    subject="plane",
    time="at",
    fallback=0.25,
    features=(
        Number("wind", unit="knots", low=0.0, high=200.0),
        Number("slack in minutes", missing="reject"),
        Category("sky", levels=("clear", "overcast"), unseen="reject"),
        Flag("holiday"),
    ),
)
RECORD = {"wind": 10, "slack in minutes": 5, "sky": "clear", "holiday": False}


def late_graph(bias: float) -> bytes:
    "The ONNX graph of sigmoid(wind / 100 + bias); a NaN bias makes a version that never has a sound score."
    from onnx import TensorProto, helper, numpy_helper

    constants = {"w": [[0.01], [0.0], [0.0]], "b": [bias], "one": [1.0]}
    nodes = [
        helper.make_node("MatMul", ["numbers", "w"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["t"]),
        helper.make_node("Sigmoid", ["t"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["scores"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "late",
        [helper.make_tensor_value_info("numbers", TensorProto.FLOAT, [None, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, 2])],
        [numpy_helper.from_array(np.array(v, np.float32), n) for n, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def late_probability(wind: float, bias: float) -> float:
    "What that graph computes."
    return 1 / (1 + math.exp(-(wind / 100 + bias)))


class Deployment:
    "A state directory with a ledger, and the servers that were started on it."

    def __init__(self, root: Path):
        self.root, self.ledger = root, Ledger(f"sqlite:///{root / 'ledger.db'}")
        self.vault, self.models_dir, self.journal_dir = Vault(root / "keys"), root / "models", root / "journal"

    def settings(self, **serve: Any) -> Settings:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        own = {"PRODML_STATE_ROOT": str(self.root), "PRODML_SERVE_PORT": str(port), "PRODML_SERVE_OBSERVER": "off"}
        return load_settings(env=own | {f"PRODML_SERVE_{k.upper()}": str(v) for k, v in serve.items()})

    def register(self, bias: float, spec: ModelSpec = LATE) -> int:
        files = {"model.onnx": late_graph(bias)}
        return register(
            self.models_dir, self.ledger, self.vault, spec=spec, files=files, metrics={}, lineage={}
        ).version

    def promote(self, version: int) -> None:
        self.ledger.append("promoted", model="late", version=version, reason="a test says so")

    def rollback(self) -> None:
        now = self.ledger.state("late")
        self.ledger.append(
            "rolled_back", model="late", version=now.previous, data={"from": now.champion}, reason="a test says so"
        )

    def release(self, *biases: float) -> None:
        for bias in biases:
            self.promote(self.register(bias))

    @contextmanager
    def serve(self, *, ready: str = "/readyz", **serve: Any) -> Iterator[tuple[httpx.Client, subprocess.Popen]]:
        "The real server in its own process group, and a client of it."
        process, url = self._started(ready, serve)
        try:
            with httpx.Client(base_url=url, timeout=30) as client:
                yield client, process
        finally:
            end(process)

    def _started(self, ready: str, serve: dict[str, Any]) -> tuple[subprocess.Popen, str]:
        "A ready service. BentoML chooses a port for its supervisor that another test may take before it: then once more."
        from prodml_nb.serve.launch import serve_command

        for attempt in range(3):
            settings, log = self.settings(**serve), self.root / "service.log"
            command, env = serve_command(settings)
            self.root.mkdir(parents=True, exist_ok=True)
            with open(log, "ab") as out:
                process = subprocess.Popen(
                    command,
                    env=env,
                    cwd=self.root,
                    stdout=out,
                    stderr=out,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
            try:
                url = f"http://127.0.0.1:{settings.serve.port}"
                with httpx.Client(base_url=url, timeout=30) as client:
                    wait_for(lambda: answers(client, ready) or process.poll() is not None, 60)
                assert process.poll() is None, log.read_text()
                return process, url
            except AssertionError:
                end(process)
                if attempt == 2 or "Address already in use" not in log.read_text():
                    raise
        raise AssertionError("not reached")


def answers(client: httpx.Client, path: str) -> bool:
    try:
        return client.get(path).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(what: Callable[[], Any], seconds: float = 10) -> Any:
    "Wait until something is true, and return it."
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found


def workers(parent: int) -> list[int]:
    "Process ids of the children of a process; none if it is gone."
    try:
        return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
    except OSError:
        return []


def end(process: subprocess.Popen) -> None:
    "Ask a server to end, and insist if it does not."
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        kill_all(process)


def kill_all(process: subprocess.Popen) -> None:
    "kill -9 of a server and its workers, which are in sessions of their own."
    for pid in (process.pid, *workers(process.pid)):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait(10)


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path / "state")


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, httpx.Client]]:
    "A deployment with version 2 live and version 1 behind it, and a client of its running server."
    deployment = Deployment(tmp_path_factory.mktemp("live") / "state")
    deployment.release(-1.0, 1.0)
    with deployment.serve() as (client, _):
        yield deployment, client
