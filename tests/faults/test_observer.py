"The observer beside a real service: every row once, whatever is killed."

import json
import os
import signal
import time

import pytest
from conftest import RECORD, Deployment, wait_for

from prodml_nb.observe.observer import Observer, Profiler, specs_of
from prodml_nb.observe.profiles import summary
from prodml_nb.serve.service import read_observer


def told(deployment: Deployment) -> dict:
    try:
        return json.loads((deployment.root / "observer.json").read_text())
    except (OSError, ValueError):
        return {}


def profiled(deployment: Deployment) -> int:
    "Rows in the profiles on disk."
    files = (deployment.root / "profiles" / "live").glob("*.bin")
    return sum(int(summary(file).rows.iloc[0]) for file in files)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_killed_and_started_again_it_takes_every_row_once(deployment, number):
    deployment.release(1.0)
    with deployment.serve(observer="on") as (client, _):
        client.post("/predict", json=[RECORD] * 700)
        first = wait_for(lambda: told(deployment).get("pid"), 60)
        client.post("/predict", json=[RECORD] * 300)
        os.kill(first, number)
        client.post("/predict", json=[RECORD] * 200)
        second = wait_for(lambda: (pid := told(deployment).get("pid")) != first and pid, 60)
        wait_for(lambda: told(deployment)["rows"] == 1200, 30)
        lines = client.get("/metrics").text.splitlines()
        assert "prodml_observer_running 1.0" in lines
        wait_for(lambda: "prodml_observer_rows 1200.0" in client.get("/metrics").text.splitlines())
    assert profiled(deployment) == 1200
    with pytest.raises(ProcessLookupError):  # it ended with its service
        os.kill(second, 0)


def test_an_observer_that_is_not_heard_of_is_behind(tmp_path):
    file, now = tmp_path / "observer.json", time.time()
    assert read_observer(file, 0) == {}
    file.write_text('{"pid": 1, "rows": 9, "behind": 0, "lag": 0.5, "unread": 2}')
    assert read_observer(file, 0) == {
        "observer_rows": 9, "observer_behind": 0, "observer_lag": 0.5, "observer_unread": 2,
    }  # fmt: skip
    os.utime(file, (now - 60, now - 60))
    assert 60 <= read_observer(file, 0)["observer_lag"] < 70
    assert read_observer(file, now)["observer_lag"] == 0.5  # nobody has listened for long yet


@pytest.mark.parametrize("damage", ["all of it", "a page"])
def test_a_damaged_checkpoint_is_put_aside_and_everything_is_read_anew(deployment, capsys, damage):
    deployment.release(1.0)
    with deployment.serve() as (client, _):
        client.post("/predict", json=[RECORD] * 50)
    path, folder = deployment.root / "observer.db", deployment.settings().profiles_dir / "live"
    specs = specs_of(deployment.settings())
    for _ in range(2):
        observer = Observer(deployment.journal_dir, path, [Profiler(folder, specs)])
        while observer.step():
            pass
        observer.connection.close()
        assert (observer.rows, profiled(deployment)) == (50, 50)
        data = path.read_bytes()
        path.write_bytes(b"no database" * 5000 if damage == "all of it" else data[:4096] + b"x" * (len(data) - 4096))
    assert "the journal is read anew" in capsys.readouterr().err and (deployment.root / "damaged-observer.db").exists()


def test_a_state_folder_that_was_away_comes_back_and_nothing_is_in_its_place(deployment):
    deployment.release(1.0)
    away = deployment.root.with_name("away")
    with deployment.serve(observer="on") as (client, _):
        client.post("/predict", json=[RECORD] * 50)
        wait_for(lambda: told(deployment).get("rows") == 50, 60)
        deployment.root.rename(away)
        time.sleep(5)  # the observer looks every two seconds, and is started again
        assert not deployment.root.exists()
        away.rename(deployment.root)
        wait_for(lambda: client.get("/readyz").json()["status"] == "ready", 20)
        assert client.post("/predict", json=[RECORD] * 30).status_code == 200
        wait_for(lambda: told(deployment).get("rows") == 80, 60)
    assert profiled(deployment) == 80
