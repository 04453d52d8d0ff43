"A row of a table gets the answer that it would get as a request."

from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prodml_nb.build.sources import ModelDefinition
from prodml_nb.build.training import train
from prodml_nb.contract.frame import check_frame
from prodml_nb.contract.request import Decoder, RequestError
from prodml_nb.contract.spec import MISSING, Category, Flag, ModelSpec, Number
from prodml_nb.errors import DataError, SpecError
from prodml_nb.operate.columns import check_schema, read_rows, score_batch
from prodml_nb.operate.leaves import TOLERANCE, open_bulk
from prodml_nb.operate.ranks import Ranks
from prodml_nb.record.artifacts import register
from prodml_nb.record.ledger import Ledger
from prodml_nb.record.reader import expand_features
from prodml_nb.record.vault import Vault
from prodml_nb.serve.answers import Limits, Turn, Waiting, answer_of, write_up
from prodml_nb.serve.fallback import score_rows
from prodml_nb.serve.router import Route, load_version

TASKS = {
    "binary": ((False, True), 0.2),
    "multiclass": (("low", "mid", "high"), "mid"),
    "regression": ((), 7.5),
}
FEATURES = (
    Number("clamped", low=-1, high=1, out_of_range="clamp"),
    Number("dropped", low=-1, high=1, out_of_range="missing", missing="fallback"),
    Number("rescued", low=-1, out_of_range="fallback"),
    Number("strict", high=2, missing="reject"),
    Flag("flag"),
    Category("open"),
    Category("known", levels=("007", "7", "x"), unseen="fallback", missing="fallback"),
    Category("closed", levels=("p", "q"), unseen="reject"),
    Category("warned", levels=("p", "q")),
)


