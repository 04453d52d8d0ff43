"Observation: what must hold for any data, not just for the examples of the pages."

import json
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prodml_nb.contract.metrics import Estimate, blocks_of, evaluate
from prodml_nb.contract.spec import MISSING, Category, Flag, ModelSpec, Number
from prodml_nb.errors import DataError
from prodml_nb.observe import distances, drift, drift_plots, outcomes, profiles, verdict
from prodml_nb.observe.reference import make_reference
from prodml_nb.settings import MonitorSettings

SPEC = ModelSpec(
    name="loan", task="binary", target="bad", classes=(False, True),
    features=(Number("income"), Category("home"), Flag("owner"), Category("name", pii=True)),
)  # fmt: skip
VALUES = st.one_of(st.none(), st.floats(-1e6, 1e6, width=32))
LEVELS = st.sampled_from(["rent", "own", "näher", MISSING, ""])
counts = hnp.arrays(np.int64, 6, elements=st.integers(0, 1000)).filter(lambda a: a.sum() > 0)


@st.composite
def frames(draw, most=40):
    n = draw(st.integers(1, most))
    return pd.DataFrame({
        "income": np.array(draw(st.lists(VALUES, min_size=n, max_size=n)), np.float32),
        "home": np.array(draw(st.lists(LEVELS, min_size=n, max_size=n)), object),
        "owner": np.array(draw(st.lists(st.sampled_from([0.0, 1.0, np.nan]), min_size=n, max_size=n)), np.float32),
        "name": np.array(draw(st.lists(st.text(max_size=4), min_size=n, max_size=n)), object),
    })  # fmt: skip


@given(counts, counts)
def test_divergences_are_symmetric_bounded_and_zero_only_without_change(p, q):
    for measure in (distances.psi, distances.js, distances.cramers_v):
        assert measure(p, p) == pytest.approx(0, abs=1e-12)
        assert measure(p, q) == pytest.approx(measure(q, p), abs=1e-9)
        assert measure(p, q) >= 0
    assert distances.js(p, q) <= 1 + 1e-9 and distances.cramers_v(p, q) <= 1 + 1e-9


@settings(max_examples=30, deadline=None)
@given(frames())
def test_a_window_that_is_its_own_reference_has_not_moved(frame):
    known = json.loads(json.dumps(make_reference(SPEC, frame, np.linspace(0, 1, len(frame)))))
    table = drift.drift(SPEC, known, frame, np.linspace(0, 1, len(frame)))
    assert table.psi.tolist() == pytest.approx([0] * 5, abs=1e-9)
    assert set(table.verdict) == {"stable"}


@settings(max_examples=30, deadline=None)
@given(frames(), frames(), st.randoms())
def test_every_row_is_counted_once_and_the_order_of_rows_is_irrelevant(reference, current, random):
    known = make_reference(SPEC, reference)
    table = drift.drift(SPEC, known, current)
    order = list(range(len(current)))
    random.shuffle(order)
    pd.testing.assert_frame_equal(
        table, drift.drift(SPEC, known, current.iloc[order].reset_index(drop=True)), rtol=1e-6
    )
    assert set(table.rows) == {len(current)}
    assert np.isfinite(table[["psi", "js", "chance", "missing_current"]].to_numpy()).all()


@pytest.mark.parametrize("value", [0.0, 7.0])
@pytest.mark.parametrize("moved", [-3.0, 3.0])
def test_a_constant_that_changes_is_seen_in_both_directions(value, moved):
    spec = ModelSpec(name="m", task="regression", target="y", features=(Number("x"),))
    known = make_reference(spec, pd.DataFrame({"x": [value] * 500}))
    table = drift.drift(spec, known, pd.DataFrame({"x": [value + moved] * 500}))
    assert table.verdict[0] == "large"


def test_values_below_a_frequent_lowest_value_are_seen():
    spec = ModelSpec(name="m", task="regression", target="y", features=(Number("x"),))
    reference = pd.DataFrame({"x": np.r_[np.zeros(150), np.linspace(1, 2, 850)]})
    table = drift.drift(spec, make_reference(spec, reference), reference.replace({"x": {0.0: -1.0}}))
    assert table.verdict[0] == "large"


