"""Definitions that are broken, data that is not there, estimators that no graph can follow."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from prodml_nb.build.compile import Graph, compile_onnx, parity
from prodml_nb.build.gates import check_gates, measure
from prodml_nb.build.sources import ModelDefinition, load_definition, score
from prodml_nb.build.training import fit, load_skops, train
from prodml_nb.contract.frame import matrices
from prodml_nb.contract.spec import Category, Gate, ModelSpec, Number
from prodml_nb.errors import DataError, SpecError

SPEC = ModelSpec(
    name="m", task="binary", target="y", classes=(False, True), features=(Number("x"), Number("z")), time="at"
)


def rows(n: int = 300) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"x": rng.normal(size=n), "z": rng.normal(size=n), "at": pd.date_range("2024-01-01", periods=n, freq="h")}
    )
    return frame.assign(y=frame["x"] + rng.normal(size=n) > 0)


def definition(
    build=lambda spec: HistGradientBoostingClassifier(max_iter=5),
    load=lambda since, until: rows(),
    spec: ModelSpec = SPEC,
) -> ModelDefinition:
    return ModelDefinition("test", spec, load, build)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no `spec`"),
        ("spec = 3", "has no `spec`"),
        ("{spec}", "has no function 'load'"),
        ("{spec}\ndef load(): ...", "cannot be called as load(since, until)"),
        ("{spec}\ndef load(a, b): ...\ndef build(): ...", "cannot be called as build(spec)"),
        ("import a_package_nobody_has", "a_package_nobody_has"),
    ],
)
def test_a_broken_module_is_named(text: str, said: str, tmp_path: Path) -> None:
    header = "from prodml_nb.contract.spec import ModelSpec\nspec = ModelSpec.from_json(" + repr(SPEC.to_json()) + ")"
    path = tmp_path / "model.py"
    path.write_text(text.replace("{spec}", header))
    with pytest.raises(SpecError, match=said.replace("(", r"\(").replace(")", r"\)")):
        load_definition(str(path))


@pytest.mark.parametrize(
    "module", ["", " ", "nothing.py", "no.such.module", "model.ipynb", "prodml_nb.contract.nothing"]
)
def test_a_module_that_is_not_there(module: str) -> None:
    with pytest.raises(SpecError, match=r"\[model\] module|is a notebook"):
        load_definition(module)


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda since, until: rows()[:0], "no rows"),
        (lambda since, until: rows().to_dict(), "returned dict"),
        (lambda since, until: rows()[96:120].assign(y=True), "nothing to learn"),
        (lambda since, until: rows().drop(columns="x").rename(columns={"z": "zz"}), "'x' is not a column"),
        (lambda since, until: rows(), "outside the window"),
    ],
)
def test_data_that_cannot_be_used(load, said: str) -> None:
    with pytest.raises(DataError, match=said):
        definition(load=load).frame("2024-01-05", "2024-01-06")


@pytest.mark.parametrize("window", [("2024-02-01", "2024-01-01"), ("yesterday", None), (None, "2024-13-01")])
def test_a_window_that_is_none(window: tuple) -> None:
    with pytest.raises(DataError):
        definition().frame(*window)


@pytest.mark.parametrize("window", [("2024-01-02", None), (None, "2024-01-02")])
def test_a_window_of_a_model_without_time_is_refused_and_not_ignored(window: tuple) -> None:
    spec = msgspec.structs.replace(SPEC, time=None)
    with pytest.raises(DataError, match="no time column.*leave out since and until"):
        definition(spec=spec).frame(*window)
    assert len(definition(spec=spec).frame(None, "")) == len(rows())


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda spec: 3, "returned int"),
        (lambda spec: LinearSVC(), "predict_proba"),
        (lambda spec, depth=1: LogisticRegression(), "no parameter"),
    ],
)
def test_an_estimator_that_cannot_be_used(build, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        fit(definition(build), definition().frame(), params={"dept": 3} if "parameter" in said else {})


@pytest.mark.parametrize("pii", [True, False])
def test_a_value_that_an_estimator_quotes_is_not_behind_the_refusal_if_it_is_personal(pii: bool) -> None:
    spec = ModelSpec(name="m", task="binary", target="y", classes=(False, True), features=(Category("name", pii=pii),))
    frame = pd.DataFrame({"name": ["Ada", "Bob"] * 50, "y": [True, False] * 50})
    with pytest.raises(SpecError, match="could not be fitted") as refused:
        fit(definition(lambda spec: LogisticRegression(), spec=spec), frame)
    shown = "".join(traceback.format_exception(refused.value))
    assert ("Ada" in shown) is not pii and "Ada" not in str(refused.value)


def test_a_parameter_that_cannot_be_is_named() -> None:
    with pytest.raises(SpecError, match="'max_iter' parameter"):
        fit(ModelDefinition("test", SPEC, lambda since, until: rows()), rows(), params={"max_iter": -4})


def test_an_estimator_without_a_graph_is_served_as_it_is() -> None:
    candidate = train(
        definition(lambda spec: make_pipeline(FunctionTransformer(np.abs), LogisticRegression())), bootstrap=20
    )
    files = candidate.files()
    assert candidate.onnx is None and "model.onnx" not in files and "FunctionTransformer" in candidate.parity.advice
    loaded = load_skops(files["pipeline.skops"], json.loads(files["trusted_types.json"]))
    np.testing.assert_array_equal(score(SPEC, loaded, candidate.holdout_frame), candidate.holdout_scores)


OWN = """
import sys
sys.path.insert(0, {tests!r})
from test_build_faults import SPEC, LinearSVC, rows
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.pipeline import make_pipeline
spec = SPEC
class Twice(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        self.fitted_ = True
        return self
    def transform(self, X):
        return X * 2
def load(since, until): return rows()
def build(spec): return make_pipeline(Twice(), CalibratedClassifierCV(LinearSVC()))
"""


def test_a_pipeline_of_code_that_no_service_can_import_is_not_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twice.py").write_text(OWN.format(tests=str(Path(__file__).parent)))
    with pytest.raises(SpecError, match=r"prodml_model_twice.Twice, which a service cannot import.*dotted name"):
        train(load_definition(str(tmp_path / "twice.py")), bootstrap=5).files()
    monkeypatch.syspath_prepend(tmp_path)
    assert b"twice.Twice" in train(load_definition("twice"), bootstrap=5).files()["trusted_types.json"]


def test_a_feature_may_have_any_name_that_a_request_can_spell() -> None:
    names = ("self", "größe in cm", "名前", "'; drop table", "{x}", "f1", "numbers", "\U0001f600", "x" * 3000)
    spec = ModelSpec(name="m", task="binary", target="y", classes=(False, True), features=tuple(map(Number, names)))
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, len(names))), columns=names)
    frame["y"] = frame["self"] + rng.normal(size=300) > 0
    assert train(definition(load=lambda since, until: frame, spec=spec), bootstrap=20).parity.passed


def test_a_graph_that_was_changed_fails_parity() -> None:
    frame = definition().frame()
    estimator = fit(definition(), frame)
    graph = onnx.load_from_string(compile_onnx(SPEC, estimator))
    trees = next(a for node in graph.graph.node for a in node.attribute if a.name == "nodes_values")
    trees.floats[0] += 0.01
    found = parity(SPEC, estimator, graph.SerializeToString(), frame)
    assert not found.passed and found.failures and found.advice


def test_a_missing_number_that_the_pipeline_refuses_gets_no_score() -> None:
    candidate = train(definition(lambda spec: GradientBoostingClassifier(n_estimators=5)), bootstrap=20)
    assert candidate.parity.passed
    row = candidate.holdout_frame[:2].assign(z=np.float32([np.nan, 0.5]))
    for scores in (Graph(candidate.onnx).score(*matrices(SPEC, row)), score(SPEC, candidate.estimator, row)):
        assert np.isnan(scores[0]).all() and np.isfinite(scores[1]).all()


def test_a_class_that_was_absent_keeps_its_column() -> None:
    spec = ModelSpec(name="m", task="multiclass", target="y", classes=("a", "b", "c"), features=SPEC.features)
    frame = rows().assign(y=lambda f: np.where(f["y"], "a", "c"))
    candidate = train(definition(load=lambda since, until: frame, spec=spec), bootstrap=20)
    assert candidate.parity.passed and candidate.holdout_scores.shape[1] == 3
    assert (candidate.holdout_scores[:, 1] == 0).all() and candidate.holdout_scores[:, 2].max() > 0.5


class Stored:
    """A version whose files are in memory."""

    def __init__(self, spec: ModelSpec, files: dict[str, bytes], version: int = 1):
        self.spec, self.files, self.version = spec, files, version
        self.has, self.read = files.__contains__, files.__getitem__


def test_a_champion_with_other_features_is_no_reason_to_pass() -> None:
    spec = ModelSpec(**{f: getattr(SPEC, f) for f in SPEC.__struct_fields__} | {"gates": (Gate("auc", margin=0.1),)})
    small = ModelSpec(
        **{f: getattr(SPEC, f) for f in SPEC.__struct_fields__} | {"features": (Number("x"), Number("gone"))}
    )
    candidate = train(definition(spec=spec), bootstrap=20)
    report = check_gates(
        spec, measure(Stored(spec, candidate.files()), Stored(small, {}), candidate.holdout_frame, bootstrap=20)
    )
    assert report.verdict == "refuse" and "gone" in next(
        r.detail for r in report.results if r.verdict == "not comparable"
    )


def test_what_a_candidate_has_to_reach_alone_is_measured_on_all_its_rows() -> None:
    candidate = train(definition(), bootstrap=20)
    stored, held = Stored(SPEC, candidate.files()), candidate.holdout_frame
    alone = measure(stored, None, held, bootstrap=20)
    beside = measure(stored, stored, held, not_learned=np.arange(len(held)) >= 20, bootstrap=20)
    assert beside.candidate == alone.candidate == candidate.metrics
    spec = msgspec.structs.replace(SPEC, gates=(Gate("auc", at_least=0.5, margin=0.1),))
    *_, absolute, against = check_gates(spec, beside).results
    assert absolute.value == candidate.metrics["auc"].value != against.value == beside.pair.candidate["auc"].value
    assert absolute.detail.endswith("on 60 rows") and "on the 40 of 60 rows" in against.detail


def test_a_score_that_is_no_number_is_refused() -> None:
    candidate = train(definition(lambda spec: GradientBoostingClassifier(n_estimators=5)), bootstrap=20)
    frame = candidate.holdout_frame.copy()
    frame.loc[:5, "x"] = np.float32(np.nan)
    report = check_gates(SPEC, measure(Stored(SPEC, candidate.files()), None, frame, bootstrap=20))
    assert "finite scores" in report.refused
    with pytest.raises(DataError, match="imputer"):
        measure(Stored(SPEC, candidate.files()), None, frame.assign(x=np.float32(np.nan)), bootstrap=20)


COMPILED = """
import hashlib
import numpy as np, pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from prodml_nb import Category, ModelSpec, Number
from prodml_nb.build.compile import compile_onnx
from prodml_nb.build.sources import default_estimator
from prodml_nb.contract.frame import check_frame, encode_target

rng = np.random.default_rng(0)
given = {"features": (Number("a"), Number("b"), Category("c")), "classes": (False, True)}
spec = ModelSpec(name="m", task="binary", target="y", **given)
frame = pd.DataFrame({"a": rng.normal(size=300), "b": rng.normal(size=300), "c": rng.choice(list("xyz"), 300)})
rows = check_frame(spec, frame.assign(y=frame["a"] > frame["b"]))
columns = ColumnTransformer([("n", StandardScaler(), ["a", "b"]), ("c", OneHotEncoder(), ["c"])])
for made in (default_estimator(spec, max_iter=5), make_pipeline(columns, LogisticRegression())):
    made.fit(rows[["a", "b", "c"]], encode_target(spec, rows["y"]))
    print(hashlib.sha256(compile_onnx(spec, made)).hexdigest())
"""


def test_a_graph_has_the_same_bytes_in_every_process() -> None:
    run = [
        subprocess.Popen(
            [sys.executable, "-c", COMPILED],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "3", "4")
    ]
    told = [process.communicate()[0] for process in run]
    assert told[0] and len(set(told)) == 1
