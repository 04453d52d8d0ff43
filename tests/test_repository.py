"""The repository is what it says it is: generated files match their sources, locks match pyproject.toml, nothing lies about."""

import ast
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
PIPELINES = [p for p in NOTEBOOKS if p.parent.name == "pipelines"]
MODULES = sorted(p for p in (ROOT / "prodml_nb").rglob("*.py") if p.name not in ("__init__.py", "_modidx.py"))
LOCKS = sorted((ROOT / "prodml_nb" / "locks").glob("*.txt"))
BENCHMARK_LOCKS = sorted((ROOT / "benchmarks" / "locks").glob("*.txt"))
TOP_LEVEL = set(
    ".ci .github .gitignore CHANGELOG.md CONTRIBUTING.md LICENSE README.md benchmarks bentofile.yaml nbs noxfile.py "
    "prodml_nb pyproject.toml settings.ini tests".split()
)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def cells(notebook: Path, kind: str = "code") -> list[dict]:
    return [c for c in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == kind]


def source(cell: dict) -> str:
    return "".join(cell["source"])


# -- what lies where


def test_the_top_level_holds_what_the_design_names_and_nothing_else():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listed.stdout.splitlines()} == TOP_LEVEL


def test_no_source_is_ignored_by_git():
    sources = [name_of(p) for p in (*NOTEBOOKS, *MODULES, *LOCKS)]
    found = subprocess.run(
        ["git", "check-ignore", "--no-index", "--stdin"],
        cwd=ROOT,
        input="\n".join(sources),
        capture_output=True,
        text=True,
    )
    assert found.stdout.split() == [], "a pattern in .gitignore catches these; they would never be committed"


def test_every_folder_of_code_is_a_documented_package_that_gets_installed():
    folders = {p.parent for p in MODULES} | {p.parent for p in (ROOT / "prodml_nb").rglob("__init__.py")}
    shipped = {"prodml_nb.pipelines", "prodml_nb.locks"}  # data, no code
    declared = set(PROJECT["tool"]["setuptools"]["packages"])
    assert {".".join(f.relative_to(ROOT).parts) for f in folders} | shipped == declared
    for folder in folders:
        init = folder / "__init__.py"
        assert init.exists() and ast.get_docstring(ast.parse(init.read_text())), f"{name_of(init)} has no docstring"


@pytest.mark.parametrize("module", MODULES, ids=name_of)
def test_a_module_is_exported_from_the_notebook_of_its_own_place(module):
    made_from = re.search(r"File to edit: (\S+?\.ipynb)", module.read_text(encoding="utf-8"))
    assert made_from, f"{name_of(module)} is written by hand; every module but __init__.py comes from a notebook"
    notebook = (module.parent / made_from[1]).resolve()
    assert notebook.exists(), f"{name_of(module)} outlived its notebook; delete it"
    assert notebook.parent.relative_to(ROOT / "nbs") == module.parent.relative_to(ROOT / "prodml_nb")
    assert re.sub(r"^\d+_", "", notebook.stem) == module.stem


# -- what is generated


@pytest.fixture(scope="session")
def regenerated(tmp_path_factory) -> Path:
    "A copy of the project in which modules are exported anew, none of the old ones left, and notebooks are cleaned."
    copy = tmp_path_factory.mktemp("regenerated")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy)
    for name in ("nbs", "prodml_nb"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for module in MODULES:
        (copy / module.relative_to(ROOT)).unlink()
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {"PYTHONPATH": ""}
    for command in ("nbdev-export", "nbdev-clean"):
        script = Path(sys.executable).with_name(command)
        subprocess.run([script], cwd=copy, env=env, check=True, capture_output=True, timeout=120)
    return copy


def differences(copy: Path, folder: str, pattern: str) -> list[str]:
    old, new = (
        {
            p.relative_to(root).as_posix(): p.read_text(encoding="utf-8")
            for p in (root / folder).rglob(pattern)
            if ".ipynb_checkpoints" not in p.parts
        }
        for root in (ROOT, copy)
    )
    return sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))


def test_modules_are_what_their_notebooks_export(regenerated):
    assert differences(regenerated, "prodml_nb", "*.py") == [], "run: nox -s tidy"


def test_notebooks_are_clean(regenerated):
    assert differences(regenerated, "nbs", "*.ipynb") == [], "run: nox -s tidy"


def test_the_readme_is_what_the_index_notebook_says():
    render = runpy.run_path(str(ROOT / ".ci" / "docs.py"))["readme"]
    assert (ROOT / "README.md").read_text(encoding="utf-8") == render(), "run: nox -s tidy"


# -- notebooks


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_a_notebook_stays_small_and_keeps_no_failure(notebook):
    assert notebook.stat().st_size <= 200_000, "over 200 KB: smaller plots, or split it by idea"
    failed = [source(c) for c in cells(notebook) for o in c["outputs"] if o["output_type"] == "error"]
    assert not failed, "a stored output is a traceback"


