"The client as a program uses it, against the real server: killed and restarted, overloaded, guarded by keys."

import asyncio
import json
import random
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import numpy as np
import pandas as pd
import pytest
from conftest import LATE, RECORD, Deployment, kill_all, late_probability, wait_for

from prodml_nb.client import (
    AsyncClient,
    Client,
    NotFound,
    Overloaded,
    Patience,
    RequestRefused,
    Unauthorized,
    Unavailable,
)
from prodml_nb.errors import DataError, ServingError
from prodml_nb.record.journal import uuid7
from prodml_nb.record.keys import create_key
from prodml_nb.record.reader import Journal

PATIENT = Patience(retries=30, base=0.5, longest=1.0)
CLOSED = "http://127.0.0.1:9"  # discard: nobody listens


def journaled(deployment: Deployment) -> Counter:
    "How often each prediction stands in the journal."
    return Counter(Journal(deployment.journal_dir).query("SELECT id FROM predictions")["id"])


class Watching(httpx.HTTPTransport):
    "The network, with a list of what came back, and answers that get lost on the way."

    def __init__(self, lose: int = 0):
        super().__init__()
        self.seen, self.lose = [], lose

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.read()
        self.seen.append(response.status_code)
        if self.lose:
            self.lose -= 1
            raise httpx.ReadTimeout("lost")
        return response


@pytest.fixture(scope="module")
def url(live) -> str:
    return str(live[1].base_url)


def test_a_record_and_a_list_are_answered_remembered_and_take_feedback(url):
    with Client(url) as client:
        one = client.predict(RECORD)
        assert (one.prediction, one.version, one.score) == (
            "late",
            2,
            pytest.approx(late_probability(10, 1.0), abs=1e-6),
        )
        many = client.predict([RECORD | {"wind": w} for w in (0, np.float32(50), None)], batch=2)
        assert [a.fallback for a in many] == [None, None, "declared"]
        assert client.predict([]) == []
        told = client.feedback(one, outcome="late", comment="as said")
        assert told["prediction_id"] == one.prediction_id
        assert len(client.feedback([{"prediction_id": a.prediction_id, "rating": 5} for a in many])) == 3
        kept = client.prediction(one.prediction_id)
        assert kept["prediction"]["supplied"] and kept["feedback"][0]["comment"] == "as said"
        assert client.model()["version"] == 2 and client.ready() is True
        with pytest.raises(NotFound):
            client.prediction(uuid7())


def test_a_frame_of_3000_rows_comes_back_with_its_index(live, url):
    deployment, _ = live
    dice = np.random.default_rng(7)
    wind = dice.uniform(0, 200, 3000).round(1)
    wind[::100] = np.nan
    columns = {
        "wind": wind, "slack in minutes": dice.integers(0, 90, 3000), "holiday": dice.random(3000) < 0.1,
        "sky": pd.Categorical(dice.choice(["clear", "overcast"], 3000)),
        "plane": pd.array([None, "N1", "N2"] * 1000, dtype="string"), "at": pd.date_range("2024-01-01", periods=3000, freq="h"),
    }  # fmt: skip
    frame = pd.DataFrame(columns, index=pd.Index(dice.permutation(3000), name="flight"))
    frame.loc[frame.index[::50], "sky"] = None
    seen = []
    with Client(url) as client:
        table = client.predict(frame, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(n, 3000) for n in range(500, 3001, 500)]
        assert table.index.equals(frame.index) and list(frame) == list(columns)
        answered = np.isfinite(wind)
        expected = [late_probability(w, 1.0) for w in wind[answered]]
        assert table["score"].to_numpy()[answered] == pytest.approx(expected, abs=1e-6)
        assert set(table.loc[~answered, "fallback"]) == {"declared"} and table["version"].isna().sum() == 30
        kept = client.prediction(table["prediction_id"].iloc[1])["prediction"]
        assert (kept["subject"], kept["time"]) == ("N1", "2024-01-01T01:00:00.000000Z")
        again = client.predict(frame.assign(prediction_id=table["prediction_id"]))
        assert again["prediction_id"].equals(table["prediction_id"])
        assert client.predict(frame.iloc[:0]).empty
    found = journaled(deployment)
    assert {found[i] for i in table["prediction_id"]} == {1}


