"Whatever bytes a client sends: a batch, or an error that names every bad field and repeats no value."

import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prodml_nb.contract.request import MAX_PROBLEMS, Batch, Decoder, RequestError
from prodml_nb.contract.spec import MISSING, Category, Flag, ModelSpec, Number

SPEC = ModelSpec(
    name="loan",
    task="binary",
    target="repaid",
    classes=(False, True),
    subject="customer",
    time="asked_at",
    fallback=0.5,
    features=(
        Number("income", unit="EUR", low=0, high=1e6, missing="reject"),
        Number("age in years", low=18, high=120, out_of_range="clamp"),
        Number("debt"),
        Category("region", levels=("north", "south"), unseen="reject"),
        Category("purpose", levels=("car", "house")),
        Category("note", missing="fallback"),
        Flag("employed"),
    ),
)
DECODER = Decoder(SPEC, max_records=50)

GOOD = {
    "income": st.floats(0, 1e6),
    "age in years": st.one_of(st.none(), st.floats(-1e6, 1e6)),
    "debt": st.one_of(st.none(), st.integers(-(10**9), 10**9), st.floats(-1e30, 1e30)),
    "region": st.one_of(st.none(), st.sampled_from(["north", "south"])),
    "purpose": st.one_of(st.none(), st.text(max_size=20)),
    "note": st.one_of(st.none(), st.text(max_size=20)),
    "employed": st.one_of(st.none(), st.booleans()),
}
BAD = {
    "income": st.one_of(
        st.none(), st.text(), st.booleans(), st.floats(max_value=-1), st.just(10**39), st.lists(st.integers())
    ),
    "age in years": st.one_of(st.text(), st.booleans(), st.dictionaries(st.text(), st.integers())),
    "debt": st.one_of(st.text(), st.booleans(), st.just(float("nan")), st.just(float("inf")), st.just(-(10**60))),
    "region": st.one_of(st.integers(), st.text(min_size=1).filter(lambda t: t not in ("north", "south"))),
    "purpose": st.one_of(st.integers(), st.booleans(), st.lists(st.text())),
    "note": st.one_of(st.floats(), st.booleans()),
    "employed": st.one_of(st.integers(), st.text(), st.floats()),
}
records = st.fixed_dictionaries(GOOD)
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)),
    max_leaves=12,
)


def decode(body: bytes) -> Batch | RequestError:
    "A batch or an error; anything else escapes and fails the test."
    try:
        return DECODER.decode(body)
    except RequestError as error:
        assert error.status in (400, 413, 422)
        assert error.problems or error.status == 400
        return error


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.binary(max_size=300), anything.map(lambda v: json.dumps(v).encode())))
@example(b"")
@example(b"[]")
@example(b"[" * 100_000)
@example(b'{"income": 1' + b"0" * 5000 + b"}")
@example(b"\xff\xfe")
@example(b'"\\ud800"')
def test_arbitrary_bytes_are_read_or_refused(body):
    decode(body)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*SPEC.feature_names, "customer", "asked_at", "incme"]), anything))
def test_right_names_with_arbitrary_values_are_read_or_refused(record):
    decode(json.dumps(record).encode())


@settings(max_examples=200, deadline=None)
@given(st.lists(records, min_size=1, max_size=5))
def test_a_good_record_becomes_its_row(rows):
    batch = decode(json.dumps(rows).encode())
    assert batch.n == len(rows) and not batch.single
    assert batch.numbers.shape == (len(rows), 4) and batch.numbers.dtype == np.float32
    for i, row in enumerate(rows):
        age = row["age in years"]
        expected = [row["income"], None if age is None else min(max(age, 18), 120), row["debt"], row["employed"]]
        for got, wanted in zip(batch.numbers[i], expected):
            assert math.isnan(got) if wanted is None else got == np.float32(wanted)
        assert list(batch.categories[i]) == [
            row[c] if row[c] is not None else MISSING for c in ("region", "purpose", "note")
        ]
        assert batch.features[i] == row
        assert (batch.fallback[i] is not None) == (row["note"] is None)


