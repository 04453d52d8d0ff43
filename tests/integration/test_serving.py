"The service as its clients meet it: the real server, over HTTP."

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import httpx
import pytest
from conftest import LATE, RECORD, answers, end, late_probability, wait_for

from prodml_nb.errors import ServingError
from prodml_nb.serve.launch import serve_command
from prodml_nb.settings import load_settings

ROOT = Path(__file__).parents[2]
JSON = {"content-type": "application/json"}
TRAINING_STACK = (
    "sklearn scipy pandas skops skl2onnx onnx matplotlib whylogs papermill nbconvert duckdb pyarrow".split()
)


def refused(response: httpx.Response, status: int) -> dict:
    "The problem document of a refusal."
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found["status"] == status and found["title"] and found["detail"]
    return found


def test_one_record_gets_one_answer_and_an_array_gets_an_array(live):
    _, client = live
    one = client.post("/predict", json=RECORD).json()
    assert one["score"] == pytest.approx(late_probability(10, 1.0), abs=1e-6)
    assert (one["prediction"], one["model"], one["version"], one["route"]) == ("late", "late", 2, "champion")
    assert (one["fallback"], one["warnings"]) == (None, [])
    winds = [0, 50, 199.5, None]
    many = client.post("/predict", json=[RECORD | {"wind": w} for w in winds]).json()
    assert [a["score"] for a in many[:3]] == pytest.approx([late_probability(w, 1.0) for w in winds[:3]], abs=1e-6)
    assert len({a["prediction_id"] for a in many}) == 4
    assert many[3]["fallback"] == "declared" and many[3]["score"] == 0.25  # this graph has no answer for a missing wind


def test_a_prediction_is_remembered_and_takes_feedback(live):
    _, client = live
    sent = RECORD | {"plane": "N123", "at": "2024-05-01T14:00:00+02:00"}
    answer = client.post("/predict", json=sent).json()
    told = {"prediction_id": answer["prediction_id"], "outcome": "on time", "comment": "landed early"}
    single = client.post("/feedback", json=told)
    assert single.status_code == 200 and single.json()["prediction_id"] == answer["prediction_id"]
    assert len(client.post("/feedback", json=[told | {"outcome": "late"}, told | {"rating": 2}]).json()) == 2

    kept = client.get(f"/predictions/{answer['prediction_id']}").json()
    record = kept["prediction"]
    assert {k: record["features"][k] for k in RECORD} == RECORD
    assert (record["subject"], record["time"]) == ("N123", "2024-05-01T12:00:00.000000Z")
    assert {k: record[k] for k in ("prediction", "score", "version")} == {
        k: answer[k] for k in ("prediction", "score", "version")
    }
    assert [f["outcome"] for f in kept["feedback"]] == ["on time", "late", "on time"]


