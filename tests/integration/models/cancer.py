"""Benign or not: a binary model whose feature names have spaces in them."""

import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from prodml_nb.contract.spec import Gate, ModelSpec


def load(since: str | None = None, until: str | None = None) -> pd.DataFrame:
    frame = load_breast_cancer(as_frame=True).frame
    return frame.assign(target=frame["target"].astype(bool))


def build(spec: ModelSpec, *, seed: int = 0, C: float = 1.0):
    return make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=500, random_state=seed))


spec = ModelSpec.infer(load(), target="target", name="cancer", gates=(Gate("auc", at_least=0.9),), fallback=0.63)
