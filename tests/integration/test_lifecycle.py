"""Other models, same life: every command and notebook, on data that has nothing to do with flights."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from prodml_nb.contract.frame import check_frame
from prodml_nb.operate.replay import COMMAND, post_outcomes, replay, requests_of, running_service
from prodml_nb.operate.workspace import Workspace
from prodml_nb.settings import load_settings

MODELS = Path(__file__).parent / "models"


def environment(model: str, root: Path) -> dict[str, str]:
    return {
        "PRODML_MODEL_MODULE": str(MODELS / f"{model}.py"),
        "PRODML_STATE_ROOT": str(root),
        "PRODML_MONITOR_MIN_OUTCOMES": "50",
    }


def prodml(env: dict[str, str], *args: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *args], env={**os.environ, **env}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == status, f"prodml {' '.join(args)}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def prodml_here(env: dict[str, str], *args: str) -> str:
    """The same command in this process, where kernels are warm: a fresh one spends its time on imports."""
    from typer.testing import CliRunner

    from prodml_nb.cli import app
    from prodml_nb.operate.kernels import warm_up

    warm_up()
    done = CliRunner().invoke(app, args, env=env, catch_exceptions=False)
    assert done.exit_code == 0, f"prodml {' '.join(args)}: status {done.exit_code}\n{done.output}"
    return done.stdout


@pytest.mark.parametrize("model, prodml", [("diabetes", prodml_here), ("wine", prodml_here), ("cancer", prodml)])
def test_a_model_lives_its_whole_life(model: str, prodml: Callable[..., str], tmp_path: Path) -> None:
    env = environment(model, tmp_path / "state")
    trained = json.loads(prodml(env, "train", "--quiet", "--json"))
    assert trained["result"]["version"] == 1
    assert {f"train.{kind}" for kind in ("ipynb", "html")} <= set(trained["digests"])
    validated = json.loads(prodml(env, "validate", "1", "--quiet", "--json"))
    assert validated["result"]["verdict"] == "pass"
    prodml(env, "promote", "1", "--reason", "first release")

    settings = load_settings(env=env)
    workspace = Workspace(settings)
    spec = workspace.definition.spec
    frame = check_frame(spec, workspace.definition.load(None, None))[:120]
    with running_service(settings) as (url, _):
        answers = replay(url, requests_of(spec, frame))
        assert {a["version"] for a in answers} == {1} and not any(a["fallback"] for a in answers)
        if spec.classes:
            assert all(a["prediction"] in spec.classes for a in answers)
        post_outcomes(url, [a["prediction_id"] for a in answers], list(frame[spec.target]))
        seen = json.loads(prodml(env, "monitor", "--quiet", "--json"))
        assert seen["result"]["rows"] == seen["result"]["outcomes"] == len(frame)

        retrained = json.loads(prodml(env, "retrain", "--quiet", "--json"))
        assert retrained["action"] == "promoted" and retrained["version"] == 2
        wait_for_version(url, 2)
        prodml(env, "rollback", "--reason", "practice")
        wait_for_version(url, 1)
        found = httpx.get(f"{url}/predictions/{answers[0]['prediction_id']}").json()
        assert found["prediction"]["id"] == answers[0]["prediction_id"] and len(found["feedback"]) == 1

    assert workspace.journal.count() == {
        "prediction": len(frame),
        "feedback": len(frame),
        "refusal": 0,
        "batch": 0,
        "outage": 0,
    }
    assert json.loads(prodml(env, "status", "--json"))["champion"] == 1
    kinds = [e["kind"] for e in json.loads(prodml(env, "log", "--json"))]
    assert [k for k in kinds if k in ("promoted", "rolled_back")] == ["promoted", "promoted", "rolled_back"]
    index = (tmp_path / "state" / "site" / "index.html").read_text()
    assert (index.count('href="../runs/'), index.count("<b>promote</b>"), index.count("<b>rollback</b>")) == (5, 2, 1)


def wait_for_version(url: str, version: int) -> None:
    """The service follows the ledger, however busy the machine."""
    import time

    deadline = time.monotonic() + 10
    while httpx.get(f"{url}/model").json()["version"] != version:
        assert time.monotonic() < deadline, f"version {version} is not served after ten seconds"
        time.sleep(0.02)


def test_papermill_alone_runs_a_pipeline(tmp_path: Path) -> None:
    env = environment("wine", tmp_path / "state")
    notebook = Path(__file__).parents[2] / "nbs" / "pipelines" / "train.ipynb"

    def papermill(*parameters: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "papermill", str(notebook), str(tmp_path / "train.ipynb"), *parameters]
        return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=300)

    for name in ("sede", "views", "In"):  # names that the notebook and IPython give to something are no way in
        refused = papermill("-p", name, "7")
        assert refused.returncode != 0 and f"'{name}' is not a parameter" in refused.stderr, refused.stderr
    assert papermill("-p", "seed", "7").returncode == 0
    workspace = Workspace(load_settings(env=env))
    assert workspace.artifact(1).lineage["seed"] == 7
    prodml(env, "report", str(notebook), status=1)  # nobody has run that one
    run = json.loads(prodml(env, "report", str(tmp_path / "train.ipynb"), "--json"))
    assert (run["status"], run["pipeline"], run["result"]["version"]) == ("succeeded", "train", 1)
    assert workspace.ledger.events(kind="run")[-1].data["digests"] == run["digests"]
    assert f"../runs/{run['id']}/train.html" in (workspace.settings.site_dir / "index.html").read_text()
    assert all(c["problem"] == "" for c in json.loads(prodml(env, "verify", "--json")))
    prodml(env, "report", str(tmp_path / "train.ipynb"), status=1)  # once is enough


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    env = environment("wine", tmp_path / "state")
    prodml(env, "promote", "7", "--reason", "hope", status=1)
    prodml(env, "validate", status=2)
    prodml({**env, "PRODML_SERVE_PROT": "80"}, "status", status=1)