def test_the_service_describes_itself(live):
    _, client = live
    model = client.get("/model").json()
    assert (model["model"], model["version"], model["previous"], model["scorer"]) == ("late", 2, 1, "onnx")
    assert model["spec"]["target"] == "late" and model["fingerprint"] == LATE.fingerprint()
    assert client.get("/livez").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready", "model": "late", "version": 2, "note": ""}
    document = client.get("/openapi.json").json()
    assert set(document["components"]["schemas"]["Record"]["properties"]) == {*RECORD, "plane", "at", "prediction_id"}
    examples = document["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert [client.post("/predict", json=e["value"]).status_code for e in examples.values()] == [200] * 4
    assert client.head("/model").status_code == 200 and not client.head("/model").content


def test_metrics_count_what_happened(live):
    _, client = live

    def count(start: str) -> float:
        return sum(
            float(line.split()[-1]) for line in client.get("/metrics").text.splitlines() if line.startswith(start)
        )

    answered, refusals = (
        count('prodml_predictions_total{fallback="none",model="late",version="2"'),
        count('prodml_requests_total{path="/predict",status="422"'),
    )
    client.post("/predict", json=[RECORD] * 3)
    client.post("/predict", json={})
    assert count('prodml_predictions_total{fallback="none",model="late",version="2"') == answered + 3
    assert count('prodml_requests_total{path="/predict",status="422"') == refusals + 1
    assert 'prodml_champion_version{model="late"} 2.0' in client.get("/metrics").text


BAD_RECORDS = {
    "wrong types": (RECORD | {"wind": "zq7", "sky": 5, "holiday": "zq7"}, {"wind", "sky", "holiday"}),
    "a missing field": ({k: v for k, v in RECORD.items() if k != "sky"}, {"sky"}),
    "an unknown field": (RECORD | {"wnd": "zq7"}, {"wnd"}),
    "null where it is refused": (RECORD | {"slack in minutes": None}, {"slack in minutes"}),
    "out of range": (RECORD | {"wind": 98765.4}, {"wind"}),
    "an unseen level": (RECORD | {"sky": "zq7"}, {"sky"}),
    "a huge number": (RECORD | {"slack in minutes": 1e300}, {"slack in minutes"}),
    "a bad time": (RECORD | {"at": "zq7"}, {"at"}),
    "everything at once": (
        {"wind": -1, "slack in minutes": "zq7", "sky": None, "holiday": 1, "zz": 1},
        {"wind", "slack in minutes", "holiday", "zz"},
    ),
}


@pytest.mark.parametrize("record, fields", BAD_RECORDS.values(), ids=BAD_RECORDS)
def test_every_bad_field_is_named_and_no_value_is_repeated(live, record, fields):
    _, client = live
    for body, index in ((record, None), ([RECORD, record], 1)):
        response = client.post("/predict", json=body)
        problem = refused(response, 422)
        assert {e["field"] for e in problem["errors"]} == fields
        assert {e.get("index") for e in problem["errors"]} == {index}
        assert "zq7" not in response.text and "98765" not in response.text


BAD_BODIES = {
    "nothing": (b"", 400),
    "half a record": (b'{"wind": 1', 400),
    "NaN": (json.dumps(RECORD | {"wind": float("nan")}).encode(), 422),
    "infinity": (json.dumps(RECORD | {"wind": float("inf")}).encode(), 422),
    "a number of 5000 digits": (json.dumps(RECORD).replace("10", "1" * 5000).encode(), 422),
    "broken UTF-8": (b'{"wind": "\xff"}', 400),
    "a deep nest": (b"[" * 200_000, 400),
    "a word": (b'"wind"', 422),
    "an empty array": (b"[]", 422),
    "10 000 records": (json.dumps([RECORD] * 10_000).encode(), 413),
    "20 MB": (b" " * 20_000_000, 413),
}


@pytest.mark.parametrize("body, status", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_bad_body_is_refused_in_words(live, body, status):
    _, client = live
    refused(client.post("/predict", content=body, headers=JSON), status)
    pieces = (body[i : i + 65536] for i in range(0, max(len(body), 1), 65536))
    refused(client.post("/predict", content=pieces, headers=JSON), status)
    assert client.post("/predict", json=RECORD).status_code == 200


def test_paths_methods_and_formats_that_are_not_ours_are_refused(live):
    _, client = live
    for path in ("/predict", "/feedback"):
        for kind in ("application/vnd.bentoml+pickle", "text/plain", "multipart/form-data"):
            refused(client.post(path, content=b"cos\nsystem\n", headers={"content-type": kind}), 415)
    for charset, status in (("utf-8", 200), ('"UTF-8"', 200), ("utf-16", 415), ("latin-1", 415)):
        kind = {"content-type": f"application/json; charset={charset}"}
        assert client.post("/predict", content=json.dumps(RECORD), headers=kind).status_code == status
    refused(client.post("/predikt", content=b"a", headers={"content-type": "text/plain"}), 404)
    refused(client.put("/predict", content=b"a", headers={"content-type": "text/plain"}), 405)
    assert "did you mean '/predict'?" in refused(client.post("/predikt", json=RECORD), 404)["detail"]
    response = client.get("/predict")
    assert refused(response, 405) and response.headers["allow"] == "POST"
    refused(client.get("/predictions/017f22e2-79b0-7cc3-98c4-dc0c0c07398f"), 404)
    refused(client.get("/predictions/not-an-id"), 404)


def test_feedback_is_checked_as_a_whole(live):
    _, client = live
    good = {"prediction_id": client.post("/predict", json=RECORD).json()["prediction_id"], "outcome": "late"}
    bad = [
        good,
        good | {"outcome": "zq7"},
        {"prediction_id": "zq7", "rating": 9},
        good | {"coment": "zq7"},
        {"prediction_id": good["prediction_id"]},
    ]
    response = client.post("/feedback", json=bad)
    found = {(e["index"], e["field"]) for e in refused(response, 422)["errors"]}
    assert found == {(1, "outcome"), (2, "prediction_id"), (2, "rating"), (3, "coment"), (4, "outcome")}
    assert "zq7" not in response.text
    assert client.get(f"/predictions/{good['prediction_id']}").json()["feedback"] == []
    refused(client.post("/feedback", content=b"{", headers=JSON), 400)
    refused(client.post("/feedback", json=[]), 422)


def test_promotion_and_rollback_under_load_fail_no_request_and_show_within_a_second(deployment):
    deployment.release(-1.0)
    second = deployment.register(1.0)
    bias, failures, seen, over = {1: -1.0, 2: 1.0}, [], [], threading.Event()
    with deployment.serve() as (client, _):

        def load() -> None:
            with httpx.Client(base_url=client.base_url, timeout=30) as own:
                while not over.is_set():
                    response = own.post("/predict", json=RECORD)
                    answer = response.json()
                    if (
                        response.status_code != 200
                        or abs(answer["score"] - late_probability(10, bias[answer["version"]])) > 1e-6
                    ):
                        failures.append(answer)
                    seen.append((time.monotonic(), answer.get("version")))

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        waits = []
        for version, move in (
            (2, lambda: deployment.promote(second)),
            (1, deployment.rollback),
            (2, lambda: deployment.promote(second)),
        ):
            move()
            moved = time.monotonic()
            waits.append(
                wait_for(lambda: next((t for t, v in seen[-50:] if t > moved and v == version), None), 5) - moved
            )
        over.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert len(seen) > 100 and max(waits) <= 1.0


def test_a_version_without_a_sound_score_falls_back_and_says_so(deployment):
    deployment.release(-1.0, float("nan"))
    with deployment.serve() as (client, _):
        answer = client.post("/predict", json=RECORD).json()
        assert (answer["fallback"], answer["version"]) == ("previous", 1)
        assert answer["score"] == pytest.approx(late_probability(10, -1.0), abs=1e-6)
        assert any("version 2" in w for w in answer["warnings"])
        kept = client.get(f"/predictions/{answer['prediction_id']}").json()["prediction"]
        assert (kept["fallback"], kept["version"], kept["warnings"]) == ("previous", 1, answer["warnings"])

        deployment.promote(deployment.register(float("nan")))
        wait_for(lambda: client.get("/model").json()["version"] == 3)
        answer = client.post("/predict", json=RECORD).json()
        assert (answer["fallback"], answer["version"], answer["score"], answer["prediction"]) == (
            "declared",
            None,
            0.25,
            "on time",
        )


def test_without_a_promoted_version_it_says_what_to_do_and_picks_one_up(deployment):
    version = deployment.register(1.0)
    with deployment.serve(ready="/livez") as (client, _):
        assert "promote" in refused(client.get("/readyz"), 503)["detail"]
        assert "promote" in refused(client.post("/predict", json=RECORD), 503)["detail"]
        deployment.promote(version)
        wait_for(lambda: answers(client, "/readyz"), 5)
        assert client.post("/predict", json=RECORD).json()["version"] == version


def test_a_process_that_serves_a_graph_imports_no_training_stack(deployment):
    deployment.release(-1.0, 1.0)
    code = f"""
        import asyncio, json, sys
        import httpx
        from prodml_nb.serve.service import Prediction, open_endpoint
        from prodml_nb.settings import load_settings

        before = set(sys.modules)
        app = Prediction.to_asgi()

        async def main():
            async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
                assert (await client.get("/readyz")).status_code == 200
                answers = [await client.post("/predict", json={RECORD!r}), await client.post("/predict", json={{}})]
                assert [a.status_code for a in answers] == [200, 422], answers[0].text
                told = {{"prediction_id": answers[0].json()["prediction_id"], "outcome": "late"}}
                assert (await client.post("/feedback", json=told)).status_code == 200
                for path in ("/model", "/metrics", "/openapi.json", "/predictions/" + told["prediction_id"]):
                    assert (await client.get(path)).status_code == 200, path

        asyncio.run(main())
        print(json.dumps([m for m in {TRAINING_STACK!r} if m in sys.modules]))
    """
    env = os.environ | {"PRODML_STATE_ROOT": str(deployment.root)}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env,
        capture_output=True,
        text=True,
        cwd=deployment.root.parent,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("fast", ["on", "off"])
def test_a_whole_request_goes_past_the_middleware_unless_the_fast_path_is_off(deployment, fast):
    deployment.release(1.0)
    code = f"""
        import asyncio
        import json
        import socket
        import httpx
        import uvicorn
        from bentoml._internal.server.http.traffic import TimeoutMiddleware
        from prodml_nb.serve.service import Prediction

        seen, inner = [], TimeoutMiddleware.__call__

        async def counted(self, scope, receive, send):
            seen.append((scope["type"], scope.get("path")))
            await inner(self, scope, receive, send)

        TimeoutMiddleware.__call__ = counted

        async def main():
            listening = socket.create_server(("127.0.0.1", 0))
            server = uvicorn.Server(uvicorn.Config(Prediction.to_asgi(), log_level="error"))
            life = asyncio.create_task(server.serve(sockets=[listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            here = "http://127.0.0.1:%d" % listening.getsockname()[1]
            async with httpx.AsyncClient(base_url=here) as client:
                told = [await client.post("/predict", json={RECORD!r}) for _ in range(2)]
                told.append(await client.get("/model"))
                told.append(await client.post("/predict", json={RECORD!r}))
                told.append(await client.post("/predict?now", json={RECORD!r}, headers={{"Connection": "close"}}))
            server.should_exit = True
            await life
            print(json.dumps([[t.status_code for t in told], [path for kind, path in seen if kind == "http"]]))

        asyncio.run(main())
    """
    env = os.environ | {"PRODML_STATE_ROOT": str(deployment.root), "PRODML_SERVE_FAST_PATH": fast}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    codes, seen = json.loads(done.stdout.splitlines()[-1])
    assert codes == [200] * 5
    unusual = ["/model", "/predict"]
    assert seen == (unusual if fast == "on" else ["/predict", "/predict", "/model", "/predict", "/predict"])


def ask(service: httpx.Client, request: bytes, pause: float) -> tuple[int, set[str], str]:
    "Status, headers and body, without identifiers, of the answer to a request sent in two pieces; 0: in one."
    with socket.create_connection((service.base_url.host, service.base_url.port)) as connection:
        cut = len(request) - 1 if pause else len(request)
        connection.sendall(request[:cut])
        time.sleep(pause)
        connection.sendall(request[cut:])
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        return (
            answer.status,
            set(answer.msg.keys()),
            re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "", answer.read().decode()),
        )


@pytest.mark.parametrize(
    ("path", "sent", "status"),
    [
        ("/predict", RECORD, 200),
        ("/predict", [RECORD] * 3, 200),
        ("/predict", RECORD | {"wind": "strong"}, 422),
        ("/predict", RECORD | {"wnd": 2}, 422),
        ("/predict", [], 422),
        ("/predict", None, 422),
        ("/invocations", {"dataframe_records": [RECORD]}, 200),
        ("/v2/models/late/infer", {"inputs": []}, 422),
        ("/v2/models/early/infer", {"inputs": []}, 404),
        ("/v2/models/late/ready", {}, 405),
        ("/predict", {"a": "b" * 5_000_000}, 413),
    ],
)
def test_the_fast_path_and_the_long_way_lead_to_the_same_answer(live, path, sent, status):
    body = json.dumps(sent).encode()
    head = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body))
    quick, slow = (ask(live[1], head + body, pause) for pause in (0, 0.2))
    assert quick[0] == status
    assert quick == slow


