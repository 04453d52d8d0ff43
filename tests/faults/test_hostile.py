"Requests, files and neighbours that mean harm, or look as if they did."

import asyncio
import json
import os
import shutil
import socket
import sqlite3

import duckdb
import msgspec
import numpy as np
import pandas as pd
import pytest
from conftest import LATE, RECORD, late_graph, late_probability, wait_for

from prodml_nb.contract import request
from prodml_nb.contract.frame import check_frame
from prodml_nb.contract.metrics import evaluate
from prodml_nb.contract.request import Decoder, RequestError, check_outcome
from prodml_nb.contract.spec import Category, Gate, ModelSpec, Number
from prodml_nb.errors import DataError, IntegrityError, SpecError
from prodml_nb.record.artifacts import open_artifact, register
from prodml_nb.record.journal import JournalWriter, Prediction
from prodml_nb.record.ledger import Ledger
from prodml_nb.record.reader import Journal
from prodml_nb.serve import feedback
from prodml_nb.serve.fallback import score_rows
from prodml_nb.serve.feedback import read_feedback
from prodml_nb.serve.guard import Readers, Refused
from prodml_nb.serve.router import Loaded, Route

ID = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"


def body(**changed: str) -> bytes:
    "The good record with members whose values are given as JSON text."
    texts = {name: json.dumps(value) for name, value in RECORD.items()} | changed
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in texts.items()) + "}").encode()


@pytest.mark.parametrize(
    "sent, status, fields",
    [
        (body(**{r"\ud800": "1"}), 422, ["?"]),
        (b'{"\xff": 1}', 400, []),
        (body(wind="9" * 5000), 422, ["wind"]),
        (body(at='"0001-01-01T00:00:00+14:00"'), 422, ["at"]),
        (body(at='"9999-12-31T23:59:59-14:00"'), 422, ["at"]),
        (body(sky=r'"\ud800"'), 422, ["sky"]),
        (body(sky='"(missing)"'), 422, ["sky"]),
        (b'{"wind": "x", ' + body()[1:], 422, ["wind"]),
    ],
)
def test_odd_requests_get_a_problem_that_names_the_field(live, sent, status, fields):
    response = live[1].post("/predict", content=sent)
    assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
    assert sorted({e["field"] for e in response.json().get("errors", [])}) == fields


@pytest.mark.parametrize("sent", [
    b"this is no request\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: two\r\n\r\n{}",
])  # fmt: skip
def test_what_is_no_http_gets_a_problem_and_the_end_of_the_connection(live, sent):
    with socket.create_connection(("127.0.0.1", live[1].base_url.port), timeout=5) as connection:
        connection.sendall(sent)
        told = b"".join(iter(lambda: connection.recv(65_536), b""))
    head, _, body = told.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ") and b"application/problem+json" in head and b"connection: close" in head
    assert json.loads(body)["title"] == "Not HTTP"


def test_a_body_that_does_not_arrive_is_refused_in_time():
    async def read(*messages: dict) -> bytes:
        left, readers = list(messages), Readers(seconds=0.05)

        async def receive() -> dict:
            return left.pop(0) if left else await asyncio.Future()

        reading = asyncio.create_task(readers.read(receive, 100))
        while not reading.done():
            await asyncio.sleep(0.01)
            readers.tick()
        return await reading

    begun = {"type": "http.request", "body": b"{", "more_body": True}
    for messages in ((), (begun,), (begun, begun)):
        with pytest.raises(Refused, match="0.05 s") as refused:
            asyncio.run(read(*messages))
        assert refused.value.status == 408
    assert asyncio.run(read(begun, begun | {"more_body": False})) == b"{{"


def test_names_nobody_will_read_are_not_searched_for(monkeypatch):
    searched: list[str] = []
    for module in (request, feedback):
        monkeypatch.setattr(module, "closest", lambda name, allowed: searched.append(name) or "")
    sent = json.dumps([{f"outcom{i}w{j}": 1 for i in range(90)} for j in range(1000)]).encode()
    for read in (Decoder(LATE).decode, lambda text: read_feedback(LATE, text, 1000)):
        searched.clear()
        with pytest.raises(RequestError) as refused:
            read(sent)
        assert refused.value.total > 90_000 and 0 < len(searched) <= request.MAX_PROBLEMS


