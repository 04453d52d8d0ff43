"Whatever clients send and in whatever pieces: each request gets one answer, in order, and the web server sees whole requests only."

import asyncio
import time
from collections import deque

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prodml_nb.serve import lanes, lines
from prodml_nb.serve.admission import Admission
from prodml_nb.serve.busy_poll import BusyPoll
from prodml_nb.serve.fast_path import HEAD as PATTERN
from prodml_nb.serve.fast_path import NOT_HERE, FastPath, read_start
from prodml_nb.serve.lines import MOST_HEAD, REFUSALS, TOO_MUCH, TOO_SLOW, Bounds, Line, Rest

REFUSED = set(REFUSALS.values())


class Reader:
    "What a parser of HTTP finds in a stream."

    def __init__(self, kind: type):
        self.parser, self.bodies, self.body, self.is_asking = kind(self), [], b"", False

    def on_message_begin(self):
        self.body, self.is_asking = b"", True

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.bodies.append(self.body)
        self.is_asking = False

    def feed(self, data):
        self.parser.feed_data(data)
        found, self.bodies = self.bodies, []
        return found


class Server(asyncio.Protocol):
    "A web server that reads requests and answers them when it is told to, quoting the body."

    def connection_made(self, transport):
        self.transport, self.reader, self.waiting = transport, Reader(httptools.HttpRequestParser), deque()

    def data_received(self, data):
        self.waiting.extend(self.reader.feed(data))

    def answer(self):
        body = self.waiting.popleft()
        self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body))
        self.transport.write(body)

    def pause_writing(self): ...
    def resume_writing(self): ...
    def eof_received(self): ...
    def connection_lost(self, error): ...


