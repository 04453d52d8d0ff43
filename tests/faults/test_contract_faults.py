"Definitions and frames that are nearly right: each is refused in words, and by name."

import json
import warnings
from decimal import Decimal

import msgspec
import numpy as np
import pandas as pd
import pytest

from prodml_nb.contract.frame import check_frame, encode_target
from prodml_nb.contract.request import MAX_PROBLEMS, Decoder, RequestError, describe
from prodml_nb.contract.spec import Budgets, Category, Flag, Gate, ModelSpec, Number
from prodml_nb.errors import DataError, SpecError

LOAN = ModelSpec(
    name="loan",
    task="binary",
    target="late",
    classes=(False, True),
    features=(Number("income"), Flag("owns"), Category("purpose", levels=("car", "home"))),
)
COST = ModelSpec(name="cost", task="regression", target="cost", features=(Number("x"),))
ROWS = pd.DataFrame(
    {
        "income": [1.0, 2.0, 3.0, 4.0],
        "owns": [True, False, True, False],
        "purpose": ["car", "home", "car", "home"],
        "late": [True, False, False, True],
        "customer_id": ["a", "a", "b", "c"],
        "at": pd.date_range("2024-01-01", periods=4),
    }
)


def changed(**given) -> ModelSpec:
    return msgspec.structs.replace(LOAN, **given)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threshold": "x"}, "threshold of spec loan must be a finite number, not 'x'"),
        ({"features": Number("x")}, "features .* a tuple whose items are Number, Category or Flag, not Number"),
        ({"features": ("x",)}, "features .* not 'x'"),
        ({"gates": Gate("auc", at_least=0.5)}, "gates .* whose items are Gate, not Gate"),
        ({"name": 5}, "name of spec 5 must be text, not int"),
        ({"classes": (0.0, 1.0)}, "classes .* whole number or text, not 0.0"),
        ({"slices": "income"}, "slices .* not 'income'"),
        ({"target": None}, "target of spec loan must be text, not NoneType"),
        ({"budgets": Budgets(latency_ms="1")}, "latency_ms of the budgets .* not '1'"),
        (
            {"features": (Number("x", missing="acept"),)},
            "missing of feature 'x' .* accept, reject or fallback, not 'acept'",
        ),
        ({"task": "binry"}, "task of spec loan must be binary, multiclass or regression, not 'binry'"),
        ({"gates": (Gate("auc", at_least=float("nan")),)}, "at_least of gate 'auc' .* finite number or None, not nan"),
        ({"features": (Number("x", low=float("-inf")),)}, "low of feature 'x' .* not -inf"),
        ({"features": (Number("x", high=float("nan")),)}, "high of feature 'x' .* not nan"),
        ({"features": (Number("x", low=-1e39),)}, "'x' of spec loan: low is beyond float32; a bound lies within"),
        ({"features": (Number("x", high=10**400),)}, "high is beyond float32"),
        ({"budgets": Budgets(size_mb=float("inf"))}, "size_mb .* not inf"),
        ({"budgets": Budgets(size_mb=-1)}, "size_mb .* 0 or more"),
        ({"gates": (Gate("auc", margin=-0.1),)}, "margin must be 0 or more"),
        ({"gates": (Gate("auc", at_least=0.9, at_most=0.1),)}, "at_least is above at_most"),
        ({"features": (Category("x", levels=("a", "b", "a")),)}, "level stands twice"),
        ({"fallback": 10**400}, "fallback"),
    ],
)
def test_a_part_that_cannot_be_is_named_with_what_is_allowed(given, said):
    with pytest.raises(SpecError, match=said):
        changed(**given)


