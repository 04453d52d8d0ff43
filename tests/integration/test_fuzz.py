"""Thousands of requests that nobody thought of, sent to the real service: none may break it, hang it or make it talk.

A few hundred of them belong to the ordinary tests; `nox -s fuzz` sends more than 10 000 (FUZZ_REQUESTS).
"""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from conftest import LATE, RECORD, Deployment
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prodml_nb.record.journal import uuid7
from prodml_nb.record.keys import create_key

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "400"))
SEED = os.environ.get("FUZZ_SEED", "1")
MARK, NUMBER = "zq7Kx9", 918273.645  # no answer and no log has a reason to hold these
SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")

# a body of columns can be right in every part and wrong as a whole, which no schema says; and 413 is a refusal, too
CONFIG = """
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 408, 409, 413, 414, 415, 422, 429, 431]
"""
COLUMNS = """
[[operations]]
include-operation-id = "{name}"
checks.positive_data_acceptance.enabled = false
"""
KEY = """
[auth.openapi.ApiKey]
api_key = "{key}"
"""
OF_COLUMNS = ("invoke", "infer", "infer_version")


class Fuzzed(NamedTuple):
    "A running service, and with which headers it is asked."

    client: httpx.Client
    auditor: httpx.Client
    headers: dict[str, str]
    log: Path

    def answered(self) -> Counter[int]:
        "How many requests were answered with which status, as the service counts them."
        found: Counter[int] = Counter()
        for line in self.auditor.get("/metrics").text.splitlines():
            if counted := re.match(r'prodml_requests_total\{.*status="(\d+)".*\} (\S+)', line):
                found[int(counted[1])] += int(float(counted[2]))
        return found


@contextmanager
def running(deployment: Deployment, with_keys: bool) -> Iterator[Fuzzed]:
    deployment.release(-1.0, 1.0)
    headers = {"X-API-Key": create_key(deployment.ledger, ["admin"])[0]} if with_keys else {}
    with deployment.serve() as (client, _):
        with httpx.Client(base_url=client.base_url, headers=headers, timeout=20) as auditor:
            yield Fuzzed(client, auditor, headers, deployment.root / "service.log")


@pytest.fixture(scope="module", params=[False, True], ids=["without_keys", "with_keys"])
def fuzzed(request, tmp_path_factory) -> Iterator[Fuzzed]:
    with running(Deployment(tmp_path_factory.mktemp("fuzz") / "state"), request.param) as found:
        yield found
        answered = found.answered()
        print(
            f"\n{request.param and 'with' or 'without'} keys: {answered.total()} requests, {dict(sorted(answered.items()))}"
        )
        assert not [status for status in answered if status >= 500], answered


def test_schemathesis_finds_nothing(fuzzed, tmp_path):
    key = KEY.format(key=fuzzed.headers["X-API-Key"]) if fuzzed.headers else ""
    (tmp_path / "schemathesis.toml").write_text(CONFIG + key + "".join(COLUMNS.format(name=n) for n in OF_COLUMNS))
    (tmp_path / "openapi.json").write_bytes(fuzzed.auditor.get("/openapi.json").content)
    command = [SCHEMATHESIS, "--config-file", tmp_path / "schemathesis.toml", "run", tmp_path / "openapi.json"]
    command += ["--url", str(fuzzed.client.base_url)]
    command += ["--continue-on-failure", "--request-timeout", "20", "--no-color", "--seed", SEED]
    command += [
        "--max-examples",
        str(max(4, REQUESTS // 200)),
        "--suppress-health-check",
        "all",
        "--generation-database",
        "none",
    ]
    command += ["--phases", "examples,fuzzing" if REQUESTS < 1000 else "examples,coverage,fuzzing,stateful"]
    before = fuzzed.answered().total()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert fuzzed.answered().total() - before >= min(REQUESTS // 8, 600)


# -- marked values: whatever is done with them, they must not come out again

marked = st.one_of(
    st.text(max_size=12).map(lambda t: MARK + t),
    st.text(max_size=12).map(lambda t: t + MARK),
    st.sampled_from(
        [NUMBER, -NUMBER, f"{NUMBER}", MARK * 50, f"{MARK}-01-01T00:00:00Z", [MARK], {"a": MARK}, [NUMBER, MARK]]
    ),
)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.just({}),
    st.just([]),
    st.just(10**400),
)
value = st.one_of(marked, plain)
nested = st.recursive(
    value, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3))
)
NAMES = [*LATE.feature_names, "plane", "at", "prediction_id"]
record = st.one_of(
    st.dictionaries(st.sampled_from([*NAMES, "wnd"]), value, max_size=8),
    st.dictionaries(st.sampled_from(NAMES), value, max_size=3).map(lambda changed: RECORD | changed),
    st.just(RECORD | {"plane": MARK}),
    nested,
)
told = st.dictionaries(st.sampled_from(["prediction_id", "outcome", "rating", "comment", "ratng"]), value).map(
    lambda given: {"prediction_id": uuid7()} | given
)
tensor = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from([*NAMES, "wnd"]),
        "shape": st.one_of(st.just([1]), st.just([2, 1]), value),
        "datatype": st.one_of(st.sampled_from(["FP32", "BYTES", "BOOL", "INT64"]), value),
        "data": st.one_of(st.lists(value, max_size=3), value),
        "parameters": st.one_of(st.sampled_from([{"content_type": "pd_json"}, {"content_type": "base64"}]), value),
    },
)
whole = {"wind": "FP32", "slack in minutes": "FP32", "sky": "BYTES", "holiday": "BOOL"}
inference = st.one_of(
    st.fixed_dictionaries(
        {"inputs": st.one_of(st.lists(tensor, max_size=6), value)}, optional={"outputs": value, "parameters": value}
    ),
    st.fixed_dictionaries({name: value for name in whole}).map(
        lambda row: {"inputs": [{"name": n, "shape": [1], "datatype": whole[n], "data": [v]} for n, v in row.items()]}
    ),
)
wrapping = st.sampled_from(["dataframe_records", "dataframe_split", "inputs", "instances", "params"])
split = st.fixed_dictionaries(
    {"columns": st.one_of(st.just(list(RECORD)), value), "data": st.lists(st.lists(value, max_size=4), max_size=3)}
)
invocation = st.dictionaries(wrapping, st.one_of(st.lists(record, max_size=3), split, record), max_size=2)


