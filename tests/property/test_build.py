"""Splits that keep their promise, and graphs that answer like the pipeline they came from."""

from types import SimpleNamespace

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prodml_nb.build.compile import Graph, cliffs, compile_onnx, parity, round_down
from prodml_nb.build.gates import Measured, check_gates
from prodml_nb.build.sources import ModelDefinition, default_estimator, score
from prodml_nb.build.training import fit, golden, held_out_by, split, train
from prodml_nb.contract.frame import check_frame, matrices
from prodml_nb.contract.metrics import Contrast, Estimate
from prodml_nb.contract.request import Decoder
from prodml_nb.contract.spec import Category, Flag, Gate, ModelSpec, Number
from prodml_nb.operate.lineage import not_learned

TARGETS = {"binary": (False, True), "multiclass": ("low", "mid", "high"), "regression": ()}
NUMBERS = (Number("a b"), Number("a_b"), Flag("numbers"))  # names that collide once a converter has tidied them up
CATEGORIES = (Category("categories"), Category("model/x"))
MIXED = (NUMBERS[0], CATEGORIES[0], NUMBERS[1], CATEGORIES[1], NUMBERS[2])


def rows(n: int = 400, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "a b": rng.normal(size=n),
            "a_b": rng.lognormal(3, 2, n),
            "numbers": rng.random(n) < 0.4,
            "categories": rng.choice(["x", "y", None], n),
            "model/x": rng.choice(list("pqrs"), n),
            "at": pd.date_range("2024-01-01", periods=n, freq="h"),
        }
    )
    z = frame["a b"] + 0.3 * np.log(frame["a_b"]) + (frame["categories"] == "x") + rng.normal(size=n) / 2
    frame["binary"], frame["regression"] = z > z.median(), z * 1000 + 50_000
    frame["multiclass"] = np.array(TARGETS["multiclass"])[np.digitize(z, z.quantile([0.33, 0.66]))]
    return frame


def model(task: str, features: tuple, build=default_estimator, **given) -> tuple[ModelDefinition, pd.DataFrame]:
    spec = ModelSpec(name="m", task=task, target=task, classes=TARGETS[task], features=features, **given)
    definition = ModelDefinition("test", spec, lambda since, until: rows(), build)
    return definition, definition.frame()


@given(st.lists(st.integers(0, 30), min_size=8, max_size=60), st.floats(0.1, 0.6))
def test_a_moment_is_never_on_both_sides(hours: list[int], holdout: float) -> None:
    spec = ModelSpec(name="m", task="regression", target="y", features=(Number("x"),), time="at")
    frame = pd.DataFrame(
        {
            "x": range(len(hours)),
            "y": np.arange(len(hours)) * 1.0,
            "at": [f"2024-01-0{1 + h // 24}T{h % 24:02d}:00" for h in hours],
        }
    )
    frame = check_frame(spec, frame)
    try:
        learned, held = split(spec, frame, holdout)
    except ValueError as error:
        assert "cannot be split" in str(error)
        return
    assert learned["at"].max() < held["at"].min()
    assert sorted([*learned["x"], *held["x"]]) == list(range(len(hours)))


@given(st.integers(20, 300), st.integers(1, 100))
@settings(max_examples=25)
def test_more_rows_move_no_row(n: int, more: int) -> None:
    spec = ModelSpec(name="m", task="regression", target="y", features=(Number("x"),))
    x = np.random.default_rng(0).normal(size=n + more)
    frame = check_frame(spec, pd.DataFrame({"x": x, "y": x}))
    before, after = split(spec, frame[:n])[1], split(spec, frame)[1]
    assert set(before["x"]) == set(after["x"]) & set(frame["x"][:n])


@pytest.mark.parametrize("unknown", [0, 7, 150])
def test_a_subject_is_never_on_both_sides(unknown: int) -> None:
    spec = ModelSpec(name="m", task="regression", target="y", features=(Number("x"),), subject="who")
    who = [None] * unknown + [f"p{i % 40}" for i in range(unknown, 300)]
    frame = check_frame(spec, pd.DataFrame({"x": np.arange(300.0), "y": np.arange(300.0), "who": who}))
    learned, held = split(spec, frame)
    assert not set(learned["who"].dropna()) & set(held["who"].dropna())


