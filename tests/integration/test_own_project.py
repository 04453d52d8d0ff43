"""A project of one's own: what the tutorial tells a newcomer to do, done from a folder inside the project."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT, BIN = Path(__file__).parents[2], Path(sys.executable).parent


def blocks(text: str, language: str) -> list[str]:
    "The fenced blocks of one language."
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_tutorial_works_and_its_model_is_the_one_in_the_readme(tmp_path: Path) -> None:
    page = nbformat.read(ROOT / "nbs" / "tutorials" / "own_project.ipynb", 4)
    text = "\n".join(c.source for c in page.cells)
    readme = (ROOT / "README.md").read_text(encoding="utf-8").split("## A model in ")[1]
    written = blocks(text, "python")
    assert ["#| export\n" + block for block in blocks(readme, "python")[:2]] == written[1:3]

    (tmp_path / "nbs").mkdir()
    (tmp_path / "pyproject.toml").write_text(blocks(text, "toml")[0])
    (tmp_path / "settings.ini").write_text(blocks(text, "ini")[0])
    cells = [nbformat.v4.new_code_cell(block) for block in written]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "nbs" / "model.ipynb")

    env = {k: v for k, v in os.environ.items() if not k.startswith("PRODML_") and k not in ("IN_TEST", "PYTHONPATH")}

    def run(*command: str) -> str:
        inside = [BIN / command[0], *command[1:]]
        done = subprocess.run(inside, cwd=tmp_path / "nbs", env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    run("nbdev-export")
    release = next(b for b in blocks(text, "bash") if "prodml train" in b)
    said = [run(*shlex.split(line)) for line in release.splitlines()]
    assert re.search(r"champion +version 1$", said[-1], re.MULTILINE)
    assert [p.parent for p in tmp_path.rglob(".prodml")] == [tmp_path]
