"""The measured model in other people's servers: its records, its pipeline, its graph."""

import json
import os
from pathlib import Path

import numpy as np

FOLDER = Path(os.environ["BENCH_MODEL"])
COLUMNS = json.loads((FOLDER / "columns.json").read_bytes())
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else ONNX Runtime calls home


class Pipeline:
    "The scikit-learn pipeline, asked with a DataFrame for each request."

    def __init__(self):
        import joblib

        self._pipeline = joblib.load(FOLDER / "pipeline.joblib")

    def __call__(self, records: list[dict]) -> list[float]:
        import pandas as pd

        kinds = dict.fromkeys(COLUMNS["numbers"], np.float32) | dict.fromkeys(COLUMNS["categories"], object)
        frame = pd.DataFrame({name: np.array([r[name] for r in records], kinds[name]) for name in COLUMNS["all"]})
        return self._pipeline.predict_proba(frame)[:, 1].tolist()


class Graph:
    "The ONNX graph, asked with two matrices for each request."

    def __init__(self):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(FOLDER / "model.onnx", options, providers=["CPUExecutionProvider"])

    def __call__(self, records: list[dict]) -> list[float]:
        numbers = np.array([[r[name] for name in COLUMNS["numbers"]] for r in records], np.float32)
        categories = np.array([[r[name] for name in COLUMNS["categories"]] for r in records], object)
        return self._session.run(["scores"], {"numbers": numbers, "categories": categories})[0][:, 1].tolist()