# every float32 is whole from 2**24 on; a half is nothing beside 2**53
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([0.0, 0.3, 1e6, 2.0**24, 1e9, 1.7e9, 2.0**53, 1e30, -1e9, 3e38]),
    hnp.arrays(np.float64, 12, elements=st.floats(-300, 300)),
)
@example(1e9, np.linspace(-10, 10, 12))
@example(1e9, np.linspace(-300, 300, 12))
@example(1e30, np.zeros(12))
def test_bars_of_large_narrow_numbers_keep_their_width(middle, spread):
    spec = ModelSpec(name="m", task="regression", target="y", features=(Number("x"),))
    frame = pd.DataFrame({"x": (middle + spread).astype(np.float32)})
    known = json.loads(json.dumps(make_reference(spec, frame)))
    low, high, bars = known["features"]["x"]["grid"]
    assert (np.diff(np.linspace(low, high, bars + 1)) > 0).all()
    assert sum(known["features"]["x"]["bars"]) == pytest.approx(1, abs=1e-3)
    drift_plots.plot_features(spec, known, frame, drift.drift(spec, known, frame))


def test_stable_replay_rarely_alarms():
    rng = np.random.default_rng(0)

    def window(n):
        home = rng.choice(np.array(["rent", "own", MISSING], object), n, p=[0.6, 0.3, 0.1])
        return pd.DataFrame(
            {"income": rng.lognormal(10, 1, n), "home": home, "owner": rng.random(n) < 0.1, "name": "x"}
        )

    known = make_reference(SPEC, window(5000), rng.beta(2, 5, 5000))
    alarms = 0
    for n in rng.integers(20, 2000, 200):
        alarms += (drift.drift(SPEC, known, window(n), rng.beta(2, 5, n)).verdict != "stable").any()
    assert alarms <= 2


def test_a_reference_is_small_json_and_names_nobody():
    rng = np.random.default_rng(0)
    features = (
        *(Number(f"n{i}") for i in range(10)),
        *(Category(f"c{i}") for i in range(9)),
        Category("who", pii=True),
    )
    spec = ModelSpec(name="wide", task="binary", target="y", classes=("no", "yes"), features=features)
    frame = pd.DataFrame(
        {
            f.name: rng.normal(size=3000)
            if isinstance(f, Number)
            else [f"level {i} of a long name" for i in rng.integers(0, 400, 3000)]
            for f in features
        }
    )
    text = json.dumps(make_reference(spec, frame.assign(y="no", who="Amelia Earhart"), rng.random(3000)))
    assert len(text) < 50_000
    assert "Amelia" not in text


EXACT = [
    *(f"counts/{name}" for name in ("n", "null", "nan", "true")),
    *(f"types/{name}" for name in ("fractional", "boolean", "string", "integral", "object")),
    *(f"distribution/{name}" for name in ("n", "min", "max")),
]


@settings(max_examples=30, deadline=None)
@given(frames())
def test_a_profile_is_the_one_whylogs_takes_value_by_value(frame):
    ours = profiles.read(profiles.profile(SPEC, frame)).to_pandas()
    plain = frame.assign(
        home=frame.home.astype(object).where(frame.home != MISSING, None),
        owner=[None if np.isnan(v) else bool(v) for v in frame.owner],
        name=[None if v == MISSING else profiles.HIDDEN for v in frame.name],
    ).astype({"home": object, "owner": object, "name": object})
    theirs = profiles.read(profiles.open_whylogs().log(plain).view().serialize()).to_pandas()
    for name in SPEC.feature_names:
        for figure in EXACT:
            assert ours.loc[name, figure] == pytest.approx(theirs.loc[name, figure], nan_ok=True), (name, figure)
        for figure in ("distribution/mean", "distribution/stddev", "distribution/median"):
            assert ours.loc[name, figure] == pytest.approx(theirs.loc[name, figure], rel=1e-3, abs=0.1, nan_ok=True)
        assert round(ours.loc[name, "cardinality/est"]) == round(theirs.loc[name, "cardinality/est"])
        frequent = [
            {i.value: i.est for i in found}
            if isinstance(found := t.loc[name, "frequent_items/frequent_strings"], list)
            else {}
            for t in (ours, theirs)
        ]
        assert frequent[0] == frequent[1]


