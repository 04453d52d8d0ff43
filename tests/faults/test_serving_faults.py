"The service when things around it break: killed, tampered with, out of disk, out of ledger."

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import pandas as pd
import pytest
from conftest import LATE, RECORD, Deployment, answers, kill_all, late_probability, wait_for, workers

import prodml_nb.record.ledger
from prodml_nb.build.sources import ModelDefinition
from prodml_nb.build.training import Candidate, train
from prodml_nb.contract.frame import matrices
from prodml_nb.contract.spec import Category, Flag, ModelSpec, Number
from prodml_nb.record.artifacts import register
from prodml_nb.record.journal import JournalWriter
from prodml_nb.record.reader import Journal
from prodml_nb.serve.endpoint import Endpoint
from prodml_nb.serve.scorer import PipelineScorer
from prodml_nb.serve.service import open_endpoint, open_router
from prodml_nb.settings import as_environment


def load(url: httpx.URL, acknowledged: list[str], over: threading.Event) -> None:
    "Send records and arrays until told to stop or the server is gone; keep the ids that were acknowledged."
    with httpx.Client(base_url=url, timeout=30) as client:
        while not over.is_set():
            try:
                response = client.post("/predict", json=[RECORD] * 3 if len(acknowledged) % 2 else RECORD)
            except httpx.HTTPError:
                return
            if response.status_code == 200:
                found = response.json()
                acknowledged.extend(a["prediction_id"] for a in (found if isinstance(found, list) else [found]))


def predicted(client: httpx.Client) -> str | None:
    "The id of an answer; None if the connection was to a worker that is no more."
    try:
        return client.post("/predict", json=RECORD).json()["prediction_id"]
    except httpx.HTTPError:
        return None


def journaled(deployment: Deployment) -> set[str]:
    return set(Journal(deployment.journal_dir).frame(LATE)["id"])


@pytest.mark.parametrize("durability", ["written", "synced"])
def test_killed_under_load_every_acknowledged_record_is_in_the_journal(deployment, durability):
    deployment.release(-1.0, 1.0)
    acknowledged: list[list[str]] = [[] for _ in range(4)]
    with deployment.serve(durability=durability) as (client, process):
        threads = [
            threading.Thread(target=load, args=(client.base_url, ids, threading.Event())) for ids in acknowledged
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: min(map(len, acknowledged)) > 100, 30)
        kill_all(process)
        for thread in threads:
            thread.join()
    told = {i for ids in acknowledged for i in ids}
    assert len(told) == sum(map(len, acknowledged)) > 400
    assert told <= journaled(deployment)
    with deployment.serve() as (client, _):
        answer = client.post("/predict", json=RECORD).json()
        assert client.get(f"/predictions/{min(told)}").json()["prediction"]["id"] == min(told)
    assert told | {answer["prediction_id"]} <= journaled(deployment)


def test_workers_do_not_outlive_a_supervisor_that_was_killed(deployment):
    deployment.release(1.0)
    with deployment.serve() as (client, process):
        process.kill()
        wait_for(lambda: not answers(client, "/livez"), 20)


def test_two_workers_share_the_work_and_one_goes_on_alone(deployment):
    deployment.release(1.0)
    with deployment.serve(workers=2) as (client, process):
        wait_for(lambda: len(workers(process.pid)) == 2)
        ids: list[str] = []
        over = threading.Event()
        threads = [threading.Thread(target=load, args=(client.base_url, ids, over)) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(ids) > 300, 30)
        over.set()
        for thread in threads:
            thread.join()

        def counted() -> float:
            lines = client.get("/metrics").text.splitlines()
            return sum(float(line.split()[-1]) for line in lines if line.startswith("prodml_predictions_total{"))

        wait_for(lambda: counted() == len(ids), 5)  # a worker counts once a second
        assert client.get(f"/predictions/{ids[0]}").status_code == 200
        os.kill(workers(process.pid)[0], signal.SIGKILL)
        ids += [wait_for(lambda: predicted(client), 5) for _ in range(20)]
    assert set(ids) == journaled(deployment)


def test_a_tampered_champion_never_answers(deployment):
    deployment.release(-1.0, 1.0)
    graph = deployment.models_dir / "late" / "2" / "model.onnx"
    graph.write_bytes(graph.read_bytes().replace(b"Sigmoid", b"Softmax"))
    with deployment.serve() as (client, _):
        ready = client.get("/readyz").json()
        assert ready["status"] == "degraded" and "version 2" in ready["note"] and "model.onnx" in ready["note"]
        answer = client.post("/predict", json=RECORD).json()
        assert (answer["version"], answer["fallback"]) == (1, "previous")
        assert answer["warnings"] == ["the champion cannot be opened"]
        assert (ready["version"], client.get("/model").json()["version"]) == (1, 1)


