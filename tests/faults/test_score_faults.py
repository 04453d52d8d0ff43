"A batch that is killed, starved or lied to: every row once, in order, or nothing to be seen."

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from prodml_nb.build.sources import ModelDefinition
from prodml_nb.build.training import train
from prodml_nb.cli import app
from prodml_nb.contract.spec import Category, ModelSpec, Number
from prodml_nb.errors import DataError, IntegrityError, ReleaseError, ServingError
from prodml_nb.observe import profiles
from prodml_nb.operate import parts
from prodml_nb.operate import score as module
from prodml_nb.operate.pieces import open_progress
from prodml_nb.operate.score import score
from prodml_nb.operate.verify import verify
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.artifacts import register
from prodml_nb.settings import ModelSettings, Settings, StateSettings

SPEC = ModelSpec(
    name="delay",
    task="binary",
    target="late",
    classes=(False, True),
    fallback=0.2,
    features=(Number("wind", low=0, high=80), Category("carrier", levels=("007", "AA"), unseen="fallback")),
)


def rows(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"flight": [f"{i:06d}" for i in range(n)], "wind": rng.gamma(4, 4, n).round(1)})
    return frame.assign(carrier=rng.choice(["007", "AA", "ZZ"], n, p=[0.5, 0.49, 0.01]))


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    frame = rows(600)
    frame["late"] = frame["wind"] + np.random.default_rng(1).normal(0, 6, len(frame)) > 18
    frame.loc[frame["carrier"] == "ZZ", "carrier"] = None
    definition = ModelDefinition("test", SPEC, lambda since, until: frame)
    return train(definition, params={"max_iter": 10}, bootstrap=20).files()


@pytest.fixture
def workspace(tmp_path: Path, files: dict[str, bytes]) -> Workspace:
    found = Workspace(
        replace(Settings(), state=StateSettings(root=tmp_path / "state"), model=ModelSettings(name="delay"))
    )
    for _ in range(2):
        register(found.settings.models_dir, found.ledger, found.vault, spec=SPEC, files=files, metrics={}, lineage={})
    found.ledger.append("promoted", model="delay", version=1, reason="a test says so")
    return found


def left(folder: Path) -> set[str]:
    "What stands in a folder, the state directory left out."
    return {p.name for p in folder.iterdir()} - {"state"}


# ----------------------------------------------------------------------------------------------------- interruptions

RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from prodml_nb.operate import parts
from prodml_nb.operate.score import score
from prodml_nb.operate.workspace import Workspace
from prodml_nb.settings import ModelSettings, Settings, StateSettings
root, source, output = sys.argv[1:]
parts.BLOCK = 2000
settings = replace(Settings(), state=StateSettings(root=Path(root)), model=ModelSettings(name="delay"))
score(Workspace(settings), source, output, piece=300)
"""


def killed(workspace: Workspace, source: Path, output: Path, when: str, count: int, more: str = "") -> None:
    "Run in a process of its own and kill -9 it once so many files of that pattern are in its folder."
    folder = output.parent / f".{output.name}.scoring"
    code = RUN.replace("piece=300", f"piece=300{more}")
    process = subprocess.Popen([sys.executable, "-c", code, str(workspace.root), str(source), str(output)])
    deadline = time.monotonic() + 30
    while len(list(folder.glob(when))) < count and process.poll() is None:
        assert time.monotonic() < deadline
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait(10)


@pytest.mark.parametrize(
    "kind, kills", [("csv", [("*.json", 3), ("out/[!.]*", 1)]), ("parquet", [("*.arrow", 4), ("*.json", 9)])]
)
def test_killed_twice_and_still_every_row_once(
    workspace: Workspace, tmp_path: Path, kind: str, kills: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, output = tmp_path / "june", tmp_path / "scored"
    monkeypatch.setattr(parts, "BLOCK", 2000)
    source.mkdir()
    for i in range(2):
        part = rows(3000, seed=i)
        if kind == "csv":
            part.to_csv(source / f"{i}.csv", index=False)
        else:
            part.to_parquet(source / f"{i}.parquet", row_group_size=300)
    whole = score(workspace, source, tmp_path / "at once", piece=300)
    for when, count in kills:
        killed(workspace, source, output, when, count)
        assert not output.exists()
    workspace.ledger.append("promoted", model="delay", version=2, reason="while the run lay dead")
    batch = score(workspace, source, output, piece=300)
    assert [p.name for p in sorted(output.iterdir())] == [p.name for p in sorted(source.iterdir())]
    for part in source.iterdir():
        assert (output / part.name).read_bytes() == (tmp_path / "at once" / part.name).read_bytes()
    assert (batch.rows, batch.version, batch.output_digest) == (6000, 1, whole.output_digest)
    assert (batch.refused, batch.fallbacks) == (whole.refused, whole.fallbacks)
    of_both = [profiles.summary(workspace.settings.profiles_dir / b.profile) for b in (batch, whole)]
    assert set(of_both[0]["rows"]) == {6000}
    pd.testing.assert_frame_equal(of_both[0], of_both[1], rtol=1e-5)
    assert workspace.journal.count()["batch"] == 2 and left(tmp_path) == {"june", "at once", "scored"}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_reading_goes_on_at_any_row(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK", 300)
    monkeypatch.setattr(parts, "ROWS", 7)
    frame, path = rows(60), tmp_path / f"june.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path, row_group_size=20)
    for skip in range(62):
        found = [v for batch in parts.read_batches(path, SPEC, skip) for v in batch.column("flight").to_pylist()]
        assert found == frame["flight"].tolist()[skip:]


@pytest.mark.parametrize("step", ["_record", "JournalWriter", "shutil.rmtree", "os.replace"])
def test_an_end_that_is_interrupted_is_ended_once(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    rows(500).to_csv(tmp_path / "june.csv", index=False)

    def plug(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(f"prodml_nb.operate.score.{step}", plug)
        with pytest.raises(KeyboardInterrupt):
            score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", profile=False)
    batch = score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", profile=False)
    assert len(pd.read_csv(tmp_path / "scored.csv")) == batch.rows == 500
    assert workspace.journal.count()["batch"] == 1 and left(tmp_path) == {"june.csv", "scored.csv"}


def test_two_runs_do_not_share_an_output(workspace: Workspace, tmp_path: Path) -> None:
    rows(10).to_csv(tmp_path / "june.csv", index=False)
    with open_progress(tmp_path / ".scored.csv.scoring"):
        with pytest.raises(DataError, match="another process"):
            score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv")


@pytest.mark.parametrize("good", [0, 1])
def test_a_profiler_that_fails_costs_the_profile_and_nothing_else(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good: int
) -> None:
    take, calls = profiles.profile_columns, []

    def broken(*given, **named):
        calls.append(1)
        if len(calls) > good:
            raise RuntimeError("a defect of the library")
        return take(*given, **named)

    rows(1000).to_parquet(tmp_path / "june.parquet", row_group_size=300)
    monkeypatch.setattr(profiles, "profile_columns", broken)
    monkeypatch.setattr(parts, "ROWS", 300)
    batch = score(workspace, tmp_path / "june.parquet", tmp_path / "scored.parquet", piece=300)
    assert (batch.rows, batch.profile, len(calls)) == (1000, None, good + 1)


def test_a_run_that_began_without_a_profile_ends_without_one(workspace: Workspace, tmp_path: Path) -> None:
    source, output = tmp_path / "june.parquet", tmp_path / "scored.parquet"
    rows(3000).to_parquet(source, row_group_size=300)
    killed(workspace, source, output, "*.json", 4, more=", profile=False")
    assert score(workspace, source, output, piece=300).profile is None


def test_a_full_disk_stops_the_run_and_is_no_loss(workspace: Workspace, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting a small disk takes root")
    try:
        rows(20_000).to_csv(tmp_path / "june.csv", index=False)
        for _ in range(2):
            with pytest.raises(ServingError, match="No space left.*run the same command again"):
                score(workspace, tmp_path / "june.csv", small / "scored.csv", profile=False, piece=1000)
            assert left(small) == {".scored.csv.scoring"} and workspace.journal.count()["batch"] == 0
        subprocess.run(["mount", "-o", "remount,size=64m", small], check=True)
        assert score(workspace, tmp_path / "june.csv", small / "scored.csv", profile=False).rows == 20_000
        assert len(pd.read_csv(small / "scored.csv")) == 20_000
    finally:
        subprocess.run(["umount", small], check=True)


# ------------------------------------------------------------------------------------------- what has been changed


@pytest.fixture
def begun(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "The output of a run that was interrupted before its end."
    rows(500).to_csv(tmp_path / "june.csv", index=False)
    with monkeypatch.context() as patched:
        patched.setattr(module, "put_together", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", profile=False)
    return tmp_path / "scored.csv"


def test_a_changed_input_is_not_mixed_with_what_is_done(workspace: Workspace, tmp_path: Path, begun: Path) -> None:
    rows(600, seed=3).to_csv(tmp_path / "june.csv", index=False)
    with pytest.raises(DataError, match="june.csv was changed since this run began.*--restart"):
        score(workspace, tmp_path / "june.csv", begun, profile=False)
    assert score(workspace, tmp_path / "june.csv", begun, profile=False, restart=True).rows == 600


def test_another_version_is_not_mixed_with_what_is_done(workspace: Workspace, tmp_path: Path, begun: Path) -> None:
    with pytest.raises(DataError, match="begun with version 1"):
        score(workspace, tmp_path / "june.csv", begun, version=2, profile=False)
    assert score(workspace, tmp_path / "june.csv", begun, profile=False, version=1).version == 1


def test_a_tampered_model_scores_nothing(workspace: Workspace, tmp_path: Path, begun: Path) -> None:
    graph = workspace.settings.models_dir / "delay" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"\0")
    for output in (begun, tmp_path / "other.csv"):
        with pytest.raises(IntegrityError, match="model.onnx"):
            score(workspace, tmp_path / "june.csv", output, profile=False)
    assert left(tmp_path) == {"june.csv", ".scored.csv.scoring"}


def test_an_input_that_changes_under_the_run_is_not_shown(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, together = tmp_path / "june.csv", module.put_together
    rows(500).to_csv(source, index=False)

    def meanwhile(*given: object) -> None:
        together(*given)
        source.write_text(source.read_text() + "000500,1,AA\n")

    monkeypatch.setattr(module, "put_together", meanwhile)
    with pytest.raises(DataError, match="changed while it was read"):
        score(workspace, source, tmp_path / "scored.csv", profile=False)
    assert not (tmp_path / "scored.csv").exists()


# --------------------------------------------------------------------------------------------- what cannot be scored


def test_wrong_columns_are_all_named_before_a_row_is_scored(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "june").mkdir()
    rows(10).to_csv(tmp_path / "june" / "a.csv", index=False)
    wrong = rows(10).rename(columns={"wind": "wnid"}).assign(score=1)
    wrong.to_csv(tmp_path / "june" / "b.csv", index=False)
    with pytest.raises(DataError, match="b.csv") as refused:
        score(workspace, tmp_path / "june", tmp_path / "scored")
    assert "did you mean 'wnid'" in str(refused.value) and "'score'" in str(refused.value)
    assert left(tmp_path) == {"june"}
    pq.write_table(pa.table({"wind": [1.0], "carrier": [7]}), tmp_path / "july.parquet")
    with pytest.raises(DataError, match="'carrier' holds int64, and the spec wants text"):
        score(workspace, tmp_path / "july.parquet", tmp_path / "scored.parquet")


@pytest.mark.parametrize("name", ["june.parquet", "june.csv"])
def test_a_file_cut_short_is_named_and_shows_nothing(workspace: Workspace, tmp_path: Path, name: str) -> None:
    source = tmp_path / name
    if name.endswith("parquet"):
        rows(5000).to_parquet(source)
    else:
        rows(5000).to_csv(source, index=False)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 2 // 3] + (b"\n4711" if name.endswith("csv") else b""))
    with pytest.raises(DataError, match=f"{name} cannot be read") as refused:
        score(workspace, source, tmp_path / f"scored{source.suffix}", profile=False)
    assert "4711" not in str(refused.value) and not (tmp_path / f"scored{source.suffix}").exists()


@pytest.mark.parametrize(
    "content, told",
    [
        (b"flight;wind;carrier\n1;4711;AA\n", "june.csv is separated by ';'"),
        ("flight,wind,carrier\n1,2,Z\u00fcrich 4711\n".encode("latin-1"), "not UTF-8 text; convert it"),
        ("flight,wind,carri\u00e9r\n1,4711,AA\n".encode("latin-1"), "not UTF-8 text; convert it"),
        (
            b"flight,wind,carrier\n1,2,AA\n2,3,AA,4711\n",
            "its row 3 has 4 fields instead of 3; mend the file and begin anew with --restart",
        ),
        (b"flight,wind,wind,carrier\n1,2,3,AA\n", "column 'wind' stands twice"),
        (b"", "its first line has to name the columns"),
    ],
)
def test_a_text_that_is_no_such_table_is_told_what_it_is(workspace, tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "june.csv").write_bytes(content)
    with pytest.raises(DataError, match=told) as refused:
        score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", profile=False)
    assert "4711" not in str(refused.value) and not (tmp_path / "scored.csv").exists()


@pytest.mark.parametrize(
    "source, output, told",
    [
        ("june.csv", "there.csv", "exists already"),
        ("june.csv", "scored.parquet", "becomes a .csv file"),
        ("june.csv", "nowhere/scored.csv", "no folder nowhere"),
        ("jnue.csv", "scored.csv", "no jnue.csv to score; did you mean 'june.csv'"),
        ("months", "months/scored", "lie inside months"),
        ("months", "scored.csv", "is the name of a file"),
        ("empty", "scored", "has no parts"),
    ],
)
def test_paths_that_cannot_be(workspace: Workspace, tmp_path: Path, source: str, output: str, told: str) -> None:
    (tmp_path / "months").mkdir()
    (tmp_path / "empty").mkdir()
    for name in ("june.csv", "there.csv", "months/a.csv"):
        rows(3).to_csv(tmp_path / name, index=False)
    with pytest.raises(DataError, match=told):
        score(workspace, tmp_path / source, tmp_path / output)
    assert left(tmp_path) == {"months", "empty", "june.csv", "there.csv"}


def test_without_a_champion_there_is_nothing_to_score_with(tmp_path: Path) -> None:
    settings = replace(Settings(), state=StateSettings(root=tmp_path / "state"), model=ModelSettings(name="delay"))
    rows(3).to_csv(tmp_path / "june.csv", index=False)
    with pytest.raises(ReleaseError, match="--version"):
        score(Workspace(settings), tmp_path / "june.csv", tmp_path / "scored.csv")


# ----------------------------------------------------------------------------------------------------- what comes out


def test_csv_texts_come_out_as_they_went_in(workspace: Workspace, tmp_path: Path) -> None:
    lines = [
        'id,wind,carrier,"free, text"',
        '0042,1e1,007,"a ""b"""',
        "0043,,AA,",
        "0044,nonsense,007,x\ty",
        '0045,7,"007","2\n3"',
    ]
    (tmp_path / "june.csv").write_text("\n".join(lines))
    batch = score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", profile=False)
    before, after = (pd.read_csv(tmp_path / f"{name}.csv", dtype=str) for name in ("june", "scored"))
    pd.testing.assert_frame_equal(after[before.columns], before)
    assert after["error"].tolist()[2] == "wind must be a number" and after["score"].isna().tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert (batch.rows, batch.refused) == (4, 1) and "nonsense" not in str(batch)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_without_rows_becomes_one(workspace: Workspace, tmp_path: Path, kind: str) -> None:
    source, output = tmp_path / f"june.{kind}", tmp_path / f"scored.{kind}"
    rows(3)[:0].to_csv(source, index=False) if kind == "csv" else rows(3)[:0].to_parquet(source)
    batch = score(workspace, source, output)
    found = pd.read_csv(output) if kind == "csv" else pd.read_parquet(output)
    assert (batch.rows, batch.profile, len(found)) == (0, None, 0) and "prediction" in found


