"The service at its limits: models that hang or break, requests that are too many or too slow, disks and ledgers that are gone."

import asyncio
import json
import shutil
import socket
import threading
import time

import httpx
import msgspec
import pytest
from conftest import LATE, RECORD, Deployment, late_graph, late_probability, wait_for

from prodml_nb.contract.spec import Category, Flag, ModelSpec, Number
from prodml_nb.record.artifacts import register
from prodml_nb.record.journal import uuid7
from prodml_nb.record.reader import Journal
from prodml_nb.serve.endpoint import Endpoint
from prodml_nb.serve.service import open_endpoint


def hanging_graph() -> bytes:
    "The graph of the tests, with a loop in front of it that runs for hours when the wind is above 100."
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_from_string(late_graph(0.0))
    body = helper.make_graph(
        [helper.make_node("Identity", ["on"], ["still"]), helper.make_node("Add", ["x", "zero"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 3]),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3]),
        ],
        [numpy_helper.from_array(np_float(0.0), "zero")],
    )
    first = [
        helper.make_node("ReduceMax", ["numbers"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "storm"], ["is_storm"]),
        helper.make_node("Cast", ["is_storm"], ["storms"], to=TensorProto.INT64),
        helper.make_node("Mul", ["storms", "hours"], ["times"]),
        helper.make_node("Loop", ["times", "", "numbers"], ["looped"], body=body),
    ]
    model.graph.node[0].input[0] = "looped"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*first, *rest])
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np_float(100.0), "storm"),
            helper.make_tensor("hours", TensorProto.INT64, [], [10**12]),
        ]
    )
    return model.SerializeToString()


def np_float(value: float):
    import numpy as np

    return np.array(value, np.float32)


def opened(deployment: Deployment, **serve) -> Endpoint:
    "The endpoint of a deployment, without a server."
    return open_endpoint(deployment.settings(**serve))


async def ask(endpoint: Endpoint, *bodies, path: str = "/predict", **request) -> list[httpx.Response]:
    "The responses to requests that come at the same time, and are known to."
    endpoint.admission.let_in = len(bodies)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://127.0.0.1") as client:
        return await asyncio.gather(*(client.post(path, json=b, **request) for b in bodies))


def register_graph(deployment: Deployment, graph: bytes, spec: ModelSpec = LATE, **files: bytes) -> int:
    files = {"model.onnx": graph} | {name.replace("_", "."): content for name, content in files.items()}
    given = {"spec": spec, "files": files, "metrics": {}, "lineage": {}}
    return register(deployment.models_dir, deployment.ledger, deployment.vault, **given).version


def test_a_graph_that_hangs_is_ended_and_the_previous_version_answers(deployment):
    deployment.release(1.0)
    deployment.promote(register_graph(deployment, hanging_graph()))
    endpoint = opened(deployment, deadline_ms=100)
    good, stormy = RECORD, RECORD | {"wind": 150}
    [fine] = asyncio.run(ask(endpoint, good))
    begun = time.monotonic()
    [late] = asyncio.run(ask(endpoint, stormy))
    assert time.monotonic() - begun < 5
    [resting] = asyncio.run(ask(endpoint, good))
    told = [(r.json()["version"], r.json()["fallback"]) for r in (fine, late, resting)]
    assert told == [(2, None), (1, "previous"), (1, "previous")]
    assert "deadline" in late.json()["warnings"][0] and "rests" in resting.json()["warnings"][0]
    assert "version 2 rests" in asyncio.run(get(endpoint, "/readyz")).json()["note"]
    counted = asyncio.run(get(endpoint, "/metrics")).text
    for reason in ("overdue", "resting"):
        assert f'prodml_version_failures_total{{model="late",reason="{reason}",version="2"}} 1.0' in counted
    wait_for(lambda: asyncio.run(ask(endpoint, good))[0].json()["version"] == 2, 5)  # the probe succeeds
    kept = (
        Journal(deployment.journal_dir).query("SELECT coalesce(fallback, 'none') AS f FROM predictions ORDER BY id").f
    )
    assert kept.tolist()[:3] == ["none", "previous", "previous"]
    endpoint.router.stop()


def squaring_graph() -> bytes:
    "The graph of the tests, after numbers were squared: one that overflows has no score."
    import onnx
    from onnx import helper

    model = onnx.load_from_string(late_graph(0.0))
    steps = [("Mul", "numbers", "numbers", "s"), ("Sub", "s", "s", "nought"), ("Add", "numbers", "nought", "same")]
    first = [helper.make_node(kind, [a, b], [c]) for kind, a, b, c in steps]
    model.graph.node[0].input[0] = "same"
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*first, *rest])
    return model.SerializeToString()


