"""From a model in a notebook to a service in production, with the evidence made along the way."""

__version__ = "0.1.0"

from prodml_nb.contract.spec import Budgets, Category, Flag, Gate, ModelSpec, Number

__all__ = ["Budgets", "Category", "Flag", "Gate", "ModelSpec", "Number", "__version__"]
