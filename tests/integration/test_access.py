"API keys on the real server: made, used, limited, revoked."

import json
import os
import sys

import pytest
from conftest import RECORD, wait_for

from prodml_nb.cli import main
from prodml_nb.errors import ReleaseError, ServingError
from prodml_nb.record.keys import create_key, revoke_key
from prodml_nb.record.reader import Journal
from prodml_nb.serve.launch import serve
from prodml_nb.settings import as_environment


def bearer(key: str) -> dict[str, dict[str, str]]:
    return {"headers": {"authorization": f"Bearer {key}"}}


def test_a_key_opens_what_it_is_for_until_it_is_revoked(deployment):
    deployment.release(1.0)
    with deployment.serve() as (client, _):
        assert client.post("/predict", json=RECORD).status_code == 200  # no keys yet, and this machine
        text, key = create_key(deployment.ledger, ["predict"], reason="desk")
        wait_for(lambda: client.post("/predict", json=RECORD).status_code == 401, 1)
        answer = client.post("/predict", json=RECORD, **bearer(text))
        assert answer.status_code == 200
        assert client.post("/predict", json=RECORD, headers={"x-api-key": text}).status_code == 200
        path = f"/predictions/{answer.json()['prediction_id']}"
        assert client.get(path, **bearer(text)).status_code == 403
        assert client.get("/model", **bearer(text)).status_code == 200
        for wrong in ("none", text[:-1], text + "x", "prodml_0123456789_" + "x" * 43):
            refused = client.post("/predict", json=RECORD, **bearer(wrong))
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.headers["content-type"] == "application/problem+json" and text not in refused.text
        assert [client.get(p).status_code for p in ("/livez", "/readyz", "/metrics")] == [200, 200, 401]
        admin, _ = create_key(deployment.ledger, ["admin"])
        wait_for(lambda: client.get("/metrics", **bearer(admin)).status_code == 200, 1)
        assert client.get(path, **bearer(admin)).json()["prediction"]["key"] == key.id
        revoke_key(deployment.ledger, key.id, reason="lost")
        wait_for(lambda: client.post("/predict", json=RECORD, **bearer(text)).status_code == 401, 1)
    kept = (
        Journal(deployment.journal_dir).query("SELECT coalesce(key, '') AS k FROM predictions ORDER BY id").k.tolist()
    )
    assert set(kept) == {"", key.id} and kept == sorted(kept, key=bool)
    for file in (p for p in deployment.root.rglob("*") if p.is_file()):
        assert text.split("_", 2)[2].encode() not in file.read_bytes(), f"{file.name} holds the key"


def test_a_rate_is_kept(deployment):
    deployment.release(1.0)
    text, _ = create_key(deployment.ledger, ["predict"], rate=5)
    with deployment.serve(ready="/livez") as (client, _):
        wait_for(lambda: client.get("/readyz").status_code == 200)
        found = [client.post("/predict", json=RECORD, **bearer(text)) for _ in range(50)]
    statuses = [r.status_code for r in found]
    assert set(statuses) == {200, 429} and statuses[:5] == [200] * 5
    assert int(next(r for r in found if r.status_code == 429).headers["retry-after"]) >= 1


def test_prodml_serve_says_once_that_there_are_no_keys_or_none_that_is_active(deployment, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(os, "execve", lambda *called: served.append(called))
    serve(deployment.settings())
    said = capsys.readouterr().err
    assert said.count("no API keys") == 1 and "only this machine" in said
    assert "prodml keys create --scope predict" in said
    _, key = create_key(deployment.ledger, ["predict"])
    serve(deployment.settings())
    assert len(served) == 2 and capsys.readouterr().err == ""
    revoke_key(deployment.ledger, key.id, reason="lost")
    serve(deployment.settings())
    assert len(served) == 3 and "nobody is answered" in capsys.readouterr().err


def test_a_journal_that_cannot_be_written_at_the_start_stops_who_fails_closed(deployment, monkeypatch, capsys):
    served = []
    monkeypatch.setattr(os, "execve", lambda *called: served.append(called))
    deployment.release(1.0)
    deployment.journal_dir.write_text("in the way")
    with pytest.raises(ServingError, match="journal folder cannot be written"):
        serve(deployment.settings())
    serve(deployment.settings(on_journal_failure="fail_open"))
    assert len(served) == 1 and "kept in memory" in capsys.readouterr().err


def test_the_command_line_makes_lists_and_revokes_keys(deployment, monkeypatch, capsys):
    for name, value in as_environment(deployment.settings(host="0.0.0.0")).items():
        monkeypatch.setenv(name, value)

    def prodml(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["prodml", *arguments])
        with pytest.raises(SystemExit) as ended:
            sys.exit(main())
        return ended.value.code or 0, *capsys.readouterr()

    status, _, said = prodml("serve")
    assert status == 1 and "prodml keys create" in said
    deployment.release(1.0)
    assert "none: only this machine is answered" in prodml("status")[1]
    made = ["--scope", "predict", "--scope", "feedback", "--reason", "desk", "--expires", "2099-01-01"]
    status, out, said = prodml("keys", "create", *made)
    assert out.startswith("prodml_") and out.strip() not in said
    [listed] = json.loads(prodml("keys", "list", "--json")[1])
    assert (listed["status"], listed["scopes"], listed["reason"]) == ("active", ["predict", "feedback"], "desk")
    assert "predict, feedback" in prodml("keys", "list")[1] and "1 of 1 active" in prodml("status")[1]
    assert prodml("keys", "revoke", listed["id"], "--reason", "lost")[0] == 0
    assert json.loads(prodml("keys", "list", "--json")[1])[0]["status"] == "revoked"
    assert "0 of 1 active" in prodml("status")[1]
    told = [line for line in prodml("log")[1].splitlines() if "key_" in line]
    assert len(told) == 2 and all(f"{listed['id']}: {reason}" in line for line, reason in zip(told, ("desk", "lost")))
    second = json.loads(prodml("keys", "create", "--scope", "audit", "--rate", "5", "--json")[1])
    assert second.pop("key").startswith("prodml_")
    assert second == json.loads(prodml("keys", "list", "--json")[1])[1]
    ended = json.loads(prodml("keys", "revoke", second["id"], "--reason", "lost", "--json")[1])
    assert ended == json.loads(prodml("keys", "list", "--json")[1])[1] and ended["status"] == "revoked"
    assert "poll_seconds" in prodml("keys", "revoke", "--help")[1]
    for wrong in (
        ["create", "--scope", "predct"],
        ["create", "--scope", "predict", "--expires", "2001-01-01"],
        ["revoke", "x", "--reason", "y"],
    ):
        status, _, said = prodml("keys", *wrong)
        assert status == 1 and said.startswith("error: ") and "Traceback" not in said


def test_a_whole_key_is_not_said_again_and_reasons_stay_short(deployment):
    text, key = create_key(deployment.ledger, ["predict"], reason="  the\n desk ")
    assert key.reason == "the desk"
    with pytest.raises(ReleaseError, match="by its id alone") as error:
        revoke_key(deployment.ledger, text, reason="lost")
    assert text.split("_", 2)[2] not in str(error.value)
    for attempt in (create_key, revoke_key):
        with pytest.raises(ReleaseError, match="at most 200 characters"):
            attempt(deployment.ledger, ["predict"] if attempt is create_key else key.id, reason="x" * 300)