BOUNDLESS = msgspec.structs.replace(
    LATE, fallback=None, features=(Number("wind"), Number("slack in minutes"), Category("sky"), Flag("holiday"))
)


def test_a_record_without_a_finite_score_is_its_clients_problem_and_nobody_elses(deployment):
    p = late_probability(10, 0.0)
    golden = json.dumps({"records": [RECORD], "scores": [[1 - p, p]]}).encode()
    deployment.promote(register_graph(deployment, squaring_graph(), BOUNDLESS, golden_json=golden))
    endpoint, huge = opened(deployment), RECORD | {"wind": 1e30}
    several, *alone = asyncio.run(ask(endpoint, [RECORD, RECORD, huge, RECORD], *[huge] * 8))
    told = "the model has no finite answer for this record"
    for response, index in ((several, {"index": 2}), *((r, {}) for r in alone)):
        allowed = "values nearer to those it was trained on"
        assert response.status_code == 422
        assert response.json()["errors"] == [{"field": "", "detail": told, "allowed": allowed} | index]
        assert response.json()["detail"].startswith(told)
    for _ in range(8):
        assert [r.status_code for r in asyncio.run(ask(endpoint, huge))] == [422]
    both = asyncio.run(ask(endpoint, RECORD, huge))  # in one turn
    assert [r.status_code for r in both] == [200, 422]
    assert asyncio.run(get(endpoint, "/readyz")).json()["status"] == "ready"
    endpoint.router.stop()


def test_a_version_without_a_golden_record_rests_after_failures(deployment):
    deployment.promote(register_graph(deployment, squaring_graph(), BOUNDLESS))
    endpoint, huge = opened(deployment), RECORD | {"wind": 1e30}
    [first] = asyncio.run(ask(endpoint, huge))
    assert (first.status_code, "no sound score" in first.json()["detail"]) == (503, True)
    for _ in range(4):
        asyncio.run(ask(endpoint, huge))
    assert "rests" in asyncio.run(ask(endpoint, RECORD))[0].json()["detail"]
    endpoint.router.stop()


async def get(endpoint: Endpoint, path: str) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://127.0.0.1") as client:
        return await client.get(path)


def test_what_is_too_much_is_refused_at_once_and_the_rest_is_answered(deployment):
    deployment.release(1.0)
    endpoint = opened(deployment, max_in_flight=8)
    found = asyncio.run(ask(endpoint, *[RECORD] * 40))
    statuses = [r.status_code for r in found]
    assert sorted(set(statuses)) == [200, 503] and statuses.count(200) >= 8
    refused = next(r for r in found if r.status_code == 503)
    assert refused.headers["retry-after"] == "1" and refused.json()["title"] == "Overloaded"
    assert Journal(deployment.journal_dir).count() == {
        "prediction": statuses.count(200), "feedback": 0, "refusal": 0, "batch": 0, "outage": 0,
    }  # fmt: skip
    endpoint.router.stop()


def test_requests_with_many_records_are_answered_in_several_turns(deployment):
    deployment.release(1.0)
    endpoint, together = opened(deployment, max_queued=100), []
    answer_all = endpoint.answerer.answer_all
    endpoint.answerer.answer_all = lambda route, waiting: (
        together.append(sum(w.batch.n for w in waiting)), answer_all(route, waiting),
    )  # fmt: skip
    found = asyncio.run(ask(endpoint, *[[RECORD] * 40] * 7, [RECORD] * 120))
    assert [r.status_code for r in found] == [200] * 8
    assert sum(together) == 400 and max(together) == 120 and sorted(together)[-2] <= 100
    endpoint.router.stop()