def test_bentoml_serve_alone_serves_the_same(deployment):
    deployment.release(1.0)
    port = deployment.settings().serve.port
    env = os.environ | {
        "PRODML_STATE_ROOT": str(deployment.root),
        "PRODML_SERVE_PORT": str(port),
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(deployment.root / "bentoml"),
    }
    command = [sys.executable, "-m", "bentoml", "serve", str(ROOT)]  # where it listens is a setting
    with open(deployment.root / "service.log", "ab") as log:
        process = subprocess.Popen(
            command, env=env, cwd=deployment.root, stdout=log, stderr=log, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_for(lambda: answers(client, "/readyz") or process.poll() is not None, 60)
            assert client.post("/predict", json=RECORD).json()["score"] == pytest.approx(
                late_probability(10, 1.0), abs=1e-6
            )
        assert f"http://127.0.0.1:{port}" in (deployment.root / "service.log").read_text()
    finally:
        end(process)


NO_PROJECT = """
    # no editable installation, and no part of the training stack: what a serving environment looks like
    import sys
    sys.meta_path = [f for f in sys.meta_path if "editable" not in str(f)]
    sys.path = [p for p in sys.path if p != {root!r}]
    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {absent!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
    sys.meta_path.insert(0, Absent())
"""


def test_a_bento_serves_from_an_empty_folder_without_the_project(deployment, tmp_path):
    project, empty, clean = tmp_path / "project", tmp_path / "empty", tmp_path / "clean"
    for folder in (empty, clean):
        folder.mkdir()
    deployment.release(-1.0, 1.0)
    shutil.copytree(ROOT / "prodml_nb", project / "prodml_nb")
    for name in ("bentofile.yaml", "settings.ini"):
        shutil.copy(ROOT / name, project / name)
    release = project / ".prodml" / "release"
    shutil.copytree(deployment.models_dir, release / "models")
    (release / "keys").mkdir()
    shutil.copy(deployment.root / "keys" / "signing.pub", release / "keys" / "signing.pub")
    deployment.ledger.snapshot(release / "ledger.db")
    (project / ".prodml" / "journal").mkdir()
    (project / ".prodml" / "journal" / "private.jsonl").write_text("{}")

    env = os.environ | {"BENTOML_HOME": str(tmp_path / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}

    def build(**more: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
        return subprocess.run(command, cwd=project, env=env | more, capture_output=True, text=True, timeout=120)

    refused = build(PRODML_STATE_ROOT=str(deployment.root))
    assert refused.returncode != 0 and "build where [state] root is .prodml" in refused.stdout + refused.stderr
    built = build()
    assert built.returncode == 0, built.stderr
    shutil.rmtree(project)
    bento = next((tmp_path / "bentoml" / "bentos" / "prodml").glob("*/bento.yaml")).parent
    carried = {str(p.relative_to(bento / "src")) for p in (bento / "src").rglob("*") if p.is_file()}
    state = {p.removeprefix(".prodml/") for p in carried if p.startswith(".prodml/")}
    assert {p.split("/")[0] for p in state} == {"release"}
    assert {
        "release/ledger.db",
        "release/keys/signing.pub",
        "release/models/late/1/manifest.sig",
        "release/models/late/2/model.onnx",
    } <= state
    assert not any("signing.key" in p or "private" in p for p in carried)
    assert not any(
        p.startswith(("nbs/", "tests/", "prodml_nb/build/", "prodml_nb/observe/", "prodml_nb/operate/"))
        for p in carried
    )
    assert "`GET /model`" in (bento / "README.md").read_text()
    assert "--hash=sha256:" in (bento / "env" / "python" / "requirements.txt").read_text()

    (clean / "sitecustomize.py").write_text(textwrap.dedent(NO_PROJECT.format(root=str(ROOT), absent=TRAINING_STACK)))
    port = deployment.settings().serve.port
    env |= {"PYTHONPATH": str(clean)}  # and not a word about where the state shall be
    command = [sys.executable, "-m", "bentoml", "serve", str(bento), "--host", "127.0.0.1", "--port", str(port)]
    with open(tmp_path / "service.log", "wb") as log:
        process = subprocess.Popen(command, env=env, cwd=empty, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            wait_for(lambda: answers(client, "/readyz") or process.poll() is not None, 60)
            assert process.poll() is None, (tmp_path / "service.log").read_text()
            answer = client.post("/predict", json=RECORD).json()
            assert (answer["version"], answer["score"]) == (2, pytest.approx(late_probability(10, 1.0), abs=1e-6))
            assert client.get("/model").json()["previous"] == 1
            assert client.get(f"/predictions/{answer['prediction_id']}").json()["prediction"]["version"] == 2
            told = wait_for(lambda: "prodml_recording 1.0" in (t := client.get("/metrics").text) and t.splitlines())
            observer = [line for line in told if line.startswith("prodml_observer")]  # started with the same tick
            assert {line.split()[-1] for line in observer} == {"0.0"}
    finally:
        end(process)
    assert "Traceback" not in (tmp_path / "service.log").read_text()
    assert list((tmp_path / "bentoml" / "prodml" / "journal" / "live").iterdir())


def test_a_release_that_lies_beside_the_package_is_nobodys_but_a_bentos(deployment, tmp_path):
    from prodml_nb.serve.launch import find_release

    release = tmp_path / "bento" / "src" / ".prodml" / "release"
    release.mkdir(parents=True)
    deployment.release(0.0)
    deployment.ledger.snapshot(release / "ledger.db")
    empty = load_settings(env={"PRODML_STATE_ROOT": str(tmp_path / "empty")})
    assert find_release(empty, release.parents[1]) is None
    (tmp_path / "bento" / "bento.yaml").touch()
    assert find_release(empty, release.parents[1]) == release


def test_an_address_that_is_not_loopback_is_refused(deployment):
    with pytest.raises(ServingError, match="0.0.0.0.*API keys"):
        serve_command(deployment.settings(host="0.0.0.0"))


def test_a_host_may_be_a_name_and_it_is_its_address_that_counts(deployment, monkeypatch):
    deployment.release(1.0)
    with deployment.serve(host="localhost") as (client, _):
        assert client.post("/predict", json=RECORD).status_code == 200
    known = {"inside": "127.0.1.1", "outside": "192.0.2.1"}

    def look_up(name, port, **_):
        if name not in known:
            raise socket.gaierror(-2, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (known[name], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert "127.0.1.1" in serve_command(deployment.settings(host="inside"))[0]
    with pytest.raises(ServingError, match="outside.*API keys"):
        serve_command(deployment.settings(host="outside"))
    with pytest.raises(ServingError, match="nowhere is a name that this machine does not know"):
        serve_command(deployment.settings(host="nowhere"))
