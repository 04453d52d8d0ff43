"""Who is compared: how each server starts, how it is asked, how its answer is read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import python_of
from benchmarks.machine import free_ports
from benchmarks.prepare import ROOT, Prepared

Records = slice  # which of the prepared records a request asks about


@dataclass(frozen=True)
class Contender:
    "One server in one configuration."

    name: str
    environment: str  # a lock of benchmarks/locks; "ours": this environment
    configuration: str  # for the reader of the results
    command: Callable[[Path, Path, int], list[str]]  # of its interpreter, its folder and its port
    request: Callable[[Prepared, Records], tuple[str, str]]  # path and body
    scores: Callable[[Any], list[float]] | None  # out of a decoded answer; None: it has no model
    variables: dict[str, str] = field(default_factory=dict)
    setup: Callable[[Path, Prepared, Path, dict[str, str]], None] = lambda python, prepared, folder, env: None
    has_key: bool = False  # `setup` left an API key in the folder's file "key"
    has_observer: bool = False  # a process beside the server, which gets the client's core

    def launch(self, prepared: Prepared, folder: Path, port: int) -> tuple[list[str], dict[str, str]]:
        "Command line and environment of the server, in an emptied folder of its own."
        python = Path(sys.executable) if self.environment == "ours" else python_of(self.environment, prepared.home)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        quiet = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        quiet["ORT_DISABLE_TELEMETRY"] = "1"
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        env = kept | quiet | {
            "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}", "PYTHONPATH": str(ROOT),
            "BENCH_MODEL": str(prepared.model), "BENTOML_HOME": str(folder / "bentoml"), "OMP_NUM_THREADS": "1",
        } | self.variables  # fmt: skip
        if self.environment == "ours":
            shutil.copytree(prepared.state, folder / "state", ignore=shutil.ignore_patterns("runs", "site"))
            env |= {"PRODML_STATE_ROOT": str(folder / "state"), "PRODML_SERVE_PORT": str(port)}
        self.setup(python, prepared, folder, env)
        return self.command(python, folder, port), env


# -- how they are asked


def as_replayed(prepared: Prepared, which: Records) -> tuple[str, str]:
    "As our replay asks: a record, or an array of them."
    chosen = [r.decode() for r in prepared.requests[which]]
    return "/predict", chosen[0] if len(chosen) == 1 else f"[{','.join(chosen)}]"


def as_fields(prepared: Prepared, which: Records) -> tuple[str, str]:
    "Features only, to one path for a record and another for many."
    chosen = prepared.records[which]
    return ("/one", json.dumps(chosen[0])) if len(chosen) == 1 else ("/many", json.dumps(chosen))


def as_keyword(prepared: Prepared, which: Records) -> tuple[str, str]:
    "As BentoML's API wants its argument."
    return "/predict", json.dumps({"records": prepared.records[which]})


def as_frame(prepared: Prepared, which: Records) -> tuple[str, str]:
    "As MLflow reads fastest: column names once, then rows."
    names = prepared.columns["all"]
    rows = [[r[name] for name in names] for r in prepared.records[which]]
    return "/invocations", json.dumps({"dataframe_split": {"columns": names, "data": rows}})


def as_tensors(prepared: Prepared, which: Records) -> tuple[str, str]:
    "The Open Inference Protocol, one tensor a column, to become a DataFrame."
    chosen, numbers = prepared.records[which], set(prepared.columns["numbers"])
    inputs = [
        {"name": name, "shape": [len(chosen), 1], "data": [r[name] for r in chosen]}
        | ({"datatype": "FP32"} if name in numbers else {"datatype": "BYTES", "parameters": {"content_type": "str"}})
        for name in prepared.columns["all"]
    ]
    asked = {"parameters": {"content_type": "pd"}, "inputs": inputs, "outputs": [{"name": "predict_proba"}]}
    return "/v2/models/flights/infer", json.dumps(asked)


def under_app(prepared: Prepared, which: Records) -> tuple[str, str]:
    "To the path of the mounted application."
    return "/app/predict", as_replayed(prepared, which)[1]


# -- how they start


def prodml(python: Path, folder: Path, port: int) -> list[str]:
    return [str(python), "-c", "from prodml_nb.cli import main; main()", "serve"]


def make_key(python: Path, prepared: Prepared, folder: Path, env: dict[str, str]) -> None:
    "A key that opens /predict, in a file that only the client reads."
    command = [
        str(python),
        "-c",
        "from prodml_nb.cli import main; main()",
        "keys",
        "create",
        "--scope",
        "predict",
        "--json",
    ]
    done = subprocess.run(command, env=env, cwd=folder, check=True, capture_output=True, text=True)
    with open(os.open(folder / "key", os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write(json.loads(done.stdout)["key"])


def bentoml(target: str) -> Callable[[Path, Path, int], list[str]]:
    return lambda python, folder, port: [
        str(python), "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port),
        "--working-dir", str(ROOT),
    ]  # fmt: skip


def uvicorn(target: str) -> Callable[[Path, Path, int], list[str]]:
    return lambda python, folder, port: [
        str(python), "-m", "uvicorn", target, "--host", "127.0.0.1", "--port", str(port), "--loop", "uvloop",
        "--http", "httptools", "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip


def mlflow(python: Path, folder: Path, port: int) -> list[str]:
    return [
        str(python), "-m", "mlflow", "models", "serve", "--model-uri", str(folder / "model"), "--host", "127.0.0.1",
        "--port", str(port), "--workers", "1", "--env-manager", "local",
    ]  # fmt: skip


def save_for_mlflow(python: Path, prepared: Prepared, folder: Path, env: dict[str, str]) -> None:
    subprocess.run(
        [str(python), "-m", "benchmarks.servers.mlflow_model", str(folder / "model")],
        env=env, cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


def mlserver(python: Path, folder: Path, port: int) -> list[str]:
    (grpc,) = free_ports(1)
    settings = {
        "host": "127.0.0.1", "http_port": port, "grpc_port": grpc, "parallel_workers": 0, "debug": False,
        "metrics_endpoint": None,
    }  # fmt: skip
    (folder / "settings.json").write_text(json.dumps(settings))
    return [str(python.with_name("mlserver")), "start", str(folder)]


def settle_mlserver(python: Path, prepared: Prepared, folder: Path, env: dict[str, str]) -> None:
    where = {"uri": str(prepared.model / "pipeline.joblib")}
    model = {"name": "flights", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": where}
    (folder / "model-settings.json").write_text(json.dumps(model))


# -- how they answer


def of_answers(answer: Any) -> list[float]:
    return [a["score"] for a in (answer if isinstance(answer, list) else [answer])]


def of_pairs(answer: Any) -> list[float]:
    return [pair[1] for pair in answer["predictions"]]


def of_tensor(answer: Any) -> list[float]:
    return answer["outputs"][0]["data"][1::2]


OURS = "prodml serve, one worker, API key, every feature on, journal {} before the answer"
EMPTY = "no model: reads the body, answers 280 bytes"
CONTENDERS = {
    c.name: c
    for c in (
        Contender(
            "ours", "ours", OURS.format("written"), prodml, as_replayed, of_answers, {}, make_key, True, True,
        ),
        Contender(
            "ours_synced", "ours", OURS.format("synced to disk"), prodml, as_replayed, of_answers,
            {"PRODML_SERVE_DURABILITY": "synced"}, make_key, True, True,
        ),
        Contender(
            "ours_unobserved", "ours", f"{OURS.format('written')}, but no observer", prodml, as_replayed, of_answers,
            {"PRODML_SERVE_OBSERVER": "off"}, make_key, True,
        ),
        Contender(
            "ours_long_way", "ours", f"{OURS.format('written')}, everything through BentoML's web server", prodml, as_replayed,
            of_answers, {"PRODML_SERVE_FAST_PATH": "off"}, make_key, True, True,
        ),
        Contender(
            "fastapi_sklearn", "fastapi", "pydantic, pipeline on a DataFrame, async def, orjson, uvloop, no access log",
            uvicorn("benchmarks.servers.fastapi_app:app"), as_fields, of_answers, {"BENCH_SCORER": "pipeline"},
        ),
        Contender(
            "fastapi_onnx", "fastapi", "pydantic, same ONNX graph, async def, orjson, uvloop, no access log",
            uvicorn("benchmarks.servers.fastapi_app:app"), as_fields, of_answers, {"BENCH_SCORER": "graph"},
        ),
        Contender(
            "mlflow", "mlflow", "mlflow models serve, scikit-learn flavour without signature, dataframe_split, no access log",
            mlflow, as_frame, of_pairs, {"UVICORN_ACCESS_LOG": "false"}, save_for_mlflow,
        ),
        Contender(
            "mlserver", "mlserver", "scikit-learn runtime, parallel_workers 0, no access log, no metrics",
            mlserver, as_tensors, of_tensor, {}, settle_mlserver,
        ),
        Contender(
            "bentoml_dict", "bentoml", "dict API, pipeline on a DataFrame, async def, no access log",
            bentoml("benchmarks.servers.bentoml_dict:Dicts"), as_keyword, lambda answer: answer,
        ),
        Contender(
            "bentoml_asgi", "bentoml", f"mounted ASGI application, default configuration, {EMPTY}",
            bentoml("benchmarks.servers.bentoml_asgi:Mounted"), under_app, None,
        ),
        Contender(
            "door_empty", "ours", f"our service and its middleware, without the fast path, {EMPTY}",
            bentoml("benchmarks.servers.door_empty:Prediction"), as_replayed, None, {"PRODML_SERVE_FAST_PATH": "off"},
        ),
        Contender(
            "uvicorn_empty", "fastapi", f"uvicorn, uvloop, httptools, no access log, {EMPTY}",
            uvicorn("benchmarks.servers.empty:app"), as_replayed, None,
        ),
    )
}  # fmt: skip