@pytest.fixture(scope="module", params=TASKS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    "A version of each task, as the service has it and as a batch has it."
    rng, n, task = np.random.default_rng(0), 600, request.param
    frame = pd.DataFrame({f.name: rng.uniform(-1, 1, n) for f in FEATURES[:4]} | {"flag": rng.random(n) < 0.5})
    frame["open"] = rng.choice(["", "007", "a b", "ä", None], n)
    frame["known"], frame["closed"] = rng.choice(["007", "7", "x", None], n), rng.choice(["p", "q", None], n)
    frame["warned"] = rng.choice(["p", "q", None], n)
    z = frame["clamped"] + frame["strict"] + 2 * (frame["known"] == "007") + frame["flag"] + rng.normal(0, 0.3, n)
    frame["binary"], frame["regression"] = z > z.median(), z * 40
    frame["multiclass"] = np.array(["low", "mid", "high"])[np.digitize(z, z.quantile([0.3, 0.6]))]
    classes, fallback = TASKS[task]
    spec = ModelSpec(name="m", task=task, target=task, classes=classes, fallback=fallback, features=FEATURES)
    candidate = train(ModelDefinition("test", spec, lambda since, until: frame), params={"max_iter": 15}, bootstrap=20)
    root = tmp_path_factory.mktemp(task)
    ledger, vault = Ledger(f"sqlite:///{root / 'ledger.db'}"), Vault(root / "keys")
    files = candidate.files()
    artifact = register(root / "models", ledger, vault, spec=spec, files=files, metrics={}, lineage={})
    bulk = open_bulk(artifact)
    assert bulk.kind == "leaves"
    return SimpleNamespace(spec=spec, bulk=bulk, route=Route("m", load_version(artifact, 1000)))


numbers = st.none() | st.sampled_from([0.0, -1.0, 1.0, 1.0000001, 2.5, 1e39]) | st.floats(-3, 3)
texts = st.none() | st.sampled_from(["007", "7", "x", "p", "q", "", "never seen", MISSING, "z" * 1000, "z" * 1001])
kinds = {Number: numbers, Flag: st.none() | st.booleans(), Category: texts}
likely = {
    "strict": st.floats(-1, 2),
    "known": st.sampled_from(["007", "7", "x", "y"]),
    "closed": st.sampled_from("pq"),
    "dropped": st.floats(-2, 2),
}
rows = st.lists(
    st.fixed_dictionaries({f.name: kinds[type(f)] for f in FEATURES})
    | st.fixed_dictionaries({f.name: likely.get(f.name, kinds[type(f)]) for f in FEATURES}),
    min_size=1,
    max_size=25,
)


UNLIKE = 0.5, 0.9999  # OOD scores from which rows are warned of and refused


def requested(model: SimpleNamespace, row: dict) -> tuple | None:
    "The answer to a request of one record; None if it is refused."
    try:
        batch = model.route.champion.decoder.decode(msgspec.json.encode(row))
    except RequestError:
        return None
    scored = score_rows(model.route, batch.numbers, batch.categories, batch.features, batch.fallback)
    ood = model.route.champion.ood.score(batch.numbers, batch.categories)
    turn = Turn(scored, ood, "", 0.0)
    limits = Limits(ood_warn=UNLIKE[0], ood_reject=UNLIKE[1])
    try:
        [record] = write_up(Waiting(model.route, batch, 0.0, None, None, {}, 0.0), turn, limits)
    except RequestError:
        return None
    answer = answer_of(record, [str(c) for c in model.spec.classes] if model.spec.task == "multiclass" else [])
    scores = [] if answer.scores is msgspec.UNSET else list(answer.scores.values())
    return (
        answer.prediction,
        answer.score,
        scores,
        answer.version,
        answer.fallback,
        "; ".join(answer.warnings),
        record.ood,
    )


def same(model: SimpleNamespace, batch: pa.RecordBatch, rows: list[dict]) -> None:
    "Every row of a batch has the answer of its request."
    check_schema(model.spec, batch.schema, "test")
    answers, _ = score_batch(model.bulk, 1, batch, UNLIKE)
    columns = {name: column.to_pylist() for name, column in answers.items()}
    for i, row in enumerate(rows):
        got, wanted = {name: column[i] for name, column in columns.items()}, requested(model, row)
        if wanted is None:
            assert got["error"] and {v for n, v in got.items() if n != "error"} == {None}
            continue
        prediction, score, scores, version, fallback, warnings, ood = wanted
        assert (got["error"], got["version"], got["fallback"]) == (None, version, fallback)
        assert (got["warnings"] or "", got["ood"]) == (warnings, np.float32(ood))
        named = [got[f"score_{c}"] for c in model.spec.classes] if scores else []
        for ours, theirs in zip([got["score"], *named], [score, *scores], strict=True):
            assert ours == theirs or abs(ours - theirs) <= TOLERANCE * max(1, abs(theirs))
        near = pytest.approx(prediction, rel=1e-6, abs=1e-6) if model.spec.task == "regression" else prediction
        assert got["prediction"] == near


def as_text(value: object) -> str | None:
    "As a CSV file has it; an empty field is missing."
    return None if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


few = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@few
@given(rows)
def test_a_typed_table(model: SimpleNamespace, rows: list[dict]) -> None:
    arrow = {Number: pa.float64(), Flag: pa.bool_(), Category: pa.string()}
    schema = pa.schema([(f.name, arrow[type(f)]) for f in FEATURES])
    batch = pa.RecordBatch.from_pylist(rows, schema)
    same(model, batch, rows)
    encoded = {n: c.dictionary_encode() if pa.types.is_string(c.type) else c for n, c in zip(schema.names, batch)}
    same(model, pa.record_batch(encoded), rows)


@few
@given(rows)
def test_a_table_of_text(model: SimpleNamespace, rows: list[dict]) -> None:
    texts = [{name: as_text(value) for name, value in row.items()} for row in rows]
    batch = pa.RecordBatch.from_pylist(texts, pa.schema([(f.name, pa.string()) for f in FEATURES]))
    same(model, batch, [{name: None if value == "" else value for name, value in row.items()} for row in rows])


def door(policy: str) -> ModelSpec:
    given = {"task": "binary", "target": "y", "classes": (False, True), "fallback": 0.5}
    return ModelSpec(name="m", features=(Number("x", low=-1, high=2, out_of_range=policy), Category("c")), **given)


@pytest.mark.parametrize("policy", ["clamp", "missing", "fallback"])
@given(st.lists(st.none() | st.floats(-5, 5) | st.sampled_from([-1.0, 2.0, 3e38]), min_size=1, max_size=9))
def test_a_number_out_of_its_range_is_the_same_behind_every_door(policy: str, values: list) -> None:
    spec, records = door(policy), [{"x": v, "c": "a"} for v in values]
    bodies = [msgspec.json.encode(r).decode() for r in records]
    learned = check_frame(spec, pd.DataFrame(records).astype({"x": float}), target=False)["x"]
    asked = Decoder(spec).decode(f"[{','.join(bodies)}]".encode()).numbers[:, 0]
    table = pa.RecordBatch.from_pylist(records, pa.schema({"x": pa.float64(), "c": pa.string()}))
    scored, kept = read_rows(spec, table).numbers[:, 0], expand_features(spec, bodies)["x"]
    for found in (asked, scored, kept):
        assert found.dtype == np.float32 and np.array_equal(found, learned, equal_nan=True)


def test_a_text_too_long_for_a_request_is_too_long_for_every_door() -> None:
    spec, frame = door("clamp"), pd.DataFrame({"x": [1.0] * 2, "c": ["z" * 1000, "z" * 1001], "y": [True, False]})
    with pytest.raises(RequestError):
        Decoder(spec).decode_records(frame[["x", "c"]].to_dict("records"))
    with pytest.raises(DataError, match="'c': 1 value is longer than 1000 characters"):
        check_frame(spec, frame)
    rows = read_rows(spec, pa.RecordBatch.from_pandas(frame))
    assert rows.errors.column().to_pylist() == [None, "c is longer than 1000 characters"]
    with pytest.raises(SpecError, match="more than 1000 characters; shorten them"):
        ModelSpec.infer(frame, "y")


SPACED = st.integers(-50, 50).map(lambda i: i / 8)
FLOATS = st.floats(width=32, allow_nan=False)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(SPACED, min_size=1), st.lists(FLOATS, min_size=1)), st.lists(st.floats(width=32)))
def test_a_rank_is_what_a_search_finds(cuts: list[float], values: list[float]) -> None:
    cuts = np.unique(np.array(cuts, np.float32))
    with np.errstate(over="ignore"):
        beside = [np.nextafter(cuts, np.float32(side)) for side in (-np.inf, np.inf)]
    values = np.concatenate([np.array(values, np.float32), cuts, *beside])
    expected = np.searchsorted(cuts, values) + np.isnan(values)
    np.testing.assert_array_equal(Ranks(cuts).of(values), expected)


def test_a_grid_is_used_for_thresholds_of_a_forest_and_not_for_those_too_close_together() -> None:
    steps = np.arange(255, dtype=np.float32) / 4
    assert Ranks(steps).is_grid and Ranks(np.append(steps, np.float32(np.inf))).is_grid
    assert not Ranks(np.array([0, 1e-30, 1], np.float32)).is_grid