@pytest.mark.parametrize(
    "draw", [lambda r, n: r.normal(size=n), lambda r, n: r.gamma(2, 3, n).round(1), lambda r, n: r.integers(0, 2, n)]
)
def test_quantiles_of_counted_values_are_as_near_as_those_of_a_stream(draw):
    values = draw(np.random.default_rng(0), 200_000).astype(np.float32)
    spec = ModelSpec(name="one", task="regression", target="y", features=(Number("x"),))
    sketch = (
        profiles.read(profiles.profile(spec, pd.DataFrame({"x": values}))).get_column("x").get_metric("distribution")
    )
    assert sketch.n == len(values)
    for share in (0.01, 0.25, 0.5, 0.75, 0.99):
        found = sketch.get_quantile(share)
        assert (values < found).mean() - 0.01 <= share <= (values <= found).mean() + 0.01


@settings(max_examples=8, deadline=None)
@given(frames(), frames(), frames())
def test_merging_profiles_is_independent_of_order(a, b, c):
    at = datetime(2024, 1, 1, tzinfo=UTC)
    made = [profiles.profile(SPEC, f, now=at) for f in (a, b, c)]
    exact = ["feature", "kind", "rows", "missing", "min", "max"]
    one, other = profiles.merge(made), profiles.merge([made[2], profiles.merge([made[1], made[0]])])
    pd.testing.assert_frame_equal(profiles.summary(one)[exact], profiles.summary(other)[exact])
    assert set(profiles.summary(one)["rows"]) == {len(a) + len(b) + len(c)}


BY_DAY = ModelSpec(
    name="f", task="binary", target="late", classes=(False, True), features=(Number("wind"),), time="scheduled"
)


def good_and_bad_days(rng, lift=0.0, rows=1500, days=30):
    "A journal month in which a quarter happens as predicted, on some days a tenth and on others a half."
    day, rate = np.sort(rng.integers(0, days, rows)), rng.beta(2, 6, days)
    at = pd.Timestamp("2024-04-01", tz="UTC") + pd.to_timedelta(day + rng.random(rows), unit="D")
    outcome = pd.Series(rng.random(rows) < rate[day] + lift, dtype=object)
    return pd.DataFrame({"time": at, "score": 0.25 + rng.normal(0, 0.03, rows), "outcome": outcome})


def alarms(rng, lift, windows):
    rows = [("wind", "number", 0.01, "", "stable"), ("(score)", "score", 0.01, "", "stable")]
    table = pd.DataFrame(rows, columns=["feature", "kind", "psi", "change", "verdict"])
    held = {"auc": Estimate(0.5, 0.45, 0.55), "ece": Estimate(0.01, 0.0, 0.03)}
    seen = [outcomes.live_quality(BY_DAY, good_and_bad_days(rng, lift), bootstrap=40) for _ in range(windows)]
    return sum(verdict.judge(BY_DAY, table, q, held, MonitorSettings()).level == "retrain" for q in seen)


def test_months_of_good_and_bad_days_rarely_ask_for_retraining_and_a_real_change_does():
    rng = np.random.default_rng(0)
    assert alarms(rng, 0.0, 100) <= 1
    assert alarms(rng, 0.15, 20) >= 19


