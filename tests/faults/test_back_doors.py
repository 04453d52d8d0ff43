"Ways around the keys, the monitor and the journal that a stranger or an accident might find."

import asyncio
import fcntl
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager

import httpx
import pyarrow as pa
import pytest
from conftest import LATE, RECORD, Deployment, late_graph, wait_for
from msgspec.structs import replace

from prodml_nb.contract.request import Decoder, RequestError
from prodml_nb.contract.spec import Category, ModelSpec, Number
from prodml_nb.errors import DataError, IntegrityError, ReleaseError, ServingError
from prodml_nb.observe.observer import Observer
from prodml_nb.operate.columns import check_schema
from prodml_nb.operate.release import end_key, make_key, promote, write_release
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.journal import JournalWriter, uuid7
from prodml_nb.record.keys import create_key, list_keys
from prodml_nb.record.ledger import Ledger
from prodml_nb.record.memory import Memory
from prodml_nb.record.reader import Journal
from prodml_nb.serve.companion import OBSERVER
from prodml_nb.serve.endpoint import Call, Endpoint
from prodml_nb.serve.fast_path import FastPath
from prodml_nb.serve.launch import find_release, serve, serve_command
from prodml_nb.serve.protocols import Tensor, in_words, read_column, read_json
from prodml_nb.serve.service import check_release, find_parent, open_endpoint
from prodml_nb.settings import load_settings


@pytest.fixture
def endpoint(deployment):
    deployment.release(1.0)
    endpoint = open_endpoint(deployment.settings(on_journal_failure="fail_open"))
    yield endpoint
    endpoint.router.stop()
    endpoint.recorder.close()


async def send(endpoint: Endpoint, path: str, body=None, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://127.0.0.1") as client:
        return await client.request("GET" if body is None else "POST", path, json=body, headers=headers)


def ask(endpoint: Endpoint, path: str, body=None, **headers: str) -> httpx.Response:
    return asyncio.run(send(endpoint, path, body, **headers))


def predictions(deployment: Deployment) -> Counter:
    return Counter(Journal(deployment.journal_dir).query("SELECT id FROM predictions").id)


# -- pages of others


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"host": "evil.example:3000"},
        {"host": "evil.example", "origin": "http://evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "testserver"},
    ],
)
def test_without_keys_a_page_from_elsewhere_records_nothing(endpoint, deployment, headers):
    refused = ask(endpoint, "/predict", RECORD, **headers)
    assert (refused.status_code, refused.json()["title"]) == (403, "Not from here")
    assert not predictions(deployment)


def test_without_keys_the_services_own_page_may_ask(endpoint):
    for host in ("127.0.0.1:3000", "localhost:3000", "[::1]:3000"):
        assert ask(endpoint, "/predict", RECORD, host=host, origin=f"http://{host}").status_code == 200


# -- hiding from the monitor


def test_only_an_admin_may_hide_from_the_monitor(endpoint, deployment):
    assert ask(endpoint, "/predict", RECORD, **{"prodml-stress": "1"}).json()["route"] == "stress"  # no keys yet
    keys = {scope: create_key(deployment.ledger, [scope], rate=1)[0] for scope in ("predict", "admin")}
    wait_for(lambda: ask(endpoint, "/predict", RECORD).status_code == 401, 5)
    found = {
        s: ask(endpoint, "/predict", RECORD, authorization=f"Bearer {k}", **{"prodml-stress": "1"})
        for s, k in keys.items()
    }
    assert (found["predict"].status_code, found["admin"].json()["route"]) == (403, "stress")
    assert "hides a request from the monitor, needs a key with the scope admin" in found["predict"].json()["detail"]
    unspent = ask(endpoint, "/predict", RECORD, authorization=f"Bearer {keys['predict']}")
    assert unspent.status_code == 200


# -- one identifier, one record


