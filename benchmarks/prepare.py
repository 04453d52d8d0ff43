"""One released model, real requests, and the same model as other servers want it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[1]
TRAINED_UNTIL, ASKED_UNTIL = "2013-04-01", "2013-05-01"
RECORDS = 2000  # of April, evenly spread
MAKES_THE_MODEL = ("build", "contract", "examples", "operate", "pipelines", "record")


@dataclass(frozen=True)
class Prepared:
    "What a run needs, below one folder."

    home: Path

    state = property(lambda self: self.home / "state")  # of prodml: ledger, models, keys
    model = property(lambda self: self.home / "model")  # the champion, for everybody else

    @cached_property
    def requests(self) -> list[bytes]:
        "Records as our own replay sends them: with time and subject."
        return (self.model / "requests.jsonl").read_bytes().splitlines()

    @cached_property
    def records(self) -> list[dict]:
        "The same records as other servers want them: features only."
        return [msgspec.json.decode(line) for line in (self.model / "records.jsonl").read_bytes().splitlines()]

    @cached_property
    def columns(self) -> dict:
        "Names of numbers and categories."
        return json.loads((self.model / "columns.json").read_bytes())


def source_digest() -> str:
    "A fingerprint of the code that makes the model."
    files = [p for name in MAKES_THE_MODEL for p in sorted((ROOT / "prodml_nb" / name).rglob("*.py"))]
    files += [*sorted((ROOT / "nbs" / "pipelines").glob("*.ipynb")), Path(__file__)]
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


def prepare(home: Path) -> Prepared:
    "Train and release the flights model with the real commands, unless that was done with this code before."
    prepared, stamp, digest = Prepared(home), home / "prepared", source_digest()
    if stamp.exists() and stamp.read_text() == digest:
        return prepared
    stamp.unlink(missing_ok=True)
    for folder in (prepared.state, prepared.model):
        shutil.rmtree(folder, ignore_errors=True)
    home.mkdir(exist_ok=True)
    env = os.environ | {"PRODML_STATE_ROOT": str(prepared.state), "OMP_NUM_THREADS": "2"}
    for arguments in (
        ["train", "--until", TRAINED_UNTIL, "--quiet"],
        ["validate", "1", "--quiet"],
        ["promote", "1", "--reason", "to be measured"],
    ):
        command = [sys.executable, "-c", "from prodml_nb.cli import main; main()", *arguments]
        subprocess.run(command, env=env, cwd=home, check=True, stdout=sys.stderr)
    export(prepared)
    stamp.write_text(digest)
    return prepared


def export(prepared: Prepared) -> None:
    "Write the champion's graph and pipeline, and the records, where other environments can read them."
    import joblib
    from skops.io import loads

    from prodml_nb.operate.replay import requests_of
    from prodml_nb.operate.workspace import Workspace
    from prodml_nb.settings import Settings, StateSettings

    workspace, folder = Workspace(Settings(state=StateSettings(root=prepared.state))), prepared.model
    artifact, folder = workspace.artifact(1), prepared.model
    spec, frame = artifact.spec, workspace.definition.frame(TRAINED_UNTIL, ASKED_UNTIL)
    frame = frame.iloc[:: len(frame) // RECORDS].head(RECORDS).reset_index(drop=True)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(artifact.read("model.onnx"))
    trusted = json.loads(artifact.read("trusted_types.json"))
    joblib.dump(loads(artifact.read("pipeline.skops"), trusted=trusted), folder / "pipeline.joblib")
    names = {"numbers": [f.name for f in spec.numbers], "categories": [f.name for f in spec.categories]}
    (folder / "columns.json").write_text(json.dumps(names | {"all": list(spec.feature_names)}))
    (folder / "requests.jsonl").write_bytes(b"\n".join(requests_of(spec, frame)))
    features = frame[list(spec.feature_names)].astype(object)
    rows = features.where(features.notna(), None).to_dict("records")
    (folder / "records.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
