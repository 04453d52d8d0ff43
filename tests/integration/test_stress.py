"The service under load, through the real command, with real records over HTTP."

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import wait_for
from typer.testing import CliRunner

from prodml_nb.cli import app
from prodml_nb.errors import DataError
from prodml_nb.observe.observer import Observer, Profiler
from prodml_nb.observe.profiles import summary
from prodml_nb.operate.kernels import warm_up
from prodml_nb.operate.lineage import journal_window
from prodml_nb.operate.load import Driver, Plan, Step
from prodml_nb.operate.release import GateRefused, promote, rollback
from prodml_nb.operate.replay import COMMAND, replay, running_service
from prodml_nb.operate.staging import staged
from prodml_nb.operate.stress import PROGRESS, records_of
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.journal import now
from prodml_nb.record.keys import split_key
from prodml_nb.settings import Settings, load_settings

MODEL = """
    import pandas as pd
    from sklearn.datasets import load_wine
    from prodml_nb import ModelSpec
    from prodml_nb.contract.spec import Budgets

    def load(since=None, until=None) -> pd.DataFrame:
        return load_wine(as_frame=True).frame

    spec = ModelSpec.infer(load(), target="target", name="wine", fallback=1, budgets=Budgets(latency_ms=60_000))
"""  # a budget that no machine is too slow for


def prodml(env: dict[str, str], *args: str, status: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *args], env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, f"prodml {' '.join(args)}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def prodml_here(env: dict[str, str], *args: str, status: int | None = 0) -> str:  # status None: whatever it is
    "The same command in this process, where kernels are warm; what it prints."
    warm_up()
    done = CliRunner().invoke(app, args, env=env, catch_exceptions=False)
    assert status in (done.exit_code, None), f"prodml {' '.join(args)}: status {done.exit_code}\n{done.output}"
    return done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    "The environment of a deployment with one released version."
    folder = tmp_path_factory.mktemp("wine")
    (folder / "wine.py").write_text(textwrap.dedent(MODEL))
    env = {"PRODML_MODEL_MODULE": str(folder / "wine.py"), "PRODML_STATE_ROOT": str(folder / "state")}
    env["PRODML_SERVE_OBSERVER"] = "off"
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        env["PRODML_SERVE_PORT"] = str(s.getsockname()[1])
    prodml_here(env, "train", "--quiet")
    prodml_here(env, "promote", "1", "--override", "--reason", "to be put under load")
    return env


@pytest.fixture(scope="module")
def served(project: dict[str, str]) -> Iterator[tuple[dict[str, str], Settings, str]]:
    settings = load_settings(env=project)
    with running_service(settings) as (url, _):
        yield project, settings, url


def test_a_stress_run_is_evidence_and_no_traffic(served, tmp_path: Path) -> None:
    env, settings, url = served
    workspace = Workspace(settings)
    traffic = replay(url, [r.encode() for r in records_of(workspace, sample=30)])
    assert {a["route"] for a in traffic} == {"champion"}
    after = now()

    load = ["--users", "4", "--seconds", "3", "--steps", "2", "--processes", "2"]
    run = json.loads(prodml_here(env, "stress", "--url", url, *load, "--quiet", "--json"))
    result = run["result"]
    assert [(g["name"], g["verdict"]) for g in result["gates"]] == [
        ("latency under load", "pass"),
        ("errors under load", "pass"),
    ]
    assert (result["verdict"], result["version"], result["errors"]) == ("pass", 1, {})
    told = [e for e in workspace.ledger.events() if e.kind in ("stressed", "run")][-2:]
    assert [(e.kind, e.version) for e in told] == [("stressed", 1), ("run", 1)]
    assert told[1].data["digests"] == run["digests"] and set(run["digests"]) == {"stress.ipynb", "stress.html"}
    assert [s["users"] for s in told[0].data["steps"]] == [2, 4]
    assert not workspace.state().versions[1].evidence, "a load test must not stand in for a validation"

    routes = workspace.journal.query("SELECT route, count(*) AS n FROM predictions GROUP BY route")
    counted = dict(zip(routes["route"], routes["n"]))
    assert counted["champion"] == 30 and counted["stress"] > 30
    assert len(workspace.journal.frame(workspace.definition.spec)) == 30
    seen = json.loads(prodml_here(env, "monitor", "--quiet", "--json"))
    assert seen["result"]["rows"] == 30
    with pytest.raises(DataError, match="has no answers"):  # in the window of the load alone
        journal_window(workspace, after, None)

    profiler = Profiler(tmp_path / "profiles", lambda model, version: workspace.definition.spec)
    observer = Observer(settings.journal_dir, tmp_path / "observer.db", [profiler])
    while observer.step():
        pass
    rows = [summary(f)["rows"].max() for f in (tmp_path / "profiles").iterdir()]
    assert (sum(rows), observer.rows) == (30, sum(counted.values()))


def test_a_rate_that_is_not_carried_is_refused(served) -> None:
    env, _, url = served
    load = ["--users", "1", "--rate", "50000", "--seconds", "2", "--steps", "1"]
    run = json.loads(prodml_here(env, "stress", "--url", url, *load, "--quiet", "--json", status=3))
    refused = [g for g in run["result"]["gates"] if g["verdict"] == "refuse"]
    assert [g["name"] for g in refused] == ["rate"] and "every user was busy" in refused[0]["detail"]
    assert run["result"]["errors"] == {} and run["result"]["unsent"] > 10_000


