"The contract over HTTP: complete, valid, true to the service, and drawn by a browser without a network."

import asyncio
import json
import math
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from conftest import LATE, RECORD, wait_for
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from prodml_nb.contract.request import Decoder, RequestError
from prodml_nb.contract.spec import Category, Flag, ModelSpec, Number
from prodml_nb.record.journal import uuid7
from prodml_nb.record.keys import create_key
from prodml_nb.record.reader import Journal
from prodml_nb.serve import messages
from prodml_nb.serve.endpoint import PATHS
from prodml_nb.serve.openapi import openapi
from prodml_nb.serve.their_contract import add_protocols

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
METHODS = ("get", "post")
SPECS = [
    LATE,
    msgspec.structs.replace(LATE, features=(Number("wind", high=-5.0), Category("note"), Flag("far", missing="reject"))),
    ModelSpec(name="cost", task="regression", target="cost", features=(Number("wind"),), time="at"),
    ModelSpec(name="kind", task="multiclass", target="kind", features=(Category("sky"),), classes=("a", "b", "c"), subject="sky"),
    ModelSpec(name="level", task="multiclass", target="level", features=(Number("wind", low=3),), classes=(1, 2, 3)),
]  # fmt: skip


@pytest.fixture(scope="module")
def document(live) -> dict[str, Any]:
    return live[1].get("/openapi.json").json()


def operations(document: dict) -> Iterator[tuple[str, str, dict]]:
    "Path, method and operation, references resolved."
    for path, here in document["paths"].items():
        for method in METHODS:
            if method in here:
                yield path, method, here[method]


def resolve(document: dict, found: dict) -> dict:
    while "$ref" in found:
        *_, kind, name = found["$ref"].split("/")
        found = document["components"][kind][name]
    return found


def examples(media: dict) -> list[Any]:
    return [media["example"]] if "example" in media else [e["value"] for e in media.get("examples", {}).values()]


def complaints(document: dict, schema: dict, value: Any) -> list[str]:
    whole = {"components": document["components"], **schema}
    return [
        e.message
        for e in Draft202012Validator(whole, format_checker=Draft202012Validator.FORMAT_CHECKER).iter_errors(value)
    ]


def test_the_document_is_valid(document):
    assert [str(e) for e in OpenAPIV31SpecValidator(document).iter_errors()] == []
    names = [told["operationId"] for _, _, told in operations(document)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: f"{s.task}-{s.name}")
def test_every_spec_has_a_valid_document_whose_examples_are_accepted(spec):
    document = json.loads(msgspec.json.encode(add_protocols(openapi(spec, 3), spec, 3)))
    assert [str(e) for e in OpenAPIV31SpecValidator(document).iter_errors()] == []
    for found in messages.record_examples(spec).values():
        Decoder(spec).decode(json.dumps(found["value"]).encode())
    for path, method, told in operations(document):
        bodies = [told["requestBody"]] if "requestBody" in told else []
        for part in (*bodies, *(resolve(document, r) for r in told["responses"].values())):
            for kind, media in part["content"].items():
                assert examples(media), f"{method} {path} has no example of {kind}"
                for value in examples(media):
                    assert complaints(document, media["schema"], value) == [], f"{method} {path} {kind}"


NOTED, GOOD = msgspec.structs.replace(LATE, features=(*LATE.features, Category("note"))), RECORD | {"note": "calm"}
ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-300, 300), st.floats(), st.sampled_from(["clear", "overcast", "(missing)", "", 1e39, []]),
    st.uuids().map(str), st.text(max_size=5),
)  # fmt: skip


@settings(max_examples=500, deadline=None)
@given(
    st.dictionaries(st.sampled_from([*GOOD, "plane", "prediction_id", "wnd"]), ODD, max_size=2).map(
        lambda odd: GOOD | odd
    ),
    st.sampled_from(["", *GOOD]),
)
@example(GOOD | {"note": "(missing)"}, "")
@example(GOOD | {"slack in minutes": 1e39}, "")
@example(GOOD | {"wind": 200}, "")
def test_the_schema_of_a_record_accepts_what_the_decoder_accepts(record, left_out):
    record = {name: v for name, v in record.items() if name != left_out}
    assume(not any(isinstance(v, float) and not math.isfinite(v) for v in record.values()))  # no JSON
    try:
        Decoder(NOTED).decode(json.dumps(record).encode())
        is_accepted = True
    except RequestError:
        is_accepted = False
    document = {"components": {"schemas": messages.schemas(NOTED)}}
    assert (complaints(document, messages.schemas(NOTED)["Record"], record) == []) == is_accepted