def test_an_interval_counts_blocks_and_holds_what_is_printed():
    rng = np.random.default_rng(0)
    month = good_and_bad_days(rng)
    y, scores = month.outcome.to_numpy(int), np.c_[1 - month.score, month.score]
    days, rows = blocks_of(BY_DAY, month), np.arange(len(month))
    assert len(set(days)) == 30
    alone, one_each = evaluate("binary", y, scores), evaluate("binary", y, scores, blocks=rows)
    assert [e.low for e in one_each.values()] == pytest.approx([e.low for e in alone.values()], abs=1e-5)
    for name, by_day in evaluate("binary", y, scores, blocks=days).items():
        assert by_day.low <= by_day.value <= by_day.high
        if name in ("log_loss", "brier", "accuracy"):
            assert by_day.high - by_day.low > 2 * (alone[name].high - alone[name].low)
    for n in (40, 400, 12_000):
        p = rng.beta(2, 5, n)
        found = evaluate("binary", (rng.random(n) < p).astype(int), np.c_[1 - p, p])["ece"]
        assert 0 <= found.low <= found.value <= found.high < 0.5


def test_blocks_are_days_runs_subjects_or_rows():
    hours = pd.date_range("2024-04-01", periods=48, freq="h", tz="UTC")
    short = pd.DataFrame({"scheduled": hours[::-1], "tail": ["a", None] * 24})
    assert np.bincount(blocks_of(BY_DAY, short)).tolist() == [4] * 12
    late = pd.DataFrame({"time": [None] * 48, "at": hours.astype(str)})
    assert blocks_of(BY_DAY, late).tolist() == sorted(blocks_of(BY_DAY, short).tolist())
    plain = dict(name="f", task="regression", target="y", features=(Number("wind"),))
    owned = blocks_of(ModelSpec(**plain, subject="tail"), short)
    assert len(set(owned[::2])) == 1 and len(set(owned[1::2])) == 24
    assert blocks_of(ModelSpec(**plain), short).tolist() == list(range(48))
    single = evaluate("regression", np.arange(5.0), np.ones((5, 1)), blocks=np.zeros(5, int))["rmse"]
    assert np.isfinite(single.value) and np.isnan(single.low)
    with pytest.raises(DataError, match="'scheduled' is missing"):
        blocks_of(BY_DAY, short[["tail"]])


def test_calibration_error_by_luck_covers_calibrated_models():
    rng = np.random.default_rng(0)
    beyond = 0
    for _ in range(200):
        p = rng.beta(2, 5, 800)
        member = np.minimum((p * 10).astype(int), 9)
        ece = np.abs(np.bincount(member, (rng.random(800) < p) - p, minlength=10)).sum() / 800
        beyond += ece > outcomes.ece_by_luck(p)
    assert beyond <= 8


TABLES = st.lists(st.tuples(st.floats(0, 20), st.floats(0, 0.5)), min_size=1, max_size=5)


@given(TABLES, st.integers(0, 199))
def test_inputs_alone_never_ask_for_retraining(rows, outcomes_known):
    table = pd.DataFrame(rows, columns=["psi", "chance"])
    states = ["stable" if p <= max(c, 0.1) else "large" if p >= 0.25 else "moderate" for p, c in rows]
    names = [f"x{i}" for i in range(len(rows))]
    table = table.assign(feature=names, kind="number", change="mean 1 → 2", verdict=states)
    score = table.head(1).assign(psi=0.01, feature="(score)", kind="score", verdict="stable")
    quality = outcomes.LiveQuality(
        rows=500,
        with_outcome=outcomes_known,
        metrics={"auc": Estimate(0.3, 0.29, 0.31)},
        base_rate=0.9,
        mean_score=0.1,
        calibration_gap=Estimate(-0.8, -0.81, -0.79),
    )
    both = pd.concat([table, score], ignore_index=True)
    judged = verdict.judge(SPEC, both, quality, {"auc": Estimate(0.7, 0.6, 0.8)}, MonitorSettings())
    far = any(psi >= 0.25 and psi > chance for psi, chance in rows)
    assert judged.level == ("watch" if far else "ok")
    assert judged.concept_drift == "unknown" and not judged.outcomes_enough
    assert any("Too few outcomes" in reason for reason in judged.reasons)
