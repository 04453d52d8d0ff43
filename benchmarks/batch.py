"""How many rows does a second of CPU score?

    python -m benchmarks.batch [--rows 500000] [--rounds 3]

The flights model, the same rows, the same process, one thread, rounds in turn: scikit-learn's `predict_proba`, the ONNX
graph that answers requests, and `prodml score`. Scoring alone starts from rows in memory (a pandas frame for scikit-learn,
Arrow batches for the rest, policies of the spec included); end to end starts from a Parquet file and ends in one. Figures
are medians over the rounds of user and system CPU seconds. Peak memory is that of a process of its own.
"""

import argparse
import gc
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sklearn.ensemble  # noqa: F401  loads OpenMP, which cannot be limited before it is there
from threadpoolctl import threadpool_limits

from prodml_nb.build.sources import load_definition
from prodml_nb.build.training import train
from prodml_nb.contract.frame import matrices
from prodml_nb.contract.spec import MISSING
from prodml_nb.operate.columns import read_rows, score_rows
from prodml_nb.operate.leaves import open_bulk
from prodml_nb.operate.parts import read_batches
from prodml_nb.operate.score import score
from prodml_nb.operate.workspace import Workspace
from prodml_nb.record.artifacts import register
from prodml_nb.serve.scorer import open_scorer
from prodml_nb.settings import ModelSettings, Settings, StateSettings

