"Releases, pipelines and the demo when something around them is not as it should be."

import json
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest

from prodml_nb import ModelSpec, Number
from prodml_nb.errors import PipelineError, ReleaseError
from prodml_nb.operate.demo import run_demo
from prodml_nb.operate.lineage import baseline
from prodml_nb.operate.loop import pending_verdict
from prodml_nb.operate.pipelines import run_pipeline
from prodml_nb.operate.release import GateRefused, promote, rollback
from prodml_nb.operate.reports import list_runs
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.artifacts import register
from prodml_nb.serve.service import open_router
from prodml_nb.settings import ModelSettings, Settings, StateSettings

LOAN = ModelSpec(name="loan", task="binary", target="late", classes=(False, True), features=(Number("income"),))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(replace(Settings(), state=StateSettings(root=tmp_path), model=ModelSettings(name="loan")))


def version(workspace: Workspace, auc: float = 0.8, spec: ModelSpec = LOAN) -> int:
    "Register a version and the evidence that it passes beside the champion of this moment."
    metrics = {"auc": {"value": auc, "low": auc - 0.01, "high": auc + 0.01}}
    made = register(
        workspace.settings.models_dir, workspace.ledger, workspace.vault,
        spec=spec, files={}, metrics=metrics, lineage={},
    )  # fmt: skip
    evidence = {"verdict": "pass", "gates": [], "champion": workspace.ledger.state(spec.name).champion}
    workspace.ledger.append("evidence", model=spec.name, version=made.version, data=evidence)
    return made.version


def test_a_damaged_champion_can_be_replaced(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    second = version(workspace)
    (workspace.settings.models_dir / "loan" / "1" / "spec.json").write_bytes(b"{}")
    promote(workspace, second, "the first is damaged")
    packed = {p.name for p in (workspace.settings.release_dir / "models" / "loan").iterdir()}
    assert (workspace.state().champion, packed) == (2, {"2"})


def test_evidence_against_an_earlier_champion_does_not_count(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    compared_with_first, third = version(workspace), version(workspace)
    promote(workspace, third, "better")
    with pytest.raises(GateRefused, match="another champion"):
        promote(workspace, compared_with_first, "better too?")


def test_a_verdict_about_another_version_asks_for_nothing(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    promote(workspace, version(workspace), "second")
    workspace.ledger.append("monitored", model="loan", version=1, data={"verdict": "retrain", "reasons": ["old"]})
    assert pending_verdict(workspace) is None
    workspace.ledger.append("monitored", model="loan", version=2, data={"verdict": "retrain", "reasons": ["new"]})
    assert pending_verdict(workspace).data["reasons"] == ["new"]


def test_a_version_forced_past_its_gates_is_held_to_its_predecessor(workspace: Workspace) -> None:
    promote(workspace, version(workspace, auc=0.8), "first")
    promote(workspace, version(workspace, auc=0.5), "trust me", override=True)
    held_to, promised = baseline(workspace, workspace.artifact(2))
    assert (held_to, promised["auc"].value) == (1, 0.8)
    rollback(workspace, "worse")
    assert baseline(workspace, workspace.artifact(1))[0] == 1


def test_a_second_model_in_the_ledger_does_not_stop_the_first(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    router = open_router(replace(workspace.settings, model=ModelSettings(name="")), None)
    router.refresh()
    before = router.current.model
    version(workspace, spec=ModelSpec(name="other", task="regression", target="y", features=(Number("x"),)))
    router.refresh()
    assert before == router.current.model == "loan"


def broken(folder: Path, *cells: str) -> str:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    notebook.cells[0].metadata["tags"] = ["parameters"]
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "broken.ipynb")
    return str(folder / "broken.ipynb")


@pytest.mark.parametrize(
    "cell, told", [("1 / 0", "ZeroDivisionError"), ("import os; os.kill(os.getpid(), 9)", "kernel died")]
)
def test_a_failed_run_leaves_its_evidence(workspace: Workspace, tmp_path: Path, cell: str, told: str) -> None:
    with pytest.raises(PipelineError, match=told):
        run_pipeline(workspace, broken(tmp_path, "n = 1", cell))
    (run,) = list_runs(workspace.settings.runs_dir)
    assert run.status == "failed" and told in run.headline
    assert set(run.digests) == {"broken.ipynb", "broken.html"}
    (event,) = workspace.ledger.events(kind="run")
    assert event.data["digests"] == run.digests
    assert told in (workspace.settings.site_dir / "index.html").read_text()


@pytest.mark.parametrize("module", ["1 / 0", "import sys; sys.exit(3)"])
def test_a_run_whose_module_breaks_on_import_is_recorded(tmp_path: Path, module: str) -> None:
    (tmp_path / "model.py").write_text(module)
    own = ModelSettings(module=str(tmp_path / "model.py"))
    workspace = Workspace(replace(Settings(), state=StateSettings(root=tmp_path / "state"), model=own))
    with pytest.raises(PipelineError, match="ZeroDivisionError"):
        run_pipeline(workspace, broken(tmp_path, "n = 1", "1 / 0"))
    (event,) = workspace.ledger.events(kind="run")
    assert event.model == "" and "ZeroDivisionError" in event.reason


def test_an_unknown_parameter_starts_nothing(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="'m' is not a parameter"):
        run_pipeline(workspace, broken(tmp_path, "n = 1"), {"m": 2})
    assert workspace.ledger.events() == [] and list_runs(workspace.settings.runs_dir) == []


def test_a_demo_that_somebody_went_on_with_is_not_deleted(workspace: Workspace) -> None:
    workspace.ledger.append("run", model="loan", reason="the demo's last event")
    (workspace.root / "demo.json").write_text(json.dumps({"ledger_head": workspace.ledger.head()[0]}))
    workspace.ledger.append("run", model="loan", reason="mine")
    with pytest.raises(ReleaseError, match="went on with"):
        run_demo(workspace.settings, progress=False)
    assert len(workspace.ledger.events()) == 2
