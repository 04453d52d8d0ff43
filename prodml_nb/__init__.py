"""From a model in a notebook to a service in production, with the evidence made along the way."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before anything imports ONNX Runtime, which else calls home

__version__ = "0.1.0"

from prodml_nb.contract.spec import Budgets, Category, Flag, Gate, ModelSpec, Number

__all__ = ["Budgets", "Category", "Flag", "Gate", "ModelSpec", "Number", "__version__"]