class Socket(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.told, self.reader = [], Reader(httptools.HttpResponseParser)
        self.unsent, self.is_closed = 0, False

    def write(self, data):
        if data in REFUSED:
            self.told.append(None)
        else:
            self.told += self.reader.feed(data)

    def is_closing(self):
        return self.is_closed

    def get_write_buffer_size(self):
        return self.unsent

    def close(self):
        self.is_closed = True

    def pause_reading(self): ...
    def resume_reading(self): ...


def connect(
    server: Server, admission: Admission, client: Socket, bounds: Bounds = Bounds(), fast: FastPath | None = None
) -> Line:
    loop = asyncio.get_running_loop()
    line = Line(server, admission, Rest(loop), BusyPoll(loop, 0), bounds, fast)
    line.connection_made(client)
    return line


NAMES = st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
# bodies that look like requests, and heads that name a length which is not the body's
TRICKS = [b"POST /predict HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"\r\n\r\n", b"", b"{}", b"x" * 300]


@st.composite
def requests(draw) -> tuple[bytes, bytes]:
    "A request and its body."
    path, body = draw(st.sampled_from(["/predict", "/invocations", "/feedback", "/v2/models/late/infer"])), b""
    extra = draw(st.sampled_from([b"", b"X-Length: 7\r\n", b"X: Content-Length: 9\r\n", b"Expect: 100-continue\r\n"]))
    head = b"POST %s HTTP/1.1\r\nHost: here\r\n" % path.encode()
    body = draw(st.sampled_from(TRICKS) | st.binary(max_size=40))
    if draw(st.integers(0, 9)) == 0:
        chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
        return head + extra + b"Transfer-Encoding: chunked\r\n\r\n" + chunks, body
    return head + extra + draw(NAMES) + b": %d\r\n\r\n" % len(body) + body, body


@settings(max_examples=300, deadline=None)
@given(
    asked=st.lists(requests(), min_size=1, max_size=6),
    cuts=st.lists(st.integers(1, 400), max_size=30),
    has_room=st.lists(st.booleans(), min_size=1),
    manner=st.sampled_from(["waits for each answer", "asks on and on", "in one go"]),
    passes=st.none() | st.integers(0, 3),
)
@example(  # a refused request whose body comes later, and looks like a request
    asked=[(b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(TRICKS[0]), TRICKS[0]), TRICKS[0])] * 2,
    cuts=[46], has_room=[False, True], manner="waits for each answer", passes=None,
)  # fmt: skip
@example(  # one that is let in, and its body comes in pieces of which the second looks like a request
    asked=[(b"POST /predict HTTP/1.1\r\nContent-Length: %d\r\n\r\nab%s" % (len(TRICKS[0]) + 2, TRICKS[0]), b"ab" + TRICKS[0])],
    cuts=[46, 1, 1], has_room=[True, False], manner="waits for each answer", passes=None,
)  # fmt: skip
def test_each_request_is_answered_once_and_in_order(asked, cuts, has_room, manner, passes):
    "passes: of the loop until the fast path answers; None: there is none."
    rooms = iter(has_room * 50)

    async def respond(call):
        for _ in range(passes):
            await asyncio.sleep(0)
        return 200, [(b"content-length", b"%d" % len(call.body))], call.body

    async def answered(server: Server) -> None:
        for _ in range(5 * len(asked) + 5):
            while server.waiting:
                server.answer()
            await asyncio.sleep(0)

    async def talk() -> None:
        admission, server, client = Admission(), Server(), Socket()
        admission.has_room = lambda: next(rooms)
        line = connect(server, admission, client, fast=None if passes is None else FastPath(respond, 60))
        for i, (request, _) in enumerate(asked):
            if manner == "in one go":
                request = b"".join(r for r, _ in asked) if i == 0 else b""
            _send(line, request, cuts)
            if manner == "waits for each answer":
                assert admission.let_in <= 1
                await answered(server)
                assert len(client.told) == i + 1 and not server.reader.is_asking
        await answered(server)
        assert len(client.told) == len(asked)
        assert all(told in (None, body) for told, (_, body) in zip(client.told, asked))
        assert client.told.count(None) == sum(n for _, n in admission.take_refused())
        line.connection_lost(None)
        assert admission.let_in == 0

    asyncio.run(talk())


def _send(line: Line, data: bytes, cuts: list[int]) -> None:
    for cut in cuts:
        if data:
            line.data_received(data[:cut])
        data = data[cut:]
    if data:
        line.data_received(data)


BODY = b'{"wind": 20}'
PLAIN = b"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


async def connected(most: int) -> tuple[Admission, Server, Socket, Line]:
    "A line between a client and a server that lets so many in."
    admission, server, client = Admission(most, most), Server(), Socket()
    line = connect(server, admission, client)
    return admission, server, client, line


def test_a_line_has_not_lost_track_when_a_body_came_in_pieces():
    async def talk() -> None:
        admission, server, client, line = await connected(most=1)
        for piece in (PLAIN[:-9], PLAIN[-9:-4], PLAIN[-4:-1], PLAIN[-1:]):
            assert admission.let_in == 0
            line.data_received(piece)
        assert admission.let_in == 1
        server.answer()
        admission.let_in = 1  # by another
        line.data_received(PLAIN)
        assert client.told == [BODY, None]

    asyncio.run(talk())


@given(st.sampled_from([
    b"Content-Length: 5\r\nContent-Length: 12", b"Content-Length: 12\r\ncontent-length: 5", b"Content-Length: 12\r\nContent-Length : 5",
    b"Content-Length: 12\r\nTransfer-Encoding: chunked", b"Content-Length: 12\r\nA: b\nTransfer-Encoding: chunked",
    b"Content-Length: 12\r\nExpect: 100-continue", b"Content-Length: 12\r\nContent-Length: +5",
]))  # fmt: skip
def test_a_head_that_can_be_read_in_two_ways_is_left_to_the_web_server(fields):
    async def talk() -> None:
        _, server, client, line = await connected(most=1)
        line._admission.let_in, seen = 1, []
        line._inner.data_received = seen.append
        line.data_received(PLAIN.replace(b"Content-Length: 12", fields))
        assert len(seen) == 1 and not client.told

    asyncio.run(talk())


def test_a_client_that_does_not_read_its_refusals_is_told_once_more_and_left():
    async def talk() -> None:
        admission, _, client, line = await connected(most=1)
        admission.let_in = 1
        line.data_received(PLAIN)
        assert client.told == [None] and not client.is_closed
        client.unsent = 300
        line.data_received(PLAIN)
        assert client.told == [None, None] and client.is_closed

    asyncio.run(talk())


HEAD = b"HEAD /livez HTTP/1.1\r\nHost: here\r\n\r\n"
TOLD = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


class Wired(Socket):
    "A client's end that notes each write."

    def __init__(self):
        super().__init__()
        self.writes = []

    def write(self, data):
        self.writes.append(data)


async def wired(asked: bytes) -> tuple[Admission, Server, Wired, Line]:
    "A line over which a request has come."
    admission, server, client = Admission(1, 1), Server(), Wired()
    line = connect(server, admission, client)
    line.data_received(asked)
    return admission, server, client, line


def test_head_and_body_of_an_answer_leave_in_one_write():
    async def talk() -> None:
        admission, server, client, _ = await wired(PLAIN)
        server.transport.write(TOLD)
        assert (client.writes, admission.let_in) == ([], 1)
        server.transport.writelines([b"la", b"te."])
        assert (client.writes, admission.let_in) == ([TOLD + b"late."], 0)
        server.transport.write(b"later")
        await asyncio.sleep(0)
        assert client.writes[1:] == [b"later"]

    asyncio.run(talk())


def test_a_head_does_not_wait_for_a_body_that_comes_later():
    async def talk() -> None:
        admission, server, client, line = await wired(PLAIN)
        server.transport.write(TOLD)
        await asyncio.sleep(0)
        assert (client.writes, admission.let_in) == ([TOLD], 0)
        admission.let_in = 1
        line.data_received(PLAIN)  # a refusal would stand within the answer
        assert client.writes == [TOLD] and len(server.waiting) == 2
        server.transport.write(b"late.")
        assert client.writes == [TOLD, b"late."]

    asyncio.run(talk())


def test_a_request_for_the_head_only_leaves_the_line_as_it_was():
    async def talk() -> None:
        admission, server, client, line = await wired(HEAD)
        server.transport.write(TOLD)
        assert client.writes == [TOLD]
        admission.let_in = 1
        line.data_received(PLAIN)
        assert client.writes[1:] == [REFUSALS["/predict"]]

    asyncio.run(talk())


def test_a_connection_is_closed_after_what_was_written_and_nothing_is_written_after_that():
    async def talk() -> None:
        _, server, client, _ = await wired(PLAIN)
        server.transport.write(TOLD)
        server.transport.close()
        assert (client.writes, client.is_closed) == ([TOLD], True)
        _, server, client, line = await wired(PLAIN)
        server.transport.write(TOLD)
        client.is_closed = True  # by the other side
        line.connection_lost(None)
        await asyncio.sleep(0)
        assert client.writes == []

    asyncio.run(talk())


def test_a_head_in_pieces_is_passed_on_whole_and_can_be_refused():
    async def talk() -> None:
        admission, server, client, line = await connected(most=1)
        for byte in PLAIN[:60]:
            line.data_received(bytes([byte]))
        line.data_received(PLAIN[60:])
        assert admission.let_in == 1
        server.answer()
        admission.let_in = 1  # by another
        line.data_received(PLAIN[:30])
        line.data_received(PLAIN[30:])
        assert client.told == [BODY, None]

    asyncio.run(talk())


def test_a_head_without_end_is_refused_and_what_follows_is_thrown_away(monkeypatch):
    monkeypatch.setattr(lines, "LINGER", 0.01)

    async def talk() -> None:
        _, server, client, line = await wired(b"GET /model HTTP/1.1\r\na: ")
        seen = []
        server.data_received = seen.append
        for _ in range(MOST_HEAD // 1000 + 5):
            line.data_received(b"a" * 1000)
        assert client.writes == [TOO_MUCH] and not client.is_closed and not seen
        assert not line._head
        await asyncio.sleep(0.05)
        assert client.is_closed

    asyncio.run(talk())


def test_a_head_that_comes_too_slowly_is_refused():
    async def talk() -> None:
        server, client = Server(), Wired()
        line = connect(server, Admission(1, 1), client, Bounds(seconds=0.02))
        line.data_received(PLAIN[:10])
        line.data_received(PLAIN[10:20])
        assert client.writes == []
        await asyncio.sleep(0.03)
        line.data_received(PLAIN[20:30])
        assert client.writes == [TOO_SLOW]

    asyncio.run(talk())


def test_where_track_is_lost_no_more_may_come_between_two_answers_than_a_request_may_have(monkeypatch):
    monkeypatch.setattr(lines, "LINGER", 0.01)

    async def talk() -> None:
        server, client, seen = Server(), Wired(), []
        line = connect(server, Admission(1, 1), client, Bounds(most=1000))
        server.data_received = seen.append
        chunk = b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
        for _ in range(2):
            for _ in range((MOST_HEAD + 1000) // len(chunk)):
                line.data_received(chunk)
            assert not client.is_closed
            server.transport.write(TOLD)
        count = len(seen)
        for _ in range(MOST_HEAD // len(chunk) + 60):
            line.data_received(chunk)
        assert not client.is_closed and len(seen) < 2 * count
        await asyncio.sleep(0.05)
        assert client.is_closed

    asyncio.run(talk())


def test_what_is_no_request_is_for_the_web_server_to_refuse_at_once():
    async def talk() -> None:
        for garbage in (b"\x16\x03\x01\x02\x00\x01", b"get / http", b"GET\r\n"):
            _, server, _, line = await connected(most=1)
            seen = []
            server.data_received = seen.append
            line.data_received(garbage)
            assert seen == [garbage]

    asyncio.run(talk())


def test_a_connection_that_is_closed_while_more_is_on_its_way_is_heard_out_for_a_while(monkeypatch):
    monkeypatch.setattr(lines, "LINGER", 0.02)

    async def talk() -> None:
        _, server, client, line = await wired(PLAIN[:-4])  # its body is not whole
        server.data_received = None  # nothing is passed on any more
        server.transport.write(TOLD)
        server.transport.close()
        assert client.writes == [TOLD] and not client.is_closed
        line.data_received(PLAIN[-4:] + PLAIN)
        await asyncio.sleep(0.05)
        assert client.is_closed and client.writes == [TOLD]

    asyncio.run(talk())


def test_a_few_of_those_that_rested_are_spared_and_may_be_let_in_when_they_ask_again(monkeypatch):
    monkeypatch.setattr(lines, "REST", 0.0)
    asked = b"POST /predict HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"

    async def story():
        admission, rest = Admission(most=2, in_overload=1), Rest(asyncio.get_running_loop())
        made = [(Server(), Wired()) for _ in range(lines.SPARED + 2)]
        there = [Line(server, admission, rest, BusyPoll(asyncio.get_running_loop(), 0)) for server, _ in made]
        admission.let_in = 2  # others have both places, and an overload begins
        for line, (_, client) in zip(there, made):
            line.connection_made(client)
            line.data_received(asked)
        admission.let_in = 0
        rest._tick()
        for line in (*there, *there):  # what had waited; and what comes at once, when that was refused
            line.data_received(asked)
        return [(len(server.waiting), len(client.writes)) for server, client in made], admission.let_in

    found, let_in = asyncio.run(story())
    assert (let_in, found[0]) == (1, (1, 2))  # the first of the spared has the place
    assert found[1:] == [(0, 3)] * (len(found) - 1)


class Asked:
    "What the web server's parser finds in a request."

    def __init__(self, data: bytes):
        self.parser, self.url, self.headers, self.body, self.is_whole = (
            httptools.HttpRequestParser(self),
            b"",
            [],
            b"",
            False,
        )
        self.parser.feed_data(data)

    def on_url(self, url):
        self.url += url

    def on_headers_complete(self):
        self.goes_on = self.parser.should_keep_alive() and not self.parser.should_upgrade()

    def on_header(self, name, value):
        self.headers.append((name.lower(), value))

    def on_body(self, body):
        self.body += body

    def on_message_complete(self):
        self.is_whole = True


SLY = st.sampled_from([
    b"Connection: close", b"Connection: Keep-Alive", b"Connection: upgrade", b"Content-Length: 2", b"Content-Length: 02",
    b"Content-Length : 3", b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Upgrade: h2c", b"Proxy-Connection: close", b"A: b\nTransfer-Encoding: chunked",
    b"A: b\rContent-Length: 3", b" folded: line", b"A\x00: b", b"A: \x00", b"\xe9: a", b"A: \xe9", b"A:b ", b"A:", b"no colon", b"A: b\r\n",
])  # fmt: skip
FIELD = SLY | st.from_regex(rb"[!-~]{1,6}: ?[ -~]{0,12}", fullmatch=True)


@settings(max_examples=2000, deadline=None)
@given(
    path=st.sampled_from([b"/predict"] * 8 + [b"/predict?x=1", b"/v2/models/a%2f/infer", b"/x#y", b"/p \x7f", b"*"])
    | st.from_regex(rb"/[!-~]{0,20}", fullmatch=True),
    version=st.sampled_from([b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"http/1.1", b"HTTP/1.1 "]),
    fields=st.lists(FIELD, max_size=3),
    length=st.sampled_from([b"Content-Length: 2\r\n"] * 12 + [b"", b"content-length:2\r\n", b"Content-Length: 3\r\n"]),
    end=st.sampled_from([b"\r\n"] * 12 + [b"\n"]),
    body=st.sampled_from([b"{}"] * 9 + [b"{", b"{}\n", b"\r\n"]),
)
def test_what_takes_the_fast_path_is_read_as_the_web_server_reads_it(path, version, fields, length, end, body):
    data = b"POST %s %s\r\n" % (path, version) + length + b"".join(field + end for field in fields) + b"\r\n" + body
    start = read_start(data, None)
    if start is None or start.end != len(data):
        return
    call, body = start.call, data[start.at :]
    found = Asked(data)
    parsed = httptools.parse_url(found.url)
    assert found.is_whole and found.goes_on
    assert (found.parser.get_method(), found.parser.get_http_version()) == (b"POST", "1.1")
    assert (parsed.path, parsed.query, parsed.fragment) == (call.scope["path"].encode(), None, None)
    assert (found.headers, found.body) == (call.scope["headers"], body)
    assert NOT_HERE.isdisjoint(name for name, _ in found.headers)


def test_a_head_that_matches_nearly_is_given_up_in_one_look():
    started = time.process_time()
    for tail in (b" " * 60_000 + b"\x00", b"a: " * 20_000 + b"\x00", b"a" * 60_000, b"a:b\r\n" * 10_000 + b":"):
        assert PATTERN.match(b"POST /predict HTTP/1.1\r\nHost:" + tail) is None
    assert time.process_time() - started < 1.0  # looking again from each byte takes minutes


async def on_fast_path(
    asked: bytes, answer: asyncio.Future, fields: list = [], is_serving: bool = True
) -> tuple[Admission, Server, Wired, Line]:
    "A line with a fast path that answers when it is told to, over which something has come."

    async def respond(call):
        body = await asyncio.shield(answer) + call.body
        return 200, [(b"content-length", b"%d" % len(body)), *fields], body

    admission, server, client, loop = Admission(), Server(), Wired(), asyncio.get_running_loop()
    line = Line(server, admission, Rest(loop), BusyPoll(loop, 0), Bounds(), FastPath(respond, 60), lambda: is_serving)
    line.connection_made(client)
    line.data_received(asked)
    await asyncio.sleep(0)
    return admission, server, client, line


def test_a_request_in_two_pieces_takes_the_fast_path_and_one_that_hangs_goes_to_the_web_server(monkeypatch):
    monkeypatch.setattr(lanes, "MOMENT", 0.02)

    async def talk() -> None:
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(b"quick")
        admission, server, client, line = await on_fast_path(PLAIN[:-3], answer)
        line.data_received(PLAIN[-3:])
        await asyncio.sleep(0.05)
        assert client.writes[0].endswith(b"quick" + BODY) and len(client.writes) == 1 and not server.waiting
        line.data_received(PLAIN[:-3])
        await asyncio.sleep(0.05)
        assert server.reader.is_asking
        line.data_received(PLAIN[-3:])
        server.answer()
        line.data_received(PLAIN)
        await asyncio.sleep(0.01)
        assert client.writes[1].endswith(BODY) and client.writes[2].endswith(b"quick" + BODY) and admission.let_in == 0

    asyncio.run(talk())


def test_a_body_that_is_not_small_is_not_waited_for():
    async def talk() -> None:
        large = b"POST /predict HTTP/1.1\r\nContent-Length: 70000\r\n\r\n" + b"x" * 4000
        _, server, _, _ = await on_fast_path(large, asyncio.get_running_loop().create_future())
        assert server.reader.is_asking

    asyncio.run(talk())


def done(answer: bytes) -> asyncio.Future:
    "An answer that is there."
    found = asyncio.get_running_loop().create_future()
    found.set_result(answer)
    return found


OTHER = PLAIN.replace(BODY, b'{"wind": 30}')


@pytest.mark.parametrize("when", ["while it is answered", "before it is whole", "while another waits behind it"])
def test_a_service_that_ends_answers_what_has_come_and_says_that_the_connection_ends(when):
    async def talk() -> None:
        answer = asyncio.get_running_loop().create_future()
        asked = PLAIN[:-3] if when == "before it is whole" else PLAIN
        admission, server, client, line = await on_fast_path(asked, answer, is_serving=False)
        if when == "while another waits behind it":
            line.data_received(OTHER)
        server.transport.close()
        assert not client.is_closed
        if when == "before it is whole":
            line.data_received(PLAIN[-3:])
        answer.set_result(b"last")
        await asyncio.sleep(0.01)
        expected = [BODY, OTHER[-12:]] if when == "while another waits behind it" else [BODY]
        assert [w[-12:] for w in client.writes] == expected and client.is_closed and admission.let_in == 0
        assert [b"connection: close" in w for w in client.writes] == [False] * (len(expected) - 1) + [True]

    asyncio.run(talk())


def test_a_service_that_ends_closes_after_the_answer_of_the_web_server_too(monkeypatch):
    monkeypatch.setattr(lanes, "MOMENT", 0.01)

    async def talk() -> None:
        _, server, client, line = await on_fast_path(PLAIN[:-3], done(b""), is_serving=False)
        server.transport.close()
        await asyncio.sleep(0.03)
        line.data_received(PLAIN[-3:])
        assert not client.is_closed
        server.answer()
        await asyncio.sleep(0.01)
        assert client.writes[0].endswith(BODY) and client.is_closed

    asyncio.run(talk())


@pytest.mark.parametrize("is_serving", [True, False])
def test_the_idle_limit_of_a_web_server_that_sees_nothing_ends_no_connection_that_is_used(is_serving):
    async def talk() -> None:
        _, server, client, _ = await on_fast_path(PLAIN, done(b""), is_serving=is_serving)
        await asyncio.sleep(0.01)
        server.transport.close()
        assert client.is_closed != is_serving

    asyncio.run(talk())


def test_a_web_server_that_closes_after_its_own_answer_is_obeyed():
    async def talk() -> None:
        _, server, client, line = await on_fast_path(PLAIN, done(b""))
        await asyncio.sleep(0.01)
        line.data_received(PLAIN.replace(b"Host: here", b"Connection: close"))
        server.answer()
        server.transport.close()
        assert len(client.writes) == 2 and client.is_closed

    asyncio.run(talk())


def test_a_client_that_asks_whether_to_go_on_does_not_wait_for_the_fast_path():
    async def talk() -> None:
        asking = PLAIN.replace(b"Host: here", b"Expect: 100-continue")
        _, server, _, _ = await on_fast_path(asking[:-12], done(b""))
        assert server.reader.is_asking

    asyncio.run(talk())


def test_a_defect_is_told_and_ends_the_connection():
    async def talk() -> None:
        answer = asyncio.get_running_loop().create_future()
        answer.set_exception(ValueError("4711"))
        admission, _, client, _ = await on_fast_path(PLAIN, answer)
        await asyncio.sleep(0.01)
        assert client.writes[0].startswith(b"HTTP/1.1 500 ") and b"4711" not in client.writes[0]
        assert client.is_closed and admission.let_in == 0

    asyncio.run(talk())


def test_a_length_that_no_integer_can_be_is_for_the_web_server_to_refuse():
    async def talk() -> None:
        _, server, client, line = await connected(most=1)
        seen = []
        server.data_received = seen.append
        line.data_received(PLAIN.replace(b"Content-Length: 12", b"Content-Length: " + b"1" * 5000))
        assert len(seen) == 1 and not client.told

    asyncio.run(talk())


def test_an_answer_that_ends_its_connection_ends_it_on_the_fast_path_too():
    async def talk() -> None:
        answer = asyncio.get_running_loop().create_future()
        answer.set_result(b"no more")
        _, _, client, _ = await on_fast_path(PLAIN, answer, [(b"connection", b"close")])
        await asyncio.sleep(0.01)
        assert client.writes[0].endswith(b"no more" + BODY) and client.is_closed

    asyncio.run(talk())


def test_an_answer_to_a_client_that_went_away_is_not_written():
    async def talk() -> None:
        answer = asyncio.get_running_loop().create_future()
        admission, _, client, line = await on_fast_path(PLAIN, answer)
        client.close()
        line.connection_lost(None)
        assert admission.let_in == 0
        answer.set_result(b"late")
        await asyncio.sleep(0.01)
        assert not client.writes and admission.let_in == 0

    asyncio.run(talk())


def test_a_client_that_does_not_read_its_answers_is_left_to_the_web_server_which_waits():
    async def talk() -> None:
        client, server = Wired(), Server()
        client.unsent = 100_000
        connect(server, Admission(), client, fast=FastPath(None, 60)).data_received(PLAIN)
        assert len(server.waiting) == 1

    asyncio.run(talk())
