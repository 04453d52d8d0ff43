"Processes that die, files that are changed, disks that fill up: nothing acknowledged is lost and nothing false is believed."

import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prodml_nb.contract.spec import ModelSpec, Number
from prodml_nb.errors import DataError, IntegrityError, ReleaseError, ServingError, SettingsError
from prodml_nb.record import artifacts, reader
from prodml_nb.record.artifacts import open_artifact, register
from prodml_nb.record.journal import Feedback, JournalWriter, Prediction, uuid7
from prodml_nb.record.keys import create_key, list_keys, revoke_key
from prodml_nb.record.ledger import GENESIS, Event, Ledger, event_hash, moment
from prodml_nb.record.reader import Journal
from prodml_nb.record.recorder import Recorder, Unrecorded
from prodml_nb.record.vault import Vault

LOAN = ModelSpec(name="loan", task="binary", target="defaulted", classes=(False, True), features=(Number("income"),))


def python(code: str, *arguments: object, **options) -> subprocess.Popen:
    "Another process that runs this code."
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True, **options
    )


def ledger_in(folder: Path, **options) -> Ledger:
    return Ledger(f"sqlite:///{folder / 'ledger.db'}", **options)


def prediction(**given) -> Prediction:
    given = {
        "id": uuid7(),
        "at": moment(),
        "model": "loan",
        "version": 1,
        "features": {"income": 1.0},
        "prediction": True,
        **given,
    }
    return Prediction(request=uuid7(), **given)


# ---------------------------------------------------------------------------------------------------------- ledger

APPEND = """
import sys
from prodml_nb.record.ledger import Ledger
ledger = Ledger(sys.argv[1])
for n in range(int(sys.argv[3])):
    ledger.append("run", model="loan", actor=sys.argv[2], data={"n": n})
"""


FORGED = (
    "INSERT INTO events SELECT {seq}, at, 'registered', 'evil', 'another', 1, '', '{{}}', prev, '{hash}' FROM events "
    "WHERE seq = 1"
)


@pytest.mark.parametrize("seq", [-1, 0])
def test_an_event_before_the_first_is_refused_by_the_database_and_found_by_every_reader(tmp_path, seq):
    ledger = ledger_in(tmp_path)
    first = ledger.append("registered", model="loan", version=1)
    forged = Event(seq, first.at, "registered", "evil", "another", 1, "", {}, first.prev)
    with sqlite3.connect(tmp_path / "ledger.db") as raw:
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(FORGED.format(seq=seq, hash=event_hash(forged)))
        raw.execute("DROP TRIGGER events_no_zero")
        raw.execute(FORGED.format(seq=seq, hash=event_hash(forged)))
    raw.close()
    for read in (ledger.verify, ledger.models, ledger.events, lambda: ledger.state("another")):
        with pytest.raises(IntegrityError, match=f"event {seq} of the ledger"):
            read()


def test_a_database_of_another_program_is_named_as_that_and_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.db") as raw:
        raw.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, name TEXT)")
    raw.close()
    before = (tmp_path / "ledger.db").read_bytes()
    for use in (lambda: ledger_in(tmp_path).events(), lambda: ledger_in(tmp_path).append("run", model="loan")):
        with pytest.raises(SettingsError, match="another program's database"):
            use()
    assert [p.name for p in tmp_path.iterdir()] == ["ledger.db"]
    assert (tmp_path / "ledger.db").read_bytes() == before


def test_two_processes_writing_at_once_are_put_in_an_order(tmp_path):
    ledger = ledger_in(tmp_path)
    processes = [python(APPEND, ledger.url, who, 40) for who in ("ada", "bob", "carol")]
    assert [p.wait(60) for p in processes] == [0, 0, 0]
    events = ledger.events()
    assert ledger.verify() == 120
    for who in ("ada", "bob", "carol"):
        assert [e.data["n"] for e in events if e.actor == who] == list(range(40))
    assert [e.at for e in events] == sorted(e.at for e in events)


