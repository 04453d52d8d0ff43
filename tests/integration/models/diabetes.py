"""Disease progression one year after baseline: a regression."""

import pandas as pd
from sklearn.datasets import load_diabetes

from prodml_nb.contract.spec import Gate, ModelSpec


def load(since: str | None = None, until: str | None = None) -> pd.DataFrame:
    return load_diabetes(as_frame=True, scaled=False).frame


spec = ModelSpec.infer(
    load(), target="target", name="diabetes", task="regression", gates=(Gate("r2", at_least=0.1),), fallback=152.0
)