def test_without_a_version_that_can_be_opened_the_refusal_says_what_to_do(deployment):
    deployment.release(1.0)
    (deployment.models_dir / "late" / "1" / "model.onnx").unlink()
    with deployment.serve(ready="/livez") as (client, _):
        told = client.post("/predict", json=RECORD)
        assert told.status_code == 503 and "version 1 is not served" in told.json()["detail"]
        assert "nobody can read a request" in told.json()["detail"] and "backup" in told.json()["detail"]


def test_the_service_reads_each_event_of_the_ledger_once(deployment, monkeypatch):
    deployment.release(-1.0, 1.0)
    router = open_router(deployment.settings(), None)
    read, told, decode = [], [], prodml_nb.record.ledger.from_row
    monkeypatch.setattr("prodml_nb.record.ledger.from_row", lambda row: read.append(row.seq) or decode(row))
    for step in (lambda: None, lambda: deployment.ledger.append("run", model="late"), deployment.rollback):
        step()
        read.clear()
        router.refresh()
        told.append(sorted(read))
    assert told == [[1, 2, 3, 4], [5], [6]]
    assert (router.current.champion.version, router.current.since) == (1, deployment.ledger.events()[-1].at)


def test_a_tampered_version_that_is_promoted_later_does_not_replace_the_champion(deployment):
    deployment.release(-1.0)
    second = deployment.register(1.0)
    (deployment.models_dir / "late" / "2" / "manifest.sig").write_text("00" * 64)
    with deployment.serve() as (client, _):
        deployment.promote(second)
        wait_for(lambda: client.get("/readyz").json()["status"] == "degraded", 5)
        answer = client.post("/predict", json=RECORD).json()
        assert (answer["version"], answer["fallback"]) == (1, None)
        deployment.rollback()
        wait_for(lambda: client.get("/readyz").json()["status"] == "ready", 5)


@pytest.mark.parametrize("damage", ["truncated", "away"])
def test_a_version_whose_files_are_damaged_under_the_service_is_answered_from_memory_and_told(deployment, damage):
    deployment.release(-1.0, 1.0)
    folder = deployment.models_dir / "late" / "2"
    graph, aside = folder / "model.onnx", deployment.root / "aside"
    intact = graph.read_bytes()
    with deployment.serve() as (client, _):
        score = client.post("/predict", json=RECORD).json()["score"]
        os.truncate(graph, 100) if damage == "truncated" else folder.rename(aside)
        wait_for(lambda: client.get("/readyz").json()["status"] == "degraded", 5)
        assert "version 2 is answered from memory" in client.get("/readyz").json()["note"]
        answer = client.post("/predict", json=RECORD).json()
        assert (answer["version"], answer["score"], answer["fallback"]) == (2, score, None)
        deployment.rollback()
        wait_for(lambda: client.post("/predict", json=RECORD).json()["version"] == 1, 5)
        deployment.promote(2)  # it is no longer open, and cannot be opened
        wait_for(lambda: "version 2 is not served" in client.get("/readyz").json()["note"], 5)
        assert client.post("/predict", json=RECORD).json()["version"] == 1
        graph.write_bytes(intact) if damage == "truncated" else aside.rename(folder)
        wait_for(lambda: client.get("/readyz").json()["status"] == "ready", 10)
        assert client.post("/predict", json=RECORD).json()["version"] == 2


@pytest.mark.parametrize("setting, status", [("fail_closed", 503), ("fail_open", 200)])
def test_while_the_state_folder_is_away_the_setting_decides_and_nothing_is_lost(deployment, setting, status):
    deployment.release(1.0)
    away = deployment.root.with_name("away")

    def ready(client) -> float:
        return next(
            float(line.split()[-1])
            for line in client.get("/metrics").text.splitlines()
            if line.startswith("prodml_ready")
        )

    with deployment.serve(on_journal_failure=setting) as (client, _):
        ids = [predicted(client)]
        wait_for(lambda: ready(client) == 1, 5)
        deployment.root.rename(away)
        wait_for(
            lambda: client.get("/readyz").status_code == 503 or "journal" in client.get("/readyz").json()["note"], 5
        )
        answer = client.post("/predict", json=RECORD)
        assert answer.status_code == status
        ids += [answer.json()["prediction_id"]] if status == 200 else []
        wait_for(lambda: ready(client) == (status == 200), 5)
        assert client.get(f"/predictions/{ids[0]}").status_code == 503
        away.rename(deployment.root)
        wait_for(lambda: client.get("/readyz").json().get("status") == "ready", 10)
        ids.append(predicted(client))
    assert set(ids) == journaled(deployment) and not away.exists()


