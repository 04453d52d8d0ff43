"""Save the pipeline as an MLflow model: python -m benchmarks.servers.mlflow_model FOLDER"""

import sys

import joblib
import mlflow.sklearn

from benchmarks.servers.model import FOLDER

mlflow.sklearn.save_model(
    joblib.load(FOLDER / "pipeline.joblib"),
    sys.argv[1],
    pyfunc_predict_fn="predict_proba",
    serialization_format="cloudpickle",
    pip_requirements=[],
)