def test_a_wrong_record_is_named_by_its_place_in_the_whole_and_is_not_asked_twice(url):
    wrong = RECORD | {"sky": "zq7", "wnd": 1}
    with Watching() as network, Client(url, transport=network) as client:
        with pytest.raises(RequestRefused) as refused:
            client.predict([RECORD] * 4 + [wrong], batch=2)
        assert {(p.index, p.field) for p in refused.value.problems} == {(4, "sky"), (4, "wnd")}
        assert len(refused.value.answers) == 4 and "'sky'" in str(refused.value) and "record 4" in str(refused.value)
        assert "zq7" not in str(refused.value) and isinstance(refused.value, DataError | ServingError)
        assert network.seen == [200, 200, 422]
        with pytest.raises(RequestRefused, match="split"):
            client.predict([RECORD] * 1001, batch=1001)
        with pytest.raises(RequestRefused, match="prediction_id"):
            client.predict(RECORD | {"prediction_id": "17"})
        mine = uuid7()
        client.predict(RECORD | {"prediction_id": mine})
        with pytest.raises(RequestRefused, match="another record"):
            client.predict(RECORD | {"wind": 11, "prediction_id": mine})
        for bad in (RECORD | {"wind": float("inf")}, RECORD | {"wind": object()}):
            with pytest.raises(DataError):
                client.predict(bad)
        with pytest.raises(DataError, match="record 1 "):
            client.predict([RECORD, "zq7"])


def test_a_lost_answer_is_asked_for_again_and_recorded_once(live, url):
    deployment, _ = live
    with Watching(lose=2) as network, Client(url, retries=PATIENT, transport=network, random=lambda: 0.0) as client:
        answers = client.predict([RECORD] * 3)
    assert network.seen == [200, 200, 200]
    found = journaled(deployment)
    assert [found[a.prediction_id] for a in answers] == [1, 1, 1]


def test_kill_9_in_the_middle_loses_nothing_and_records_nothing_twice(deployment):
    deployment.release(1.0)
    port = deployment.settings().serve.port
    records = [RECORD | {"wind": i % 200} for i in range(1200)]
    done, answers = [], []
    network = Watching()
    client = Client(f"http://127.0.0.1:{port}", retries=PATIENT, transport=network)

    def ask() -> None:
        answers.extend(client.predict(records, batch=5, progress=lambda n, _: done.append(n)))

    with deployment.serve(port=port) as (_, process):
        with Client(
            f"http://127.0.0.1:{port}"
        ) as first:  # answered and recorded, but the answer is lost with the server
            lost = [RECORD | {"prediction_id": uuid7()} for _ in range(3)]
            first.predict(lost)
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        wait_for(lambda: len(done) > 20)
        kill_all(process)
    assert asking.is_alive() and len(done) < 240
    with deployment.serve(port=port):
        again = client.predict(lost)
        asking.join(30)
        client.close()
    assert not asking.is_alive()
    assert [a.prediction_id for a in again] == [r["prediction_id"] for r in lost]
    assert [a.score for a in answers] == pytest.approx([late_probability(r["wind"], 1.0) for r in records], abs=1e-6)
    found = journaled(deployment)
    assert set(found.values()) == {1} and set(found) == {a.prediction_id for a in answers + again}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, str, str, str]]:
    "A server that answers one request at a time and only those with a key; its URL, a key, and one for a request a second."
    deployment = Deployment(tmp_path_factory.mktemp("guarded") / "state")
    deployment.release(1.0)
    keys = [create_key(deployment.ledger, ["predict"], rate=rate)[0] for rate in (None, 1.0)]
    with deployment.serve(max_in_flight=1) as (client, _):
        yield deployment, str(client.base_url), *keys


def test_an_overloaded_service_is_given_the_time_it_asks_for(guarded):
    deployment, url, may, _ = guarded
    before, refused, statuses = sum(journaled(deployment).values()), [], []

    class Counting(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request):
            response = await super().handle_async_request(request)
            statuses.append(response.status_code)
            if response.status_code == 503:
                refused.append((request.content, time.monotonic()))
            elif waited := [t for body, t in refused if body == request.content]:
                assert time.monotonic() - waited[-1] >= 1.0  # the Retry-After of the service
            return response

    async def crowd() -> list:
        network = Counting(limits=httpx.Limits(max_connections=60))
        async with AsyncClient(url, may, retries=PATIENT, transport=network) as own:
            return await asyncio.gather(*(own.predict([RECORD] * 100) for _ in range(50)))

    answers = asyncio.run(crowd())
    assert 503 in statuses and statuses.count(200) == 50
    assert len({a.prediction_id for part in answers for a in part}) == 5_000
    assert sum(journaled(deployment).values()) == before + 5_000


def test_fifty_calls_at_once(live, url):
    async def ask() -> list:
        async with AsyncClient(url) as client:
            assert await client.ready() and (await client.model())["version"] == 2
            answers = await asyncio.gather(*(client.predict(RECORD | {"wind": w}) for w in range(50)))
            await client.feedback(answers[0], rating=1)
            return answers

    answers = asyncio.run(ask())
    assert [a.score for a in answers] == pytest.approx([late_probability(w, 1.0) for w in range(50)], abs=1e-6)


