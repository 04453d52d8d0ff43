"""Which cultivar a wine is made from: three classes with names."""

import pandas as pd
from sklearn.datasets import load_wine

from prodml_nb.contract.spec import Gate, ModelSpec


def load(since: str | None = None, until: str | None = None) -> pd.DataFrame:
    frame = load_wine(as_frame=True).frame
    return frame.assign(target=frame["target"].map({0: "barolo", 1: "grignolino", 2: "barbera"}))


spec = ModelSpec.infer(
    load(), target="target", name="wine", gates=(Gate("accuracy", at_least=0.7),), fallback="grignolino"
)