@pytest.mark.parametrize(
    ("frame", "given", "said"),
    [
        (pd.DataFrame(np.eye(4)), {"target": 0}, r"df.columns = df.columns.map\(str\)"),
        (pd.concat([ROWS, ROWS["income"]], axis=1), {}, "stand twice: income"),
        ("ROWS", {}, "not from str"),
        (ROWS.drop(columns="at"), {"target": "lat"}, "did you mean 'late'"),
        (ROWS.drop(columns="at"), {"ignore": ["custmer_id"]}, "ignore 'custmer_id' .* did you mean 'customer_id'"),
        (ROWS.drop(columns="at"), {"ignore": "customer_id"}, "ignore must be a list of column names, not str"),
        (ROWS, {"time": "att"}, "time 'att' is not a column .* did you mean 'at'"),
        (ROWS.drop(columns="at"), {"subject": "custmer_id"}, "subject 'custmer_id' .* did you mean 'customer_id'"),
        (ROWS.drop(columns="at"), {"features": (Number("income"),)}, "'features' cannot be given to a draft"),
        (ROWS.drop(columns="at"), {"budget": Budgets()}, "did you mean 'budgets'"),
        (ROWS, {}, r"'at' \(datetime64.* holds dates; .* ignore=\['at'\]"),
        (ROWS.assign(at=ROWS["at"] - ROWS["at"][0]), {}, "'at' .* holds durations"),
        (ROWS.assign(at=ROWS["at"].dt.to_period("D")), {}, "'at' .* holds dates"),
        (ROWS.assign(at=pd.Series([1, 2, 1, 2]).astype("category")), {}, r"'at' \(category\) holds whole numbers"),
        (ROWS.assign(at=[[1], [2], [3], [4]]), {}, "'at' .* holds mixed values"),
        (ROWS.assign(at=[None] * 4), {}, "'at' .* holds nothing"),
        (ROWS.assign(at=[1.0, np.inf, 2, 3]), {}, "column 'at' has infinite numbers.* in 1 of 4 rows"),
        (ROWS, {"target": "at"}, "target 'at' holds dates"),
        (ROWS.assign(at=[[1], [2], [3], [4]]), {"target": "at"}, "target 'at' holds mixed values"),
        (ROWS.assign(at=["x", 1, "x", 1]), {"target": "at"}, "target 'at' holds mixed values"),
        (ROWS.assign(at=[1, None, 2, 3]), {"target": "at"}, "no outcome in 1 of 4 rows"),
        (ROWS.assign(at=list("abab")), {"target": "at", "task": "regression"}, "make numbers of it"),
        (ROWS.assign(at=[0.5, 1.5, 0.5, 1.5]), {"target": "at", "task": "binary"}, "numbers with fractions"),
    ],
)
def test_a_frame_that_no_spec_can_be_drafted_from_is_refused_with_what_to_do(frame, given, said):
    with pytest.raises(SpecError, match=said):
        ModelSpec.infer(frame, **{"target": "late", **given})


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (pd.Series([0, 1, 1, 0], dtype=object), (0, 1)),
        (pd.Series([0, 1, 1, 0]).astype("category"), (0, 1)),
        (pd.Series([0.0, 1.0, 1.0, 0.0]), (0, 1)),
        (pd.Series(["a", "b", "c", "a"], dtype=object), ("a", "b", "c")),
        (pd.Series([True, False, True, False], dtype=object), (False, True)),
    ],
)
def test_the_classes_of_a_draft_are_of_the_kind_that_the_target_holds(column, classes):
    spec = ModelSpec.infer(ROWS.drop(columns="at").assign(late=column), "late")
    assert [(type(c), c) for c in spec.classes] == [(type(c), c) for c in classes]


def test_a_draft_sees_numbers_wherever_they_are_and_keeps_addresses_to_itself():
    frame = pd.DataFrame(
        {
            "y": [0, 1] * 10,
            "bits": pd.Series([0, 1] * 10, dtype=object),
            "money": [Decimal(1), Decimal(2)] * 10,
            "mail": [f"p{i}@example.org" for i in range(20)],
            "sky": ["clear", "grey"] * 10,
        }
    )
    spec = ModelSpec.infer(frame, "y")
    assert [type(f) for f in spec.features] == [Number, Number, Category, Category]
    assert [f.levels for f in spec.categories] == [(), ("clear", "grey")]
    check_frame(spec, frame)


