"""A short demo: two months of flights, few requests, everything else as in the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from prodml_nb.operate import demo as demo_module
from prodml_nb.operate.replay import COMMAND


def prodml(root: Path, *args: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PRODML_STATE_ROOT": str(root), "PRODML_MONITOR_MIN_OUTCOMES": "100"}
    command = [sys.executable, "-c", COMMAND, *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    root = tmp_path_factory.mktemp("demo") / "state"
    done = prodml(root, "demo", "--months", "2", "--sample", "300", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    return root, json.loads(done.stdout)


def test_it_says_what_happened_and_loses_nothing(demo: tuple[Path, dict]) -> None:
    root, told = demo
    assert told == json.loads((root / "demo.json").read_text())
    assert [m["month"] for m in told["months"]] == ["2013-04", "2013-05"]
    assert {"month", "rows", "base_rate", "frozen", "managed", "verdict", "action"} <= set(told["months"][0])
    assert set(told["months"][0]["frozen"]) == {"auc", "log_loss"}
    assert set(told["months"][0]["managed"]) == {"auc", "log_loss", "version"}
    assert told["requests_sent"] == told["records_in_journal"] > 600
    assert told["rollbacks"] == 1


def test_the_bad_version_was_refused_overridden_seen_and_taken_back(demo: tuple[Path, dict]) -> None:
    root, told = demo
    bad = told["incident"]["version"]
    assert told["incident"]["live"]["auc"] < told["incident"]["frozen"]["auc"]
    assert told["incident"]["rolled_back_to"] != bad
    events = json.loads(prodml(root, "log", "--json").stdout)
    said = [e["data"]["verdict"] for e in events if e["kind"] == "evidence" and e["version"] == bad]
    forced = [e["data"]["override"] for e in events if e["kind"] == "promoted" and e["version"] == bad]
    assert (said, forced) == (["refuse"], [True])
    assert json.loads(prodml(root, "status", "--json").stdout)["champion"] == told["incident"]["rolled_back_to"]


def test_every_report_is_there_and_small(demo: tuple[Path, dict]) -> None:
    root, told = demo
    index = Path(told["reports"]).read_text()
    pages = list((root / "runs").glob("*/*.html"))
    assert len(pages) >= 6 and all(p.stat().st_size < 5_000_000 for p in pages)
    assert all(f"{p.parent.name}/{p.name}" in index for p in pages)


def test_the_demo_knows_everything_it_left_behind_and_can_be_run_again(demo: tuple[Path, dict]) -> None:
    root, _ = demo
    assert {left.name for left in root.iterdir()} <= demo_module.OWN


@pytest.mark.parametrize(
    ("verdict", "last", "told"),
    [
        ("retrain", False, "promoted v3"),
        ("retrain", True, "none (the demo ends)"),
        ("ok", False, "none"),
        ("ok", True, "none"),
    ],
)
def test_a_month_says_what_was_done_about_it_or_why_nothing_was(
    monkeypatch: pytest.MonkeyPatch, verdict: str, last: bool, told: str
) -> None:
    seen, again = SimpleNamespace(result={"verdict": verdict}), SimpleNamespace(action="promoted", version=3)
    for name, answer in (("run_pipeline", seen), ("retrain", again), ("_follow", None)):
        monkeypatch.setattr(demo_module, name, lambda *_, answer=answer, **__: answer)
    stage = SimpleNamespace(
        workspace=None, claim=SimpleNamespace(actor="demo-1"), url="", start=lambda total, what: None
    )
    month = demo_module.Month(month="2013-05", rows=1, base_rate=0.5, frozen={}, managed={"version": 1})
    run, retrained = demo_module._look(stage, month, "2013-05-01", "2013-06-01", last)
    assert (run, retrained) == (seen, told.startswith("promoted"))
    assert (month.verdict, month.action) == (verdict, told)


def test_a_deployment_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").touch()
    done = prodml(tmp_path, "demo", "--quiet")
    assert done.returncode == 1 and "holds a deployment" in done.stderr and (tmp_path / "ledger.db").exists()