def one_or_many(strategy: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(strategy, st.lists(strategy, max_size=3))


def posted(path: str, body: st.SearchStrategy) -> st.SearchStrategy:
    "A request with a JSON body; some have a bite taken out of them."
    sent = body.map(lambda found: json.dumps(found).encode())
    bitten = st.tuples(sent, st.integers(0, 60), st.binary(max_size=4)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] + 1 :]
    )
    return st.fixed_dictionaries(
        {"method": st.just("POST"), "url": st.just(path), "content": st.one_of(sent, sent, sent, bitten)}
    )


token = st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=20).map(lambda t: MARK + t)
header = st.sampled_from(["content-type", "content-encoding", "accept", "x-api-key", "authorization", "prodml-timing", "x-other",
                          "inference-header-content-length", "transfer-coding", "cookie", "origin", "range", "if-none-match"])  # fmt: skip
odd = st.fixed_dictionaries(
    {
        "method": st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE"]),
        "url": st.tuples(
            st.sampled_from(
                [
                    "/",
                    "/predict",
                    "/predictions/",
                    "/v2/models/",
                    "/v2/models/late/versions/",
                    "/docs/",
                    "/metrics",
                    "/feedback/",
                ]
            ),
            token,
            st.sampled_from(["", "/infer", "/ready", f"?a={MARK}", "/%2e%2e/", "//", "/%00", "/%ff"]),
        ).map("".join),
        "headers": st.dictionaries(header, st.one_of(token, token.map(lambda t: f"Bearer prodml_{t}_{t}")), max_size=3),
        "content": st.one_of(st.just(b""), st.just(json.dumps(RECORD).encode()), st.binary(max_size=50)),
    }
)
requests = st.one_of(
    posted("/predict", one_or_many(record)),
    posted("/predict", one_or_many(record)),
    posted("/feedback", one_or_many(told)),
    posted("/v2/models/late/infer", inference),
    posted("/invocations", invocation),
    odd,
)


def fuzzing(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)


def check(fuzzed: Fuzzed, sent: dict[str, Any]) -> int:
    "The status of a request; whatever comes back comes in time, is no failure of the service, and repeats nothing."
    response = fuzzed.client.request(
        **sent | {"headers": fuzzed.headers | {"content-type": "application/json"} | sent.get("headers", {})}
    )
    assert response.status_code < 500, response.text
    if response.status_code >= 400 and response.content:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["status"] == response.status_code
    said = response.text + str(response.headers)
    assert MARK not in said and str(NUMBER) not in said, "a value came back"
    return response.status_code


def test_marked_values_never_come_out_again(fuzzed):
    before = fuzzed.answered().total()

    @fuzzing(max(1, REQUESTS // 2))
    @given(requests)
    def send(sent: dict[str, Any]) -> None:
        check(fuzzed, sent)

    send()
    assert fuzzed.answered().total() - before >= REQUESTS // 2
    log = fuzzed.log.read_text(errors="replace")
    assert MARK not in log and str(NUMBER) not in log, "a value is in the log"
    assert "Traceback" not in log and "defect" not in log


def test_a_stranger_gets_nothing_but_a_refusal(tmp_path):
    with running(Deployment(tmp_path / "state"), with_keys=True) as fuzzed:
        stranger = fuzzed._replace(headers={"X-API-Key": f"prodml_0123456789_{MARK}"})

        @fuzzing(max(50, REQUESTS // 20))
        @given(requests)
        def send(sent: dict[str, Any]) -> None:
            status = check(stranger, sent)
            if sent["url"] in ("/predict", "/feedback", "/invocations", "/v2/models/late/infer"):
                assert status == 401

        send()
        assert MARK not in fuzzed.log.read_text(errors="replace")