def test_a_candidate_is_put_under_load_on_a_stage_and_the_verdict_counts(project) -> None:
    workspace = Workspace(load_settings(env=project))
    prodml_here(project, "train", "--quiet", "--param", "max_iter=20")
    version, before = max(workspace.state().versions), workspace.journal.count()
    load = ["--version", str(version), "--users", "1", "--seconds", "2", "--steps", "1", "--quiet", "--json"]
    run = json.loads(prodml_here(project, "stress", *load, "--rate", "50000", status=3))
    state = workspace.state()
    assert (run["result"]["version"], state.champion) == (version, 1)
    assert state.versions[version].load == "refused 1 of 3"
    assert (workspace.journal.count(), list(workspace.root.glob("staging-*"))) == (before, [])
    prodml_here(project, "validate", str(version), "--quiet", "--json", status=None)
    with pytest.raises(GateRefused, match=f"load test .rate.; run `prodml stress --version {version}`"):
        promote(workspace, version, "it is the newer one")
    assert json.loads(prodml_here(project, "stress", *load, "--rate", "50"))["result"]["verdict"] == "pass"
    event = promote(workspace, version, "it carries the load", override=True)
    assert "rate" not in event.data["overridden"]
    assert workspace.ledger.events()[event.data["stressed"] - 1].kind == "stressed"
    rollback(workspace, "back to where the other tests are")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_no_service_and_its_stage_is_cleared_away(project, number) -> None:
    workspace = Workspace(load_settings(env=project))
    command = [sys.executable, "-c", COMMAND, "stress", "--version", "1", "--users", "1", "--seconds", "60", "--quiet"]
    run = subprocess.Popen(command, env={**os.environ, **project}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started = wait_for(
        lambda: [p for p in psutil.Process(run.pid).children(recursive=True) if "bentoml" in " ".join(p.cmdline())], 60
    )
    wait_for(lambda: (workspace.root / PROGRESS).exists(), 60)
    started = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(number)
    assert run.wait(30) == (128 + number if number == signal.SIGTERM else -number)
    assert psutil.wait_procs(started, timeout=30)[1] == []
    left = list(workspace.root.glob("staging-*"))
    assert bool(left) == (number == signal.SIGKILL)
    with staged(workspace, 1):
        assert len(list(workspace.root.glob("staging-*"))) == 1
    assert not list(workspace.root.glob("staging-*"))


def test_refusals_of_the_service_are_told_by_their_kind(served) -> None:
    _, _, url = served
    found = Driver(Plan(url, ['{"no such": 1}', "[]"], [Step(2, 0.0, 1.0)])).run()
    kinds = {kind for second in found for kind in second.errors}
    assert kinds == {"422 Invalid request"} and not any(second.bins for second in found)


def test_a_service_that_hangs_has_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def hold() -> None:
            try:
                while True:
                    held.append(server.accept()[0])
            except OSError:
                pass

        threading.Thread(target=hold, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        found = Driver(Plan(url, ["{}"], [Step(3, 0.0, 1.0)], timeout=2.0)).run()
        for connection in held:
            connection.close()
    errors = [kind for second in found for kind in second.errors]
    assert errors and all(kind.startswith("no answer") for kind in errors)
    assert not any(second.bins for second in found)


def test_without_a_service_nothing_is_begun_and_start_has_one(project: dict[str, str]) -> None:
    workspace = Workspace(load_settings(env=project))
    before, runs = len(workspace.ledger.events()), len(list(workspace.settings.runs_dir.iterdir()))
    said = prodml(project, "stress", status=1).stderr
    assert f"http://127.0.0.1:{project['PRODML_SERVE_PORT']}" in said and "prodml serve" in said and "--start" in said
    assert (len(workspace.ledger.events()), len(list(workspace.settings.runs_dir.iterdir()))) == (before, runs)
    for wrong, told in (("--rate=inf", "a finite rate"), ("--url=here", "here is no address of a service")):
        assert told in prodml(project, "stress", wrong, status=1).stderr
    load = ["--start", "--users", "2", "--seconds", "2", "--steps", "1"]
    assert "2 users" in prodml_here(project, "stress", *load, "--quiet")
    assert not (workspace.root / "stress.json").exists()


def test_a_key_is_taken_from_where_it_is_named_and_kept_nowhere(served, tmp_path: Path) -> None:
    """The last test of this deployment: from its first key on, nobody is let in without one."""
    env, settings, url = served
    key = prodml(env, "keys", "create", "--scope", "admin", "--reason", "load test").stdout.strip()
    weak = prodml(env, "keys", "create", "--scope", "predict", "--reason", "desk").stdout.strip()
    load = ["--url", url, "--users", "2", "--seconds", "2", "--steps", "1", "--quiet"]

    def wait_until_asked() -> None:
        import time

        import httpx

        deadline = time.monotonic() + 10
        while httpx.get(f"{url}/model").status_code != 401:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    wait_until_asked()
    assert "STRESS_API_KEY" in prodml(env, "stress", *load, status=1).stderr
    assert "scope admin" in prodml(env | {"STRESS_API_KEY": weak}, "stress", *load, status=1).stderr
    mistaken = prodml(env, "stress", *load, "--key-env", key, status=1)
    assert key not in mistaken.stderr + mistaken.stdout
    (tmp_path / "key").write_text(key + "\n")
    prodml_here(env, "stress", *load, "--key-file", str(tmp_path / "key"))
    prodml(env | {"STRESS_API_KEY": key}, "stress", *load)
    journaled = Workspace(settings).journal.query("SELECT count(*) AS n FROM predictions WHERE key IS NOT NULL")
    assert journaled["n"][0] > 0
    secret = split_key(key)[1].encode()
    assert len(secret) > 15
    kept = [p.name for p in settings.state.root.rglob("*") if p.is_file() and secret in p.read_bytes()]
    assert kept == []