def test_a_single_row_cannot_judge_and_is_not_called_rows() -> None:
    spec = ModelSpec(name="m", task="binary", target="y", classes=(0, 1), features=(Number("x"),), time="at")
    at = pd.date_range("2024-01-01", periods=10)
    with pytest.raises(ValueError, match="judged by 1 row with a single value of 'y'"):
        split(spec, check_frame(spec, pd.DataFrame({"x": range(10), "y": [0, 1] * 5, "at": at})), 0.1)


@given(
    hnp.arrays(np.float64, 20, elements=st.floats(-(2.0**100), 2.0**100)),
    hnp.arrays(np.float32, 20, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
)
def test_rounding_down_moves_no_float32_across(thresholds: np.ndarray, values: np.ndarray) -> None:
    near = np.concatenate(
        [values, thresholds.astype(np.float32), np.nextafter(thresholds.astype(np.float32), np.float32(np.inf))]
    )
    left = near[:, None].astype(np.float64) <= thresholds
    assert (left == (near[:, None] <= round_down(thresholds).astype(np.float32))).all()


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize(
    "features",
    [MIXED, NUMBERS, CATEGORIES, NUMBERS[:1], CATEGORIES[:1]],
    ids=["mixed", "numbers", "categories", "number", "category"],
)
def test_the_default_estimator_compiles_whatever_the_spec(task: str, features: tuple) -> None:
    definition, frame = model(task, features)
    candidate = train(definition, frame=frame, params={"max_iter": 15}, bootstrap=20)
    assert candidate.parity.passed, candidate.parity
    graph = Graph(candidate.onnx)
    wanted = [
        name
        for name, part in (("numbers", definition.spec.numbers), ("categories", definition.spec.categories))
        if part
    ]
    assert list(graph.inputs) == wanted
    together = graph.score(*matrices(definition.spec, frame))
    alone = np.concatenate([graph.score(*matrices(definition.spec, frame[i : i + 1])) for i in range(20)])
    assert together.shape == (len(frame), definition.spec.outputs) and together.dtype == np.float32
    np.testing.assert_allclose(alone, together[:20], rtol=1e-6)


@pytest.mark.parametrize(
    "build",
    [
        lambda spec: make_pipeline(StandardScaler(), LogisticRegression()),
        lambda spec: RandomForestClassifier(10),
        lambda spec: make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=10)),
        lambda spec: make_pipeline(StandardScaler(), HistGradientBoostingClassifier(max_iter=10)),
    ],
    ids=["linear", "forest", "boosting", "histogram"],
)
def test_an_authors_estimator_compiles(build) -> None:
    definition, frame = model("binary", NUMBERS, build)
    candidate = train(definition, frame=frame, bootstrap=20)
    assert candidate.parity.passed and candidate.onnx, candidate.parity


def test_the_search_ends_between_neighbours() -> None:
    definition, frame = model("regression", NUMBERS[:2], lambda spec: RandomForestRegressor(5, max_depth=4))
    estimator = fit(definition, frame)
    found = cliffs(definition.spec, estimator, frame, tries=32)
    low, high = found[: len(found) // 2].reset_index(drop=True), found[len(found) // 2 :].reset_index(drop=True)
    assert (score(definition.spec, estimator, low) != score(definition.spec, estimator, high)).all()
    a, b = (part[["a b", "a_b"]].to_numpy() for part in (low, high))
    assert ((a == b) | (np.nextafter(a, b) == b)).all() and ((a != b).sum(1) == 1).all()


def test_golden_records_come_back_as_they_were_scored() -> None:
    definition, frame = model("multiclass", MIXED)
    candidate = train(definition, frame=frame, params={"max_iter": 5}, bootstrap=20)
    import json

    kept = json.loads(golden(definition.spec, candidate.holdout_frame, candidate.holdout_scores))
    batch = Decoder(definition.spec).decode(json.dumps(kept["records"]).encode())
    np.testing.assert_allclose(Graph(candidate.onnx).score(batch.numbers, batch.categories), kept["scores"], atol=1e-6)


def test_one_seed_gives_one_graph() -> None:
    definition, frame = model("binary", MIXED, lambda spec: default_estimator(spec, max_iter=5, seed=None))
    first, second, other = (train(definition, frame=frame, seed=s, bootstrap=20) for s in (1, 1, 2))
    assert first.onnx == second.onnx and first.lineage["data_fingerprint"] == other.lineage["data_fingerprint"]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.3))