def test_a_ledger_that_cannot_be_read_is_told_and_followed_again_when_it_can(deployment):
    deployment.release(1.0)
    path = deployment.root / "ledger.db"
    deployment.ledger.close()
    intact = path.read_bytes()
    path.write_bytes(b"not a database" * 1000)
    with deployment.serve(ready="/livez") as (client, _):
        told = client.get("/readyz")
        assert told.status_code == 503 and "ledger" in told.json()["detail"]
        assert client.post("/predict", json=RECORD).status_code == 503
        path.write_bytes(intact)
        wait_for(lambda: answers(client, "/readyz"), 10)
        assert client.post("/predict", json=RECORD).json()["version"] == 1


def test_clients_that_break_off_do_not_harm_others(deployment):
    deployment.release(1.0)
    with deployment.serve() as (client, _):
        address = (client.base_url.host, client.base_url.port)
        for cut in (
            b"POST /pre",
            b"POST /predict HTTP/1.1\r\ncontent-le",
            b"POST /predict HTTP/1.1\r\ncontent-length: 900\r\n\r\n{",
            b"\x16\x03\x01\xff\xff\x00",
        ):
            for _ in range(20):
                with socket.create_connection(address) as s:
                    s.sendall(cut)
        assert client.post("/predict", json=RECORD).json()["score"] == pytest.approx(
            late_probability(10, 1.0), abs=1e-6
        )


@pytest.fixture
def endpoint(deployment):
    deployment.release(1.0)
    found = open_endpoint(deployment.settings())
    yield found
    found.router.stop()
    found.recorder.close()


async def ask(endpoint: Endpoint, path: str, **request) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://127.0.0.1") as client:
        return await client.request("POST" if request else "GET", path, **request)


