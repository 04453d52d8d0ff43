"Whatever was decided and whatever was answered comes back as it was, in any order and through any number of sealings."

import json
import string
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prodml_nb.contract.frame import check_frame
from prodml_nb.contract.spec import MISSING, Category, Flag, ModelSpec, Number
from prodml_nb.errors import IntegrityError
from prodml_nb.record.journal import Batch, Feedback, JournalWriter, Outage, Prediction, Refusal, uuid7
from prodml_nb.record.ledger import GENESIS, Event, Ledger, event_hash, fold, moment
from prodml_nb.record.reader import Journal
from prodml_nb.record.vault import Vault

few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
plain = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)

# ---------------------------------------------------------------------------------------------------------- ledger


@st.composite
def lives(draw):
    "What might happen to a model, and which stack of champions a person keeping notes would have in the end."
    steps, stack, versions = [], [], 0
    for _ in range(draw(st.integers(0, 15))):
        choices = [
            "registered",
            *(["promoted", "evidence"] if versions else []),
            *(["rolled_back"] if stack[1:] else []),
        ]
        kind = draw(st.sampled_from(choices))
        version = draw(st.integers(1, max(versions, 1)))
        if kind == "registered":
            versions = version = versions + 1
        elif kind == "promoted" and stack[-1:] != [version]:
            stack.append(version)
        elif kind == "rolled_back":
            stack.pop()
            version = stack[-1]
        steps.append((kind, version, draw(st.sampled_from(["pass", "refuse"]))))
    return steps, stack


@few
@given(lives())
def test_state_is_what_somebody_keeping_notes_would_say_at_every_moment(life):
    steps, stack = life
    events = [
        Event(n, moment(), kind, "ada", "loan", version, "", {"verdict": verdict}, GENESIS)
        for n, (kind, version, verdict) in enumerate(steps, 1)
    ]
    state = fold(events, "loan")
    assert (state.champion, state.previous) == (stack[-1] if stack else None, stack[-2] if stack[1:] else None)
    assert sorted(state.versions) == sorted({v for k, v, _ in steps if k == "registered"})
    assert [v for v, s in state.versions.items() if s.status == "champion"] == stack[-1:]
    assert sum(len(v.evidence) for v in state.versions.values()) == sum(k == "evidence" for k, *_ in steps)
    assert fold(events, "loan") == state


@few
@given(
    st.lists(
        st.tuples(texts, texts, st.dictionaries(texts, plain, max_size=3), st.none() | st.integers(1, 99)), max_size=6
    )
)
def test_ledger_gives_back_what_was_appended_and_the_past_does_not_move(appended):
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(f"sqlite:///{folder}/ledger.db")
        states = []
        for n, (kind, reason, data, version) in enumerate(appended):
            now = moment(f"2024-05-01T12:00:{n:02}")
            event = ledger.append(kind, model="loan", version=version, reason=reason, data=data, actor="ada", now=now)
            assert (event.kind, event.reason, event.version, event.at) == (kind, reason, version, now)
            assert event.data == json.loads(json.dumps(data)) and event.hash == event_hash(event)
            states.append((now, ledger.state("loan")))
        assert ledger.verify() == len(ledger.events()) == len(appended)
        assert ledger.head() == ((ledger.events()[-1].seq, ledger.events()[-1].hash) if appended else (0, GENESIS))
        for at, state in states:
            assert ledger.state("loan", at=at) == state
        ledger.close()


# --------------------------------------------------------------------------------------------------------- journal

SPEC = ModelSpec(
    name="loan", task="multiclass", target="grade", classes=("a", "b", "c"),
    features=(Number("income, €"), Category("region"), Flag("employed"), Number("age", low=0, high=120, out_of_range="clamp")),
)  # fmt: skip
moments = st.datetimes().map(lambda d: moment(d.replace(year=2024)))
features = st.fixed_dictionaries(
    {
        "income, €": st.none() | st.floats(-1e30, 1e30),
        "region": st.none() | texts,
        "employed": st.none() | st.booleans(),
        "age": st.none() | st.floats(-500, 500),
    }
)
predictions = st.builds(
    Prediction, id=st.builds(uuid7), request=st.builds(uuid7), at=moments, time=st.none() | moments, subject=st.none() | texts,
    model=st.just("loan"), version=st.none() | st.integers(1, 9), features=features, prediction=st.sampled_from("abc"),
    score=st.none() | st.floats(0, 1), scores=st.none() | st.lists(st.floats(0, 1), min_size=3, max_size=3),
    fallback=st.none() | st.just("declared"), warnings=st.lists(texts, max_size=2), ms=st.floats(0, 1e6),
    ood=st.none() | st.floats(0, 1), key=st.none() | texts, supplied=st.booleans(),
    stages=st.none() | st.dictionaries(st.sampled_from(["decode", "score"]), st.floats(0, 1e3)),
)  # fmt: skip
refusals = st.builds(
    Refusal, id=st.builds(uuid7), at=moments, status=st.sampled_from([400, 413, 422]), problems=st.integers(0, 9),
    fields=st.lists(texts, max_size=3),
)  # fmt: skip
outages = st.builds(
    Outage,
    id=st.builds(uuid7),
    at=moments,
    since=moments,
    error=texts,
    refused=st.integers(0, 9),
    spooled=st.integers(0, 9),
)
batches = st.builds(
    Batch, id=st.builds(uuid7), at=moments, model=st.just("loan"), version=st.integers(1, 9), rows=st.integers(0, 2**40),
    source=texts, source_digest=texts, output=texts, output_digest=texts, profile=st.none() | texts,
    profile_digest=st.none() | texts, seconds=st.floats(0, 1e6), unusual=st.none() | st.integers(0, 2**40),
)  # fmt: skip