def test_failing_open_answers_without_a_disk_and_records_everything_later(deployment):
    deployment.release(1.0)
    endpoint = opened(deployment, on_journal_failure="fail_open", max_spooled=3)
    [first] = asyncio.run(ask(endpoint, RECORD))
    shutil.rmtree(deployment.journal_dir)
    deployment.journal_dir.write_text("in the way")
    spooled = [asyncio.run(ask(endpoint, RECORD))[0] for _ in range(2)]
    ready = asyncio.run(get(endpoint, "/readyz"))
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded") and "2 records wait" in ready.json()["note"]
    spooled += [asyncio.run(ask(endpoint, RECORD))[0] for _ in range(2)]
    assert [r.status_code for r in spooled] == [200, 200, 200, 503]
    assert all("not recorded yet" in r.json()["warnings"][-1] for r in spooled[:3])
    assert asyncio.run(get(endpoint, "/readyz")).status_code == 503  # no more fit
    known, unknown = [f"/predictions/{i}" for i in (spooled[0].json()["prediction_id"], first.json()["prediction_id"])]
    assert asyncio.run(get(endpoint, known)).json()["prediction"]["id"] in known
    assert asyncio.run(get(endpoint, unknown)).status_code == 503  # it is in the journal, which nobody can read
    endpoint.tick()
    assert "prodml_spooled_records_total 3.0" in asyncio.run(get(endpoint, "/metrics")).text
    assert endpoint.recorder.close() == 4, "who stops now must be told what is lost"
    deployment.journal_dir.unlink()
    wait_for(lambda: endpoint.recorder.is_available(), 5)
    endpoint.tick()
    [last] = asyncio.run(ask(endpoint, RECORD))
    assert asyncio.run(get(endpoint, "/readyz")).json()["status"] == "ready" and not last.json()["warnings"]
    endpoint.router.stop()
    endpoint.recorder.close()
    journal = Journal(deployment.journal_dir)
    told = [r.json()["prediction_id"] for r in (first, *spooled[:3], last)]
    assert sorted(journal.frame(LATE)["id"]) == sorted(told)
    assert journal.query("SELECT refused, spooled FROM outages").values.tolist() == [[1, 3]]


@pytest.mark.parametrize("setting, status", [("fail_open", 200), ("fail_closed", 503)])
def test_without_a_ledger_the_setting_decides(deployment, setting, status):
    deployment.release(1.0)
    endpoint = opened(deployment, on_ledger_failure=setting, poll_seconds=0.02)
    kept = deployment.root / "ledger.db"
    kept.rename(deployment.root / "elsewhere.db")
    wait_for(lambda: endpoint.router.current.is_blind, 5)
    [response] = asyncio.run(ask(endpoint, RECORD))
    assert response.status_code == status
    assert "ledger" in (response.json()["warnings"][-1] if status == 200 else response.json()["detail"])
    (deployment.root / "elsewhere.db").rename(kept)
    wait_for(lambda: not endpoint.router.current.is_blind, 5)
    [response] = asyncio.run(ask(endpoint, RECORD))
    assert (response.status_code, response.json()["warnings"]) == (200, [])
    endpoint.router.stop()


