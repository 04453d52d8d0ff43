"Clients that were written for other servers ask ours, unchanged: Triton's own, and the documented requests of KServe, MLServer and MLflow."

import asyncio
import json
import struct
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from conftest import LATE, RECORD, late_probability

from prodml_nb.record.journal import uuid7
from prodml_nb.record.keys import create_key
from prodml_nb.record.reader import Journal

pytest.importorskip("tritonclient.http")
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput  # noqa: E402
from tritonclient.http.aio import InferenceServerClient as AsyncClient  # noqa: E402
from tritonclient.utils import InferenceServerException, np_to_triton_dtype  # noqa: E402

INFER, JSON = "/v2/models/late/infer", {"content-type": "application/json"}
COLUMNS = {
    "wind": np.array([0, 50, 199.5], np.float32),
    "slack in minutes": np.array([5, 6, 7], np.int64),
    "sky": np.array(["clear", "overcast", "clear"], object),
    "holiday": np.array([True, False, False]),
}
PROBABILITIES = [late_probability(w, 1.0) for w in (0, 50, 199.5)]


def tensors(columns: dict, **more) -> dict:
    "A version 2 request with one tensor for each column."
    kinds = {"wind": "FP32", "slack in minutes": "FP64", "sky": "BYTES", "holiday": "BOOL"}
    return {
        "inputs": [
            {"name": n, "shape": [len(v)], "datatype": kinds.get(n, "BYTES"), "data": v} for n, v in columns.items()
        ]
    } | more


def column(response: httpx.Response, name: str) -> list:
    "The data of one output."
    assert response.status_code == 200, response.text
    return next(o["data"] for o in response.json()["outputs"] if o["name"] == name)


ONE = tensors({n: [v] for n, v in RECORD.items()})


def triton_inputs(columns: dict, binary: bool = False) -> list[InferInput]:
    found = []
    for name, values in columns.items():
        found.append(InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype)))
        found[-1].set_data_from_numpy(values, binary_data=binary)
    return found


@pytest.fixture
def triton(live) -> Iterator[InferenceServerClient]:
    _, client = live
    own = InferenceServerClient(f"127.0.0.1:{client.base_url.port}")
    yield own
    own.close()


def test_tritons_client_finds_the_server_and_the_model(triton):
    assert triton.is_server_live() and triton.is_server_ready()
    assert triton.is_model_ready("late") and triton.is_model_ready("late", "2")
    assert not triton.is_model_ready("late", "1") and not triton.is_model_ready("early")
    assert triton.get_server_metadata()["name"] == "prodml_nb"
    told = triton.get_model_metadata("late")
    assert (told["name"], told["versions"]) == ("late", ["2"])
    assert [(i["name"], i["datatype"], i["shape"]) for i in told["inputs"]] == [
        ("wind", "FP32", [-1]), ("slack in minutes", "FP32", [-1]), ("sky", "BYTES", [-1]), ("holiday", "BOOL", [-1])
    ]  # fmt: skip
    assert {"prediction", "score", "prediction_id", "version", "fallback"} <= {o["name"] for o in told["outputs"]}


def test_tritons_client_gets_the_answers_that_predict_gives(triton, live):
    _, client = live
    wanted = [InferRequestedOutput(n, binary_data=False) for n in ("prediction", "score", "prediction_id", "version")]
    result = triton.infer("late", triton_inputs(COLUMNS), outputs=wanted, request_id="r-17")
    assert result.as_numpy("score") == pytest.approx(PROBABILITIES, abs=1e-6)
    assert result.as_numpy("score").dtype == np.float32
    assert result.as_numpy("prediction").tolist() == ["late"] * 3 and result.as_numpy("version").tolist() == [2] * 3
    assert (result.get_response()["id"], result.get_response()["model_version"]) == ("r-17", "2")
    for found_id, wind in zip(result.as_numpy("prediction_id"), COLUMNS["wind"]):
        assert client.get(f"/predictions/{found_id}").json()["prediction"]["features"]["wind"] == wind
    as_column = {
        n: v.reshape(-1, 1) for n, v in COLUMNS.items()
    }  # [n, 1]; all outputs, in binary if it were up to the client
    everything = triton.infer("late", triton_inputs(as_column), model_version="2")
    assert everything.as_numpy("score") == pytest.approx(PROBABILITIES, abs=1e-6)
    assert everything.as_numpy("fallback").tolist() == ["", "", ""]


