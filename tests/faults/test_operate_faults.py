"Releases, pipelines and the demo when something around them is not as it should be."

import fcntl
import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import msgspec
import nbformat
import numpy as np
import pandas as pd
import pytest

from prodml_nb import ModelSpec, Number
from prodml_nb.build.gates import check_gates, measure
from prodml_nb.build.training import split, train
from prodml_nb.contract.spec import Gate
from prodml_nb.errors import DataError, IntegrityError, PipelineError, ReleaseError, SettingsError
from prodml_nb.observe.drift import drift
from prodml_nb.observe.outcomes import live_quality
from prodml_nb.observe.reference import make_reference
from prodml_nb.operate import loop
from prodml_nb.operate import pipelines as running
from prodml_nb.operate.demo import run_demo
from prodml_nb.operate.lineage import baseline, holdout_of, journal_window, not_learned, register_candidate
from prodml_nb.operate.loop import pending_verdict, retrain
from prodml_nb.operate.pipelines import keep_executed, run_pipeline
from prodml_nb.operate.release import GateRefused, promote, rollback, status, write_release
from prodml_nb.operate.reports import Run, list_runs
from prodml_nb.operate.views import describe_candidate, drift_table, quality_table, verdict_headline
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.artifacts import Artifact, register
from prodml_nb.record.journal import JournalWriter, Prediction
from prodml_nb.record.ledger import Ledger
from prodml_nb.serve.service import open_router
from prodml_nb.settings import ModelSettings, Settings, StateSettings

LOAN = ModelSpec(name="loan", task="binary", target="late", classes=(False, True), features=(Number("income"),))


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(replace(Settings(), state=StateSettings(root=tmp_path), model=ModelSettings(name="loan")))


def version(
    workspace: Workspace, auc: float = 0.8, spec: ModelSpec = LOAN, verdict: str = "pass", **params: float
) -> int:
    "Register a version and the evidence beside the champion of this moment."
    metrics = {"auc": {"value": auc, "low": auc - 0.01, "high": auc + 0.01}}
    made = register(
        workspace.settings.models_dir, workspace.ledger, workspace.vault,
        spec=spec, files={"reference.json": b"{}"}, metrics=metrics, lineage={"params": params},
    )  # fmt: skip
    evidence = {"verdict": verdict, "gates": [], "champion": workspace.ledger.state(spec.name).champion}
    workspace.ledger.append("evidence", model=spec.name, version=made.version, data=evidence)
    return made.version


