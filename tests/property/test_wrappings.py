"Whatever another protocol wraps around records: the same batch as without it, or a refusal in words; never anything else."

import json
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decoder import BAD, DECODER, GOOD, SPEC, anything, records

from prodml_nb.contract.request import Batch, RequestError
from prodml_nb.serve.protocols import (
    WRAPPINGS,
    add_their_words,
    decode_inference,
    decode_invocation,
    list_datatypes,
    read_inference,
)

DATATYPES = list_datatypes(SPEC)


def read(decode, *given) -> Batch | set[tuple]:
    "A batch, or which fields of which records are wrong."
    try:
        return decode(*given)
    except RequestError as error:
        return {(p.field, p.index) for p in error.problems}


def is_same(a: Batch | set, b: Batch | set) -> bool:
    if not (isinstance(a, Batch) and isinstance(b, Batch)):
        return a == b
    parts = ("features", "warnings", "fallback", "subjects", "times", "ids")
    same = all(getattr(a, part) == getattr(b, part) for part in parts)
    return same and np.array_equal(a.numbers, b.numbers, equal_nan=True) and np.array_equal(a.categories, b.categories)


def tensors(rows: list[dict]) -> bytes:
    inputs = [
        {"name": n, "shape": [len(rows)], "datatype": DATATYPES[n][0], "data": [r[n] for r in rows]} for n in GOOD
    ]
    return json.dumps({"inputs": inputs}).encode()


def ask_v2(body: bytes) -> Batch:
    return decode_inference(DECODER, read_inference(body))


mixed = st.fixed_dictionaries({name: st.one_of(GOOD[name], BAD[name]) for name in GOOD})


@settings(deadline=None)
@given(st.lists(st.one_of(records, mixed), min_size=1, max_size=4))
def test_a_wrapping_changes_nothing_about_what_is_inside(rows):
    rows = json.loads(json.dumps(rows), parse_constant=lambda name: None if name == "NaN" else float(name))
    plain = read(DECODER.decode, json.dumps(rows).encode())
    split = {"columns": list(GOOD), "data": [[r[n] for n in GOOD] for r in rows]}
    columns = {n: [r[n] for r in rows] for n in GOOD}
    forms = ({"dataframe_split": split}, {"dataframe_records": rows}, {"inputs": rows})
    for form in forms:
        assert is_same(read(decode_invocation, DECODER, json.dumps(form).encode()), plain)
    assert is_same(read(DECODER.decode_columns, columns), plain)
    if not any(isinstance(v, list) for r in rows for v in r.values()):  # a list is a row of a column, not a value
        assert is_same(read(ask_v2, tensors(rows)), plain)


def in_binary(rows: list[dict]) -> tuple[bytes, bytes]:
    "A body with all tensors in binary that have no null among texts and flags, and the length of its JSON."
    inputs, raw = [], b""
    for n in GOOD:
        values, kind = [r[n] for r in rows], DATATYPES[n][0].replace("FP32", "FP64")
        tensor = {"name": n, "shape": [len(rows)], "datatype": kind}
        if kind != "FP64" and None in values:
            inputs.append(tensor | {"data": values})
            continue
        texts = [] if kind != "BYTES" else [v.encode() for v in values]
        array = np.array([] if texts else values, "<f8" if kind == "FP64" else "?")
        part = b"".join(struct.pack("<I", len(t)) + t for t in texts) or array.tobytes()
        inputs, raw = [*inputs, tensor | {"parameters": {"binary_data_size": len(part)}}], raw + part
    body = json.dumps({"inputs": inputs}).encode()
    return body + raw, str(len(body)).encode()


@settings(deadline=None)
@given(st.lists(records, min_size=1, max_size=4))
def test_tensors_in_binary_are_the_same_batch(rows):
    plain = read(DECODER.decode, json.dumps(rows).encode())
    assert is_same(read(lambda: decode_inference(DECODER, read_inference(*in_binary(rows)))), plain)


@settings(deadline=None)
@given(
    st.lists(records, min_size=1, max_size=3), st.integers(0, 2000), st.integers(0, 9), st.binary(max_size=9), st.data()
)
def test_a_bite_out_of_a_body_in_binary_is_a_batch_or_a_refusal(rows, at, size, put, data):
    body, length = in_binary(rows)
    at %= len(body) + 1
    bitten = body[:at] + put + body[at + size :]
    said = data.draw(st.sampled_from([length, b"%d" % (int(length) + len(put) - size)]) | st.binary(max_size=4))
    read(lambda: decode_inference(DECODER, read_inference(bitten, said)))


odd_tensor = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.sampled_from([*DATATYPES, "wnd"]), anything),
        "shape": st.one_of(st.just([1]), st.just([1, 1]), st.lists(st.integers(), max_size=3), anything),
        "datatype": st.one_of(st.sampled_from(["FP32", "BYTES", "BOOL"]), anything),
        "data": st.one_of(st.lists(anything, max_size=2), anything),
        "parameters": st.one_of(
            st.fixed_dictionaries({"content_type": st.sampled_from(["pd", "str", "pd_json", "base64"])}), anything
        ),
    },
)
odd_inference = st.one_of(
    anything,
    st.fixed_dictionaries(
        {"inputs": st.one_of(st.lists(odd_tensor, max_size=4), anything)},
        optional={"id": anything, "outputs": anything, "parameters": anything},
    ),
)
odd_invocation = st.one_of(anything, st.dictionaries(st.sampled_from([*WRAPPINGS, "params"]), anything, max_size=2))
odd_split = st.fixed_dictionaries({"columns": st.lists(st.sampled_from([*GOOD, "wnd"])), "data": anything})


@settings(deadline=None, max_examples=300)
@given(odd_inference, st.one_of(odd_invocation, st.builds(lambda s: {"dataframe_split": s}, odd_split)))
def test_whatever_comes_is_answered_or_refused_in_words(inference, invocation):
    for ask, given_ in ((ask_v2, inference), (lambda b: decode_invocation(DECODER, b), invocation)):
        try:
            assert ask(json.dumps(given_).encode()).n > 0
        except RequestError as error:
            found = {"status": error.status, "detail": str(error), "errors": [{"field": "x", "detail": "y"}]}
            assert error.status in (400, 413, 422) and str(error)
            assert json.loads(add_their_words("/v2/models/late/infer", json.dumps(found).encode()))["error"]