def test_a_report_passes_only_if_every_gate_does(value: float, theirs: float, at_least: float, margin: float) -> None:
    spec = ModelSpec(
        name="m",
        task="binary",
        target="y",
        classes=(0, 1),
        features=(Number("x"),),
        gates=(Gate("auc", at_least=at_least, margin=margin), Gate("log_loss", at_most=1.0)),
    )

    def point(v: float) -> Estimate:
        return Estimate(v, v, v)

    ours, champion = {"auc": point(value), "log_loss": point(0.5)}, {"auc": point(theirs), "log_loss": point(0.4)}
    measured = Measured(
        y=np.array([0, 1]),
        scores=np.array([[0.5, 0.5]] * 2),
        candidate=ours,
        judged=2,
        champion_version=1,
        pair=Contrast(ours, champion, {k: point(ours[k].value - champion[k].value) for k in ours}),
        compared=2,
    )
    report = check_gates(spec, measured)
    assert (report.verdict == "pass") == (value >= at_least and value - theirs >= -margin)
    assert (report.verdict == "pass") == (not report.refused)


def test_parity_of_compiled_rows_includes_missing_numbers() -> None:
    definition, frame = model("binary", NUMBERS, lambda spec: RandomForestClassifier(10))
    estimator = fit(definition, frame)
    found = parity(definition.spec, estimator, compile_onnx(definition.spec, estimator, frame), frame)
    assert found.passed and found.rows > len(frame)


SPLITS = {
    "the same": {},
    "clamped since": {"features": (Number("x", low=-1, high=1, out_of_range="clamp"), Number("z"))},
    "one more feature": {"features": (Number("x"), Number("w"), Number("z"))},
    "one less feature": {"features": (Number("x"),)},
    "by subject": {"subject": "who"},
    "by another subject": {"subject": "row"},
    "by time": {"time": "at"},
}


@pytest.mark.parametrize("theirs", SPLITS)
@pytest.mark.parametrize("ours", SPLITS)
@pytest.mark.parametrize("levels", [0, 3], ids=["all differ", "many equal"])
@given(st.integers(0, 99), st.floats(0.1, 0.5), st.floats(0.1, 0.5), st.booleans())
@settings(max_examples=5, deadline=None)
def test_no_row_that_the_champion_learned_from_is_called_new(
    theirs: str, ours: str, levels: int, seed: int, a: float, b: float, has_subjects: bool
) -> None:
    rng, n = np.random.default_rng(seed), 300
    raw = pd.DataFrame(rng.integers(0, levels, (n, 3)) if levels else rng.normal(size=(n, 3)), columns=list("xzw"))
    raw = raw.assign(y=rng.normal(size=n), row=[f"r{i}" for i in range(n)], at=pd.date_range("2024", periods=n))
    raw["who"] = [f"p{i % 70}" if has_subjects and i % 5 else None for i in range(n)]
    base = ModelSpec(name="m", task="regression", target="y", features=(Number("x"), Number("z")))
    old, new = (msgspec.structs.replace(base, **SPLITS[k]) for k in (theirs, ours))

    def sides(spec: ModelSpec, source: pd.DataFrame, holdout: float) -> tuple:
        frame = check_frame(spec, source)
        known = frame.assign(row=source["row"].to_numpy(), index=source.index)
        learned, held = split(spec, known, holdout)
        lineage = {"holdout": holdout, "held_out_by": held_out_by(spec, frame), "since": ""}
        lineage["held_since"] = held["at"].min().isoformat() if spec.time else ""
        return SimpleNamespace(spec=spec, lineage=lineage), learned, held

    champion, learned, own = sides(old, raw, a)
    candidate, _, held = sides(new, raw.sample(frac=1, random_state=seed), b)
    fresh = not_learned(champion, candidate, held)
    assert not set(held["index"][fresh]) & set(learned["index"])
    if theirs == ours and champion.lineage["held_out_by"] == "features":
        assert set(held["index"][fresh]) == set(held["index"]) & set(own["index"])