def test_a_damaged_champion_can_be_replaced(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    second = version(workspace)
    (workspace.settings.models_dir / "loan" / "1" / "spec.json").write_bytes(b"{}")
    promote(workspace, second, "the first is damaged")
    packed = {p.name for p in (workspace.settings.release_dir / "models" / "loan").iterdir()}
    assert (workspace.state().champion, packed) == (2, {"2"})


def test_a_promotion_whose_release_cannot_be_laid_out_says_that_it_happened_and_how_to_go_on(workspace):
    promote(workspace, version(workspace), "first")
    second, leftover = version(workspace), workspace.root / "release.new"
    leftover.write_text("a file where a folder belongs")
    with pytest.raises(ReleaseError, match="version 2 of loan IS the champion.*Not a directory.*prodml promote 2"):
        promote(workspace, second, "second", override=True)
    assert workspace.state().champion == second
    leftover.unlink()
    assert promote(workspace, second, "again").reason == "second"
    assert (workspace.settings.release_dir / "models" / "loan" / "2" / "manifest.json").exists()
    with pytest.raises(ReleaseError, match="nothing to do"):
        promote(workspace, second, "and again")


def test_a_package_carries_what_was_signed_and_nothing_beside_it(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    artifact = workspace.artifact(1)
    (artifact.path / "model.yaml").write_text("changed")
    packed = {p.name for p in (write_release(workspace) / "models" / "loan" / "1").iterdir()}
    assert packed == {*artifact.files, "manifest.json", "manifest.sig"}
    (artifact.path / "evil.py").write_text("")
    with pytest.raises(IntegrityError, match="evil.py"):
        write_release(workspace)


def test_a_page_that_cannot_be_made_does_not_make_a_decision_fail(workspace: Workspace, capsys) -> None:
    (workspace.root / "site").write_text("a file where the folder should be")
    promote(workspace, version(workspace), "first")
    assert capsys.readouterr().err.splitlines() == [
        "the index of reports could not be renewed (FileExistsError); the decision stands"
    ]
    (workspace.root / "site").unlink()
    for name, content in (("torn", b'{"id": '), ("other", b'{"id": 3}'), ("binary", b"\xff\xfe")):
        (workspace.settings.runs_dir / name).mkdir(parents=True)
        (workspace.settings.runs_dir / name / "run.json").write_bytes(content)
    promote(workspace, version(workspace), "second")
    assert rollback(workspace, "worse").version == workspace.state().champion == 1
    assert capsys.readouterr().err == "" and "worse" in (workspace.root / "site" / "index.html").read_text()


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


def answered(workspace: Workspace, by: int, rows: int, day: str = "2024-05-01", time: str | None = None) -> None:
    "Answers of a version in the journal."
    at, features = f"{day}T00:00:00.000000Z", {"income": 1.0}
    given = {"at": at, "time": time, "model": "loan", "version": by, "features": features, "score": 0.5}
    with JournalWriter(workspace.settings.journal_dir) as writer:
        writer.append([Prediction(id=f"{by}-{day}-{time}-{i}", request="1", **given) for i in range(rows)])


def look(workspace: Workspace) -> int:
    "A bare monitoring run that asks for a retraining; the version it was about."
    about = journal_window(workspace, None, None).artifact.version
    workspace.ledger.append("monitored", model="loan", version=about, data={"verdict": "retrain", "reasons": ["x"], "window": []})  # fmt: skip
    return about


def test_a_bare_monitor_looks_at_the_version_that_a_retraining_asks_about(workspace: Workspace) -> None:
    for n in (1, 2):
        promote(workspace, version(workspace), "better")
        answered(workspace, n, 30 // n)
    assert look(workspace) == 2 and pending_verdict(workspace)
    rollback(workspace, "practice")
    assert (pending_verdict(workspace), status(workspace)["monitor"]["version"]) == (None, 2)
    assert look(workspace) == 1 and pending_verdict(workspace)


def test_a_champion_without_answers_is_stood_in_for_and_both_commands_say_so(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    answered(workspace, 1, 3)
    promote(workspace, version(workspace), "second")
    window = journal_window(workspace, None, None)
    assert (window.artifact.version, window.silent) == (1, 2)
    verdict = type("Verdict", (), {"reasons": ["x"]})
    assert "version 1 (the champion, version 2, has no answers in it)" in verdict_headline(verdict, window)
    look(workspace)
    (said,) = retrain(workspace, if_needed=True).reasons
    assert "spoke of version 1, not of the champion, version 2" in said


def test_a_window_without_a_start_is_not_thinned_by_all_of_history(workspace: Workspace) -> None:
    promote(workspace, version(workspace), "first")
    for day in ("2023-01-01", "2024-04-10", "2024-05-01"):
        answered(workspace, 1, 5, day)
    assert len(journal_window(workspace, None, None).frame) == 10
    assert len(journal_window(workspace, None, None, days=7).frame) == 5
    assert len(journal_window(workspace, None, "2024-01-01").frame) == 5
    assert len(journal_window(workspace, "2020-01-01", None).frame) == 15


def test_a_record_that_names_a_time_to_come_hides_no_other(workspace: Workspace) -> None:
    timed = msgspec.structs.replace(LOAN, time="asked")
    promote(workspace, version(workspace, spec=timed), "first")
    for time, rows in (("2024-06-01", 30), ("2024-04-01", 5), ("2099-01-01", 1)):
        answered(workspace, 1, rows, "2024-06-02", f"{time}T00:00:00.000000Z")
    window = journal_window(workspace, None, None)
    assert (len(window.frame), window.bounds[0]) == (31, "2024-05-03T00:00:00")


def test_the_others_of_a_window_are_counted_from_where_it_begins(workspace: Workspace) -> None:
    for n in (1, 2):
        promote(workspace, version(workspace), "better")
    for by, day, rows in ((1, "2024-01-01", 9), (1, "2024-04-20", 4), (2, "2024-05-01", 3)):
        answered(workspace, by, rows, day)
    assert [journal_window(workspace, since, None).others for since in (None, "2024-01-01")] == [{1: 4}, {1: 13}]


def test_the_share_of_what_happened_stands_below_the_metrics_that_move_with_it() -> None:
    rng = np.random.default_rng(0)
    held = pd.DataFrame({"income": rng.normal(size=400), "late": np.arange(400) < 100})
    made = make_reference(LOAN, held, np.full(400, 0.3), held)
    live = held[:200].assign(outcome=np.arange(200) < 30, score=0.2)
    quality = live_quality(LOAN, live, bootstrap=20)
    told = quality_table(quality, quality.metrics, 1, made).data.set_index("metric")
    shares = told.loc["share of True, observed":]
    assert np.allclose(shares["live"], [0.15, 0.2, 0.05]) and np.allclose(shares["holdout of version 1"], [0.25, 0.3, 0.05])  # fmt: skip


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


def test_what_an_authors_error_says_stays_out_of_the_ledger_and_the_index(tmp_path: Path) -> None:
    (tmp_path / "boom.py").write_text("def load(since, until):\n    raise KeyError('value-' + '123')\n")
    workspace = Workspace(replace(Settings(), state=StateSettings(root=tmp_path / "state")))
    cells = ("n = 1", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import boom", "boom.load('', '')")
    with pytest.raises(PipelineError, match="failed: KeyError in boom.py, line 2; its report"):
        run_pipeline(workspace, broken(tmp_path, *cells))
    (event,) = workspace.ledger.events(kind="run")
    assert event.reason == "KeyError in boom.py, line 2"
    for written in ("ledger.db", "ledger.db-wal", "site/index.html", f"runs/{event.data['run']}/run.json"):
        assert not (path := workspace.root / written).exists() or b"value-123" not in path.read_bytes(), written
    assert "value-123" in (workspace.settings.runs_dir / event.data["run"] / "broken.html").read_text()


def test_a_run_says_when_as_the_ledger_does(workspace: Workspace, tmp_path: Path) -> None:
    cells = ("n = 1", "from prodml_nb.operate.reports import conclude; conclude('done')")
    done = run_pipeline(workspace, broken(tmp_path, *cells))
    assert done.at.endswith("Z") and json.loads((Path(done.folder) / "run.json").read_text())["at"] == done.at


def test_our_own_refusal_is_told_in_full(workspace: Workspace, tmp_path: Path) -> None:
    cells = ("n = 1", "from prodml_nb.operate.pipelines import find_pipeline; find_pipeline('trian')")
    with pytest.raises(PipelineError, match="failed: PipelineError: .* 'trian'; did you mean 'train'.*; its report"):
        run_pipeline(workspace, broken(tmp_path, *cells))


@pytest.mark.parametrize("module", ["1 / 0", "import sys; sys.exit(3)"])
def test_a_run_whose_module_breaks_on_import_is_recorded(tmp_path: Path, module: str) -> None:
    (tmp_path / "model.py").write_text(module)
    own = ModelSettings(module=str(tmp_path / "model.py"))
    workspace = Workspace(replace(Settings(), state=StateSettings(root=tmp_path / "state"), model=own))
    with pytest.raises(PipelineError, match="ZeroDivisionError"):
        run_pipeline(workspace, broken(tmp_path, "n = 1", "1 / 0"))
    (event,) = workspace.ledger.events(kind="run")
    assert event.model == "" and "ZeroDivisionError" in event.reason


@pytest.mark.parametrize("end", ["import sys; sys.exit()", "raise SystemExit(3)"])
def test_a_cell_that_ends_the_interpreter_is_a_failure(workspace: Workspace, tmp_path: Path, end: str) -> None:
    with pytest.raises(PipelineError, match="failed: SystemExit.*its report"):
        run_pipeline(workspace, broken(tmp_path, "n = 1", end, "n = 2"))
    (event,), (run,) = workspace.ledger.events(kind="run"), list_runs(workspace.settings.runs_dir)
    assert event.data["status"] == run.status == "failed" and (Path(run.folder) / "broken.html").is_file()


def test_a_run_begins_only_if_the_ledger_can_be_written(workspace: Workspace, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(running, "HASTE", 0.2)
    workspace.ledger.append("run", model="loan")
    with Ledger(workspace.settings.ledger_url).writing(), pytest.raises(ReleaseError, match="locked by another writer"):
        run_pipeline(workspace, broken(tmp_path, "n = 1"))
    assert not workspace.settings.runs_dir.exists()


def test_a_failed_run_that_the_ledger_cannot_be_told_of_is_complete_and_named(
    workspace: Workspace, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(running, "HASTE", 0.2)
    execute, other = running._execute, Ledger(workspace.settings.ledger_url)

    def locking(*given):
        stack.enter_context(other.writing())
        return execute(*given)

    monkeypatch.setattr(running, "_execute", locking)
    with ExitStack() as stack:
        with pytest.raises(ReleaseError, match="ZeroDivisionError.*broken.html.*no event of it: the ledger is locked"):
            run_pipeline(workspace, broken(tmp_path, "n = 1", "1 / 0"))
    (run,) = list_runs(workspace.settings.runs_dir)
    assert run.status == "failed" and run.id in (workspace.settings.site_dir / "index.html").read_text()


def test_an_unknown_parameter_starts_nothing(workspace: Workspace, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="'m' is not a parameter"):
        run_pipeline(workspace, broken(tmp_path, "n = 1"), {"m": 2})
    assert workspace.ledger.events() == [] and list_runs(workspace.settings.runs_dir) == []


MODELS = Path(__file__).parents[1] / "integration" / "models"


def demo_at(root: Path) -> Settings:
    "Settings of a demo that ends right after it has cleared its folder: wines have no months."
    return replace(Settings(), state=StateSettings(root=root), model=ModelSettings(module=str(MODELS / "wine.py")))


def interrupted(root: Path) -> Workspace:
    "The state directory of a demo that was interrupted after its first event."
    with pytest.raises(DataError, match="months"):
        run_demo(demo_at(root), progress=False)
    actor = json.loads((root / "demo.lock").read_text())["actor"]
    workspace = Workspace(demo_at(root))
    workspace.ledger.append("run", model="wine", reason="training", actor=actor)
    return workspace


def test_an_interrupted_demo_that_nobody_touched_is_begun_again(tmp_path: Path) -> None:
    interrupted(tmp_path / "state")
    with pytest.raises(DataError, match="months"):
        run_demo(demo_at(tmp_path / "state"), progress=False)
    assert not (tmp_path / "state" / "ledger.db").exists()


def test_what_somebody_made_of_an_interrupted_demo_is_not_deleted(tmp_path: Path) -> None:
    def decide(own: Workspace) -> None:
        promote(Workspace(replace(own.settings, model=ModelSettings(name="loan"))), version(own), "mine")

    def answer(own: Workspace) -> None:
        with JournalWriter(own.settings.journal_dir) as writer:
            writer.append([Prediction(id="1", request="1", at="2024-05-01T00:00:00.000000Z", model="wine", version=1)])

    def keep(own: Workspace) -> None:
        (own.root / "notes.txt").write_text("mine")

    def spoil(own: Workspace) -> None:
        (own.root / "demo.lock").write_text('{"status": "running"}')

    for what in (decide, answer, keep, spoil):
        own = interrupted(tmp_path / what.__name__)
        what(own)
        before = sorted(p.relative_to(own.root) for p in own.root.rglob("*"))
        with pytest.raises(ReleaseError, match=f"{what.__name__} holds a deployment, or a demo that somebody went on"):
            run_demo(own.settings, progress=False)
        assert sorted(p.relative_to(own.root) for p in own.root.rglob("*")) == before, what.__name__


def test_a_marker_of_an_earlier_release_proves_nothing(workspace: Workspace) -> None:
    (workspace.root / "demo.json").write_text('{"status": "running"}')
    promote(workspace, version(workspace), "mine")
    with pytest.raises(ReleaseError, match="went on with"):
        run_demo(workspace.settings, progress=False)
    assert workspace.state().champion == 1


def test_two_demos_do_not_clear_each_other_away(tmp_path: Path) -> None:
    own = interrupted(tmp_path)
    with open(tmp_path / "demo.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ReleaseError, match="a demo is running"):
            run_demo(own.settings, progress=False)
    assert len(own.ledger.events()) == 1


def test_events_of_a_pipeline_bear_the_name_it_was_given(workspace: Workspace, tmp_path: Path) -> None:
    cells = (
        "n = 1",
        "from prodml_nb.operate.workspace import Workspace; Workspace().ledger.append('note', model='loan')",
        "from prodml_nb.operate.reports import conclude; conclude('done')",
    )
    run_pipeline(workspace, broken(tmp_path, *cells), actor="night shift")
    assert [(e.kind, e.actor) for e in workspace.ledger.events()] == [("note", "night shift"), ("run", "night shift")]


def test_a_kernel_that_is_done_is_not_interrupted(workspace: Workspace, tmp_path: Path, capfd) -> None:
    told = f"lambda *_: open({str(tmp_path / 'interrupted')!r}, 'w')"
    cells = (
        "n = 1",
        f"get_ipython().kernel.saved_sigint_handler = {told}",
        "from prodml_nb.operate.reports import conclude; conclude('done')",
    )
    run_pipeline(workspace, broken(tmp_path, *cells))
    assert not (tmp_path / "interrupted").exists() and capfd.readouterr().err == ""


TABLE = """
import pandas as pd
from prodml_nb import ModelSpec, Number
spec = ModelSpec(
    name="loan", task="binary", target="late", classes=(False, True), features=(Number("income"),), time={time}
)
def load(since, until):
    rows = pd.read_csv({path!r}, parse_dates=["at"])
    return rows[(rows["at"] >= (since or "0001")) & (rows["at"] < (until or "9999"))]
"""


def table(folder: Path, time: str | None) -> tuple[Workspace, pd.DataFrame]:
    "A workspace whose model reads a file, and what is in the file."
    rng, path = np.random.default_rng(0), folder / "rows.csv"
    rows = pd.DataFrame({"income": rng.normal(size=300).round(3), "at": pd.date_range("2024", periods=300, freq="h")})
    rows = rows.assign(late=rows["income"] + rng.normal(size=300) > 0)
    rows.to_csv(path, index=False)
    (folder / "model.py").write_text(TABLE.format(time=repr(time), path=str(path)))
    own = ModelSettings(module=str(folder / "model.py"))
    return Workspace(replace(Settings(), state=StateSettings(root=folder / "state"), model=own)), rows


@pytest.mark.parametrize("until", [None, "2030-01-01"])
def test_a_table_that_grows_still_has_the_rows_it_was_trained_on(until: str | None, tmp_path: Path) -> None:
    workspace, rows = table(tmp_path, "at")
    made = register_candidate(workspace, train(workspace.definition, until=until, bootstrap=20))
    later = rows.assign(at=rows["at"] + pd.Timedelta(hours=300))
    pd.concat([rows, later]).to_csv(tmp_path / "rows.csv", index=False)
    assert holdout_of(workspace, made)["at"].max() == rows["at"].max().tz_localize("UTC")
    pd.concat([rows[:290], later]).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(IntegrityError, match="--until before"):
        holdout_of(workspace, made)


def test_a_source_without_a_time_column_is_told_what_to_do(tmp_path: Path) -> None:
    workspace, rows = table(tmp_path, None)
    made = register_candidate(workspace, train(workspace.definition, bootstrap=20))
    pd.concat([rows, rows]).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(IntegrityError, match="without a time column"):
        holdout_of(workspace, made)


@pytest.mark.parametrize(
    ("time", "told"),
    [("at", ["time: the newest by at", "the beginning to 2025"]), (None, ["a hash of the features", "all rows"])],
)
def test_a_report_says_how_rows_were_held_out(time: str | None, told: list[str], tmp_path: Path) -> None:
    workspace, _ = table(tmp_path, time)
    made = train(workspace.definition, until="2025" if time else None, bootstrap=20)
    shown = describe_candidate(made).to_html()
    assert all(words in shown for words in told) and ("the beginning" in shown) is bool(time)


def test_of_many_features_those_that_moved_most_come_first(tmp_path: Path) -> None:
    spec = ModelSpec(
        **{f: getattr(LOAN, f) for f in LOAN.__struct_fields__}
        | {"features": tuple(Number(f"x{i}") for i in range(64))}
    )
    rng = np.random.default_rng(0)
    old, new = (pd.DataFrame(rng.normal(size=(400, 64)), columns=spec.feature_names) for _ in range(2))
    known = make_reference(spec, old.assign(late=rng.random(400) > 0.5), rng.random(400))
    page = drift_table(drift(spec, known, new.assign(x63=new["x63"] + 5), rng.random(400))).to_html()
    seen, _, folded = page.partition("<details>")
    assert ">x63<" in seen and seen.count("</tr>") < 15 and folded.count("</tr>") > 64 and "score" in seen


def trained(workspace: Workspace, until: str | None = None, holdout: float = 0.2) -> Artifact:
    "A registered version."
    return register_candidate(workspace, train(workspace.definition, until=until, holdout=holdout, bootstrap=20))


def test_a_champion_is_no_measure_on_rows_it_has_learned_from(tmp_path: Path) -> None:
    workspace, rows = table(tmp_path, "at")
    old, new = trained(workspace, "2024-01-07"), trained(workspace)
    held = holdout_of(workspace, old)
    assert not not_learned(new, old, held).any() and not_learned(old, new, holdout_of(workspace, new)).all()
    assert not_learned(new, new, holdout_of(workspace, new)).all() and not_learned(None, old, held).all()
    spec = ModelSpec(**{f: getattr(old.spec, f) for f in LOAN.__struct_fields__} | {"gates": (Gate("auc", margin=1),)})
    report = check_gates(spec, measure(old, new, held, not_learned=not_learned(new, old, held), bootstrap=20))
    assert (report.verdict, report.refused) == ("refuse", ()) and "could learn from" in report.headline
    near = trained(workspace, str(rows["at"][280]))
    left = not_learned(
        near, trained(workspace, str(rows["at"][260])), held := holdout_of(workspace, workspace.artifact(4))
    )
    assert (len(held), left.sum(), held["at"][left].min()) == (52, 36, rows["at"][224].tz_localize("UTC"))
    measured = measure(workspace.artifact(4), near, held, not_learned=left, bootstrap=20)
    report = check_gates(spec, measured)
    assert (report.verdict, measured.compared) == ("pass", 36) and "36 of 52 rows" in report.results[-1].detail


def test_without_time_what_the_champion_held_out_is_new_to_it(tmp_path: Path) -> None:
    workspace, _ = table(tmp_path, None)
    champion, same, wider = trained(workspace), trained(workspace), trained(workspace, holdout=0.4)
    assert not_learned(champion, same, holdout_of(workspace, same)).all()
    assert not_learned(wider, same, holdout_of(workspace, same)).all()
    held = holdout_of(workspace, wider)
    both = set(held["income"]) & set(holdout_of(workspace, champion)["income"])
    assert set(held["income"][not_learned(champion, wider, held)]) == both and 0 < len(both) < len(held)


def test_the_code_of_a_version_is_known_without_git(tmp_path: Path) -> None:
    workspace, _ = table(tmp_path, "at")
    before = workspace.definition.digests()
    assert set(before) == {"model.py"}
    (tmp_path / "model.py").write_text((tmp_path / "model.py").read_text() + "# another line")
    made = register_candidate(workspace, train(workspace.definition, bootstrap=20))
    assert set(made.lineage["code"]) == {"model.py"} and made.lineage["code"] != before


def test_a_model_of_another_name_than_the_settings_is_refused(tmp_path: Path) -> None:
    workspace, _ = table(tmp_path, "at")
    named = replace(workspace.settings, model=replace(workspace.settings.model, name="credit"))
    with pytest.raises(SettingsError, match=r"name is 'credit', .* defines 'loan'"):
        Workspace(named).definition


def test_rows_of_one_class_judge_nothing() -> None:
    spec = ModelSpec(**{f: getattr(LOAN, f) for f in LOAN.__struct_fields__} | {"time": "at"})
    rows = pd.DataFrame({"income": np.arange(100.0), "at": pd.date_range("2024", periods=100, tz="UTC")})
    with pytest.raises(DataError, match="judged by 20 rows with a single value of 'late'"):
        split(spec, rows.assign(late=[i % 2 == 0 and i < 80 for i in range(100)]))


@pytest.fixture
def pipelines(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    "Pipelines that make and refuse a version in no time; the parameters of each training."
    given: list[dict] = []

    def run(own: Workspace, name: str, parameters: dict, **_: object) -> Run:
        if name == "train":
            given.append(parameters)
        made = version(own, verdict="refuse") if name == "train" else parameters["version"]
        told = {"id": "1", "pipeline": name, "at": "", "seconds": 0, "status": "succeeded", "headline": "", "tone": ""}
        return Run(**told, result={"version": made})

    monkeypatch.setattr(loop, "run_pipeline", run)
    return given


def ask(workspace: Workspace) -> None:
    "The monitor asks for a retraining."
    champion = workspace.state().champion
    workspace.ledger.append("monitored", model="loan", version=champion, data={"verdict": "retrain", "reasons": ["x"]})


def test_a_refused_retraining_is_not_repeated_until_the_monitor_asks_again(
    workspace: Workspace, pipelines: list[dict]
) -> None:
    promote(workspace, version(workspace), "first")
    ask(workspace)
    assert retrain(workspace, if_needed=True).action == "refused"
    again = retrain(workspace, if_needed=True)
    assert (again.action, len(pipelines)) == ("not needed", 1) and "version 2, which was refused" in again.reasons[0]
    ask(workspace)
    assert (retrain(workspace, if_needed=True).action, len(pipelines)) == ("refused", 2)


def test_a_refusal_says_why_two_versions_could_not_be_compared(workspace: Workspace) -> None:
    why = "9 of these 9 rows are among those that the champion could learn from; train a version on newer data"
    gates = [{"name": "auc vs champion", "verdict": "not comparable", "detail": why}]
    new = version(workspace)
    workspace.ledger.append("evidence", model="loan", version=new, data={"verdict": "refuse", "gates": gates})
    with pytest.raises(GateRefused, match=why):
        promote(workspace, new, "newer")


def test_what_is_not_released_is_not_retrained_in_silence(workspace: Workspace, pipelines: list[dict]) -> None:
    with pytest.raises(ReleaseError, match="no champion that could be retrained; run `prodml train`"):
        retrain(workspace, if_needed=True)
    assert not pipelines and retrain(workspace).action == "refused"


def test_a_retraining_keeps_the_parameters_of_the_champion(workspace: Workspace, pipelines: list[dict]) -> None:
    promote(workspace, version(workspace, max_iter=7, learning_rate=0.1), "first")
    retrain(workspace, params={"learning_rate": 0.5})
    assert pipelines[0]["params"] == {"max_iter": 7, "learning_rate": 0.5}


LEAK = """
import pandas.errors
from prodml_nb.errors import DataError
def load(since, until):
    raise {kind}("bad cell: Ada Lovelace")
"""


@pytest.mark.parametrize("kind", ["pandas.errors.DataError", "DataError", "KeyError"])
def test_an_error_is_not_ours_by_its_name(kind: str, workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "boom.py").write_text(LEAK.format(kind=kind))
    cell = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import boom; boom.load('', '')"
    with pytest.raises(PipelineError, match="in boom.py, line 5"):
        run_pipeline(workspace, broken(tmp_path, "n = 1", cell))
    assert "Ada" not in repr(workspace.ledger.events(kind="run"))


@pytest.mark.parametrize(
    ("field", "value"), [("start_time", "yesterday"), ("duration", "long"), ("parameters", [1]), ("input_path", None)]
)
def test_a_notebook_with_odd_metadata_is_refused_by_name(
    field: str, value: object, workspace: Workspace, tmp_path: Path
) -> None:
    at, told = "2024-05-01T00:00:00+00:00", {"input_path": "train.ipynb", "duration": 1.0, "parameters": {}}
    book = nbformat.v4.new_notebook()
    book.metadata["papermill"] = told | {"start_time": at, "end_time": at} | {field: value}
    nbformat.write(book, tmp_path / "train.ipynb")
    with pytest.raises(PipelineError, match=rf"train.ipynb says something .*\$\.{field}"):
        keep_executed(workspace, tmp_path / "train.ipynb")