def test_every_path_and_method_of_the_service_is_told_with_the_keys_it_needs(document):
    there = {(path, method.upper()): told for path, method, told in operations(document)}
    assert there.keys() == {(path, method) for path, here in PATHS.items() for method in here}
    for (path, method), told in there.items():
        assert "security" not in told, "no key was made yet"
        if PATHS[path][method].scope is None:
            assert "401" not in told["responses"]
        else:
            assert {"401", "403", "429", "503"} <= told["responses"].keys()
        assert {"413", "414", "415", "431"} <= told["responses"].keys()
    assert "securitySchemes" not in document["components"]


def provoke(client: httpx.Client) -> list[httpx.Response]:
    "One request for each refusal that a POST /predict can be made to give."
    chosen = RECORD | {"prediction_id": uuid7()}
    assert client.post("/predict", json=chosen).status_code == 200
    url, kind = "/predict", {"content-type": "application/json"}
    return [
        client.post(url, content=b"{", headers=kind),
        client.post(url, json=chosen | {"wind": 11}),
        client.post(url, json=[RECORD] * 1001),
        client.post(f"{url}?{'a' * 2100}", json=RECORD),
        client.post(url, content=b"a,b", headers={"content-type": "text/csv"}),
        client.post(url, json={}),
        client.post(url, json=RECORD, headers={f"x-{i}": "1" for i in range(101)}),
    ]


def test_what_is_refused_is_refused_as_the_document_says(live, document):
    told, refused = document["paths"]["/predict"]["post"]["responses"], provoke(live[1])
    assert [r.status_code for r in refused] == [400, 409, 413, 414, 415, 422, 431]
    for response in refused:
        assert response.headers["content-type"] == "application/problem+json"
        refusal = resolve(document, told[str(response.status_code)])
        schema = refusal["content"]["application/problem+json"]["schema"]
        assert complaints(document, schema, response.json()) == []


def test_what_is_answered_is_answered_as_the_document_says(live, document):
    _, client = live
    made = client.post("/predict", json=RECORD).json()["prediction_id"]
    assert client.post("/feedback", json={"prediction_id": made, "outcome": "late"}).status_code == 200
    names = {"id": made, "name": "late", "version": "2", "file": "start.js"}
    for path, method, told in operations(document):
        bodies = examples(told["requestBody"]["content"]["application/json"]) if "requestBody" in told else [None]
        for body in bodies:
            url = path.format(**names) if "{" in path else path
            response = client.request(method, url, json=body) if body is not None else client.request(method, url)
            assert response.status_code == 200, f"{method} {path}: {response.text}"
            kind = response.headers["content-type"].partition(";")[0]
            schema = told["responses"]["200"]["content"][kind]["schema"]
            answer = response.json() if kind == "application/json" else response.text
            assert complaints(document, schema, answer) == [], f"{method} {path}"


def test_a_whole_number_may_be_written_with_a_point(live):
    told = {"prediction_id": "01920000-0000-7000-8000-00000000cccc"}
    given = [4, 4.0, 4.5, 0.0, True, "4"]
    assert [live[1].post("/feedback", json=told | {"rating": r}).status_code for r in given] == [200, 200, *[422] * 4]


def test_a_new_champion_is_described_by_its_own_columns(deployment):
    deployment.release(1.0)
    with deployment.serve() as (client, _):
        assert "port" not in client.get("/openapi.json").json()["components"]["schemas"]["Record"]["properties"]
        wider = msgspec.structs.replace(LATE, features=(*LATE.features, Category("port")))
        deployment.promote(deployment.register(1.0, wider))
        wait_for(lambda: client.get("/openapi.json").json()["info"]["version"] == "2")
        assert "port" in client.get("/openapi.json").json()["components"]["schemas"]["Record"]["required"]


# -- the page


def dumped(url: str, folder: Path, *options: str) -> str:
    "What a browser makes of a page."
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
    ]
    command += [f"--user-data-dir={folder}", "--enable-logging=stderr", "--virtual-time-budget=10000", *options]
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not said, said
    return done.stdout