def test_keys_open_doors_and_their_errors_can_be_told_apart(guarded):
    _, url, may, slow = guarded
    with Client(url, may) as client:
        assert client.predict(RECORD).prediction == "late"
        with pytest.raises(Unauthorized, match="scope") as error:
            client.feedback(uuid7(), rating=1)
        assert error.value.status == 403
    for key in (None, "prodml_0123456789_zq7"):
        with Client(url, key) as client, pytest.raises(Unauthorized, match="API key") as error:
            client.predict(RECORD)
        assert error.value.status == 401 and "zq7" not in str(error.value)
    with Watching() as network, Client(url, slow, transport=network, random=lambda: 0.1) as client:
        begun = time.monotonic()
        for _ in range(3):
            client.predict(RECORD)
        assert 429 in network.seen and time.monotonic() - begun >= 1.5
    with Client(url, slow, retries=0) as client, pytest.raises(Overloaded) as error:
        client.predict(RECORD)
        client.predict(RECORD)
    assert error.value.status == 429 and error.value.retry_after >= 1


def test_nobody_there_is_unavailable_after_as_many_attempts_as_were_allowed():
    with Client(CLOSED, retries=Patience(retries=2, base=0.01)) as client:
        assert client.ready() is False
        with pytest.raises(Unavailable, match="asked 3 times") as error:
            client.predict(RECORD)
        assert error.value.status is None


@pytest.mark.parametrize("status, kind, attempts", [
    (400, RequestRefused, 1), (404, NotFound, 1), (409, RequestRefused, 1), (413, RequestRefused, 1), (500, Unavailable, 1),
    (429, Overloaded, 4), (502, Unavailable, 4), (503, Unavailable, 4), (504, Unavailable, 4), (307, Unavailable, 1),
])  # fmt: skip
def test_only_what_may_pass_is_tried_again(status, kind, attempts):
    asked = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(request.content)
        return httpx.Response(status, text="<html>a proxy</html>")

    network = httpx.MockTransport(reply)
    with Client(CLOSED, retries=Patience(3, 0.001), transport=network) as client, pytest.raises(kind):
        client.predict(RECORD)
    assert len(asked) == attempts and len(set(asked)) == 1  # the same identifiers every time


def test_a_longer_wait_than_we_have_patience_for_is_told_at_once():
    network = httpx.MockTransport(lambda _: httpx.Response(503, headers={"retry-after": "3600"}))
    with Client(CLOSED, transport=network) as client, pytest.raises(Unavailable) as error:
        client.predict(RECORD)
    assert error.value.retry_after == 3600


def test_waits_are_random_bounded_and_counted_from_the_date_of_the_response():
    dice = random.Random(1)
    waits = [Patience().wait(3, Unavailable("gone"), dice.random) for _ in range(500)]
    assert 1.0 <= min(waits) < 1.1 and 1.9 < max(waits) <= 2.0
    dates = {"date": "Wed, 01 May 2024 12:00:00 GMT", "retry-after": "Wed, 01 May 2024 12:00:07 GMT"}
    network = httpx.MockTransport(lambda _: httpx.Response(429, headers=dates))
    with Client(CLOSED, retries=0, transport=network) as client, pytest.raises(Overloaded) as error:
        client.predict(RECORD)
    assert error.value.retry_after == 7


@pytest.mark.parametrize("away", [2.4, 8.0, 12.0])
def test_a_restart_is_survived_with_the_patience_one_has_by_default(away):
    now, dice = 0.0, random.Random(3)

    def reply(_: httpx.Request) -> httpx.Response:
        if now < away:
            raise httpx.ConnectError("refused")
        return httpx.Response(200, json={"version": 2})

    def pause(seconds: float) -> None:
        nonlocal now
        now += seconds

    with Client(CLOSED, transport=httpx.MockTransport(reply), random=dice.random) as client:
        client._pause = pause
        for _ in range(200):
            now = 0.0
            assert client.model() == {"version": 2} and now < 3 * away
        away, now = 1e9, 0.0
        with pytest.raises(Unavailable, match="asked 8 times"):
            client.model()
    assert now < 32


def test_importing_the_client_loads_neither_pandas_nor_the_service():
    heavy = "pandas numpy bentoml sklearn onnxruntime sqlalchemy".split()
    code = f"import sys, prodml_nb.client; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr
    assert LATE.name == "late"