@st.composite
def histories(draw):
    "Predictions, feedback on some of them, refusals, batches: in the order they were written, cut into segments."
    made = draw(st.lists(predictions, min_size=1, max_size=8))
    about = st.sampled_from([p.id for p in made])
    feedback = st.builds(
        Feedback, id=st.builds(uuid7), prediction_id=about, at=moments, outcome=st.none() | st.sampled_from("abc"),
        rating=st.none() | st.floats(1, 5), comment=st.none() | texts,
    )  # fmt: skip
    others = (
        draw(st.lists(kind, max_size=n)) for kind, n in ((feedback, 8), (refusals, 3), (batches, 2), (outages, 2))
    )
    records = draw(st.permutations([*made, *(r for some in others for r in some)]))
    return records, draw(st.integers(1, 4)), draw(st.sets(st.integers(0, 3)))


@settings(few, max_examples=15)
@given(histories())
def test_journal_gives_back_every_record_sealed_or_not(history):
    records, segments, sealed = history
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        for n in range(segments):
            with JournalWriter(Path(folder), worker=str(n)) as writer:
                writer.append(records[n::segments])
            if n in sealed:
                journal.seal()
        kinds = {"prediction": Prediction, "feedback": Feedback, "refusal": Refusal, "batch": Batch, "outage": Outage}
        assert journal.count() == {name: sum(isinstance(r, kind) for r in records) for name, kind in kinds.items()}
        rows = journal.query("SELECT id, rows FROM batches").set_index("id")["rows"]
        assert rows.to_dict() == {r.id: r.rows for r in records if isinstance(r, Batch)}
        frame = journal.frame(SPEC).set_index("id")
        made = [r for r in records if isinstance(r, Prediction)]
        assert sorted(frame.index) == sorted(p.id for p in made)
        for p in made:
            told = sorted(
                (r for r in records if isinstance(r, Feedback) and r.prediction_id == p.id), key=lambda f: (f.at, f.id)
            )
            assert p is not made[0] or journal.find(p.id) == (p, told)
            outcomes = [f.outcome for f in told if f.outcome is not None]
            assert frame.outcome[p.id] == (outcomes[-1] if outcomes else None)
            assert frame.prediction[p.id] == p.prediction
            assert frame.region[p.id] == (MISSING if p.features["region"] is None else p.features["region"])


@few
@given(st.lists(predictions, min_size=1, max_size=10))
def test_journal_shows_features_as_the_frame_check_does(made):
    with tempfile.TemporaryDirectory() as folder:
        with JournalWriter(Path(folder)) as writer:
            writer.append(made)
        import pandas as pd

        found = Journal(Path(folder)).frame(SPEC)
        received = pd.DataFrame([p.features for p in sorted(made, key=lambda p: (p.at, p.id))])
        expected = check_frame(SPEC, received, target=False)
        pd.testing.assert_frame_equal(found[list(SPEC.feature_names)], expected)


@few
@given(st.lists(predictions, max_size=10), moments, moments)
def test_windows_are_half_open_and_add_up(made, one, other):
    since, until = sorted([one, other])
    with tempfile.TemporaryDirectory() as folder:
        with JournalWriter(Path(folder)) as writer:
            writer.append(made)
        journal = Journal(Path(folder))
        parts = [journal.frame(SPEC, None, since), journal.frame(SPEC, since, until), journal.frame(SPEC, until, None)]
        assert sum(map(len, parts)) == len(made)
        assert sorted(parts[1].id) == sorted(p.id for p in made if since <= p.at < until)


# ----------------------------------------------------------------------------------------------------------- vault


@pytest.fixture(scope="module")
def vault(tmp_path_factory):
    return Vault(tmp_path_factory.mktemp("keys"))


@few
@given(st.binary(max_size=200), st.integers(0, 10**9), st.sampled_from(string.hexdigits[:16]))
def test_a_signature_fits_its_bytes_and_no_others(vault, data, position, digit):
    signature = vault.sign(data)
    vault.verify(data, signature)
    for content, signed in (
        (data + b"\x00", signature),
        (data, (s := list(signature)).__setitem__(position % 128, digit) or "".join(s)),
    ):
        if (content, signed) != (data, signature):
            with pytest.raises(IntegrityError):
                vault.verify(content, signed)
