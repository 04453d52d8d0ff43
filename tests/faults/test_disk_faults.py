"Disks that are full or read-only, and folders that are none: said in words, and nothing acknowledged is lost."

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prodml_nb.errors import SettingsError
from prodml_nb.operate.workspace import Workspace
from prodml_nb.settings import load_settings

PRODML = "from prodml_nb.cli import main; main()"
OWN_MOUNTS = ["unshare", "--user", "--map-root-user", "--mount"]


def may_mount() -> bool:
    "Whether this user may mount something in a namespace of its own."
    if not shutil.which("unshare"):
        return False
    return not subprocess.run([*OWN_MOUNTS, "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True).returncode


def on_a_small_disk(folder: Path, code: str, size: str = "500k", **env: str) -> subprocess.CompletedProcess:
    "Run code in a process for which a folder is a disk of that size, and its tests' helpers can be imported."
    folder.mkdir(exist_ok=True)
    script = f'mount -t tmpfs -o size={size} none "$0" && exec "$1" -c "$2" "$0"'
    return subprocess.run(
        [*OWN_MOUNTS, "sh", "-c", script, str(folder), sys.executable, PRELUDE + code],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])} | env,
        capture_output=True,
        text=True,
        timeout=120,
    )


PRELUDE = """
import json, os, subprocess, sys
from pathlib import Path
from conftest import LATE, RECORD, Deployment
from prodml_nb.errors import ProdMLError

root = Path(sys.argv[1])
deployment = Deployment(root)


def fill():
    junk = os.open(root / "junk", os.O_WRONLY | os.O_CREAT)
    for size in (65536, 1):
        try:
            while os.write(junk, b"x" * size):
                pass
        except OSError:
            pass
    os.close(junk)


def told(act, *arguments):
    try:
        act(*arguments)
    except ProdMLError as error:
        return str(error)
"""
needs_mounts = pytest.mark.skipif(not may_mount(), reason="needs a mount namespace of its own")


@needs_mounts
def test_a_full_disk_takes_no_decision_and_no_version_and_is_named(tmp_path):
    code = """
deployment.release(-1.0, 1.0)
fill()
said = [told(deployment.promote, 1), told(deployment.register, 2.0)]
(root / "junk").unlink()
deployment.ledger.verify()
kept = deployment.ledger.state("late").champion
deployment.promote(deployment.register(2.0))
print(json.dumps([said, kept, deployment.ledger.state("late").champion]))
"""
    done = on_a_small_disk(tmp_path / "state", code)
    said, *champions = json.loads(done.stdout or done.stderr)
    assert champions == [2, 3]
    assert "disk is full" in said[0] and "room" in said[0]
    assert "version 3 of late cannot be stored" in said[1] and "disk" in said[1]


@needs_mounts
def test_a_journal_without_room_answers_503_until_there_is_room_and_keeps_what_it_acknowledged(tmp_path):
    code = """
import asyncio, httpx
from prodml_nb.record.reader import Journal
from prodml_nb.serve.service import open_endpoint
deployment.release(1.0)
endpoint, told, ids = open_endpoint(deployment.settings()), [], []


async def send(times):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://127.0.0.1") as client:
        for _ in range(times):
            answer = await client.post("/predict", json=[RECORD] * 3)
            told.append([answer.status_code, answer.json()["detail"] if answer.status_code != 200 else ""])
            ids.extend(a["prediction_id"] for a in answer.json() if answer.status_code == 200)


asyncio.run(send(2))
fill()
asyncio.run(send(30))
(root / "junk").unlink()
while not endpoint.recorder.is_available():  # tried again five times a second
    pass
asyncio.run(send(2))
endpoint.router.stop(); endpoint.recorder.close()
journal = Journal(deployment.journal_dir)
print(json.dumps([told, sorted(ids) == sorted(journal.frame(LATE)["id"]), journal.torn]))
"""
    done = on_a_small_disk(tmp_path / "state", code)
    told, all_there, torn = json.loads(done.stdout or done.stderr)
    assert {status for status, _ in told} == {200, 503} and [told[0][0], told[-1][0]] == [200, 200]
    assert all("No space left on device" in detail for status, detail in told if status == 503)
    assert all_there and not torn


@needs_mounts
@pytest.mark.parametrize("setting, answered", [("fail_closed", 0), ("fail_open", 2)])
def test_a_journal_on_a_read_only_disk_does_as_it_is_set_and_goes_on_when_it_can_be_written(
    tmp_path, setting, answered
):
    code = """
import asyncio, httpx
from prodml_nb.record.reader import Journal
from prodml_nb.serve.service import open_endpoint
deployment.release(1.0)
deployment.journal_dir.mkdir(exist_ok=True)


def mount(how):
    subprocess.run(["mount", *how.split(), deployment.journal_dir], check=True)


mount("-t tmpfs none")
(deployment.journal_dir / "live").mkdir()
mount("-o remount,ro")
endpoint, statuses, ids = open_endpoint(deployment.settings(**json.loads(os.environ["SERVE"]))), [], []


async def ask():
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://127.0.0.1") as client:
        ready = (await client.get("/readyz")).text
        answer = await client.post("/predict", json=RECORD)
        statuses.append([answer.status_code, "Read-only" in answer.text + ready])
        ids.extend([answer.json()["prediction_id"]] if answer.status_code == 200 else [])


for _ in range(2):
    asyncio.run(ask())
mount("-o remount,rw")
while not endpoint.recorder.is_available():
    pass
asyncio.run(ask())
endpoint.router.stop(); endpoint.recorder.close()
print(json.dumps([statuses, ids, list(Journal(deployment.journal_dir).frame(LATE)["id"])]))
"""
    done = on_a_small_disk(tmp_path / "state", code, "5m", SERVE=json.dumps({"on_journal_failure": setting}))
    statuses, told, kept = json.loads(done.stdout or done.stderr)
    assert [status for status, _ in statuses] == [200 if answered else 503] * 2 + [200]
    assert [says for _, says in statuses][1:] == [True, False]
    assert len(told) == answered + 1 and sorted(told) == sorted(kept)


@pytest.mark.parametrize("root", ["file", "file/below"])
def test_a_state_folder_that_cannot_be_one_is_named(tmp_path, root):
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"\[state\] root"):
        Workspace(load_settings(env={"PRODML_STATE_ROOT": str(tmp_path / root)}))


def test_a_command_that_cannot_write_says_where_to_look(tmp_path):
    (tmp_path / "runs").touch()
    done = subprocess.run(
        [sys.executable, "-c", PRODML, "train", "--quiet"],
        env=os.environ | {"PRODML_STATE_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "[state] root" in done.stderr and "Traceback" not in done.stderr