RESULTS = Path(__file__).parent / "results" / "batch.json"
MEMORY = (
    "import sys; from prodml_nb.operate.score import score; from prodml_nb.operate.workspace import Workspace; "
    "from prodml_nb.settings import *; from pathlib import Path; root, source, out = map(Path, sys.argv[1:]); "
    "score(Workspace(Settings(state=StateSettings(root=root), model=ModelSettings(name='flights'))), source, out); "
    "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)


def cpu() -> float:
    "User and system seconds of this process."
    own = resource.getrusage(resource.RUSAGE_SELF)
    return own.ru_utime + own.ru_stime


def in_turn(cases: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    "Median CPU seconds of every case, the cases taking turns."
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for round_ in range(rounds + 1):  # the first one warms up
        for name, case in cases.items():
            gc.collect()
            before = cpu()
            case()
            if round_:
                seconds[name].append(cpu() - before)
    return {name: statistics.median(found) for name, found in seconds.items()}


def deploy(home: Path) -> tuple[Workspace, Any, pd.DataFrame]:
    "The flights model of the first quarter as champion, its pipeline, and all flights of the year."
    definition = load_definition("prodml_nb.examples.flights.model")
    candidate = train(definition, until="2013-04-01", bootstrap=20)
    workspace = Workspace(Settings(state=StateSettings(root=home / "state"), model=ModelSettings(name="flights")))
    given = {"spec": candidate.spec, "files": candidate.files(), "metrics": {}, "lineage": {}}
    version = register(workspace.settings.models_dir, workspace.ledger, workspace.vault, **given).version
    workspace.ledger.append("promoted", model="flights", version=version, reason="a benchmark")
    flights = definition.frame()
    known = {f.name: flights[f.name].where(flights[f.name] != MISSING, None) for f in candidate.spec.categories}
    return workspace, candidate.estimator, flights.assign(**known)


def write_rows(frame: pd.DataFrame, rows: int, path: Path) -> None:
    "So many rows of a year's flights, the year repeated, shuffled within."
    order = np.concatenate([np.random.default_rng(i).permutation(len(frame)) for i in range(-(-rows // len(frame)))])
    with pq.ParquetWriter(path, pa.Schema.from_pandas(frame, preserve_index=False)) as writer:
        for start in range(0, rows, 250_000):
            some = frame.iloc[order[start : min(start + 250_000, rows)]]
            writer.write_table(pa.Table.from_pandas(some, schema=writer.schema, preserve_index=False))


def trained_on(frame: pd.DataFrame, categories: list[str]) -> pd.DataFrame:
    "The columns as the pipeline was given them in training."
    return frame.assign(**{name: frame[name].astype(object).fillna(MISSING) for name in categories})


def pipeline_file(
    estimator: Any, names: list[str], categories: list[str], source: Path, target: Path, rows: int = 250_000
) -> None:
    "What one would write by hand: read, predict_proba, write, in stretches."
    writer = None
    for batch in pq.ParquetFile(source).iter_batches(batch_size=rows):
        scores = estimator.predict_proba(trained_on(batch.select(names).to_pandas(), categories))[:, 1]
        table = pa.Table.from_batches([batch])
        table = table.append_column("prediction", pa.array(scores >= 0.5)).append_column("score", pa.array(scores))
        writer = writer or pq.ParquetWriter(target, table.schema)
        writer.write_table(table)
    writer.close()


def peak_memory(workspace: Workspace, source: Path, home: Path) -> float:
    "Largest resident memory of a process that scores a file, megabytes."
    out = home / "peak.parquet"
    command = [sys.executable, "-c", MEMORY, str(workspace.root), str(source), str(out)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    out.unlink()
    return int(told) / 1024


def alone(workspace: Workspace, estimator: Any, source: Path, rounds: int) -> tuple[dict[str, float], float]:
    "CPU seconds of scoring rows that are in memory, and the largest difference between pipeline and prodml."
    artifact = workspace.artifact(1)
    spec, bulk, graph = artifact.spec, open_bulk(artifact), open_scorer(artifact)
    batches = list(read_batches(source, spec))
    frame = pq.read_table(source, columns=list(spec.feature_names)).to_pandas()
    frame = trained_on(frame, [f.name for f in spec.categories])
    numbers, categories = matrices(spec, frame)
    assert bulk.kind == "leaves"

    def pipeline(size: int) -> Any:
        return np.concatenate([estimator.predict_proba(frame.iloc[i : i + size]) for i in range(0, len(frame), size)])

    def onnx(size: int) -> Any:
        parts = (slice(i, i + size) for i in range(0, len(frame), size))
        return np.concatenate([graph.score(numbers[p], categories[p]) for p in parts])

    def ours() -> Any:
        return np.concatenate([score_rows(bulk, 1, read_rows(spec, b))[0] for b in batches])

    cases = {
        "scikit-learn, whole frame": lambda: pipeline(len(frame)),
        "scikit-learn, 65 536 rows at a time": lambda: pipeline(65_536),
        "ONNX graph, 10 000 rows at a time": lambda: onnx(10_000),
        "prodml, policies and scores": ours,
    }
    return in_turn(cases, rounds), float(np.abs(ours() - pipeline(65_536)).max())


def end_to_end(workspace: Workspace, estimator: Any, source: Path, rounds: int) -> dict[str, float]:
    "CPU seconds from a file to a file."
    spec, out = workspace.artifact(1).spec, source.with_name("out.parquet")
    names, categories = list(spec.feature_names), [f.name for f in spec.categories]

    def pipeline() -> None:
        out.unlink(missing_ok=True)
        pipeline_file(estimator, names, categories, source, out)

    def ours(profile: bool) -> None:
        out.unlink(missing_ok=True)
        score(workspace, source, out, profile=profile)

    cases = {
        "scikit-learn, by hand": pipeline,
        "prodml score": lambda: ours(True),
        "prodml score --no-profile": lambda: ours(False),
    }
    found = in_turn(cases, rounds)
    out.unlink()
    return found


def measure(rows: int, rounds: int, home: Path) -> dict[str, Any]:
    "All figures."
    workspace, estimator, flights = deploy(home)
    source = home / "rows.parquet"
    write_rows(flights, rows, source)
    scoring, largest = alone(workspace, estimator, source, rounds)
    whole = end_to_end(workspace, estimator, source, rounds)
    memory = {}
    for count in (1_000_000, 4_000_000):
        write_rows(flights, count, source)
        memory[count] = peak_memory(workspace, source, home)
    return {
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.system()},
        "rows": rows,
        "rounds": rounds,
        "largest_difference_from_pipeline": largest,
        "scoring_alone_rows_per_cpu_second": {name: rows / s for name, s in scoring.items()},
        "end_to_end_rows_per_cpu_second": {name: rows / s for name, s in whole.items()},
        "ratio_scoring_alone": min(s for n, s in scoring.items() if "scikit" in n)
        / scoring["prodml, policies and scores"],
        "ratio_end_to_end": whole["scikit-learn, by hand"] / whole["prodml score"],
        "ratio_end_to_end_to_scoring_alone": min(s for n, s in scoring.items() if "scikit" in n)
        / whole["prodml score"],
        "peak_memory_mb": memory,
    }


def show(found: dict[str, Any]) -> None:
    "A table."
    for title, key, ratio in (
        ("scoring alone", "scoring_alone_rows_per_cpu_second", "ratio_scoring_alone"),
        ("end to end, Parquet to Parquet", "end_to_end_rows_per_cpu_second", "ratio_end_to_end"),
    ):
        print(f"\n{title}: {found[ratio]:.2f} times the rows of scikit-learn a CPU second")
        for name, speed in found[key].items():
            print(f"  {name:40} {speed:12,.0f} rows/CPU-s")
    apart = found["ratio_end_to_end_to_scoring_alone"]
    print(f"\nprodml score, end to end, beside predict_proba of rows that are in memory: {apart:.2f} times")
    print(
        "peak memory: "
        + ", ".join(f"{mb:.0f} MB at {int(rows):,} rows" for rows, mb in found["peak_memory_mb"].items())
    )
    print(f"largest difference from the pipeline: {found['largest_difference_from_pipeline']:.1e}")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, default=500_000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    place = Path(tempfile.mkdtemp(prefix="prodml-batch-"))
    try:
        with threadpool_limits(1):
            result = measure(given.rows, given.rounds, place)
    finally:
        shutil.rmtree(place)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