def test_the_page_is_handed_out_with_all_its_files_and_names_no_other_place(live):
    _, client = live
    elsewhere = client.get("/")
    assert (elsewhere.status_code, elsewhere.next_request.url.path) == (307, "/docs")
    page = client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8" and "//" not in page.text
    named = re.findall(r'(?:src|href)="([^":]+)"', page.text)
    assert len(named) == 4
    for response in (page, *map(client.get, ("/" + n for n in named))):
        assert response.status_code == 200 and response.content
        assert response.headers["x-content-type-options"] == "nosniff"
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert client.get("/docs/nothing.js").status_code == client.get("/docs/../model.css").status_code == 404
    assert client.post("/docs").status_code == 405


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here; the page's files are checked over HTTP")
def test_a_browser_draws_the_whole_document(live, document, tmp_path):
    drawn = dumped(f"{live[1].base_url}/docs", tmp_path)
    for path, _, told in operations(document):
        assert f'data-path="{path}"' in drawn, path
        assert told["summary"] in drawn
    assert "errors-wrapper" not in drawn
    assert 'class="btn authorize' not in drawn, "there are no keys"


def test_with_keys_the_page_is_there_and_the_document_needs_one(deployment):
    deployment.release(1.0)
    text, _ = create_key(deployment.ledger, ["predict"])
    with deployment.serve() as (client, _):
        assert client.get("/docs").status_code == client.get("/docs/start.js").status_code == 200
        assert client.get("/").status_code == 307
        refused = client.get("/openapi.json")
        assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        told = client.get("/openapi.json", headers={"x-api-key": text}).json()
        schemes = told["components"]["securitySchemes"].values()
        assert [s.get("name", s.get("scheme")) for s in schemes] == ["bearer", "X-API-Key"]
        assert told["paths"]["/predict"]["post"]["security"] == [{"Bearer": []}, {"ApiKey": []}]
        assert told["paths"]["/livez"]["get"]["security"] == []
        assert text not in json.dumps(told)
        if CHROMIUM is not None:
            drawn = dumped(f"{client.base_url}/docs", deployment.root / "browser")
            assert 'id="key"' in drawn and "for holders of an API key" in drawn and "data-path" not in drawn


async def evaluate(wire: aiohttp.ClientWebSocketResponse, script: str) -> Any:
    asked = {"expression": script, "awaitPromise": True, "returnByValue": True}
    await wire.send_json({"id": 1, "method": "Runtime.evaluate", "params": asked})
    told = await wire.receive_json()
    assert "exceptionDetails" not in told.get("result", {"exceptionDetails": 0}), told
    return told["result"]["result"]["value"]


async def act(url: str, folder: Path, script: str) -> Any:
    "What a script finds out in a browser that has opened a page."
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--no-first-run",
    ]
    command += [f"--user-data-dir={folder}", "--remote-debugging-port=0", url]
    browser = await asyncio.create_subprocess_exec(*map(str, command), stderr=asyncio.subprocess.DEVNULL)
    try:
        told = folder / "DevToolsActivePort"
        await asyncio.to_thread(wait_for, lambda: told.exists() and told.read_text().count("\n"), 60)
        async with aiohttp.ClientSession(f"http://127.0.0.1:{told.read_text().split()[0]}") as session:
            pages = await (await session.get("/json")).json()
            [page] = [p["webSocketDebuggerUrl"] for p in pages if p["url"] == url]
            async with session.ws_connect(page, timeout=aiohttp.ClientWSTimeout(ws_receive=60)) as wire:
                while (await evaluate(wire, "location.href + document.readyState")) != f"{url}complete":
                    await asyncio.sleep(0.1)
                return await evaluate(wire, script)
    finally:
        browser.terminate()
        await browser.wait()


TRY = """(async () => {
  const until = async look => {
    for (let i = 0; i < 600; i++) { const found = look(); if (found) return found; await new Promise(r => setTimeout(r, 50)); }
    throw Error("waited in vain for " + look);
  };
  const one = selector => () => document.querySelector(selector);
  (await until(one("#ask:not([hidden]) #key"))).value = KEY;
  document.querySelector("#ask button").click();
  await until(one(".auth-wrapper .authorize.locked"));
  (await until(one("#operations-ask-predict .opblock-summary-control"))).click();
  (await until(one("#operations-ask-predict .try-out__btn"))).click();
  (await until(one("#operations-ask-predict .execute"))).click();
  return (await until(one("#operations-ask-predict .live-responses-table tr.response .response-col_status"))).innerText;
})()"""


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here, and a key is typed by hand")
def test_a_person_with_a_key_reads_the_document_and_tries_it_out(deployment):
    deployment.release(1.0)
    text, key = create_key(deployment.ledger, ["predict"])
    with deployment.serve() as (client, _):
        script = TRY.replace("KEY", json.dumps(text), 1)
        shown = asyncio.run(act(f"{client.base_url}/docs", deployment.root / "browser", script))
    assert shown.startswith("200")
    [recorded] = Journal(deployment.journal_dir).query("SELECT key FROM predictions").key
    assert recorded == key.id