@settings(max_examples=100, deadline=None)
@given(records, st.randoms())
def test_the_order_of_keys_and_the_brackets_do_not_matter(row, random):
    shuffled = list(row.items())
    random.shuffle(shuffled)
    one, many = decode(json.dumps(dict(shuffled)).encode()), decode(json.dumps([row]).encode())
    assert one.single and not many.single
    assert np.array_equal(one.numbers, many.numbers, equal_nan=True)
    assert np.array_equal(one.categories, many.categories)
    assert (one.warnings, one.fallback) == (many.warnings, many.fallback)


@settings(max_examples=300, deadline=None)
@given(st.data(), records, st.sets(st.sampled_from(SPEC.feature_names)), st.booleans())
def test_every_bad_field_is_named_and_no_good_one(data, row, wrong, in_array):
    row = row | {name: data.draw(BAD[name]) for name in sorted(wrong)}
    found = decode(json.dumps([GOOD_RECORD, row] if in_array else row).encode())
    if not wrong:
        assert isinstance(found, Batch)
        return
    assert {p.field for p in found.problems} == wrong
    assert {p.index for p in found.problems} == ({1} if in_array else {None})
    assert found.status == 422


GOOD_RECORD = {
    "income": 1,
    "age in years": 30,
    "debt": 0,
    "region": "north",
    "purpose": "car",
    "note": "",
    "employed": True,
}


@settings(max_examples=100, deadline=None)
@given(records, st.sets(st.sampled_from(SPEC.feature_names)), st.booleans())
def test_a_value_that_is_no_number_is_one_that_is_missing(row, gaps, in_columns):
    def read(gap: float | None) -> tuple | list:
        given = row | dict.fromkeys(gaps, gap)
        try:
            args = {n: [v] for n, v in given.items()} if in_columns else [given]
            found = (DECODER.decode_columns if in_columns else DECODER.decode_records)(args)
        except RequestError as error:
            return error.problems
        return found.numbers.tobytes(), found.categories.tolist(), found.features, found.warnings, found.fallback

    assert read(float("nan")) == read(None)


@settings(max_examples=100, deadline=None)
@given(st.sets(st.sampled_from(SPEC.feature_names), min_size=1))
def test_every_missing_field_is_named(missing):
    found = decode(json.dumps({k: v for k, v in GOOD_RECORD.items() if k not in missing}).encode())
    assert {p.field for p in found.problems} == missing


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([*SPEC.feature_names, "customer", "asked_at"]))
def test_a_value_is_never_repeated(name):
    secrets = ["zq7-secret", 98765.4321, -98765.4321, {"zq7": "zq7-secret"}, ["zq7-secret"]]
    for secret in secrets:
        found = decode(json.dumps(GOOD_RECORD | {name: secret}).encode())
        if isinstance(found, RequestError):
            told = str(found) + "".join(map(str, found.problems))
            assert "zq7" not in told and "98765" not in told


def test_a_misspelt_field_is_met_with_the_right_name():
    found = decode(json.dumps(GOOD_RECORD | {"incme": 3}).encode())
    assert [p.field for p in found.problems] == ["incme"]
    assert "'income'" in found.problems[0].detail


@pytest.mark.parametrize("n, status", [(0, 422), (51, 413), (10_000, 413)])
def test_an_array_of_the_wrong_length_is_refused(n, status):
    found = decode(json.dumps([GOOD_RECORD] * n).encode())
    assert isinstance(found, RequestError) and found.status == status


def test_an_unbounded_number_of_problems_is_answered_in_bounded_time_and_space():
    found = decode(json.dumps({f"unknown {i}": i for i in range(20_000)}).encode())
    assert isinstance(found, RequestError)
    assert len(found.problems) == MAX_PROBLEMS < found.total