@contextmanager
def answering(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    "A server on this machine that does as it is told with every connection, and its URL."
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    threading.Thread(target=serve_one, args=(listening.accept()[0],), daemon=True).start()

        def serve_one(connection: socket.socket) -> None:
            with connection, suppress(OSError):
                connection.recv(65536)
                handle(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def dripping(head: bytes) -> Callable[[socket.socket], None]:
    "Send a head, then a byte every twentieth of a second."

    def handle(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.05)

    return handle


def ask_once(kind: type, url: str, **told: object) -> object:
    "What one call of either client comes to."
    if kind is Client:
        with Client(url, retries=0, **told) as client:
            return client.model()

    async def ask() -> object:
        async with AsyncClient(url, retries=0, **told) as client:
            return await client.model()

    return asyncio.run(ask())


BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"


@pytest.mark.parametrize("kind, head", [(Client, BODY), (AsyncClient, BODY), (AsyncClient, b"HTTP/1.1 200 OK\r\nx: ")])
def test_a_server_that_drips_is_not_waited_for_beyond_the_timeout(kind, head):
    with answering(dripping(head)) as url:
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="ReadTimeout"):
            ask_once(kind, url, timeout=0.3)
        assert 0.25 < time.monotonic() - begun < 2.0


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_the_queue_in_the_client_is_not_counted_as_an_attempt(kind, monkeypatch):
    monkeypatch.setattr("prodml_nb.client.CONNECTIONS", 1)

    def slow(connection: socket.socket) -> None:
        time.sleep(0.4)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

    async def ask(url: str) -> list:
        async with AsyncClient(url, retries=0, timeout=1.0) as client:
            return await asyncio.gather(*(client.model() for _ in range(4)))

    with answering(slow) as url:
        if kind is AsyncClient:
            assert asyncio.run(ask(url)) == [{}] * 4
        else:
            with Client(url, retries=0, timeout=1.0) as client, ThreadPoolExecutor(4) as pool:
                assert list(pool.map(lambda _: client.model(), range(4))) == [{}] * 4


@pytest.mark.parametrize("wrong, named", [
    ({"key": "prodml_é"}, "key"), ({"key": b"prodml_0123456789_zq7"}, "key"), ({"key": "prodml_0123456789_zq\n7"}, "key"),
    ({"retries": "3"}, "retries"), ({"retries": -1}, "retries"), ({"timeout": "3"}, "timeout"), ({"timeout": 0}, "timeout"),
])  # fmt: skip
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_wrong_argument_is_named_when_the_client_is_made(kind, wrong, named):
    with pytest.raises(DataError, match=f"^{named} ") as error:
        kind(CLOSED, **wrong)
    with pytest.raises(DataError, match="is no URL of a service; give one such as http://"):
        kind(CLOSED.removeprefix("http://"))
    assert "é" not in str(error.value) and "zq" not in "".join(traceback.format_exception(error.value))


def test_what_holds_no_records_is_refused_and_a_row_of_a_frame_is_one_record():
    asked = []

    def reply(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content))
        answer = {"prediction_id": asked[-1]["prediction_id"], "prediction": "late", "score": 0.7, "model": "late", "version": 2}  # fmt: skip
        return httpx.Response(200, json=answer)

    frame = pd.DataFrame({"wind": [3.0, np.nan], "sky": ["clear", "overcast"]})
    with Client(CLOSED, transport=httpx.MockTransport(reply)) as client:
        for nothing in (None, 7):
            with pytest.raises(DataError, match="give a mapping"):
                client.predict(nothing)
        assert client.predict(frame.iloc[1]).prediction_id == asked[0].pop("prediction_id")
        assert asked == [{"wind": None, "sky": "overcast"}]
        with pytest.raises(DataError, match="twice"):
            client.predict(pd.Series([1, 2], index=["wind", "wind"]))


def test_rows_with_equal_labels_are_answered_one_by_one(url):
    frame = pd.DataFrame([RECORD | {"wind": wind} for wind in (3.0, 90.0, 3.0)], index=[5, 5, 7])
    with Client(url) as client:
        table = client.predict(frame)
        assert table.index.tolist() == [5, 5, 7] and table["prediction_id"].is_unique
        assert table["score"].tolist() == pytest.approx([late_probability(w, 1.0) for w in frame["wind"]], abs=1e-6)


@pytest.mark.parametrize("value, told", [
    (np.float32("inf"), "infinite"), (np.float16("-inf"), "infinite"), (float("inf"), "infinite"),
    (np.array([1.0, 2.0]), "ndarray cannot be sent"), ("\ud800", "half a character"),
])  # fmt: skip
def test_a_value_that_cannot_be_sent_is_refused_and_not_taken_for_a_missing_one(value, told):
    with Client(CLOSED) as client, pytest.raises(DataError, match=told):
        client.predict(RECORD | {"wind": value})


def test_a_prediction_is_asked_for_by_its_answer_and_by_no_other_path(url):
    with Client(url) as client:
        answer = client.predict(RECORD)
        assert client.prediction(answer)["prediction"]["id"] == answer.prediction_id
        with pytest.raises(NotFound, match="UUID"):
            client.prediction("../model")
        for wrong in (lambda: client.predict([RECORD], batch="a"), lambda: client.feedback(5, outcome=True)):
            with pytest.raises(DataError):
                wrong()