def test_without_room_for_the_record_there_is_no_answer(endpoint, monkeypatch):
    def full(self: JournalWriter, records: list) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JournalWriter, "append", full)
        for path, body in (
            ("/predict", RECORD),
            ("/feedback", {"prediction_id": "017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "outcome": "late"}),
        ):
            response = asyncio.run(ask(endpoint, path, json=body))
            assert response.status_code == 503 and response.headers["retry-after"]
            assert "journal" in response.json()["detail"]
    until = time.monotonic() + 5  # it is tried again five times a second
    while asyncio.run(ask(endpoint, "/predict", json=RECORD)).status_code != 200:
        assert time.monotonic() < until
    counted = asyncio.run(ask(endpoint, "/metrics")).text.partition("\nprodml_unrecorded_total ")[2]
    assert float(counted.split()[0]) >= 2
    assert Journal(endpoint.journal_dir).query("SELECT error FROM outages").error.tolist() == [
        "No space left on device"
    ]


def test_a_connection_from_outside_is_refused_whatever_was_bound(endpoint):
    async def from_outside() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://192.0.2.7") as client:
            return await client.post("/predict", json=RECORD)

    response = asyncio.run(from_outside())
    assert response.status_code == 403 and "API keys" in response.json()["detail"]


@pytest.mark.parametrize("wrong, named", [("port", "[serve] port"), ("journal", "journal folder")])
def test_a_service_that_cannot_work_says_so_instead_of_starting(deployment, wrong, named):
    deployment.release(1.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = deployment.settings(**{"port": taken.getsockname()[1]} if wrong == "port" else {})
        if wrong == "journal":
            deployment.journal_dir.touch()
        done = subprocess.run(
            [sys.executable, "-c", "from prodml_nb.cli import main; main()", "serve"],
            env=os.environ | as_environment(settings),
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert done.returncode == 1 and done.stderr.startswith("error: ") and named in done.stderr
    assert "Traceback" not in done.stderr


def native(spec: ModelSpec) -> Candidate:
    "A candidate that no graph can follow, of an estimator that refuses missing numbers."
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, OneHotEncoder

    def build(spec: ModelSpec):
        known, rest = OneHotEncoder(handle_unknown="ignore"), [f.name for f in spec.numbers]
        columns = ColumnTransformer([("numbers", FunctionTransformer(np.abs), rest), ("sky", known, ["sky"])])
        return make_pipeline(
            columns, (GradientBoostingClassifier if spec.classes else GradientBoostingRegressor)(n_estimators=5)
        )

    rng = np.random.default_rng(0)
    frame = pd.DataFrame({f.name: rng.normal(10, 3, 300) for f in spec.numbers if isinstance(f, Number)})
    frame = frame.assign(sky=rng.choice(["clear", "overcast"], 300), holiday=rng.random(300) < 0.5)
    late = frame["wind"] + frame["holiday"] + rng.normal(size=300)
    levels = np.digitize(late, np.quantile(late, np.linspace(0, 1, (len(spec.classes) or 2) + 1)[1:-1]))
    frame[spec.target] = [spec.classes[i] for i in levels] if spec.classes else late
    return train(ModelDefinition("test", spec, lambda since, until: frame, build), bootstrap=20)


NATIVE = {
    "binary": {"classes": ("on time", "late"), "fallback": 0.25},
    "multiclass": {"classes": ("on time", "late", "cancelled"), "fallback": "late"},
    "regression": {"fallback": 3.0},
}


@pytest.mark.parametrize("task", NATIVE)
def test_a_pipeline_scores_as_it_did_in_training_and_a_gap_costs_only_its_own_row(task):
    features = (Category("sky"), Number("wind"), Flag("holiday"), Number("slack"))  # numbers around a category
    spec = ModelSpec(name="late", task=task, target="late", features=features, **NATIVE[task])
    candidate = native(spec)
    files = candidate.files()
    assert "model.onnx" not in files
    scorer = PipelineScorer(spec, files["pipeline.skops"], json.loads(files["trusted_types.json"]))
    numbers, categories = matrices(spec, candidate.holdout_frame)
    np.testing.assert_array_equal(scorer.score(numbers, categories), candidate.holdout_scores)
    numbers[1, 0] = np.nan
    expected = candidate.holdout_scores.copy()
    expected[1] = np.nan
    np.testing.assert_array_equal(scorer.score(numbers, categories), expected)
    assert np.isnan(scorer.score(numbers[1:2], categories[1:2])).all()


def test_a_version_without_a_graph_is_served_by_its_pipeline(deployment):
    spec = ModelSpec(
        name="late", task="binary", target="late", features=(Number("wind"), Category("sky"), Flag("holiday")),
        **NATIVE["binary"],
    )  # fmt: skip
    candidate = native(spec)
    made = register(
        deployment.models_dir, deployment.ledger, deployment.vault,
        spec=spec, files=candidate.files(), metrics={}, lineage={},
    )  # fmt: skip
    deployment.promote(made.version)
    records = [
        {"wind": float(r.wind), "sky": r.sky, "holiday": bool(r.holiday)} for r in candidate.holdout_frame.itertuples()
    ]
    records[3]["wind"] = None
    with deployment.serve() as (client, _):
        assert client.get("/model").json()["scorer"] == "pipeline" and client.get("/readyz").json()["note"] == ""
        found = client.post("/predict", json=records).json()
    assert [i for i, a in enumerate(found) if a["fallback"]] == [3] and found[3]["score"] == 0.25
    scores = [a["score"] for i, a in enumerate(found) if i != 3]
    np.testing.assert_allclose(scores, np.delete(candidate.holdout_scores[:, 1], 3), atol=1e-6)


def test_starting_the_service_imports_bentoml_once():
    told = "import sys, prodml_nb.cli, prodml_nb.operate.workspace, prodml_nb.serve.launch; print('bentoml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_service_that_is_told_to_end_answers_requests_whose_head_has_come(deployment):
    deployment.release(1.0)
    body = json.dumps(RECORD).encode()
    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    ends: list[str] = []

    def ask(url: httpx.URL) -> None:
        "Send heads and then bodies until an answer says that it is the last."
        with socket.create_connection((url.host, url.port)) as connection:
            connection.settimeout(10)
            answer, sent = b"none yet", time.monotonic()
            try:
                while answer and b"connection: close" not in answer:
                    sent = time.monotonic()
                    connection.sendall(head)
                    time.sleep(0.02)
                    connection.sendall(body)
                    answer = connection.recv(65_536)
                    assert answer.startswith(b"HTTP/1.1 200 ") or not answer
            except ConnectionError:
                answer = b""
        ends.append(
            "answered" if answer else "was closed already" if time.monotonic() - sent < 1.0 else "never answered"
        )

    with deployment.serve() as (client, process):
        asking = [threading.Thread(target=ask, args=(client.base_url,)) for _ in range(20)]
        for thread in asking:
            thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join(20)
        assert process.wait(20) == 0
    assert len(ends) == 20 and "never answered" not in ends
    assert ends.count("answered") >= 15  # an idle connection may be closed just when the next head is sent