@pytest.mark.parametrize("wrong, field", [('"outcome": NaN', "outcome"), (r'"\ud800": 1', "?"), ('"\xff": 1', "")])
def test_odd_feedback_gets_a_problem_too(wrong, field):
    sent = f'{{"prediction_id": "{ID}", {wrong}}}'.encode("latin-1")
    with pytest.raises(RequestError) as refused:
        read_feedback(LATE, sent, 10)
    assert field in {p.field for p in refused.value.problems} | {""}


def test_an_outcome_beyond_any_float_is_refused():
    spec = ModelSpec(name="cost", task="regression", target="cost", features=(Number("wind"),))
    for value in (10**400, 1e300, float("nan")):
        with pytest.raises(RequestError):
            check_outcome(spec, value)


def test_feedback_that_is_refused_is_told_what_is_wrong_first():
    spec = ModelSpec(name="cost", task="regression", target="cost", features=(Number("wind"),))
    sent = [("outcome", "x"), ("outcome", 1e39), ("comment", "x" * 2001), ("comment", 1)]
    with pytest.raises(RequestError) as refused:
        read_feedback(spec, json.dumps([{"prediction_id": ID, field: value} for field, value in sent]).encode(), 10)
    assert [p.detail for p in refused.value.problems] == [
        "must be a number",
        "is NaN, infinite or too large for a 32-bit float",
        "is longer than 2000 characters",
        "must be text",
    ]


def test_feedback_finds_its_prediction_however_the_id_is_written(live):
    answer = live[1].post("/predict", json=RECORD).json()
    loud = answer["prediction_id"].upper()
    assert live[1].post("/feedback", json={"prediction_id": loud, "outcome": "late"}).status_code == 200
    assert live[1].get(f"/predictions/{loud}").json()["feedback"][0]["outcome"] == "late"
    crooked = loud.replace("-", "", 1) + "-"
    assert live[1].post("/feedback", json={"prediction_id": crooked, "outcome": "late"}).status_code == 422


class Picky:
    "A scorer that raises when it meets a zero."

    kind = "onnx"

    def score(self, numbers, categories):
        if (numbers[:, 0] == 0).any():
            raise ZeroDivisionError
        return np.tile(np.float32([0.4, 0.6]), (len(numbers), 1))


class Patient(Picky):
    "A scorer that does not mind."

    def score(self, numbers, categories):
        return super().score(numbers + 1, categories)


def loaded(version: int, spec: ModelSpec, scorer: object) -> Loaded:
    return Loaded(version, spec, scorer, Decoder(spec), spec.fingerprint())


def test_a_record_that_breaks_the_scorer_does_not_take_its_neighbours_along():
    numbers, categories = np.ones((40, 3), np.float32), np.full((40, 1), "clear", object)
    numbers[7, 0] = 0
    scored = score_rows(Route("late", loaded(2, LATE, Picky())), numbers, categories, [{}] * 40, [None] * 40)
    assert [i for i, v in enumerate(scored.versions) if v is None] == [7]


def test_a_previous_version_with_other_classes_is_not_misread():
    turned = msgspec.structs.replace(LATE, classes=("late", "on time"))
    route = Route("late", loaded(2, LATE, Picky()), loaded(1, turned, Patient()))
    zero, clear = np.zeros((1, 3), np.float32), np.full((1, 1), "clear", object)
    assert score_rows(route, zero, clear, [RECORD | {"wind": 0}], [None]).fallback == ["declared"]


def test_a_previous_version_answers_the_rows_it_can_read():
    narrow = msgspec.structs.replace(LATE, features=(Number("wind", high=5.0), *LATE.features[1:]))

    route = Route("late", loaded(2, LATE, Picky()), loaded(1, narrow, Patient()))
    numbers, categories = np.zeros((3, 3), np.float32), np.full((3, 1), "clear", object)
    records = [RECORD | {"wind": wind} for wind in (0, 9, 1)]
    assert score_rows(route, numbers, categories, records, [None] * 3).fallback == ["previous", "declared", "previous"]