def test_a_missing_number_is_nan_and_the_declared_answer_is_marked(triton):
    wind = np.array([np.nan, 50, 199.5], np.float32)
    result = triton.infer("late", triton_inputs(COLUMNS | {"wind": wind}))
    assert result.as_numpy("fallback").tolist() == ["declared", "", ""]
    assert result.as_numpy("version").tolist() == [0, 2, 2] and result.as_numpy("score")[0] == 0.25
    assert result.as_numpy("warnings")[0]


def test_tritons_client_is_told_in_its_own_words_what_is_wrong(triton):
    bad = COLUMNS | {"wnd": COLUMNS["wind"], "sky": np.array(["clear", "zq7", "clear"], object)}
    del bad["wind"]
    with pytest.raises(InferenceServerException) as error:
        triton.infer("late", triton_inputs(bad))
    told = error.value.message()
    assert all(name in told for name in ("wind", "wnd", "sky[1]")) and "zq7" not in told
    for model, version in (("early", ""), ("late", "1")):
        with pytest.raises(InferenceServerException, match="late") as error:
            triton.infer(model, triton_inputs(COLUMNS), model_version=version)
        assert error.value.status() == "404"


MLSERVER = {  # what mlserver.codecs.PandasCodec.encode_request makes of a frame (MLServer 1.7)
    "parameters": {"content_type": "pd"},
    "inputs": [
        {"name": "wind", "shape": [2, 1], "datatype": "FP64", "data": [10.0, None]},
        {"name": "slack in minutes", "shape": [2, 1], "datatype": "INT64", "data": [5, 6]},
        {"name": "sky", "shape": [2, 1], "datatype": "BYTES", "parameters": {"content_type": "str"}, "data": ["clear"] * 2},
        {"name": "holiday", "shape": [2, 1], "datatype": "BYTES", "parameters": {"content_type": "pd_json"}, "data": ["true", "null"]},
    ],
}  # fmt: skip


def test_a_frame_of_mlservers_pandas_codec_is_read_and_answered_as_one(live):
    _, client = live
    response = client.post(INFER, json=MLSERVER)
    assert column(response, "fallback") == ["", "declared"] and response.json()["parameters"] == {"content_type": "pd"}
    assert all(len(o["data"]) == 2 and o["shape"] == [2] for o in response.json()["outputs"])
    assert column(response, "score")[0] == pytest.approx(late_probability(10, 1.0), abs=1e-6)


def test_the_documented_requests_of_kserve_are_answered(live):
    _, client = live
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/late/versions/2/ready").status_code == 200
    response = client.post("/v2/models/late/versions/2/infer", json=ONE | {"id": "42", "outputs": [{"name": "score"}]})
    assert response.json() == {
        "model_name": "late", "model_version": "2", "id": "42",
        "outputs": [{"name": "score", "datatype": "FP32", "shape": [1], "data": [pytest.approx(late_probability(10, 1.0), abs=1e-6)]}],
    }  # fmt: skip
    body = json.dumps(tensors({n: [v] for n, v in RECORD.items()} | {"wind": [float("nan")]}))
    assert column(client.post(INFER, content=body, headers=JSON), "fallback") == ["declared"]


def test_predictions_can_be_named_repeated_and_told_apart(live):
    deployment, client = live
    ids = [uuid7(), uuid7()]
    sent = tensors(
        {n: [v, v] for n, v in RECORD.items()}
        | {"prediction_id": ids, "plane": ["N1", None], "at": ["2024-05-01T14:00:00+02:00", None]}
    )
    first, again = client.post(INFER, json=sent), client.post(INFER, json=sent)
    assert column(first, "prediction_id") == ids and first.json() == again.json()
    kept = Journal(deployment.journal_dir).query("SELECT id FROM predictions")["id"]
    assert sorted(i for i in kept if i in ids) == ids
    record = client.get(f"/predictions/{ids[0]}").json()["prediction"]
    assert (record["subject"], record["time"]) == ("N1", "2024-05-01T12:00:00.000000Z")


