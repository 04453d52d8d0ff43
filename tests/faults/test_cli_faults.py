"What the command line says about mistakes, and about records that are not what they were."

import io
import itertools
import sqlite3
import sys
from pathlib import Path

import pytest

from prodml_nb import ModelSpec, Number, __version__
from prodml_nb.cli import main
from prodml_nb.operate.release import promote, rollback
from prodml_nb.operate.release import status as look
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.artifacts import register
from prodml_nb.record.journal import STRESS, JournalWriter, Prediction, Refusal
from prodml_nb.record.reader import Journal
from prodml_nb.settings import load_settings

LOAN = ModelSpec(name="loan", task="binary", target="late", classes=(False, True), features=(Number("income"),))


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    "A deployment with a champion and three journal records, which the commands of a test are about."
    monkeypatch.setenv("PRODML_STATE_ROOT", str(tmp_path / "state"))
    monkeypatch.setenv("PRODML_MODEL_NAME", "loan")
    own = Workspace(load_settings(env={"PRODML_STATE_ROOT": str(tmp_path / "state"), "PRODML_MODEL_NAME": "loan"}))
    register(
        own.settings.models_dir, own.ledger, own.vault, spec=LOAN, files={"a": b"b"}, metrics={}, lineage={}
    )  # fmt: skip
    promote(own, 1, "first", override=True)
    with JournalWriter(own.settings.journal_dir) as writer:
        writer.append([Refusal(id=str(i), at="2024-05-01T00:00:00.000000Z", status=422) for i in range(3)])
    return own


@pytest.fixture
def prodml(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    "Run a command; its status, stdout and stderr."

    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prodml", *args])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, " ".join(err.replace("│", " ").split())

    return run


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    "Run a command on a terminal of 80 columns; what it shows."

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    def run(*args: str) -> str:
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setenv("TERM", "dumb")
        monkeypatch.setattr(sys, "argv", ["prodml", *args])
        monkeypatch.setattr(sys, "stdout", screen := Screen())
        with pytest.raises(SystemExit):
            main()
        return screen.getvalue()

    return run


def test_a_release_past_the_gates_is_told_wherever_a_person_looks(workspace: Workspace, prodml, terminal) -> None:
    register(
        workspace.settings.models_dir, workspace.ledger, workspace.vault, spec=LOAN, files={"a": b"c"}, metrics={}, lineage={}
    )  # fmt: skip
    gates = [{"name": "auc", "verdict": "refuse"}, {"name": "finite scores", "verdict": "pass"}]
    told = workspace.ledger.append("evidence", model="loan", version=2, data={"verdict": "refuse", "gates": gates, "champion": 1})  # fmt: skip
    forced = promote(workspace, 2, "looks fine to me", override=True)
    assert (forced.data["evidence"], forced.data["overridden"]) == (told.seq, ["auc"])
    mark = "looks fine to me (gates overridden: auc)"
    assert mark in prodml("log")[1] and mark in prodml("status")[1]
    rollback(workspace, "approvals doubled")
    first, second = prodml("versions")[1].splitlines()[-2:]
    assert "champion" in first and "approvals" not in first and "not validated, overridden" in first
    for said in ("retired", "refused 1 of 2, overridden", "looks fine to me", "rolled back to 1: approvals doubled"):
        assert said in second, said
    brief = terminal("versions").splitlines()
    assert len(brief) == 4 and all(len(line) <= 80 for line in brief)
    assert "refused 1 of 2" in brief[3] and "overridden, rolled back" in brief[3]


def test_a_rollback_onto_a_forced_version_still_says_so(workspace: Workspace, prodml) -> None:
    for _ in range(2):
        register(
            workspace.settings.models_dir, workspace.ledger, workspace.vault, spec=LOAN, files={"a": b"c"}, metrics={}, lineage={}
        )  # fmt: skip
    promote(workspace, 2, "no time to validate", override=True)
    promote(workspace, 3, "nor now", override=True)
    rollback(workspace, "worse")
    said = prodml("status")[1]
    assert "worse" in said and "gates overridden: not validated" in said


def test_the_version_of_the_command_needs_no_command(prodml) -> None:
    assert prodml("--version")[:2] == (0, f"{__version__}\n")


def test_status_counts_at_one_moment_while_a_load_test_goes_on(workspace: Workspace, monkeypatch) -> None:
    given = {"at": "2024-05-01T00:00:00.000000Z", "model": "loan", "version": 1, "request": "1", "route": STRESS}
    read, ids = Journal._segments, itertools.count()
    with JournalWriter(workspace.settings.journal_dir) as writer:

        def answer() -> None:
            writer.append([Prediction(id=str(next(ids)), **given) for _ in range(5)])

        answer()
        monkeypatch.setattr(Journal, "_segments", lambda self: (read(self), answer())[0])
        found = look(workspace)["journal"]
    assert (found["prediction"], found["stress"]) == (0, 5)


def test_status_counts_load_tests_apart(workspace: Workspace, prodml) -> None:
    given = {"request": "1", "at": "2024-05-01T00:00:00.000000Z", "model": "loan", "version": 1}
    with JournalWriter(workspace.settings.journal_dir) as writer:
        routes = ("champion", "champion", STRESS)
        writer.append([Prediction(id=str(i), route=route, **given) for i, route in enumerate(routes)])
    assert "predictions: 2, feedback: 0, refusals: 3, batches: 0, outages: 0, of stress runs: 1" in prodml("status")[1]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["monitor", "--since", "2024-13-01"], "ISO 8601"),
        (["monitor", "--since", "2024-02-01", "--until", "2024-01-01T00:00:00Z"], "--since must be before"),
        (["train", "--until", "yesterday"], "ISO 8601"),
        (["retrain", "--since", "2024-02-30"], "ISO 8601"),
        (["versions", "--at", "noon"], "ISO 8601"),
        (["log", "--kind", "promted"], "did you mean 'promoted'?"),
        (["--settings", "nope.ini", "status"], "nope.ini"),
    ],
)
def test_a_typing_mistake_is_wrong_usage_and_no_event(workspace: Workspace, prodml, args: list[str], said: str) -> None:
    before = workspace.ledger.head()
    status, _, err = prodml(*args)
    assert status == 2 and said in err
    assert workspace.ledger.head() == before and not workspace.settings.runs_dir.exists()