def test_a_version_with_another_feature_takes_over_while_serving(deployment):
    deployment.release(-1.0)
    wider = msgspec.structs.replace(LATE, features=(*LATE.features, Category("port")))
    with deployment.serve() as (client, _):
        assert client.post("/predict", json=RECORD).json()["version"] == 1
        deployment.promote(deployment.register(float("nan"), wider))
        wait_for(lambda: client.get("/model").json()["version"] == 2)
        assert {e["field"] for e in client.post("/predict", json=RECORD).json()["errors"]} == {"port"}
        answer = client.post("/predict", json=RECORD | {"port": "JFK"}).json()
        assert (answer["version"], answer["fallback"]) == (1, "previous")
        assert answer["score"] == pytest.approx(late_probability(10, -1.0), abs=1e-6)


@pytest.mark.parametrize("known", [0, 1])
def test_another_ledger_than_the_one_that_registered_takes_no_number_again(deployment, known):
    deployment.release(*[1.0] * known)
    lost = deployment.root / "lost.db"
    deployment.ledger.close()
    if known:
        shutil.copy(deployment.root / "ledger.db", lost)  # an old copy: it lacks the end
    deployment.release(1.0, 2.0)
    other, files = Ledger(f"sqlite:///{lost}"), {"model.onnx": late_graph(3.0)}
    with pytest.raises(IntegrityError, match=rf"version {known + 1} of late is signed.*\[state\] ledger"):
        register(deployment.models_dir, other, deployment.vault, spec=LATE, files=files, metrics={}, lineage={})
    assert not (deployment.root / "set-aside").exists()
    digest = deployment.ledger.state("late").versions[known + 1].manifest
    opened = {"vault": deployment.vault, "manifest_digest": digest}
    assert open_artifact(deployment.models_dir, "late", known + 1, **opened).read("model.onnx") == late_graph(1.0)


def test_a_ledger_that_was_emptied_is_not_taken_for_a_new_one(deployment):
    deployment.release(1.0)
    deployment.ledger.close()
    path = deployment.root / "ledger.db"
    for file in deployment.root.glob("ledger.db*"):
        file.unlink()
    path.touch()
    os.utime(path, (1e9, 1e9))
    for act in (lambda ledger: ledger.state("late"), lambda ledger: ledger.append("note", model="late")):
        with pytest.raises(IntegrityError, match="empty"):
            act(Ledger(f"sqlite:///{path}"))


def test_an_event_that_an_index_hides_is_missed_by_whoever_opens_the_ledger(deployment):
    deployment.release(1.0)
    deployment.ledger.close()
    with sqlite3.connect(deployment.root / "ledger.db") as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        raw.execute("PRAGMA writable_schema=ON")
        raw.execute(
            "UPDATE sqlite_master SET sql = sql || ' WHERE kind <> ''promoted''' WHERE name = 'events_model_kind'"
        )
    raw.close()
    with sqlite3.connect(deployment.root / "ledger.db") as raw:
        raw.execute("REINDEX")
        raw.execute("PRAGMA writable_schema=ON")
        raw.execute(
            "UPDATE sqlite_master SET sql = replace(sql, ' WHERE kind <> ''promoted''', '') WHERE name = 'events_model_kind'"
        )
    raw.close()
    for act in (lambda ledger: ledger.state("late"), Ledger.verify, lambda ledger: ledger.append("note", model="late")):
        with pytest.raises(IntegrityError, match="damaged"):
            act(Ledger(f"sqlite:///{deployment.root / 'ledger.db'}"))


def test_a_moment_that_utc_cannot_say_is_refused(deployment):
    deployment.release(1.0)
    with pytest.raises(DataError, match="ISO 8601"):
        deployment.ledger.state("late", at="0001-01-01T00:00:00+14:00")


@pytest.mark.parametrize("spoiled", [b"", b"no Parquet" * 9, "flipped"])
def test_a_spoiled_sealed_segment_is_named(tmp_path, spoiled):
    with JournalWriter(tmp_path) as writer:
        writer.append([Prediction(id=ID, request=ID, at="2024-05-01T00:00:00.000000Z", model="late", version=1)])
    journal = Journal(tmp_path)
    [segment] = journal.seal()
    content = segment.read_bytes()
    segment.write_bytes(
        content[:4] + bytes(b ^ 0xFF for b in content[4:-2000]) + content[-2000:] if spoiled == "flipped" else spoiled
    )
    asked = [lambda: journal.find(ID), lambda: journal.frame(LATE), lambda: journal.query("SELECT id FROM predictions")]
    for ask in asked if spoiled == "flipped" else [*asked, journal.count]:
        with pytest.raises(IntegrityError, match=segment.name):
            ask()