def bad_requests() -> dict[str, tuple[dict | bytes, int, set[str]]]:
    def changed(name: str, **change) -> dict:
        return {"inputs": [t | change if t["name"] == name else t for t in ONE["inputs"]]}

    nested = {"name": "wind", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    return {
        "no JSON": (b"{", 400, set()),
        "half a character": (json.dumps(changed("sky", data=["\ud800"])).encode(), 400, set()),
        "an array": ([ONE], 422, set()),
        "no inputs": ({}, 422, set()),
        "no tensor": ({"inputs": []}, 422, set(RECORD)),
        "a tensor without a name": ({"inputs": [{"shape": [1]}]}, 422, set()),
        "a tensor of several columns": ({"inputs": [*ONE["inputs"][1:], nested]}, 422, {"wind"}),
        "another shape": (changed("wind", shape=[2]), 422, {"wind"}),
        "a negative shape": (changed("wind", shape=[-1]), 422, {"wind"}),
        "a ragged column": (changed("sky", shape=[2], data=["clear", "clear"]), 422, {"sky"}),
        "another datatype": (changed("wind", datatype="BYTES", data=["zq7"]), 422, {"wind"}),
        "another type of value": (changed("wind", data=["zq7"]), 422, {"wind"}),
        "an infinite number": (json.dumps(changed("wind", data=[float("inf")])).encode(), 422, {"wind"}),
        "a huge number": (changed("slack in minutes", data=[10**400]), 422, {"slack in minutes"}),
        "a flag as a number": (changed("holiday", data=[1]), 422, {"holiday"}),
        "binary data": (changed("wind", data=None, parameters={"binary_data_size": 4}), 422, {"wind"}),
        "shared memory": (changed("sky", data=None, parameters={"shared_memory_region": "x"}), 422, {"sky"}),
        "a tensor twice": ({"inputs": ONE["inputs"] + ONE["inputs"][:1]}, 422, {"wind"}),
        "an unknown output": (ONE | {"outputs": [{"name": "probability"}]}, 422, {"probability"}),
        "classes in order": (ONE | {"outputs": [{"name": "score", "parameters": {"classification": 2}}]}, 422, {"score"}),
        "too many rows": (tensors({n: [v] * 1001 for n, v in RECORD.items()}), 413, set()),
        "everything at once": (
            {"inputs": [*changed("wind", data=["zq7"])["inputs"][:2], {"name": "wnd", "shape": [1], "datatype": "X", "data": [1]}]},
            422, {"wind", "wnd", "sky", "holiday"},
        ),
    }  # fmt: skip


BAD_REQUESTS = bad_requests()


@pytest.mark.parametrize("body, status, fields", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_inference_is_refused_with_every_name_and_no_value(live, body, status, fields):
    _, client = live
    response = client.post(INFER, content=body if isinstance(body, bytes) else json.dumps(body), headers=JSON)
    found = response.json()
    assert (response.status_code, found["status"]) == (status, status), response.text
    assert response.headers["content-type"] == "application/problem+json" and found["title"]
    assert {e["field"] for e in found.get("errors", []) if e["field"]} == fields
    assert all(name in found["error"] for name in fields) and "zq7" not in response.text


@pytest.mark.parametrize("shape", [(3,), (3, 1)], ids=str)
def test_tritons_client_as_it_is_sends_arrays_in_binary_and_gets_the_same_answers(triton, shape):
    columns = {n: v.reshape(shape) for n, v in COLUMNS.items()}
    sent = triton_inputs(columns, binary=True)
    for outputs in (None, [InferRequestedOutput("score"), InferRequestedOutput("prediction")]):
        plain, binary = (triton.infer("late", s, outputs=outputs) for s in (triton_inputs(columns), sent))
        for name in ("score", "prediction"):
            assert binary.as_numpy(name).tolist() == plain.as_numpy(name).tolist()
    mixed = triton_inputs({n: columns[n] for n in ("wind", "sky")}, binary=True)
    mixed[1:1] = triton_inputs({n: columns[n] for n in ("slack in minutes", "holiday")})
    assert triton.infer("late", mixed).as_numpy("score") == pytest.approx(PROBABILITIES, abs=1e-6)

    assert triton.get_server_metadata()["extensions"] == ["binary_tensor_data"]


def test_tritons_asynchronous_client_calls_its_body_octets_and_is_answered(live):
    _, client = live

    async def ask() -> np.ndarray:
        async with AsyncClient(f"127.0.0.1:{client.base_url.port}") as own:
            return (await own.infer("late", triton_inputs(COLUMNS, binary=True))).as_numpy("score")

    assert asyncio.run(ask()) == pytest.approx(PROBABILITIES, abs=1e-6)


NUMERIC = [np.float16, np.float32, np.float64, *(np.dtype(f"{s}{b}") for s in "iu" for b in (1, 2, 4, 8))]


@pytest.mark.parametrize("kind", NUMERIC, ids=lambda kind: np.dtype(kind).name)
def test_a_number_may_come_in_binary_as_any_type(triton, kind):
    wind = np.array([0, 50, 120], kind)
    found = triton.infer("late", triton_inputs(COLUMNS | {"wind": wind}, binary=True)).as_numpy("score")
    assert found == pytest.approx([late_probability(w, 1.0) for w in (0, 50, 120)], abs=1e-6)


def test_nan_and_infinity_in_binary_are_what_they_are_in_json(triton):
    for wind, n_missing in (([np.nan, 50, 199.5], 1), ([np.nan] * 3, 3)):
        sent = triton_inputs(COLUMNS | {"wind": np.array(wind, np.float32)}, binary=True)
        assert triton.infer("late", sent).as_numpy("fallback").tolist().count("declared") == n_missing
    with pytest.raises(InferenceServerException, match="wind.1."):
        triton.infer("late", triton_inputs(COLUMNS | {"wind": np.array([1, np.inf, 2])}, binary=True))


RAW = {"wind": struct.pack("<f", 10), "sky": b"\5\0\0\0clear", "holiday": b"\0"}


def mixed(raw: dict[str, bytes] = {}, more: bytes = b"", length: object = None, **change: dict) -> tuple[bytes, str]:
    "A body with three tensors in binary, and the length of its JSON; changes by the name of the tensor."
    asked, raw = json.loads(json.dumps(ONE)), RAW | raw
    for tensor in (t for t in asked["inputs"] if t["name"] in raw):
        del tensor["data"]
        tensor["parameters"] = {"binary_data_size": len(raw[tensor["name"]])}
        tensor |= change.get(tensor["name"], {})
    text = json.dumps(asked).encode()
    return text + b"".join(raw.values()) + more, str(len(text) if length is None else length)


def sized(size: object) -> dict:
    return {"parameters": {"binary_data_size": size}}


BAD_MIXTURES = {
    "no number": (mixed(length="zq7"), 400, set()),
    "a negative length": (mixed(length=-1), 400, set()),
    "a fraction": (mixed(length="10.0"), 400, set()),
    "a length of many digits": (mixed(length="9" * 5000), 400, set()),
    "longer than the body": (mixed(length=100_000), 400, set()),
    "nothing": (mixed(length=0), 400, set()),
    "JSON cut short": (mixed(length=20), 400, set()),
    "bytes left over": (mixed(more=b"zq7"), 422, set()),
    "all bytes left over": ((json.dumps(ONE).encode() + b"zq7", str(len(json.dumps(ONE)))), 422, set()),
    "too few bytes in the body": (mixed(holiday=sized(2)), 422, {"holiday"}),
    "a size that is huge": (mixed(wind=sized(10**30)), 422, {"wind"}),
    "a negative size": (mixed(wind=sized(-4)), 422, {"wind"}),
    "a size in words": (mixed(wind=sized("zq7")), 422, {"wind"}),
    "a size that is a flag": (mixed(holiday=sized(True)), 422, {"holiday"}),
    "data twice": (mixed(wind={"data": [10]}), 422, {"wind"}),
    "another type's size": (mixed(wind={"datatype": "FP64"}), 422, {"wind"}),
    "another shape": (mixed(wind={"shape": [2]}), 422, {"wind"}),
    "a huge shape": (mixed(wind={"shape": [10**18]}, sky={"shape": [10**30]}), 422, {"wind", "sky"}),
    "several columns": (mixed(wind={"shape": [1, 2], "datatype": "INT16"}), 422, {"wind"}),
    "no shape": (mixed(wind={"shape": None}), 422, {"wind"}),
    "a datatype that is none": (mixed(wind={"datatype": ["zq7"]}), 422, {"wind"}),
    "another name": (mixed(wind={"name": "wnd"}), 422, {"wind", "wnd"}),
    "another name and datatype": (mixed(wind={"name": "wnd", "datatype": "BF16"}), 422, {"wind", "wnd"}),
    "text for a number": (mixed(wind={"datatype": "BYTES"}), 422, {"wind"}),
    "no flag": (mixed({"holiday": b"\2"}), 422, {"holiday"}),
    "a text without a length": (mixed({"sky": b"zq7"}), 422, {"sky"}),
    "a text that ends early": (mixed({"sky": b"\5\0\0\0zq7"}), 422, {"sky"}),
    "a text of four gigabytes": (mixed({"sky": b"\xff\xff\xff\xffzq7"}), 422, {"sky"}),
    "a length that ends early": (mixed({"sky": b"\3\0\0\0zq7\1"}, sky={"shape": [2]}), 422, {"sky"}),
    "more texts than rows": (mixed({"sky": b"\3\0\0\0zq7" * 2}), 422, {"sky"}),
    "not UTF-8": (mixed({"sky": b"\4\0\0\0zq7\xff"}), 422, {"sky"}),
    "base64": (mixed(sky={"parameters": {"content_type": "base64", "binary_data_size": 9}}), 422, {"sky"}),
    "an unknown level": (mixed({"sky": b"\3\0\0\0zq7"}), 422, {"sky"}),
    "no rows": (mixed({"wind": b""}, wind={"shape": [0]}), 422, {"wind"}),
    "too many rows": (mixed({"wind": b"\0" * 8004}, wind={"shape": [2001]}), 413, set()),
    "too many texts": (mixed({"sky": b"\0" * 8004}, sky={"shape": [2001]}), 413, set()),
    "all at once": (mixed({"holiday": b"\2"}, wind={"datatype": "FP64"}, sky={"shape": [3]}), 422, set(RAW)),
}  # fmt: skip


@pytest.mark.parametrize("body, status, fields", BAD_MIXTURES.values(), ids=BAD_MIXTURES)
def test_bad_tensors_in_binary_are_refused_with_every_name_and_no_value(live, body, status, fields):
    _, client = live
    headers = {"inference-header-content-length": body[1], "content-type": "application/octet-stream"}
    response = client.post(INFER, content=body[0], headers=headers)
    found = response.json()
    assert response.status_code == status, response.text
    assert {e["field"] for e in found.get("errors", []) if e["field"]} == fields
    assert all(e.get("allowed") or "did you mean" in e["detail"] for e in found.get("errors", []))
    assert all(name in found["error"] for name in fields) and "zq7" not in response.text


def test_octets_are_read_where_tensors_may_follow_and_nowhere_else(live):
    _, client = live
    body, length = mixed()
    for kind in ("application/octet-stream", "application/json", "application/vnd.kserve+json", None):
        for path in (INFER, INFER + "/"):
            headers = {"inference-header-content-length": length} | ({"content-type": kind} if kind else {})
            assert client.post(path, content=body, headers=headers).status_code == 200
    octets, header = {"content-type": "application/octet-stream"}, {"inference-header-content-length": length}
    pickled = {"content-type": "application/vnd.bentoml+pickle"}
    refused = [(INFER, octets), (INFER, pickled | header), (INFER, JSON | header | {"content-encoding": "gzip"})]
    refused += [(path, octets | header) for path in ("/predict", "/invocations", "/feedback")]
    refused += [("/invocations", {"content-type": "text/csv"})]
    for path, headers in refused:
        response = client.post(path, content=body, headers=headers)
        assert response.status_code == 415 and "tensor" not in response.text
        assert "JSON" in response.json()["detail"]


FRAME = {
    "columns": list(RECORD),
    "index": [3, 4],
    "data": [list(RECORD.values()), list((RECORD | {"wind": None}).values())],
}
FORMS = {
    "split": {"dataframe_split": FRAME},
    "records": {"dataframe_records": [dict(zip(FRAME["columns"], row)) for row in FRAME["data"]]},
    "a dictionary of columns": {"inputs": {n: [row[i] for row in FRAME["data"]] for i, n in enumerate(FRAME["columns"])}},
    "columns of one value a row": {"inputs": {n: [[row[i]] for row in FRAME["data"]] for i, n in enumerate(FRAME["columns"])}},
    "a list of records": {"inputs": [dict(zip(FRAME["columns"], row)) for row in FRAME["data"]], "params": {}},
    "instances": {"instances": [dict(zip(FRAME["columns"], row)) for row in FRAME["data"]]},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_mlflow_is_answered(live, form):
    _, client = live
    found = client.post("/invocations", json=form).json()
    assert found["predictions"] == ["late", "on time"]
    assert [a["fallback"] for a in found["answers"]] == [None, "declared"]
    nan = json.dumps(form).replace("null", "NaN").encode()
    assert client.post("/invocations", content=nan, headers=JSON).json()["predictions"] == found["predictions"]
    assert client.get("/ping").status_code == client.get("/health").status_code == 200


BAD_INVOCATIONS = {
    "nothing": ({}, set()),
    "two forms": (FORMS["split"] | FORMS["instances"], set()),
    "a bare record": (RECORD, set()),
    "a frame without columns": ({"dataframe_split": {"data": [[1]]}}, set()),
    "a ragged row": ({"dataframe_split": FRAME | {"data": [[1, 2]]}}, {""}),
    "a column twice": ({"dataframe_split": {"columns": [*RECORD, "wind"], "data": [[*RECORD.values(), 1]]}}, {"wind"}),
    "ragged columns": ({"inputs": {n: [v] * (1 + (n == "sky")) for n, v in RECORD.items()}}, {"sky"}),
    "rows without names": ({"inputs": [[1, 2, 3, 4]]}, {""}),
    "bad fields": ({"instances": [RECORD, {"wind": "zq7", "sky": 5, "zz": 1}]}, {"wind", "sky", "zz", "slack in minutes", "holiday"}),
}  # fmt: skip


@pytest.mark.parametrize("body, fields", BAD_INVOCATIONS.values(), ids=BAD_INVOCATIONS)
def test_a_bad_invocation_is_refused_in_words(live, body, fields):
    _, client = live
    response = client.post("/invocations", json=body)
    found = response.json()
    assert response.status_code == 422 and found["error_code"] == "INVALID_PARAMETER_VALUE", response.text
    assert {e["field"] for e in found["errors"]} | {""} == fields | {""} and "zq7" not in response.text
    assert all(name in found["message"] for name in fields)


def test_refusals_are_journaled_and_requests_counted_under_a_bounded_number_of_paths(live):
    deployment, client = live
    before = Journal(deployment.journal_dir).count().get("refusal", 0)
    client.post(INFER, json=tensors({"wind": [1.0]}))
    client.post("/invocations", json={"inputs": [{}]})
    for name in ("a", "b", "c"):
        client.get(f"/v2/models/{name}")
    text = client.get("/metrics").text
    assert 'path="/v2/models/{name}/infer",status="422"' in text and 'path="/invocations",status="422"' in text
    assert 'path="/v2/models/a' not in text
    assert Journal(deployment.journal_dir).count()["refusal"] == before + 2


def test_the_contract_lists_the_protocols_with_examples_that_work(live):
    _, client = live
    paths = client.get("/openapi.json").json()["paths"]
    for path in (INFER.replace("late", "{name}"), "/invocations"):
        for example in paths[path]["post"]["requestBody"]["content"]["application/json"]["examples"].values():
            assert client.post(path.replace("{name}", "late"), json=example["value"]).status_code == 200
    assert {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/versions/{version}/infer",
    } <= set(paths)
    assert LATE.name in client.get("/v2/models/late").json()["name"]


def test_a_key_with_another_scope_cannot_ask_in_another_protocol_either(deployment):
    from prodml_nb.serve.service import open_endpoint

    deployment.release(1.0)
    may, _ = create_key(deployment.ledger, ["predict"])
    may_not, _ = create_key(deployment.ledger, ["feedback"])
    endpoint = open_endpoint(deployment.settings())

    async def ask() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(endpoint), base_url="http://127.0.0.1") as client:
            for path, body in ((INFER, ONE), ("/invocations", {"instances": [RECORD]})):
                for key, status in ((may, 200), (may_not, 403), ("none", 401)):
                    response = await client.post(path, json=body, headers={"authorization": f"Bearer {key}"})
                    assert response.status_code == status
                    assert status == 200 or response.json().get("error", response.json().get("message"))
            assert (await client.get("/v2/health/ready")).status_code == 200
            assert (await client.get("/v2/models/late")).status_code == 401

    try:
        asyncio.run(ask())
    finally:
        endpoint.router.stop()
        endpoint.recorder.close()