@pytest.mark.parametrize("command", ["train", "retrain"])
def test_an_unknown_parameter_of_build_starts_nothing(
    command: str, tmp_path: Path, prodml, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.ini").write_text("[model]\nmodule = prodml_nb.examples.flights.model\n")
    monkeypatch.chdir(tmp_path)
    status, _, err = prodml(command, "--param", "max_itre=9")
    assert status == 2 and "has no parameter 'max_itre'; did you mean 'max_iter'?" in err
    assert not (tmp_path / ".prodml" / "runs").exists()


@pytest.mark.parametrize("args", [["validate", "9"], ["monitor", "--version", "9"], ["promote", "9", "--reason", "x"]])
def test_a_version_that_does_not_exist_is_a_failure_everywhere(workspace: Workspace, prodml, args: list[str]) -> None:
    status, _, err = prodml(*args)
    assert status == 1 and "registered: 1" in err and not workspace.settings.runs_dir.exists()


def test_without_settings_the_example_is_named_once(tmp_path: Path, prodml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hint = "no settings.ini here or above: this is the built-in example, prodml_nb.examples.flights.model"
    status, out, err = prodml("status")
    assert (status, err) == (0, hint) and "none; `prodml train` makes a first version" in out
    assert prodml("--help")[2] == ""
    (tmp_path / "settings.ini").write_text("")
    assert prodml("status")[2] == ""


def test_on_a_terminal_an_event_is_a_line_and_in_a_pipe_all_of_it(
    workspace: Workspace, prodml, terminal, capsys: pytest.CaptureFixture[str]
) -> None:
    for kind, status in (("monitored", ""), ("run", "succeeded"), ("run", "failed")):
        workspace.ledger.append(kind, model="loan", version=1, reason=f"{kind} because " * 9, data={"status": status})
    piped = prodml("log")[1]
    assert len(piped.splitlines()) == 7 and piped.count("because") == 27 and "…" not in piped
    lines = terminal("log").splitlines()
    assert [line.split()[3] for line in lines[2:]] == ["registered", "promoted", "monitored", "run"]
    assert all(len(line) <= 80 for line in lines) and lines[-1].endswith("…") and "UTC" in lines[0]
    assert "1 run that succeeded is left out; --full" in capsys.readouterr().err
    assert terminal("log", "--full").count("because") == 27
    assert len(terminal("log", "--kind", "run").splitlines()) == 4


def test_every_summary_fits_on_a_terminal(prodml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in ([], ["keys"]):
        out = prodml(*command, "--help")[1]
        assert "..." not in out.split("Commands:")[1] and "Example: prodml" in out


def test_a_table_in_a_pipe_is_as_wide_as_what_is_in_it(workspace: Workspace, prodml) -> None:
    long = "because " * 40
    workspace.ledger.append("note", model="loan", reason=long)
    for args in (["log"], ["versions"], ["status"]):
        status, out, _ = prodml(*args)
        assert status == 0 and out == "\n".join(line.rstrip() for line in out.split("\n")) and out[0] not in " \n"
    assert long.strip() in prodml("log")[1]
    assert prodml("status")[1].split()[:2] == ["model", "loan"]


def test_looking_creates_nothing(tmp_path: Path, prodml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRODML_STATE_ROOT", str(tmp_path / "state"))
    monkeypatch.setenv("PRODML_MODEL_NAME", "loan")
    for args in (["status"], ["versions"], ["log"], ["keys", "list"]):
        assert prodml(*args)[0] == 0, args
    assert list(tmp_path.iterdir()) == []


def test_a_broken_chain_stops_every_command_that_reads_it(workspace: Workspace, prodml) -> None:
    workspace.ledger.append("note", model="loan")
    workspace.ledger.append("note", model="loan")
    workspace.ledger.close()
    with sqlite3.connect(workspace.root / "ledger.db") as raw:
        raw.execute("DROP TRIGGER events_no_delete")
        raw.execute("DELETE FROM events WHERE seq = 3")
    raw.close()
    for args in (["status"], ["versions"], ["log"]):
        status, _, err = prodml(*args)
        assert status == 1 and "event 3 of the ledger is missing" in err
    status, out, _ = prodml("verify")
    assert status == 1 and "event 3 of the ledger is missing" in out


def test_a_ledger_that_was_cut_shows_against_the_anchor_of_an_earlier_day(workspace: Workspace, prodml) -> None:
    workspace.ledger.append("note", model="loan")
    status, out, err = prodml("verify")
    anchor = "{}:{}".format(*workspace.ledger.head())
    assert status == 0 and f"anchor {anchor}" in err and f'"anchor": "{anchor}"' in prodml("verify", "--json")[1]
    workspace.ledger.append("note", model="loan")
    assert prodml("verify", "--anchor", anchor)[0] == 0
    assert prodml("verify", "--anchor", "12")[0] == 2
    workspace.ledger.close()
    with sqlite3.connect(workspace.root / "ledger.db") as raw:
        raw.execute("DROP TRIGGER events_no_delete")
        raw.execute(f"DELETE FROM events WHERE seq >= {anchor.split(':')[0]}")
    raw.close()
    assert prodml("verify")[0] == 0
    status, out, _ = prodml("verify", "--anchor", anchor)
    assert status == 1 and "the ledger was cut" in out


def test_a_mistyped_ledger_does_not_pass_for_an_empty_one(
    workspace: Workspace, prodml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRODML_STATE_LEDGER", f"sqlite:///{workspace.root / 'legder.db'}")
    status, out, _ = prodml("verify")
    assert status == 1 and "version 1 of loan is signed" in out and "[state] ledger" in out


def test_a_damaged_journal_line_is_told_with_a_remedy_that_works(workspace: Workspace, prodml) -> None:
    [segment] = (workspace.settings.journal_dir / "live").iterdir()
    segment.write_bytes(segment.read_bytes().replace(b'"1"', b'"1', 1))
    status, out, _ = prodml("status")
    assert status == 0 and "version 1" in out and "prodml verify --mend" in out
    status, out, _ = prodml("verify")
    assert status == 1 and segment.name in out
    assert prodml("verify", "--mend")[0] == 0
    assert "refusals: 2" in prodml("status")[1]
    assert (workspace.settings.journal_dir / "sealed" / f"{segment.stem}.damaged").exists()


def test_a_report_and_a_version_that_were_edited_are_found(workspace: Workspace, prodml) -> None:
    folder = workspace.settings.runs_dir / "r1"
    folder.mkdir(parents=True)
    (folder / "train.html").write_text("fine")
    workspace.ledger.append("run", model="loan", data={"run": "r1", "digests": {"train.html": "0" * 64}})
    (workspace.settings.models_dir / "loan" / "1" / "a").write_bytes(b"c")
    status, out, _ = prodml("verify")
    assert status == 1 and "train.html of run r1 was changed" in out and "'a' of version 1 of loan was changed" in out


def test_no_command_makes_a_new_ledger_in_place_of_a_lost_one(workspace: Workspace, prodml) -> None:
    workspace.ledger.close()
    for file in workspace.root.glob("ledger.db*"):
        file.unlink()
    before = sorted(workspace.root.rglob("*"))
    for command in ("status", "versions", "verify", "train", "serve"):
        code, _, err = prodml(command)
        assert code == 1 and "the ledger is gone: models is in the state folder" in err, (command, err)
    assert sorted(workspace.root.rglob("*")) == before