def test_threads_that_read_decide_and_append_take_turns(tmp_path):
    ledger = ledger_in(tmp_path)

    def promote_next():
        for _ in range(10):
            with ledger.writing() as writer:
                champion = writer.state("loan").champion or 0
                writer.append("promoted", model="loan", version=champion + 1)

    threads = [threading.Thread(target=promote_next) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert (ledger.state("loan").champion, ledger.verify()) == (40, 40)


def test_a_writer_killed_inside_its_transaction_leaves_nothing(tmp_path):
    ledger = ledger_in(tmp_path)
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


def test_a_locked_ledger_says_so_and_can_still_be_read(tmp_path):
    ledger = ledger_in(tmp_path, timeout=0.2)
    ledger.append("registered", model="loan", version=1)
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ReleaseError, match=r"locked by another writer for more than 0\.2 s.*try again"):
            ledger.append("promoted", model="loan", version=1)
        assert ledger.head()[0] == 1
        other.execute("ROLLBACK")
    assert ledger.append("promoted", model="loan", version=1).seq == 2


@pytest.mark.parametrize(
    "content", [b"this is no database, whatever its name says. " * 100, b"SQLite format 3\x00" + b"\xff" * 8000]
)
def test_a_corrupt_ledger_says_what_to_do(tmp_path, content):
    (tmp_path / "ledger.db").write_bytes(content)
    for use in (Ledger.head, Ledger.events, Ledger.models, Ledger.verify, lambda led: led.append("run", model="loan")):
        with pytest.raises(IntegrityError, match="damaged or is not a ledger; .*restore"):
            use(ledger_in(tmp_path))
    assert (tmp_path / "ledger.db").read_bytes() == content