def test_parquet_types_are_kept(workspace: Workspace, tmp_path: Path) -> None:
    frame = rows(50)
    table = pa.table({
        "carrier": frame["carrier"].astype("category"), "wind": frame["wind"].astype("float32"),
        "at": pd.date_range("2024-01-01", periods=50, tz="Europe/Rome"), "tags": [["a"], []] * 25,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "june.parquet")
    score(workspace, tmp_path / "june.parquet", tmp_path / "scored.parquet", profile=False)
    before, after = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("june", "scored"))
    assert after.select(table.column_names).equals(before)


def test_the_command_counts_refusals_and_leaves_the_verdict_to_the_caller(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODML_STATE_ROOT", str(workspace.root))
    monkeypatch.setenv("PRODML_MODEL_NAME", "delay")
    (tmp_path / "june.csv").write_text("wind,carrier\n5,AA\n-5,AA\n6,ZZ\n")

    def run(output: str, *more: str):
        return CliRunner().invoke(
            app, ["score", str(tmp_path / "june.csv"), str(tmp_path / output), "--quiet", "--no-profile", *more]
        )

    told = run("a.csv")
    assert told.exit_code == 0 and "3 rows scored by version 1: 1 refused, 1 with the declared answer" in told.output
    strict = run("b.csv", "--json", "--strict", "--version", "2")
    assert strict.exit_code == 1 and (found := json.loads(strict.stdout))["version"] == 2
    assert (found["rows"], found["refused"], found["fallbacks"], found["source"]) == (3, 1, 1, "june.csv")


# -------------------------------------------------------------------------------------------- unlike the training data


STRANGE = "wind,carrier\n5,AA\n79,AA\n6,007\n80,AA\n"


def scoring(workspace: Workspace, **serve: float) -> Workspace:
    "The same workspace with other [serve] settings."
    return Workspace(replace(workspace.settings, serve=replace(workspace.settings.serve, **serve)))


def test_rows_unlike_the_training_data_say_so_and_are_counted(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "june.csv").write_text(STRANGE)
    batch = score(workspace, tmp_path / "june.csv", tmp_path / "a.csv", profile=False)
    scored = pd.read_csv(tmp_path / "a.csv")
    assert scored["ood"].ge(0.999).tolist() == [False, True, False, True] and batch.unusual == 2
    assert scored["warnings"][1] == "unlike the training data: OOD score 1" and scored["warnings"].isna().sum() == 2
    assert scored["prediction"].notna().all()
    assert workspace.journal.query("SELECT unusual FROM batches")["unusual"].tolist() == [2]
    monkeypatch.setenv("PRODML_STATE_ROOT", str(workspace.root))
    monkeypatch.setenv("PRODML_MODEL_NAME", "delay")
    told = CliRunner().invoke(
        app, ["score", str(tmp_path / "june.csv"), str(tmp_path / "b.csv"), "--quiet", "--no-profile"]
    )
    assert "2 unlike the training data" in told.output


def test_what_the_service_would_refuse_as_unlike_is_refused_and_left_out_of_the_profile(
    workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "june.csv").write_text(STRANGE)
    strict = scoring(workspace, ood_reject=0.999)
    batch = score(strict, tmp_path / "june.csv", tmp_path / "a.csv")
    scored = pd.read_csv(tmp_path / "a.csv")
    assert (batch.refused, batch.unusual) == (2, 0) and scored["ood"].isna().tolist() == [False, True, False, True]
    assert "too unlike the training data" in scored["error"][1]
    assert profiles.summary(strict.settings.profiles_dir / batch.profile)["rows"].tolist() == [2, 2]


def only_begun(workspace: Workspace, tmp_path: Path) -> Path:
    "The job of a run that died before its first piece."
    rows(900).to_csv(tmp_path / "june.csv", index=False)
    killed(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", "job.json", 1)
    folder = tmp_path / ".scored.csv.scoring"
    for made in folder.glob("0*"):
        made.unlink()
    return folder / "job.json"


def test_a_run_ends_by_the_settings_it_began_with(workspace: Workspace, tmp_path: Path) -> None:
    only_begun(workspace, tmp_path)
    other = scoring(workspace, ood_warn=0.0)
    batch = score(other, tmp_path / "june.csv", tmp_path / "scored.csv", profile=False)
    scored = pd.read_csv(tmp_path / "scored.csv")
    assert batch.unusual == scored["ood"].ge(0.999).sum() < batch.rows


def test_a_run_begun_before_there_was_such_a_column_ends_without_it(workspace: Workspace, tmp_path: Path) -> None:
    path = only_begun(workspace, tmp_path)
    job = json.loads(path.read_bytes())
    assert job.pop("unlike") == [0.999, 0.0]
    path.write_text(json.dumps(job))
    batch = score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", profile=False)
    assert batch.unusual is None and "ood" not in pd.read_csv(tmp_path / "scored.csv")


def test_a_version_that_cannot_tell_adds_no_column(
    workspace: Workspace, tmp_path: Path, files: dict[str, bytes]
) -> None:
    plain = {name: content for name, content in files.items() if name != "ood.json"}
    given = {"spec": SPEC, "files": plain, "metrics": {}, "lineage": {}}
    version = register(workspace.settings.models_dir, workspace.ledger, workspace.vault, **given).version
    (tmp_path / "june.csv").write_text("ood," + STRANGE.replace("\n", "\nmine,", 4))
    batch = score(workspace, tmp_path / "june.csv", tmp_path / "scored.csv", version=version, profile=False)
    assert batch.unusual is None and pd.read_csv(tmp_path / "scored.csv")["ood"].tolist() == ["mine"] * 4
    with pytest.raises(DataError, match="'ood' has the name of a column that scoring adds"):
        score(workspace, tmp_path / "june.csv", tmp_path / "other.csv", profile=False)


def test_verify_finds_a_profile_that_was_changed_or_is_gone(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "june.csv").write_text(STRANGE)
    batch = score(workspace, tmp_path / "june.csv", tmp_path / "a.csv")
    kept = workspace.settings.profiles_dir / batch.profile
    assert [c.checked for c in verify(workspace) if c.what == "profiles"] == ["1 tables"]
    content = kept.read_bytes()
    kept.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "was changed since june.csv was scored" in next(c.problem for c in verify(workspace) if c.what == "profiles")
    kept.unlink()
    assert "is gone since june.csv was scored" in next(c.problem for c in verify(workspace) if c.what == "profiles")
