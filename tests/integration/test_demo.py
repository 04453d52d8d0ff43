"""A short demo: two months of flights, few requests, everything else as in the long one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prodml_nb.operate.demo import OWN
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
    assert not [m for m in told["months"] if m["verdict"] == "retrain" and m["action"] == "none"], "without saying why"


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
    assert {left.name for left in root.iterdir()} <= OWN


def test_a_deployment_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").touch()
    done = prodml(tmp_path, "demo", "--quiet")
    assert done.returncode == 1 and "holds a deployment" in done.stderr and (tmp_path / "ledger.db").exists()
