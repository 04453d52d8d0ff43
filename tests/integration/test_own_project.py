"""A project of one's own: what README and the tutorial tell a newcomer to do, done."""

import re
from dataclasses import replace
from pathlib import Path

from prodml_nb.operate.pipelines import run_pipeline
from prodml_nb.operate.release import promote
from prodml_nb.operate.workspace import Workspace
from prodml_nb.settings import ModelSettings, Settings, StateSettings

ROOT = Path(__file__).parents[2]


def test_the_model_in_the_readme_passes_its_own_gates(tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## A model in ")[1].split("\n## ")[0]
    (tmp_path / "model.py").write_text("\n".join(re.findall(r"```python\n(.*?)```", section, re.DOTALL)))
    own = ModelSettings(module=str(tmp_path / "model.py"))
    workspace = Workspace(replace(Settings(), model=own, state=StateSettings(root=tmp_path / "state")))
    run_pipeline(workspace, "train", warm=True)
    assert run_pipeline(workspace, "validate", {"version": 1}, warm=True).headline.startswith("Version 1: passes all")
    assert promote(workspace, 1, "first release").version == 1
