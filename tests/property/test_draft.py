"A draft is a spec that its own frame passes, or the frame is refused; nothing else, however awkward the frame."

import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prodml_nb.contract.frame import check_frame, encode_target
from prodml_nb.contract.spec import ModelSpec
from prodml_nb.errors import SpecError

CELLS = [
    st.booleans(),
    st.integers(0, 1),
    st.integers(-5, 5),
    st.integers(-(2**70), 2**70),
    st.sampled_from([10**400, 1, -3]),
    st.floats(),
    st.sampled_from([0.0, 1.0]),
    st.floats(-1e3, 1e3),
    st.text(max_size=3),
    st.sampled_from(["a", "b", "(missing)", "True", "1"]),
    st.decimals(-9, 9, places=1),
    st.sampled_from([Decimal(1), Decimal(0)]),
    st.dates(dt.date(2000, 1, 1), dt.date(2030, 1, 1)),
    st.datetimes(dt.datetime(2000, 1, 1), dt.datetime(2030, 1, 1)),
    st.timedeltas(dt.timedelta(0), dt.timedelta(90)),
    st.complex_numbers(max_magnitude=9),
    st.binary(max_size=2),
    st.sampled_from([[1], [2, 3], {}, {"k": 1}, (1,), {1}]),
    st.sampled_from([True, 1, "a", 0.5]),
    st.sampled_from([None, np.nan, pd.NA, pd.NaT]),
    st.sampled_from([np.bool_(True), np.int64(3), np.float32(0.5), np.str_("x")]),
    st.sampled_from([pd.Period("2024-01"), pd.Period("2024-02")]),
    st.sampled_from([pd.Interval(0, 1), pd.Interval(1, 2)]),
]
DTYPES = [None, object, "category", "str", "boolean", "Int64", "float32", "int8", "datetime64[ns]", "timedelta64[s]", "Sparse[float]", "int64[pyarrow]", "bool[pyarrow]", "string[pyarrow]"]  # fmt: skip
GAPS = [None, np.nan, pd.NA, pd.NaT]


@st.composite
def columns(draw, n: int) -> pd.Series:
    "A column of one sort of cells, with or without gaps, in a dtype that takes them."
    cells = draw(st.lists(draw(st.sampled_from(CELLS)), min_size=n, max_size=n))
    if draw(st.booleans()):
        gap = draw(st.sampled_from(GAPS))
        cells = [gap if draw(st.booleans()) else cell for cell in cells]
    for dtype in (draw(st.sampled_from(DTYPES)), object):
        try:
            return pd.Series(cells, dtype=dtype)
        except Exception:  # pandas and pyarrow have many
            continue
    raise AssertionError


TARGETS = [st.booleans(), st.integers(0, 2), st.integers(), st.floats(-1e3, 1e3), st.sampled_from(["a", "b", "c"])]
NAMES = ["x", "y", "z z", "x", "y", "z z", "x", "y", "z z", "id", 0, ("a", 1), None, ""]


@st.composite
def frames(draw) -> pd.DataFrame:
    "A frame of awkward columns, now and then under awkward names; its target is often one that can be learned."
    n = draw(st.sampled_from([0, 1, 2, 3, 5, 8, 30]))
    easy = [pd.Series(draw(st.lists(draw(st.sampled_from(TARGETS)), min_size=n, max_size=n)), dtype=object)]
    some = (easy if draw(st.integers(0, 3)) else [draw(columns(n))]) + draw(
        st.lists(columns(n), min_size=1, max_size=2)
    )
    frame = pd.concat(some, axis=1)
    names = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=2))
    frame.columns = pd.Index(["target", *names][: len(some)], dtype=object)
    return frame


@pytest.mark.filterwarnings("ignore")  # of casts to a dtype that holds less
@settings(max_examples=1000, deadline=None)
@given(frames(), st.sampled_from([None, None, "binary", "multiclass", "regression"]))
def test_a_frame_passes_the_check_of_its_draft(frame: pd.DataFrame, task: str | None) -> None:
    try:
        spec = ModelSpec.infer(frame, "target", task=task)
    except SpecError:
        return
    checked = check_frame(spec, frame)
    assert len(encode_target(spec, checked["target"])) == len(frame)
    assert ModelSpec.from_json(spec.to_json()) == spec