def test_a_misspelt_subject_is_refused_before_it_can_leak():
    with pytest.raises(DataError, match="'custmer_id' is not a column; did you mean 'customer_id'"):
        check_frame(changed(subject="custmer_id"), ROWS)
    assert "customer_id" in check_frame(changed(subject="customer_id"), ROWS)
    assert len(check_frame(changed(subject="customer_id"), ROWS.drop(columns="customer_id"), target=False)) == 4


DAYS = pd.Series(pd.date_range("2024-01-01", periods=4))


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (DAYS, "4 values are not numeric .the column holds dates.; .* days since a date"),
        (DAYS.dt.tz_localize("UTC"), "4 values .* dates"),
        (DAYS.astype(object), "4 values .* dates"),
        (DAYS.dt.to_period("D"), "4 values .* dates"),
        (DAYS.where(DAYS.index > 0), "3 values .* dates"),
        (DAYS - DAYS[0], "4 values .* durations"),
        (pd.Series([1j, 2, 3, 4]), "4 values .* complex numbers"),
        (pd.Series([1j, 2, 3, 4], dtype=object), "4 values are not numeric"),
        (pd.Series([10**400, 1, 2, -(10**308) * 9]), "2 values are infinite or too large"),
        (pd.Series(["many", 1, 2, 3], dtype=object), "1 value is not numeric"),
    ],
)
def test_what_is_no_number_is_not_read_as_one(column, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=f"'x': {said}"):
            check_frame(COST, pd.DataFrame({"x": column, "cost": [1, 2, 3, 4]}))
        with pytest.raises(DataError, match=f"target 'cost': {said}"):
            check_frame(COST, pd.DataFrame({"x": [1, 2, 3, 4], "cost": column}))


@pytest.mark.parametrize("classes", [(False, True), (0, 1)])
@pytest.mark.parametrize("dtype", ["bool", "boolean", "int64", "float64", object, "category"])
def test_check_and_encoding_agree_on_what_a_class_is(classes, dtype):
    spec = changed(classes=classes)
    checked = check_frame(spec, ROWS.assign(late=ROWS["late"].astype(dtype)))
    assert encode_target(spec, checked["late"]).tolist() == [1, 0, 0, 1]


def test_outcomes_that_are_no_class_are_told_apart_from_the_classes():
    frame = ROWS.assign(late=["no", "yes", "no", "yes"])
    said = r"4 values are none of the classes 0, 1 \(whole numbers\); the column holds text"
    with pytest.raises(DataError, match=said):
        check_frame(changed(classes=(0, 1)), frame)
    with pytest.raises(DataError, match=said):
        encode_target(changed(classes=(0, 1)), frame["late"])
    with pytest.raises(DataError, match="4 values .* mixed values"):
        check_frame(LOAN, ROWS.assign(late=[[1], [2], [3], {}]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"owns": ["True", "False", "True", "x"]}, "'owns': 4 values are neither .* holds text.; .*column.map"),
        ({"at": ["31/01/2024"] * 4}, "time 'at': 4 values .* holds text.; .*ISO 8601 .*dayfirst"),
        ({"at": [1_700_000_000] * 4}, "time 'at': 4 values .* holds whole numbers.; .*unit='s'"),
        ({"income": ["x", 1, 2, 3]}, r"\(4 rows\) has 1 problem:"),
    ],
)
def test_a_refused_column_says_what_to_do(given, said):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=said):
            check_frame(changed(time="at"), ROWS.assign(**given))


def test_what_is_no_frame_is_refused():
    with pytest.raises(DataError, match="must be a pandas DataFrame, not list"):
        check_frame(LOAN, ROWS.to_dict("records"))