def test_two_workers_asked_the_same_at_once_record_it_once(deployment, monkeypatch):
    deployment.release(1.0)
    first, second = (open_endpoint(deployment.settings(), worker=w) for w in "01")
    named, append, flock = RECORD | {"prediction_id": uuid7()}, first.recorder.append, fcntl.flock
    is_inside, is_next = threading.Event(), threading.Event()

    def slowly(records):
        is_inside.set()
        is_next.wait(5)
        return append(records)

    def noted(descriptor, how):
        if is_inside.is_set() and how & fcntl.LOCK_EX:
            is_next.set()
        flock(descriptor, how)

    first.recorder.append = slowly
    monkeypatch.setattr(fcntl, "flock", noted)
    told = []
    thread = threading.Thread(target=lambda: told.append(ask(first, "/predict", named).text))
    thread.start()
    is_inside.wait(10)
    told.append(ask(second, "/predict", named).text)
    thread.join()
    for endpoint in (first, second):
        endpoint.router.stop()
        endpoint.recorder.close()
    assert set(predictions(deployment).values()) == {1} and len(set(told)) == 1


@contextmanager
def held(deployment):
    "The lock of the identifiers, in the hands of somebody who does not let go."
    with open(deployment.journal_dir / "ids.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_lock_that_somebody_keeps_stops_nobody_else(endpoint, deployment):
    async def talk():
        named = [asyncio.create_task(send(endpoint, "/predict", RECORD | {"prediction_id": uuid7()})) for _ in "ab"]
        others = [
            await send(endpoint, *what) for what in (("/livez",), ("/predict", RECORD), ("/predict", [RECORD] * 2))
        ]
        assert [r.status_code for r in others] == [200, 200, 200] and not any(task.done() for task in named)
        return [await task for task in named]

    with held(deployment):
        for refused in asyncio.run(talk()):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert ask(endpoint, "/predict", RECORD | {"prediction_id": uuid7()}).status_code == 200


def test_a_lock_that_is_soon_free_costs_no_request(endpoint, deployment):
    async def talk():
        with held(deployment):
            task = asyncio.create_task(send(endpoint, "/predict", RECORD | {"prediction_id": uuid7()}))
            await asyncio.sleep(0.1)
        return await task

    assert asyncio.run(talk()).status_code == 200


def test_after_waiting_in_vain_nobody_waits_for_the_lock(endpoint, deployment, monkeypatch):
    monkeypatch.setattr("prodml_nb.serve.answers.PAUSES", [0.0])
    with held(deployment):
        told = [ask(endpoint, "/predict", RECORD | {"prediction_id": uuid7()}) for _ in range(2)]
        monkeypatch.setattr("prodml_nb.serve.answers.PAUSES", None)
        told.append(ask(endpoint, "/predict", RECORD | {"prediction_id": uuid7()}))
    assert [r.status_code for r in told] == [503] * 3


@pytest.mark.parametrize(("failure", "status"), [("fail_closed", 503), ("fail_open", 200)])
def test_without_a_lock_no_repetition_goes_unnoticed_in_silence(deployment, failure, status):
    deployment.release(1.0)
    endpoint = open_endpoint(deployment.settings(on_journal_failure=failure))
    (deployment.journal_dir / "ids.lock").mkdir()
    named, other = (ask(endpoint, "/predict", body) for body in (RECORD | {"prediction_id": uuid7()}, RECORD))
    assert (named.status_code, other.status_code, other.json()["warnings"]) == (status, 200, [])
    assert "whether this prediction_id was used before" in named.text
    assert "prediction_id" in ask(endpoint, "/readyz").json()["note"]
    endpoint.tick()
    assert b"prodml_recording 0.0" in endpoint.meters.text()
    (deployment.journal_dir / "ids.lock").rmdir()
    endpoint.tick()
    assert ask(endpoint, "/readyz").json()["status"] == "ready"
    endpoint.router.stop()
    endpoint.recorder.close()


def test_a_lock_that_was_deleted_still_keeps_two_apart(tmp_path):
    first, second = Memory(tmp_path), Memory(tmp_path)
    with first.sole():
        pass
    (tmp_path / "ids.lock").unlink()
    with second.sole(), pytest.raises(BlockingIOError), first.sole():
        pass


def test_a_turn_looks_once_however_many_identifiers_it_has(endpoint, monkeypatch):
    looks, turns, look, told = [], [], Memory.look, endpoint.answerer._on_turn
    monkeypatch.setattr(Memory, "look", lambda self: looks.append(1) or look(self))
    endpoint.answerer._on_turn = lambda *given: turns.append(1) or told(*given)

    endpoint.admission.let_in = 32

    async def talk():
        await asyncio.gather(*(send(endpoint, "/predict", RECORD | {"prediction_id": uuid7()}) for _ in range(32)))

    asyncio.run(talk())
    assert len(looks) == len(turns) < 32


def test_a_request_reads_only_what_was_written_since_the_last_second(endpoint, deployment):
    ask(endpoint, "/predict", [RECORD] * 100)
    endpoint.tick()
    read = dict(endpoint.answerer.memory._read)
    assert read == {path: path.stat().st_size for path in (deployment.journal_dir / "live").iterdir()}


def test_synced_is_said_of_what_another_worker_wrote_when_it_is_true(deployment, monkeypatch):
    deployment.release(1.0)
    first, second = (open_endpoint(deployment.settings(durability="synced"), worker=w) for w in "01")
    [segment] = (deployment.journal_dir / "live").glob("0-*")
    named, may, on_disk, sync = RECORD | {"prediction_id": uuid7()}, threading.Event(), set(), os.fdatasync
    own = first.recorder._writer._descriptor

    def slowly(descriptor):
        if descriptor == own:
            may.wait(10)
        sync(descriptor)
        on_disk.add(os.fstat(descriptor).st_ino)

    monkeypatch.setattr(os, "fdatasync", slowly)

    async def talk():
        waiting = asyncio.create_task(send(first, "/predict", named))
        await asyncio.sleep(0.1)
        told = await send(second, "/predict", named)
        assert told.status_code == 200 and not waiting.done() and segment.stat().st_ino in on_disk
        may.set()
        assert (await waiting).text == told.text

    asyncio.run(talk())
    for endpoint in (first, second):
        endpoint.router.stop()
        endpoint.recorder.close()


def break_journal(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JournalWriter, "append", refuse)


def test_a_repetition_during_an_outage_is_recorded_once(endpoint, deployment, monkeypatch):
    named = RECORD | {"prediction_id": uuid7()}
    with monkeypatch.context() as broken:
        break_journal(endpoint, broken)
        first, again, other = (ask(endpoint, "/predict", body) for body in (named, named, named | {"wind": 11}))
        assert first.text == again.text and "not recorded yet" in again.json()["warnings"][0]
        assert other.status_code == 409
    wait_for(endpoint.recorder.is_available, 5)
    assert predictions(deployment) == {named["prediction_id"]: 1}


def test_no_request_goes_through_the_spool(endpoint, monkeypatch):
    class Counted(list):
        def __iter__(self):
            raise AssertionError("as many steps as there are records in the spool")

    break_journal(endpoint, monkeypatch)
    named = RECORD | {"prediction_id": uuid7()}
    first = ask(endpoint, "/predict", [named, RECORD])
    endpoint.recorder.clock, endpoint.recorder.spool = lambda: 0.0, Counted(endpoint.recorder.spool)
    again = [ask(endpoint, "/predict", body) for body in (named, RECORD)]
    assert [r.status_code for r in again] == [200, 200] and again[0].json() == first.json()[0]
    assert all("not recorded yet" in r.json()["warnings"][-1] for r in again)
    endpoint.recorder.spool = []


def test_feedback_that_only_memory_holds_says_so(endpoint, monkeypatch):
    piece = {"prediction_id": ask(endpoint, "/predict", RECORD).json()["prediction_id"], "outcome": "late"}
    assert ask(endpoint, "/feedback", piece).json()["warnings"] == []
    with monkeypatch.context() as broken:
        break_journal(endpoint, broken)
        assert "not recorded yet" in ask(endpoint, "/feedback", piece).json()["warnings"][0]


def test_a_full_disk_is_named_to_whoever_asks_for_readiness(deployment, monkeypatch):
    deployment.release(1.0)
    endpoint = open_endpoint(deployment.settings())
    break_journal(endpoint, monkeypatch)
    said = [ask(endpoint, "/predict", RECORD).json()["detail"], ask(endpoint, "/readyz").json()["detail"]]
    assert all("No space left on device" in told for told in said), said
    endpoint.router.stop()


def test_a_journal_that_mends_after_the_start_keeps_its_durability(deployment):
    deployment.release(1.0)
    deployment.journal_dir.write_text("in the way")
    endpoint = open_endpoint(deployment.settings(durability="synced"))
    assert ask(endpoint, "/predict", RECORD).status_code == 503
    deployment.journal_dir.unlink()
    endpoint.recorder.clock = lambda: 1e12  # long afterwards
    assert [ask(endpoint, "/predict", RECORD).status_code for _ in range(2)] == [200, 200]
    assert sum(predictions(deployment).values()) == 2
    endpoint.router.stop()
    endpoint.recorder.close()


# -- a ledger that is lost


def test_a_lost_ledger_opens_nothing_to_anybody(deployment, tmp_path):
    deployment.release(1.0)
    older = deployment.ledger.snapshot(tmp_path / "older.db")
    create_key(deployment.ledger, ["predict"])
    workspace = Workspace(deployment.settings())
    promote(workspace, deployment.register(0.0), "to be laid out", override=True)
    endpoint = open_endpoint(deployment.settings())
    for file in deployment.root.glob("ledger.db*"):
        file.unlink()
    told = wait_for(lambda: endpoint.router.current.is_blind and ask(endpoint, "/readyz"), 5)
    assert "ledger" in told.json()["note"] and ask(endpoint, "/predict", RECORD).status_code == 401
    longer = Ledger(f"sqlite:///{shutil.copy(older, tmp_path / 'longer.db')}")
    for _ in range(9):
        longer.append("run", model="late")
    longer.close()
    for other in (older, tmp_path / "longer.db"):  # from before there were keys
        shutil.copy(other, tmp_path / "copy.db")
        (tmp_path / "copy.db").replace(deployment.root / "ledger.db")
        wait_for(lambda: "does not go on from event 5" in ask(endpoint, "/readyz").json()["note"], 5)
        endpoint.router.refresh()
        assert ask(endpoint, "/predict", RECORD).status_code == 401
    endpoint.router.stop()
    (deployment.root / "ledger.db").unlink()
    for start in (lambda: open_endpoint(deployment.settings()), lambda: serve(deployment.settings())):
        with pytest.raises(IntegrityError, match="ledger is gone.*backup"):
            start()
    before = sorted(deployment.root.rglob("*"))
    for create in (True, False):
        with pytest.raises(IntegrityError, match="ledger is gone.*backup"):
            Workspace(deployment.settings(), create=create)
    assert sorted(deployment.root.rglob("*")) == before


def test_a_lost_ledger_is_not_said_to_be_served_where_it_is_not(deployment):
    deployment.release(1.0)
    endpoint = open_endpoint(deployment.settings(on_ledger_failure="fail_closed"))
    (deployment.root / "ledger.db").rename(deployment.root / "away.db")
    refused = wait_for(lambda: (r := ask(endpoint, "/predict", RECORD)).status_code == 503 and r, 5)
    assert "serving" not in refused.json()["detail"]
    endpoint.router.stop()


# -- a package


def test_a_build_packs_the_release_of_the_settings_with_the_keys_of_the_ledger(deployment, tmp_path):
    settings = load_settings(env={"PRODML_STATE_ROOT": str(tmp_path / ".prodml")})
    with pytest.raises(ServingError, match="root"):
        check_release(deployment.settings(), tmp_path)
    with pytest.raises(ServingError, match="prodml promote"):
        check_release(settings, tmp_path)
    deployment = Deployment(settings.state.root)
    workspace = Workspace(settings)
    promote(workspace, deployment.register(0.0), "first", override=True)
    check_release(settings, tmp_path)
    _, key = create_key(workspace.ledger, ["predict"])
    with pytest.raises(ServingError, match="keys"):
        check_release(settings, tmp_path)
    end_key(workspace, key.id, reason="lost")
    check_release(settings, tmp_path)
    assert list_keys(Ledger(f"sqlite:///{settings.release_dir / 'ledger.db'}"))[0].revoked
    deployment.promote(deployment.register(1.0))  # as one that was interrupted before the release was laid out
    with pytest.raises(ServingError, match="champion.*`prodml promote 2`"):
        check_release(settings, tmp_path)
    write_release(workspace)
    check_release(settings, tmp_path)
    Ledger(settings.ledger_url).append("registered", model="other", version=1)
    check_release(settings, tmp_path)


@pytest.mark.parametrize(
    "how",
    [
        ["-m", "bentoml", "build", "."],
        ["-c", "import bentoml; bentoml.build('prodml_nb.serve.service:Prediction', build_ctx='.')"],
        ["-c", "import bentoml; bentoml.bentos.build_bentofile(build_ctx='.')"],
    ],
)
def test_whatever_builds_is_told_of_a_release_that_is_not_the_settings(tmp_path, how):
    (tmp_path / "bentofile.yaml").write_text("service: prodml_nb.serve.service:Prediction\n")
    env = os.environ | {"PRODML_STATE_ROOT": str(tmp_path / "state"), "BENTOML_HOME": str(tmp_path / "bentoml")}
    done = subprocess.run([sys.executable, *how], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode != 0 and "build where [state] root is .prodml" in done.stdout + done.stderr
    if "-m" in how:
        assert done.stderr.splitlines()[-1].startswith("error: ") and "Traceback" not in done.stdout + done.stderr
    assert not list((tmp_path / "bentoml").glob("bentos/*/*"))


def test_the_keys_that_let_a_service_listen_elsewhere_are_those_of_the_release_it_serves(deployment, tmp_path):
    promote(Workspace(deployment.settings()), deployment.register(0.0), "first", override=True)
    for keys in (0, 1):
        for _ in range(keys):
            make_key(Workspace(deployment.settings()), ["predict"])
        shutil.copytree(deployment.root / "release", tmp_path / str(keys) / "release")
    settings = [
        load_settings(env={"PRODML_STATE_ROOT": str(tmp_path / n), "PRODML_SERVE_HOST": "0.0.0.0"}) for n in "01"
    ]
    with pytest.raises(ServingError, match="API keys"):
        serve_command(settings[0])
    assert "0.0.0.0" in serve_command(settings[1])[0]


def test_keys_on_the_command_line_reach_the_release(deployment):
    promote(Workspace(deployment.settings()), deployment.register(0.0), "first", override=True)
    packed = Ledger(f"sqlite:///{deployment.root / 'release' / 'ledger.db'}")
    prodml = [sys.executable, "-c", "from prodml_nb.cli import main; main()", "keys"]
    env = os.environ | {"PRODML_STATE_ROOT": str(deployment.root)}
    made = subprocess.run([*prodml, "create", "--scope", "predict", "--json"], env=env, capture_output=True, check=True)
    name = json.loads(made.stdout)["id"]
    assert [k.id for k in list_keys(packed)] == [name]
    subprocess.run([*prodml, "revoke", name, "--reason", "lost"], env=env, capture_output=True, check=True)
    assert list_keys(packed)[0].revoked


def test_where_a_release_was_unpacked_no_key_is_made_that_would_take_its_place(deployment, tmp_path):
    promote(Workspace(deployment.settings()), deployment.register(0.0), "first", override=True)
    _, key = make_key(Workspace(deployment.settings()), ["predict"])
    shutil.copytree(deployment.root / "release", tmp_path / "elsewhere" / "release")
    settings = load_settings(env={"PRODML_STATE_ROOT": str(tmp_path / "elsewhere")})
    served = find_release(settings, tmp_path)
    for change in (lambda w: make_key(w, ["predict"]), lambda w: end_key(w, key.id, reason="lost")):
        with pytest.raises(ReleaseError, match="where that ledger is"):
            change(Workspace(settings))
    assert find_release(settings, tmp_path) == served == settings.release_dir


# -- what calls home, and what goes wrong behind the service


def test_the_runtime_does_not_call_home(tmp_path):
    (tmp_path / "model.onnx").write_bytes(late_graph(0.0))
    code = "import prodml_nb, onnxruntime; onnxruntime.InferenceSession('model.onnx')"
    env = {k: v for k, v in os.environ.items() if not k.startswith("ORT_")} | {"HOME": str(tmp_path / "home")}
    (tmp_path / "home").mkdir()
    alone = ["unshare", "--user", "--map-root-user", "--net"]  # no network, whatever it tries
    may = shutil.which("unshare") and not subprocess.run([*alone, "true"], capture_output=True).returncode
    subprocess.run([*(alone if may else ()), sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    assert list((tmp_path / "home").rglob("*")) == []


def test_an_error_that_ends_the_observers_transaction_is_told_as_it_is(deployment):
    deployment.release(1.0)
    endpoint = open_endpoint(deployment.settings())
    ask(endpoint, "/predict", RECORD)
    endpoint.router.stop()

    class Full:
        def take(self, rows, connection):
            connection.execute("ROLLBACK")  # as SQLite does
            raise sqlite3.OperationalError("database or disk is full")

        def after(self, connection):
            pass

    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        Observer(deployment.journal_dir, deployment.root / "observer.db", [Full()]).step()


def test_an_observer_without_a_place_says_so_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-c", "from prodml_nb.observe.observer import main; main()"],
        env=os.environ | {"PRODML_STATE_ROOT": str(tmp_path / "file" / "state")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "observer" in done.stderr


def test_an_observer_whose_service_died_before_it_could_look_ends(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    env = os.environ | {"PRODML_STATE_ROOT": str(tmp_path)}
    assert subprocess.run([*OBSERVER, str(gone.pid)], env=env, timeout=60).returncode == 0


def test_a_worker_whose_supervisor_died_before_it_could_look_knows_that_it_is_an_orphan(monkeypatch):
    assert find_parent("4711") == find_parent(None) == os.getppid()  # told of another service
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert (find_parent("4711"), find_parent(None)) == (4711, 1)


def test_the_log_is_told_once_what_a_version_raises_and_no_value(endpoint, caplog):
    loaded = endpoint.router.current.champion

    def fail(numbers, categories):
        raise ZeroDivisionError("wind was 424242")

    object.__setattr__(loaded.scorer, "score", fail)
    with caplog.at_level(logging.ERROR, "prodml.serve"):
        for _ in range(3):
            ask(endpoint, "/predict", RECORD)
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 1 and "ZeroDivisionError" in said[0] and "424242" not in said[0]


# -- texts and words

FREE = ModelSpec(
    name="free",
    task="binary",
    target="y",
    subject="who",
    classes=(False, True),
    fallback=0.5,
    features=(
        Number("d", low=0.0, out_of_range="fallback", missing="reject"),
        Category("note"),
        Category("k", levels=("a",), unseen="fallback"),
    ),
)


@pytest.mark.parametrize("field", ["note", "k", "who"])
def test_a_text_without_end_is_refused_by_name(field):
    good = {"d": 1.0, "note": "n" * 1000, "k": "a", "who": "w" * 1000}
    assert Decoder(FREE).decode(json.dumps(good).encode()).n == 1
    for body in (good | {field: "v" * 1001}, [good, good | {field: "v" * 1001}]):
        with pytest.raises(RequestError) as refused:
            Decoder(FREE).decode(json.dumps(body).encode())
        assert [p.field for p in refused.value.problems] == [field]
        assert "1000 characters" in refused.value.problems[0].detail


def test_a_problem_without_a_field_is_a_sentence():
    for record in ([], [3], 3):
        with pytest.raises(RequestError) as refused:
            Decoder(FREE).decode(json.dumps(record).encode())
        problems = [
            {"field": p.field, "detail": p.detail, "allowed": p.allowed, "index": p.index}
            for p in refused.value.problems
        ]
        said = in_words({"status": 422, "detail": str(refused.value), "errors": problems})
        assert ". the request " in said or ". record[0] must be a JSON object" in said


def test_a_policy_is_warned_of_once(deployment):
    wind, slack, sky, holiday = LATE.features
    features = (replace(wind, out_of_range="fallback"), slack, replace(sky, unseen="fallback"), holiday)
    deployment.promote(deployment.register(0.0, replace(LATE, features=features)))
    endpoint = open_endpoint(deployment.settings())
    told = ask(endpoint, "/predict", RECORD | {"wind": -1, "sky": "green"}).json()
    endpoint.router.stop()
    endpoint.recorder.close()
    assert sorted(told["warnings"]) == ["sky is an unseen level", "wind is out of range: fallback"]


def test_words_say_what_is_wrong_and_what_is_allowed_once(deployment):
    shape = read_column(Tensor("d", [-1], "FP32", []), ("FP32",))
    assert (shape.detail, shape.allowed) == ("is not a column", "shape [n] or [n, 1], one tensor a feature")
    with pytest.raises(RequestError) as refused:
        Decoder(FREE).decode_records(read_json(b'[{"d": NaN, "note": "n", "k": "a"}]'))
    assert refused.value.problems[0].detail == "must not be null or NaN"
    with pytest.raises(ReleaseError) as unknown:
        create_key(deployment.ledger, ["nope"])
    assert str(unknown.value).count("predict") == 1
    with pytest.raises(DataError, match="column 'd' is missing; other columns: row$"):
        check_schema(FREE, pa.schema([("row", pa.int64()), ("note", pa.string()), ("k", pa.string())]), "a table")


# -- answers that do not come


@pytest.mark.parametrize(
    ("path", "name"), [("/predict", "title"), ("/v2/models/late/infer", "error"), ("/invocations", "error_code")]
)
def test_a_disk_that_never_answers_is_told_in_the_words_of_the_protocol_and_counted(
    deployment, monkeypatch, path, name
):
    deployment.release(1.0)
    endpoint, told = open_endpoint(deployment.settings(durability="synced")), []
    monkeypatch.setattr(endpoint.recorder, "commit", lambda: asyncio.sleep(60))
    columns = [
        {"name": n, "shape": [1], "datatype": t, "data": [RECORD[n]]}
        for n, t in (("wind", "FP64"), ("slack in minutes", "FP64"), ("sky", "BYTES"), ("holiday", "BOOL"))
    ]
    sent = {"/predict": RECORD, "/invocations": {"dataframe_records": [RECORD]}}.get(path, {"inputs": columns})

    async def main() -> None:
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": [], "server": None}
        fast = FastPath(endpoint.respond, seconds=0.0)
        fast.begin(Call(scope, body=json.dumps(sent).encode()), lambda *response: told.append(response))
        await asyncio.sleep(0.05)
        fast.tick()
        await asyncio.sleep(0.05)
        assert not told and endpoint.admission.present == 1  # it gets one more second
        fast.tick()
        await asyncio.sleep(0.05)

    asyncio.run(main())
    ((status, fields, body),) = told
    assert status == 504 and name in json.loads(body) and (b"retry-after", b"1") in fields
    assert endpoint.admission.present == 0
    assert b'status="504"} 1.0' in endpoint.meters.text()
    endpoint.router.stop()
    endpoint.recorder.close()