@pytest.mark.parametrize("notebook", PIPELINES, ids=name_of)
def test_a_pipeline_notebook_only_calls_the_library(notebook):
    tagged = [c for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1, "papermill fills exactly one cell tagged `parameters`"
    code = [re.sub(r"(?m)^%.*$", "", source(c)) for c in cells(notebook)]  # without magics
    for node in (n for text in code for n in ast.walk(ast.parse(text))):
        assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef), f"defines {node.name}"


# -- locks


def locked(path: Path) -> dict[str, set[str]]:
    "Distribution -> its pinned versions (more than one if Pythons differ)."
    pins: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
        pins.setdefault(canonicalize_name(name), set()).add(version)
    return pins


@pytest.mark.parametrize(
    "path", [*LOCKS, *BENCHMARK_LOCKS, ROOT / "tests" / "server.txt"], ids=lambda p: f"{p.parents[1].name}-{p.stem}"
)
def test_a_lock_pins_by_hash_and_names_no_place(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"://|--(extra-)?index|--find-links|-e |@ |\bpypi\b|/simple", text)
    entries = re.split(r"\n(?=\S)", text.split("\n", 1)[1].strip())
    assert entries and all("--hash=sha256:" in e for e in entries)


@pytest.fixture(scope="session")
def requirements() -> Callable[[str], list[str]]:
    "What `nox -s lock` resolves a lock from."
    return runpy.run_path(str(ROOT / "noxfile.py"))["requirements"]


@pytest.mark.parametrize("path", LOCKS, ids=lambda p: p.stem)
def test_a_lock_satisfies_pyproject(path, requirements):
    wanted = requirements(path.stem)
    pins = locked(path)
    for requirement in map(Requirement, wanted):
        versions = pins.get(canonicalize_name(requirement.name), set())
        assert versions, f"{requirement.name} is not in the lock; run: nox -s lock"
        assert all(requirement.specifier.contains(v, prereleases=True) for v in versions), f"{requirement}: {versions}"


def test_locks_agree_with_each_other():
    pins = {path.stem: locked(path) for path in LOCKS}
    assert set(pins) == {"runtime", "serve", "dev", "docs"}
    for smaller in ("runtime", "serve", "dev"):
        assert pins[smaller].items() <= pins["docs"].items()
    assert pins["serve"].keys() <= pins["runtime"].keys() <= pins["dev"].keys()


def test_the_serving_extra_is_a_part_of_the_dependencies():
    project = PROJECT["project"]
    assert set(project["optional-dependencies"]["serve"]) <= set(project["dependencies"])
    assert "protobuf<7" in project["dependencies"], "protobuf 7 breaks the conversion of gradient boosting to ONNX"


def test_the_benchmark_locks_hold_what_they_are_made_from_and_the_projects_own_versions():
    environments = runpy.run_path(str(ROOT / "benchmarks" / "environments.py"))
    assert {path.stem for path in BENCHMARK_LOCKS} == environments["WANTED"].keys()
    project = locked(ROOT / "prodml_nb" / "locks" / "runtime.txt")
    for path in BENCHMARK_LOCKS:
        pins = locked(path)
        assert set(environments["WANTED"][path.stem]) <= pins.keys(), "run: nox -s bench_lock"
        for name in pins.keys() & set(environments["SHARED"]):
            assert pins[name] == project[name], f"{name} in {name_of(path)}; run: nox -s bench_lock"


# -- the site


def test_a_broken_link_or_something_from_elsewhere_stops_the_site(tmp_path):
    problems = runpy.run_path(str(ROOT / ".ci" / "docs.py"))["problems"]
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="b.html#top"></a><a href="https://example.org"></a>')
    (tmp_path / "b.html").write_text('<h1 id="top"></h1><a href="a.html#gone"></a><a href="c.html"></a>')
    (tmp_path / "style.css").write_text("body { background: url(//cdn.example.org/x.png) }")
    (tmp_path / "d.html").write_text('<script src="https://cdn.example.org/x.js"></script>')
    found = problems(tmp_path)
    assert len(found) == 4
    assert all(any(text in line for line in found) for text in ("#gone", "c.html", "x.png", "x.js"))


def test_the_page_that_a_docstring_names_is_in_the_site(tmp_path):
    docs = runpy.run_path(str(ROOT / ".ci" / "docs.py"))
    base = PROJECT["project"]["urls"]["Documentation"]
    for module in MODULES:
        docs_url = re.search(r"^Docs: (\S+?)(?:\"{3})?$", module.read_text(encoding="utf-8"), re.MULTILINE)[1]
        notebook = re.search(r"File to edit: (\S+?\.ipynb)", module.read_text(encoding="utf-8"))[1]
        page = docs["Page"]((module.parent / notebook).resolve().relative_to(ROOT / "nbs"), []).path
        (tmp_path / "pages" / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pages" / page).touch()
        docs["write_markdown"](tmp_path / "pages", tmp_path / "site")
        assert (tmp_path / "site" / docs_url.removeprefix(base)).is_file(), docs_url


# -- the surface


def test_the_package_shows_a_handful_of_names():
    import prodml_nb

    assert prodml_nb.__all__ == ["Budgets", "Category", "Flag", "Gate", "ModelSpec", "Number", "__version__"]