def test_whatever_else_is_wrong_every_wrong_field_of_the_spec_is_named():
    many = tuple(Number(f"n{i:02}") for i in range(15))
    spec = changed(features=(*LOAN.features, *many))
    good = {"income": 1, "owns": True, "purpose": "car"} | {f.name: 1 for f in many}
    noisy = [good | {f"strange{i}_{j}": 1 for j in range(15)} for i in range(240)]
    noisy[230] |= {"income": "x"}
    noisy[239] |= {f.name: "x" for f in many} | {"income": 1e39}
    with pytest.raises(RequestError) as refused:
        Decoder(spec).decode(json.dumps(noisy).encode())
    told = refused.value
    assert {(p.field, p.detail) for p in told.problems if p.allowed} == {
        ("income", "must be a number"),
        ("income", "is infinite or too large for a 32-bit float"),
        *((f.name, "must be a number") for f in many),
    }
    assert len(told.problems) == MAX_PROBLEMS and told.total == 240 * 15 + 17
    assert [p.index for p in told.problems] == sorted(p.index for p in told.problems)
    named = str(told).partition(": ")[2].split(", ")
    assert {"income", *(f.name for f in many)} <= set(named) and named[-1] == "..."


def test_a_repeated_problem_makes_room_for_another():
    rows = [{"income": "x", "owns": True, "purpose": "car"}] * 300 + [{"income": 1, "owns": "x", "purpose": "car"}]
    with pytest.raises(RequestError) as refused:
        Decoder(LOAN).decode(json.dumps(rows).encode())
    assert refused.value.problems[-1].field == "owns" and len(refused.value.problems) == MAX_PROBLEMS


def test_levels_are_quoted():
    assert describe(Category("sky", levels=("", "a, b"))) == 'text; known levels: "", "a, b", or null'


def test_a_spec_written_with_lists_is_the_one_that_its_json_gives():
    lists = changed(features=[Category("purpose", levels=["car", "home"])], classes=[False, True], slices=["purpose"])
    assert ModelSpec.from_json(lists.to_json()) == lists and hash(lists)


@pytest.mark.parametrize("where", [b'"name":"loan"', b'"kind":"flag"'])
def test_a_key_that_no_spec_has_is_refused_by_name(where):
    with pytest.raises(SpecError, match="unknown field `colour`"):
        ModelSpec.from_json(LOAN.to_json().replace(where, where + b',"colour":"red"'))


@pytest.mark.parametrize("gate", [Gate("auc", at_least=1.5), Gate("ece", at_most=-0.1), Gate("log_loss", at_most=-1.0)])
def test_a_gate_that_nothing_can_pass_is_refused(gate):
    with pytest.raises(SpecError, match=f"gate '{gate.metric}' of spec loan can never pass"):
        changed(gates=(gate,))
    changed(gates=(Gate("auc", at_least=1.0), Gate("log_loss", at_least=3.0), Gate("brier", at_most=0.0)))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "'debt' is not a column; the frame also has: at, customer_id"),
        ({"debt": [-1.0, 0, 0, 0]}, "'debt': 1 value is below 0 EUR$"),
        ({"debt": 1.0, "at": [None] * 4}, "time 'at': 4 values are missing; give"),
    ],
)
def test_a_problem_of_a_frame_is_told_without_what_does_not_matter(given, said):
    spec = changed(features=(*LOAN.features, Number("debt", low=0, unit="EUR")))
    with pytest.raises(DataError, match=said):
        check_frame(changed(features=spec.features, time="at") if "at" in given else spec, ROWS.assign(**given))


def test_columns_of_several_levels_are_refused():
    frame = pd.concat({"income": ROWS[["income", "late"]], "owns": ROWS[["owns"]]}, axis=1)
    for target in (True, False):
        with pytest.raises(DataError, match="column names of 2 levels"):
            check_frame(LOAN, frame, target=target)


def test_a_draft_of_no_rows_is_refused():
    with pytest.raises(SpecError, match="has no rows"):
        ModelSpec.infer(ROWS.iloc[:0], target="late")