@pytest.fixture
def opened(monkeypatch):
    "The databases that DuckDB opened."
    made, connect = [], duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda *given, **named: made.append(connect(*given, **named)) or made[-1])
    return made


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("SELEC 1", "syntax error.*; ask predictions"),
        ("SELECT winds FROM predictions", '"winds" not found'),
        ("SELECT id FROM predictons", "Did you mean .*predictions"),
        ("SELECT CAST(subject AS INT) FROM predictions", "TRY_CAST"),
    ],
)
def test_a_question_that_cannot_be_answered_is_told_without_a_value_and_reads_no_file(tmp_path, opened, sql, told):
    for _ in range(3):
        with JournalWriter(tmp_path) as writer:
            writer.append(
                [Prediction(id=ID, request=ID, at="2024-05-01T00:00:00.000000Z", model="late", subject="N-secret")]
            )
    journal = Journal(tmp_path)
    journal.seal()
    with pytest.raises(DataError, match=told) as refused:
        journal.query(sql)
    assert len(opened) == 1 and "N-secret" not in str(refused.value)
    with pytest.raises(duckdb.ConnectionException):
        opened[0].execute("SELECT 1")


def test_what_reads_the_journal_lets_go_of_its_database(tmp_path, opened):
    with JournalWriter(tmp_path) as writer:
        writer.append([Prediction(id=ID, request=ID, at="2024-05-01T00:00:00.000000Z", model="late", version=1)])
    journal = Journal(tmp_path)
    journal.seal()
    journal.count(), journal.find(ID), journal.query("SELECT 1"), journal.frame(LATE)
    with pytest.raises(DataError, match="InvalidInputException.*all of its files can be read"):
        journal.query("SELECT error('no') FROM predictions")
    assert len(opened) == 6
    for connection in opened:
        with pytest.raises(duckdb.ConnectionException):
            connection.execute("SELECT 1")


def test_large_values_have_errors_that_a_float_can_hold():
    rng = np.random.default_rng(0)
    y = rng.normal(size=500)
    for scale, shift in ((1e30, 0.0), (1.0, 1e9)):
        values = y * scale + shift
        found = evaluate("regression", values, (values + 0.1 * scale)[:, None])
        assert found["rmse"].value == pytest.approx(0.1 * scale, rel=1e-4)
        assert found["r2"].value == pytest.approx(1 - 0.01 / y.var(), abs=1e-3)


def test_a_target_that_float32_cannot_hold_is_counted():
    spec = ModelSpec(name="cost", task="regression", target="cost", features=(Number("wind"),))
    with pytest.raises(DataError, match="2 values"):
        check_frame(spec, pd.DataFrame({"wind": [1.0, 2.0, 3.0], "cost": [1.0, 1e39, np.inf]}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"features": (Number("wind", missing="rejct"),)},
        {"features": (Category("sky", levels="clear"),)},
        {"features": (Number("wind", missing="fallback"),), "fallback": None},
        {"gates": (Gate("auc", at_least="high"),)},
        {"task": "binry"},
        {"threshold": float("nan")},
        {"subject": "late"},
        {"subject": "at"},
        {"name": "größe"},
        {"name": "late_"},
        *({"features": (Number(name),)} for name in ("", 'quo"te', "back\\slash", "new\nline", "\x00", "\ud800")),
        {"subject": 'pla"ne'},
        {"time": "a\tt"},
        {"features": (Category("sky", levels=("\ud800",)),)},
        {"classes": ("late", "\udfff")},
        {"fallback": np.float32(0.25)},
    ],
)
def test_a_spec_that_could_not_be_served_is_refused_where_it_is_written(wrong):
    with pytest.raises(SpecError):
        msgspec.structs.replace(LATE, **wrong)
