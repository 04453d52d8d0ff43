"A real service to which more comes at once than it lets in."

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from conftest import RECORD, Deployment, wait_for, workers

BODY = json.dumps(RECORD).encode()
MOST = 4


def request(path: str = "/predict", body: bytes = BODY, extra: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, httpx.Client, int]]:
    "A service that lets four in; a client, and the process id of its worker."
    deployment = Deployment(tmp_path_factory.mktemp("overload") / "state")
    deployment.release(1.0)
    with deployment.serve(max_in_flight=MOST, max_in_overload=MOST, max_records=40_000) as (client, process):
        yield deployment, client, workers(process.pid)[0]


@contextmanager
def halted(worker: int) -> Iterator[None]:
    "What is sent meanwhile arrives at once."
    os.kill(worker, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(worker, signal.SIGCONT)


def calm(client: httpx.Client, worker: int) -> None:
    "Wait until everybody is gone."
    with ExitStack() as stack:
        four = connect(stack, client, MOST)
        wait_for(lambda: burst(worker, four) == [200] * MOST, 5)


def burst(worker: int, connections: list[socket.socket], what: bytes = b"") -> list[int]:
    "The statuses of requests that arrive at once."
    with halted(worker):
        for each in connections:
            each.sendall(what or request())
    return [read(each)[0] for each in connections]


def connect(stack: ExitStack, client: httpx.Client, n: int) -> list[socket.socket]:
    "Connections that the worker has accepted."
    made = [stack.enter_context(socket.create_connection(("127.0.0.1", client.base_url.port))) for _ in range(n)]
    for each in made:
        each.settimeout(10)
        each.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert read(each)[0] == 200
    return made


def read(connection: socket.socket) -> tuple[int, dict[str, str], dict]:
    "Status, headers and document of one response."
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += _more(connection)
    assert len(body) == int(headers["content-length"])
    return int(first.split()[1]), headers, json.loads(body)


def _more(connection: socket.socket) -> bytes:
    more = connection.recv(65_536)
    assert more, "the connection was closed"
    return more


def counted(client: httpx.Client, line: str) -> float:
    return sum(float(found.split()[-1]) for found in client.get("/metrics").text.splitlines() if found.startswith(line))


def test_what_there_is_no_room_for_is_refused_at_once_and_counted(service):
    deployment, client, worker = service
    calm(client, worker)
    before = counted(client, 'prodml_requests_total{path="/predict",status="503"}')
    with ExitStack() as stack:
        connections = connect(stack, client, 40)
        with halted(worker):
            for each in connections:
                each.sendall(request())
        found = [read(each) for each in connections]
        statuses = [status for status, _, _ in found]
        assert set(statuses) == {200, 503} and MOST <= statuses.count(200) < 40
        _, headers, told = next(f for f in found if f[0] == 503)
        assert (headers["retry-after"], headers["content-type"]) == ("1", "application/problem+json")
        assert (told["title"], told["status"]) == ("Overloaded", 503)
        assert client.get("/readyz").status_code == 200  # other paths are open
        refused = statuses.count(503)
        wait_for(lambda: counted(client, 'prodml_requests_total{path="/predict",status="503"}') == before + refused, 5)
        calm(client, worker)
        wait_for(lambda: burst(worker, connections[:MOST]) == [200] * MOST, 5)
        for each in connections:  # each connection is as good as new
            each.sendall(request())
            assert read(each)[0] == 200


def test_a_refused_body_that_comes_later_is_no_request(service):
    _, client, worker = service
    calm(client, worker)
    sly = request("/feedback", b"{}")
    whole = request(body=sly)
    at = len(whole) - len(sly)
    with ExitStack() as stack:
        connections = connect(stack, client, 20)
        with halted(worker):
            for each in connections[:-1]:
                each.sendall(request())
            late = connections[-1]
            late.sendall(whole[:at])
        assert [read(each)[0] for each in connections][-1] == 503
        late.sendall(whole[at:])
        calm(client, worker)

        def ask() -> int:
            "The status of one more request, which is refused while the overload lasts."
            late.sendall(request())
            status = read(late)[0]
            assert status in (200, 503)
            return status

        wait_for(lambda: ask() == 200, 5)


def test_each_protocol_is_refused_in_its_own_words(service):
    _, client, worker = service
    calm(client, worker)
    tensors = json.dumps({"inputs": []}).encode()
    with ExitStack() as stack:
        connections = connect(stack, client, 30)
        with halted(worker):
            for each in connections[:20]:
                each.sendall(request())
            for each in connections[20:]:
                each.sendall(request("/v2/models/late/infer", tensors))
        found = [read(each) for each in connections]
        told = [document for status, _, document in found[20:] if status == 503]
        assert told and all(document["error"] == document["detail"] for document in told)


def test_nobody_is_let_in_for_ever(service):
    _, client, worker = service
    calm(client, worker)
    with ExitStack() as stack:
        connections = connect(stack, client, 12)
        with halted(worker):  # gone before they were answered
            for each in connections[:6]:
                each.sendall(request())
                each.close()
            for each in connections[6:]:  # refused for what they are, not for want of room
                each.sendall(request("/predict", b"{"))
        assert {read(each)[0] for each in connections[6:]} <= {400, 503}
        calm(client, worker)
        wait_for(lambda: burst(worker, connections[-MOST:]) == [200] * MOST, 5)


def test_a_slow_reader_gets_the_whole_of_a_large_answer(service):
    _, client, worker = service
    calm(client, worker)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", client.base_url.port))
        slow.settimeout(20)
        records = b"[" + b",".join([BODY] * 30_000) + b"]"
        slow.sendall(request(body=records))
        time.sleep(0.5)  # the answer is larger than what the sockets and the server's buffer hold
        assert len(read(slow)[2]) == 30_000
