"Ways around the keys, the monitor and the journal that a stranger or an accident might find."

import asyncio
import json
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter

import httpx
import pyarrow as pa
import pytest
from conftest import RECORD, Deployment, late_graph, wait_for

from prodml_nb.contract.request import Decoder, RequestError
from prodml_nb.contract.spec import Category, ModelSpec, Number
from prodml_nb.errors import DataError, ReleaseError, ServingError
from prodml_nb.observe.observer import Observer
from prodml_nb.operate.columns import check_schema
from prodml_nb.operate.release import end_key, make_key, promote, write_release
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.journal import JournalWriter, uuid7
from prodml_nb.record.keys import create_key, list_keys
from prodml_nb.record.ledger import Ledger
from prodml_nb.record.reader import Journal
from prodml_nb.serve.endpoint import Endpoint
from prodml_nb.serve.protocols import Tensor, in_words, read_column, read_json
from prodml_nb.serve.service import check_release, find_release, open_endpoint, serve, serve_command
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
    keys = {scope: create_key(deployment.ledger, [scope])[0] for scope in ("predict", "admin")}
    wait_for(lambda: ask(endpoint, "/predict", RECORD).status_code == 401, 5)
    found = {
        s: ask(endpoint, "/predict", RECORD, authorization=f"Bearer {k}", **{"prodml-stress": "1"})
        for s, k in keys.items()
    }
    assert (found["predict"].status_code, found["admin"].json()["route"]) == (403, "stress")
    assert "scope admin" in found["predict"].json()["detail"]


# -- one identifier, one record


def test_two_workers_asked_the_same_at_once_record_it_once(deployment):
    deployment.release(1.0)
    first, second = (open_endpoint(deployment.settings(), worker=w) for w in "01")
    named, is_inside, append = RECORD | {"prediction_id": uuid7()}, threading.Event(), first.recorder.append

    def slowly(records):
        is_inside.set()
        threading.Event().wait(0.3)
        return append(records)

    first.recorder.append = slowly
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
        with pytest.raises(ServingError, match="ledger is gone.*backup"):
            start()


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
    with pytest.raises(ServingError, match="champion.*write_release"):
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
    code = "import prodml_nb, onnxruntime, time; onnxruntime.InferenceSession('model.onnx'); time.sleep(1)"
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
    from prodml_nb.serve.answers import Limits, Turn, Waiting, reader, write_up
    from prodml_nb.serve.fallback import score_rows
    from prodml_nb.serve.router import Loaded, Route

    decoder = Decoder(FREE)
    batch = decoder.decode(b'{"d": -1, "note": "n", "k": "z"}')
    route = Route("free", Loaded(1, FREE, None, decoder, FREE.fingerprint()))
    scored = score_rows(route, batch.numbers, batch.categories, batch.features, batch.fallback)
    turn = Turn(scored, None, "", 0.0, reader(FREE))
    [record] = write_up(Waiting(route, batch, 0.0, None, None, False, 0.0), turn, 0, Limits())
    assert sorted(record.warnings) == ["d is out of range: fallback", "k is an unseen level"]


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