def test_a_ledger_damaged_in_the_middle_is_neither_believed_nor_added_to(tmp_path):
    ledger = ledger_in(tmp_path)
    for n in range(400):
        ledger.append("run", model="loan", data={"n": n})
    ledger.close()
    content = bytearray((tmp_path / "ledger.db").read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = random.Random(0).randbytes(4096)
    (tmp_path / "ledger.db").write_bytes(content)
    for act in (Ledger.verify, Ledger.head, Ledger.models, lambda ledger: ledger.append("run", model="loan")):
        with pytest.raises(IntegrityError, match="restore"):
            act(ledger_in(tmp_path))


def test_a_ledger_that_was_replaced_is_followed_and_one_that_is_gone_is_missed(tmp_path):
    ledger = ledger_in(tmp_path)
    ledger.append("promoted", model="loan", version=1)
    backup = tmp_path / "backup.db"
    ledger.close()
    shutil.copy(tmp_path / "ledger.db", backup)
    ledger.append("promoted", model="loan", version=2)
    for act in (ledger.head, lambda: ledger.append("promoted", model="loan", version=3)):
        for file in tmp_path.glob("ledger.db*"):
            file.unlink()
        with pytest.raises(IntegrityError, match="gone.*restore"):
            act()
        assert not (tmp_path / "ledger.db").exists()
        shutil.copy(backup, tmp_path / "ledger.db")
        assert ledger.state("loan").champion == 1
    ledger.append("promoted", model="loan", version=4)
    assert ledger_in(tmp_path).state("loan").champion == ledger.state("loan").champion == 4


def test_an_unreachable_ledger_says_where_to_look_and_shows_no_password(tmp_path):
    (tmp_path / "file").write_text("")
    for url in (f"sqlite:///{tmp_path / 'file' / 'ledger.db'}", "postgresql+psycopg://ada:hunter2@127.0.0.1:1/ledger"):
        with pytest.raises(ReleaseError, match=r"cannot be .*\[state\] ledger") as caught:
            Ledger(url).append("run", model="loan")
        assert "hunter2" not in str(caught.value)


def tampered(folder: Path, *statements: str) -> Ledger:
    "A ledger of six events that somebody edited, having removed what protects it."
    ledger = ledger_in(folder)
    for version in (1, 2, 3):
        ledger.append("registered", model="loan", version=version, actor="ada")
        ledger.append("promoted", model="loan", version=version, actor="ada")
    ledger.close()
    with contextlib.closing(sqlite3.connect(folder / "ledger.db", isolation_level=None)) as raw:
        for verb in ("update", "delete"):
            raw.execute(f"DROP TRIGGER events_no_{verb}")
        for statement in statements:
            raw.execute(statement)
    return ledger_in(folder)


@pytest.mark.parametrize("column, value", [("actor", "'bob'"), ("version", "9"), ("at", "'2020-01-01T00:00:00.000000Z'"),
                                           ("data", "'{\"override\":true}'"), ("data", "'{'"), ("hash", f"'{GENESIS}'")])  # fmt: skip
def test_a_changed_row_is_named_by_whoever_reads_it(tmp_path, column, value):
    ledger = tampered(tmp_path, f"UPDATE events SET {column} = {value} WHERE seq = 4")
    for use in (Ledger.verify, Ledger.events, lambda led: led.state("loan")):
        with pytest.raises(IntegrityError, match=r"event 4 of the ledger was changed.*restore"):
            use(ledger)


@pytest.mark.parametrize("seq", [1, 3, 5])
def test_a_missing_or_replaced_event_is_named(tmp_path, seq):
    ledger = tampered(tmp_path, f"DELETE FROM events WHERE seq = {seq}")
    with pytest.raises(IntegrityError, match=f"event {seq} of the ledger is missing"):
        ledger.verify()


def test_the_end_cut_off_is_found_with_an_anchor(tmp_path):
    ledger = tampered(tmp_path)
    anchor = ledger.head()
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as raw:
        raw.execute("DELETE FROM events WHERE seq = 6")
    assert ledger.verify() == 5
    with pytest.raises(IntegrityError, match="event 6"):
        ledger.verify(anchor)


REPLACE = (
    "INSERT OR REPLACE INTO events SELECT seq, at, kind, 'bob', model, version, reason, data, prev, hash FROM events"
)


def test_history_is_refused_an_edit_by_the_database_itself(tmp_path):
    ledger_in(tmp_path).append("run", model="loan")
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as raw:
        for statement in ("UPDATE events SET reason = 'x'", "DELETE FROM events", REPLACE):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                raw.execute(statement)


@pytest.mark.parametrize("is_read_first", [False, True])
def test_a_ledger_of_an_earlier_release_is_protected_from_its_next_event_on(tmp_path, is_read_first):
    ledger_in(tmp_path).append("run", model="loan")
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as raw:
        raw.execute("DROP TRIGGER events_no_replace")
        ledger = ledger_in(tmp_path)
        if is_read_first:
            ledger.head()
        ledger.append("run", model="loan")
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(REPLACE)


def test_a_ledger_restored_from_a_package_is_logged_ahead_again(tmp_path):
    ledger_in(tmp_path / "old").append("registered", model="loan", version=1)
    ledger = Ledger(f"sqlite:///{ledger_in(tmp_path / 'old').snapshot(tmp_path / 'ledger.db')}")
    ledger.head()
    ledger.append("run", model="loan")
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as raw:
        assert raw.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_keys_are_listed_as_they_stood_at_one_moment(tmp_path):
    ledger, other = ledger_in(tmp_path), ledger_in(tmp_path)
    create_key(ledger, ["predict"])
    read = ledger.events

    def meanwhile(**wanted):
        found = read(**wanted)
        revoke_key(other, create_key(other, ["audit"])[1].id, reason="lost")
        return found

    ledger.events = meanwhile
    assert [key.scopes for key in list_keys(ledger)] == [("predict",)]


def test_what_json_cannot_say_is_refused_and_nothing_is_written(tmp_path):
    ledger = ledger_in(tmp_path)
    with pytest.raises(DataError, match="must be JSON"):
        ledger.append("run", model="loan", data={"connection": object()})
    with pytest.raises(DataError, match="ISO 8601"):
        ledger.append("run", model="loan", now="yesterday")
    assert ledger.events() == []


def test_a_clock_set_back_does_not_reorder_events(tmp_path):
    ledger = ledger_in(tmp_path)
    ledger.append("registered", model="loan", version=1, now="2024-05-02")
    late = ledger.append("promoted", model="loan", version=1, now="2024-05-01")
    assert late.at == moment("2024-05-02")


def test_writing_inside_writing_is_refused_instead_of_waiting_for_itself(tmp_path):
    ledger = ledger_in(tmp_path)
    with ledger.writing() as writer, pytest.raises(ReleaseError, match="with the writer"):
        writer.append("run", model="loan")
        ledger.append("run", model="loan")


def test_a_snapshot_reads_from_a_read_only_folder(tmp_path):
    ledger = ledger_in(tmp_path)
    ledger.append("registered", model="loan", version=1)
    (tmp_path / "release").mkdir()
    copy = ledger.snapshot(tmp_path / "release" / "ledger.db")
    before = sorted(p.name for p in copy.parent.iterdir())
    delivered = Ledger(f"sqlite:///{copy}")
    assert (delivered.verify(), delivered.head()) == (1, ledger.head())
    assert sorted(p.name for p in copy.parent.iterdir()) == before == ["ledger.db"]
    with pytest.raises(ReleaseError, match="empty"):
        ledger_in(tmp_path / "new").snapshot(tmp_path / "other.db")


# ------------------------------------------------------------------------------------------------------- artifacts


@pytest.fixture
def store(tmp_path):
    "A models folder, its ledger and its vault."
    return tmp_path / "models", ledger_in(tmp_path), Vault(tmp_path / "keys")


def make(store, **files: bytes):
    models, ledger, vault = store
    files = {f"{name}.bin": content for name, content in files.items()}
    return register(
        models, ledger, vault, spec=LOAN, files=files, metrics={"auc": 0.7}, lineage={"seed": 0}, actor="ada"
    )


@pytest.mark.parametrize(
    "file", ["model.bin", "spec.json", "metrics.json", "lineage.json", "manifest.json", "manifest.sig"]
)
def test_a_changed_file_of_a_version_is_named(store, file):
    artifact = make(store, model=b"weights" * 100)
    content = bytearray((artifact.path / file).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact.path / file).write_bytes(content)
    with pytest.raises(IntegrityError, match="manifest.json" if "manifest" in file else file):
        open_artifact(store[0], "loan", 1, vault=store[2])


@pytest.mark.parametrize("file", ["model.bin", "spec.json", "manifest.json", "manifest.sig"])
def test_a_missing_file_of_a_version_is_named(store, file):
    artifact = make(store, model=b"weights")
    (artifact.path / file).unlink()
    with pytest.raises(IntegrityError, match="manifest" if "manifest" in file else file):
        open_artifact(store[0], "loan", 1, vault=store[2])


def test_a_file_replaced_after_the_opening_is_refused_at_reading(store):
    artifact = make(store, model=b"weights")
    (artifact.path / "model.bin").write_bytes(b"WEIGHTS")
    with pytest.raises(IntegrityError, match="model.bin.*was changed"):
        artifact.read("model.bin")


def test_a_version_signed_by_somebody_else_is_refused(store, tmp_path):
    models, ledger, _ = store
    forger = Vault(tmp_path / "forger")
    register(models, ledger, forger, spec=LOAN, files={}, metrics={}, lineage={})
    mine = Vault(tmp_path / "keys")
    mine.sign(b"")
    with pytest.raises(IntegrityError, match="another key"):
        open_artifact(models, "loan", 1, vault=mine)


def test_a_file_that_was_not_registered_is_named(store):
    artifact = make(store, model=b"weights")
    (artifact.path / "evil.py").write_text("")
    with pytest.raises(IntegrityError, match="'evil.py'.*was not registered.*move it away"):
        open_artifact(store[0], "loan", 1, vault=store[2])


def test_one_version_cannot_pass_for_another(store):
    models, ledger, vault = store
    first, second = make(store, model=b"old"), make(store, model=b"new")
    shutil.rmtree(second.path)
    shutil.copytree(first.path, second.path)
    with pytest.raises(IntegrityError, match="belongs to version 1"):
        open_artifact(models, "loan", 2, vault=vault)
    with pytest.raises(IntegrityError, match="not the one that the ledger registered.*set-aside"):
        open_artifact(models, "loan", 1, vault=vault, manifest_digest=ledger.state("loan").versions[2].manifest)


@pytest.mark.parametrize("earlier", [0, 1])
@pytest.mark.parametrize("step", ["before the files", "after the files"])
def test_a_registration_that_dies_leaves_no_version_and_blocks_no_number(store, monkeypatch, step, earlier):
    for _ in range(earlier):
        make(store, model=b"first")
    write = artifacts._Store.write

    def dies(self, manifest, content):
        if step == "after the files":
            write(self, manifest, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(artifacts._Store, "write", dies)
    with pytest.raises(KeyboardInterrupt):
        make(store, model=b"lost")
    monkeypatch.undo()
    assert list(store[1].state("loan").versions) == [1][:earlier]
    assert (make(store, model=b"second").version, list(store[1].state("loan").versions)) == (
        earlier + 1,
        [1, 2][: earlier + 1],
    )
    assert open_artifact(store[0], "loan", earlier + 1, vault=store[2]).read("model.bin") == b"second"


REGISTER = """
import sys
from pathlib import Path
from prodml_nb.contract.spec import ModelSpec
from prodml_nb.record.artifacts import register
from prodml_nb.record.ledger import Ledger
from prodml_nb.record.vault import Vault
root, spec = Path(sys.argv[1]), ModelSpec.from_json(sys.argv[2].encode())
for _ in range(3):
    made = register(root / "models", Ledger(f"sqlite:///{root / 'ledger.db'}"), Vault(root / "keys"), spec=spec,
                    files={"who.txt": sys.argv[3].encode()}, metrics={}, lineage={}, actor=sys.argv[3])
    print(made.version)
"""


def test_two_processes_registering_at_once_get_numbers_and_one_key(tmp_path):
    processes = [python(REGISTER, tmp_path, LOAN.to_json().decode(), who) for who in ("ada", "bob")]
    printed = [p.communicate(timeout=120)[0].split() for p in processes]
    assert sorted(printed[0] + printed[1]) == list("123456")
    ledger, vault = ledger_in(tmp_path), Vault(tmp_path / "keys")
    for event in ledger.events(kind="registered"):
        artifact = open_artifact(
            tmp_path / "models", "loan", event.version, vault=vault, manifest_digest=event.data["manifest"]
        )
        assert artifact.read("who.txt").decode() == event.actor


@pytest.mark.parametrize("name", ["../escape", "a/b", "", "spec.json", "manifest.sig"])
def test_a_file_name_that_would_leave_its_folder_or_replace_ours_is_refused(store, name):
    with pytest.raises(ReleaseError, match="file name"):
        register(*store, spec=LOAN, files={name: b""}, metrics={}, lineage={})
    assert store[1].events() == []


def test_first_signatures_at_once_are_made_with_one_key(tmp_path):
    for n in range(20):
        start = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            made = [pool.submit(lambda: (start.wait(), Vault(tmp_path / str(n)).sign(b"x"))[1]) for _ in range(8)]
        assert len({m.result() for m in made}) == 1
        Vault(tmp_path / str(n)).verify(b"x", made[0].result())
        assert sorted(p.name for p in (tmp_path / str(n)).iterdir()) == ["signing.key", "signing.pub"]


def test_a_private_key_that_others_can_read_is_refused(tmp_path):
    Vault(tmp_path).sign(b"")
    (tmp_path / "signing.key").chmod(0o644)
    with pytest.raises(IntegrityError, match="chmod 600"):
        Vault(tmp_path).sign(b"")
    (tmp_path / "signing.pub").write_text("not a key")
    with pytest.raises(IntegrityError, match="signing.pub cannot be read as a key"):
        Vault(tmp_path).verify(b"", "00")


# --------------------------------------------------------------------------------------------------------- journal

WRITE = """
import sys
from pathlib import Path
from prodml_nb.record.journal import JournalWriter, Prediction, uuid7
from prodml_nb.record.ledger import moment
writer = JournalWriter(Path(sys.argv[1]), durability=sys.argv[2], segment_bytes=20_000)
while True:
    made = [Prediction(id=uuid7(), request=uuid7(), at=moment(), model="loan", version=1, features={"income": 1.0}) for _ in range(5)]
    writer.append(made)
    if sys.argv[2] == "synced":
        writer.sync().result()
    print(*(p.id for p in made), flush=True)
"""


@pytest.mark.parametrize("durability", ["written", "synced"])
def test_every_acknowledged_record_survives_kill_9(tmp_path, durability):
    journal, ledger, acknowledged, chance = Journal(tmp_path), ledger_in(tmp_path), set(), random.Random(7)
    for round_ in range(6):
        writer = python(WRITE, tmp_path, durability)
        acknowledged.update(writer.stdout.readline().split())
        time.sleep(chance.random() * 0.1)
        writer.kill()
        acknowledged.update(
            " ".join(line for line in writer.communicate()[0].splitlines(True) if line.endswith("\n")).split()
        )
        if round_ % 2:
            assert journal.seal(ledger)
    found = journal.query("SELECT id FROM predictions").id
    assert found.is_unique and acknowledged <= set(found) and len(acknowledged) >= 30
    assert journal.verify_sealed(ledger) == len(ledger.events(kind="sealed"))


def test_a_living_writer_is_left_alone_and_a_dead_one_is_sealed(tmp_path):
    writer = python(WRITE, tmp_path, "written")
    writer.stdout.readline()
    os.kill(writer.pid, signal.SIGSTOP)
    journal = Journal(tmp_path)
    journal.seal()
    left = journal._live()
    assert 1 <= len(left) <= 2  # full segments of a living writer are sealed, the one it writes is not
    before = journal.count()["prediction"]
    writer.kill()
    writer.communicate()
    assert journal.count()["prediction"] == before
    journal.seal()
    assert (journal._live(), journal.count()["prediction"]) == ([], before)


class Died(BaseException):
    "The process is gone: nothing after this point happens."


STEPS = {
    "before the Parquet is written": (reader, "_put_away"),
    "before the Parquet has its name": (os, "replace"),
    "before the ledger knows": (reader, "digest_file"),
    "before the live segment is gone": (Path, "unlink"),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_sealing_that_dies_between_two_steps_loses_and_doubles_nothing(tmp_path, monkeypatch, step):
    made = [prediction() for _ in range(20)]
    with JournalWriter(tmp_path) as writer:
        writer.append(made)
        writer.append([Feedback(id=uuid7(), prediction_id=p.id, at=moment(), outcome=True) for p in made[:7]])
    journal, ledger = Journal(tmp_path), ledger_in(tmp_path)

    def dies(*_, **__):
        raise Died

    def holds():
        assert journal.count() == {"prediction": 20, "feedback": 7, "refusal": 0, "batch": 0, "outage": 0}
        frame = journal.frame(LOAN)
        assert (sorted(frame.id), int(frame.outcome.notna().sum())) == (sorted(p.id for p in made), 7)
        assert all(journal.find(p.id)[0] == p for p in made[:3])

    monkeypatch.setattr(*STEPS[step], dies)
    with pytest.raises(Died):
        journal.seal(ledger)
    monkeypatch.undo()
    holds()
    journal.verify_sealed(ledger)
    journal.seal(ledger)
    holds()
    assert (journal._live(), len(ledger.events(kind="sealed")), journal.verify_sealed(ledger)) == ([], 1, 1)
    assert journal.seal(ledger) == []


def test_two_sealings_at_once_seal_every_segment_once(tmp_path):
    ledger = ledger_in(tmp_path)
    for _ in range(5):
        for _ in range(8):
            with JournalWriter(tmp_path) as writer:
                writer.append([prediction()])
        start = threading.Barrier(4)
        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(lambda: (start.wait(), Journal(tmp_path).seal(ledger))[1]) for _ in range(4)]
        assert sum(len(d.result()) for d in done) == 8
    assert len(ledger.events(kind="sealed")) == Journal(tmp_path).verify_sealed(ledger) == 40
    assert Journal(tmp_path).count()["prediction"] == 40


def test_reading_goes_on_while_a_service_writes_and_segments_are_sealed(tmp_path):
    journal, ledger, stop, seen = Journal(tmp_path), ledger_in(tmp_path), threading.Event(), []
    writer = JournalWriter(tmp_path, segment_bytes=4000)

    def write():
        while not stop.is_set():
            writer.append([prediction()])
            time.sleep(0.0005)

    def seal():
        while not stop.is_set():
            Journal(tmp_path).seal(ledger)

    threads = [threading.Thread(target=write), threading.Thread(target=seal)]
    [t.start() for t in threads]
    until = time.monotonic() + 2
    while time.monotonic() < until:
        least = writer.appended
        counted = journal.count()["prediction"]
        seen.append(least <= counted <= writer.appended + 1)
    stop.set()
    [t.join() for t in threads]
    writer.close()
    journal.seal(ledger)
    assert len(seen) > 5 and all(seen)
    assert (journal.count()["prediction"], journal._live()) == (writer.appended, [])
    assert journal.verify_sealed(ledger) > 1


def test_a_torn_last_line_is_left_out_and_counted(tmp_path):
    with JournalWriter(tmp_path) as writer:
        writer.append([prediction(), prediction()])
    whole = writer.path.read_bytes()
    for cut in (1, 40, len(whole) // 2 - 1):
        writer.path.write_bytes(whole[:-cut])
        journal = Journal(tmp_path)
        assert (journal.count()["prediction"], journal.torn) == (1, 1)
        assert len(journal.frame(LOAN)) == 1
    ledger = ledger_in(tmp_path)
    journal.seal(ledger)
    assert (journal.torn, ledger.events()[-1].data["torn"], journal.count()["prediction"]) == (1, 1, 1)


def test_a_damaged_line_in_the_middle_is_named_and_holds_back_only_its_own_segment(tmp_path):
    damaged = [prediction() for _ in range(5)]
    for made in (damaged, [prediction(), prediction()]):
        with JournalWriter(tmp_path) as writer:
            writer.append(made)
    journal, ledger = Journal(tmp_path), ledger_in(tmp_path)
    segment = journal._live()[0]
    lines = segment.read_bytes().splitlines(True)
    segment.write_bytes(b"".join([*lines[:2], lines[2][:30], *lines[3:]]))
    for use in (
        journal.count,
        lambda: journal.frame(LOAN),
        lambda: journal.query("SELECT 1"),
        lambda: journal.seal(ledger),
    ):
        with pytest.raises(
            IntegrityError, match=rf"line 3 of journal segment {segment.name} is damaged.*verify --mend"
        ):
            use()
    assert (len(ledger.events(kind="sealed")), journal._live()) == (1, [segment])
    content = segment.read_bytes()
    (sealed,) = journal.seal(ledger, force=True)
    assert sealed.with_suffix(".damaged").read_bytes() == content
    assert ledger.events()[-1].data["damaged"] == 1
    assert {p.id for p in damaged[:2] + damaged[4:]} <= set(journal.frame(LOAN).id)


@pytest.mark.parametrize("change", ["changed", "missing", "unknown"])
def test_a_sealed_segment_that_is_not_what_the_ledger_says_is_named(tmp_path, change):
    with JournalWriter(tmp_path) as writer:
        writer.append([prediction()])
    journal, ledger = Journal(tmp_path), ledger_in(tmp_path)
    (sealed,) = journal.seal(ledger)
    if change == "changed":
        sealed.write_bytes(sealed.read_bytes() + b"\x00")
    elif change == "missing":
        sealed.rename(tmp_path / "elsewhere")
    else:
        shutil.copy(sealed, sealed.with_name("0-1-1.parquet"))
    with pytest.raises(IntegrityError, match=r"journal segment .*\.parquet"):
        journal.verify_sealed(ledger)


def test_a_full_disk_is_reported_and_leaves_whole_lines(tmp_path):
    code = """
import resource, signal, sys
from pathlib import Path
from prodml_nb.record.journal import JournalWriter, Prediction
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = JournalWriter(Path(sys.argv[1]))
one, refused = Prediction(id="p", request="r", at="2024-05-01T00:00:00.000000Z", model="loan", features={"income": 1.0}), 0
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
for _ in range(200):
    try:
        writer.append([one])
    except OSError:
        refused += 1
print(writer.appended, refused)
"""
    process = python(code, tmp_path)
    appended, refused = map(int, process.communicate(timeout=60)[0].split())
    journal = Journal(tmp_path)
    assert appended + refused == 200 and refused > 0
    assert (journal.count()["prediction"], journal.torn) == (appended, 0)


def test_a_closed_writer_says_so(tmp_path):
    with JournalWriter(tmp_path) as writer:
        pass
    with pytest.raises(ServingError, match="closed; open another"):
        writer.append([prediction()])


def test_a_segment_deleted_under_its_writer_takes_no_record_along(tmp_path):
    written = [prediction() for _ in range(4)]
    with JournalWriter(tmp_path) as writer:
        writer.append(written[:1])
        writer.path.unlink()
        writer.append(written[1:2])
        assert len(Journal(tmp_path).frame(LOAN)) == 2
        shutil.rmtree(tmp_path)
        tmp_path.write_text("in the way")
        with pytest.raises(OSError):
            writer.append([prediction()])
        tmp_path.unlink()
        writer.append(written[2:3])
        shutil.rmtree(tmp_path)
    with JournalWriter(tmp_path) as writer:
        writer.append(written[3:])
    assert sorted(Journal(tmp_path).frame(LOAN).id) == sorted(p.id for p in written)


@pytest.mark.parametrize("end", ["a full segment", "a sync", "closing"])
def test_a_deleted_segment_is_found_again_before_it_is_left_or_said_to_be_on_the_disk(tmp_path, end):
    writer = JournalWriter(tmp_path, segment_bytes=1)
    writer.append([prediction()])
    writer.path.unlink()
    if end == "a full segment":
        writer.append([prediction()])
    elif end == "a sync":
        writer.sync().result(10)
    else:
        writer.close()
    assert Journal(tmp_path).count()["prediction"] == writer.appended
    writer.close()


def test_a_recorder_renews_a_deleted_segment_without_a_request_or_says_that_it_cannot(tmp_path):
    journal = tmp_path / "journal"
    recorder = Recorder(lambda: JournalWriter(journal), retry=0.0)
    recorder.append([prediction()])
    shutil.rmtree(journal)
    assert recorder.is_available() and Journal(journal).count()["prediction"] == 1
    shutil.rmtree(journal)
    journal.touch()
    assert not recorder.is_available() and not recorder.is_available() and recorder.failure
    with pytest.raises(Unrecorded):
        recorder.append([prediction()])
    journal.unlink()
    recorder.append([prediction()])
    counted = Journal(journal).count()
    assert (counted["prediction"], counted["outage"], recorder.failure) == (2, 1, "")
    recorder.close()


def test_a_disk_that_refuses_to_sync_is_reported_to_everybody_who_waits(tmp_path, monkeypatch):
    writer = JournalWriter(tmp_path, durability="synced")
    writer.append([prediction()])
    writer.sync().result(10)

    def refuses(descriptor):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", refuses)
    asked = [writer.sync() for _ in range(3)]
    assert [type(a.exception(10)) for a in asked] == [OSError] * 3
    monkeypatch.undo()
    writer.sync().result(10)
    writer.close()
    with pytest.raises(ServingError, match="closed"):
        writer.sync()


def test_syncing_covers_segments_that_were_full_meanwhile(tmp_path, monkeypatch):
    synced, real = set(), os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (real(fd), synced.add(os.readlink(f"/proc/self/fd/{fd}"))))
    writer = JournalWriter(tmp_path, durability="synced", segment_bytes=2000)
    writer.sync().result(10)
    for _ in range(60):
        writer.append([prediction()])
    writer.sync().result(10)
    assert {str(p) for p in (tmp_path / "live").iterdir() if p.stat().st_size} <= synced
    writer.close()
    assert Journal(tmp_path).count()["prediction"] == 60


def test_what_the_record_layer_imports_is_light():
    heavy = ("pandas", "pyarrow", "duckdb", "bentoml", "sklearn", "matplotlib")
    code = (
        "import sys\nfrom prodml_nb.record import artifacts, journal, ledger, reader, vault\n"
        f"import json; print(json.dumps([m for m in {heavy} if m in sys.modules]))"
    )
    assert json.loads(python(code).communicate(timeout=60)[0]) == []


def test_an_empty_query_is_refused(tmp_path):
    for empty in ("", " \n"):
        with pytest.raises(DataError, match="query is empty"):
            Journal(tmp_path).query(empty)


def test_another_key_is_told_from_another_content(tmp_path):
    ledger, own, other = ledger_in(tmp_path), Vault(tmp_path / "keys"), Vault(tmp_path / "other")
    made = register(tmp_path / "models", ledger, own, spec=LOAN, files={}, metrics={}, lineage={})
    other.sign(b"")
    given = {"manifest_digest": made.manifest_digest}
    with pytest.raises(IntegrityError, match=r"\(its content is what the ledger registered\): .*another key"):
        open_artifact(tmp_path / "models", "loan", 1, vault=other, **given)
    (made.path / "manifest.json").write_bytes((made.path / "manifest.json").read_bytes() + b" ")
    with pytest.raises(IntegrityError, match=r"\(its content is not what the ledger registered\): .*changed"):
        open_artifact(tmp_path / "models", "loan", 1, vault=own, **given)