def test_a_version_that_nobody_asks_any_more_is_probed_until_it_is_well(deployment, monkeypatch):
    deployment.release(-1.0, 1.0)
    endpoint = opened(deployment)
    champion, previous = endpoint.router.current.champion, endpoint.router.current.previous
    for loaded in (champion, previous):
        object.__setattr__(loaded, "golden", loaded.decoder.decode(json.dumps(RECORD).encode()))

    def fail(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        for loaded in (champion, previous):
            patch.setattr(loaded.scorer, "score", fail)
        for _ in range(6):
            asyncio.run(ask(endpoint, RECORD))
        assert not champion.breaker.is_closed and not previous.breaker.is_closed
        endpoint.tick()
    assert asyncio.run(get(endpoint, "/readyz")).json()["note"].count("rests after failures") == 2

    def is_well() -> bool:
        endpoint.tick()
        return champion.breaker.is_closed and previous.breaker.is_closed

    wait_for(is_well, 5)
    assert asyncio.run(get(endpoint, "/readyz")).json()["status"] == "ready"
    endpoint.router.stop()


def test_a_clock_that_jumps_back_is_no_reason_to_stop_or_to_lose_anything(deployment, monkeypatch):
    deployment.release(1.0)
    endpoint, told = opened(deployment), []
    for hours in (0, -1, -24, 0):
        with monkeypatch.context() as patch:
            real_ns, real = time.time_ns, time.time
            patch.setattr(time, "time_ns", lambda: real_ns() + hours * 3_600_000_000_000)
            patch.setattr(time, "time", lambda: real() + hours * 3600)
            found = asyncio.run(ask(endpoint, *[RECORD] * 3))
            assert [r.status_code for r in found] == [200] * 3
            told += [r.json()["prediction_id"] for r in found]
            endpoint.tick()
            assert asyncio.run(get(endpoint, "/readyz")).json()["status"] == "ready"
    endpoint.router.stop()
    endpoint.recorder.close()
    kept = Journal(deployment.journal_dir).frame(LATE)
    assert len(set(told)) == 12 and sorted(kept["id"]) == sorted(told)


def test_a_repeated_identifier_is_answered_again_and_recorded_once(deployment):
    deployment.release(1.0)
    endpoint, mine = opened(deployment), uuid7()
    named = RECORD | {"prediction_id": mine}
    first = asyncio.run(ask(endpoint, named, named, named))
    deployment.release(-1.0)  # another champion by the time the client asks again
    wait_for(lambda: endpoint.router.current.champion.version == 2, 5)
    [again] = asyncio.run(ask(endpoint, named))
    [other] = asyncio.run(ask(endpoint, named | {"wind": 11}))
    [twice] = asyncio.run(ask(endpoint, [named, named]))
    assert {r.text for r in (*first, again)} == {first[0].text} and first[0].json()["prediction_id"] == mine
    assert (other.status_code, twice.status_code) == (409, 409)
    assert "at index 0 and 1" in twice.json()["detail"]
    endpoint.router.stop()
    endpoint.recorder.close()
    restarted = opened(deployment)
    assert asyncio.run(ask(restarted, named))[0].text == first[0].text
    restarted.router.stop()
    assert Journal(deployment.journal_dir).count()["prediction"] == 1


def test_stages_are_told_to_whoever_asks_and_kept(deployment):
    deployment.release(1.0)
    endpoint = opened(deployment)
    [plain, timed] = asyncio.run(ask(endpoint, RECORD)) + asyncio.run(
        ask(endpoint, RECORD, headers={"prodml-timing": "1"})
    )
    assert "server-timing" not in plain.headers
    stages = [part.split(";")[0] for part in timed.headers["server-timing"].split(", ")]
    assert stages == ["read", "decode", "wait", "score", "record", "total"]
    measured = endpoint.meters.text().decode()
    for stage in stages[:-1]:
        assert f'prodml_stage_seconds_count{{stage="{stage}"}} 2.0' in measured
    kept = (
        Journal(deployment.journal_dir)
        .query("SELECT coalesce(stages, '') AS s FROM predictions ORDER BY id")
        .s.tolist()
    )
    assert kept[0] == "" and all(name in kept[1] for name in ("read", "decode", "wait", "score"))
    endpoint.router.stop()


def test_slow_clients_and_half_open_connections_do_not_keep_others_waiting(deployment):
    deployment.release(1.0)
    with deployment.serve(body_seconds=1) as (client, _):
        address = (client.base_url.host, client.base_url.port)
        idle = [socket.create_connection(address) for _ in range(300)]
        slow = [socket.create_connection(address) for _ in range(100)]
        for connection in slow:
            connection.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        worst = 0.0
        for _ in range(50):
            begun = time.monotonic()
            assert client.post("/predict", json=RECORD).status_code == 200
            worst = max(worst, time.monotonic() - begun)
        assert worst < 2
        slow[0].settimeout(10)
        assert slow[0].recv(100).startswith(b"HTTP/1.1 408")
        assert client.post("/predict", json=RECORD).status_code == 200
        for connection in (*idle, *slow):
            connection.close()


def test_promotions_under_load_fail_no_request_and_every_answer_is_of_one_version(deployment):
    deployment.release(1.0, -1.0)
    over, found, versions, problems = threading.Event(), set(), [], []
    with deployment.serve(workers=2) as (client, _):

        def load() -> None:
            with httpx.Client(base_url=client.base_url, timeout=30) as own:
                while not over.is_set():
                    response = own.post("/predict", json=[RECORD] * 3)
                    if response.status_code != 200:
                        problems.append(response.text)
                    elif (
                        len(told := {(a["version"], round(a["score"], 4), a["fallback"]) for a in response.json()}) != 1
                    ):
                        problems.append(told)
                    else:
                        found.update(told)
                        versions.append(next(iter(told))[0])

        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            for version, decide in ((1, deployment.rollback), (2, lambda: deployment.promote(2))):
                versions.clear()
                decide()
                wait_for(lambda: version in versions)
        over.set()
        for thread in threads:
            thread.join()
    assert problems == []
    assert {(version, fallback) for version, _, fallback in found} == {(1, None), (2, None)} and len(found) == 2
