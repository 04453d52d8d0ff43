"""What this repository can do to itself: `nox -l` lists it, `nox -s NAME` does it."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True
nox.options.sessions = ["tests"]

ROOT = Path(__file__).parent
LOCKS = Path("prodml_nb", "locks")
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = ("3.12", "3.11")  # the dependencies publish wheels for these
# lock -> the extras of pyproject.toml in it; the largest first, because the others are held to its versions
EXTRAS = {
    "docs": ("flights", "notebook", "stress", "postgres", "dev", "docs"),
    "dev": ("flights", "notebook", "stress", "postgres", "dev"),
    "runtime": ("flights",),
    "serve": ("serve",),
}
SERVER = Path("tests", "server.txt")  # a PostgreSQL to test against
LOCK_HEADER = "# Made from pyproject.toml by `nox -s lock`, for Python 3.11 and 3.12. Not edited by hand.\n"
# no part of the toolchain may report home from a test, whatever the project itself sets
QUIET = {"BENTOML_DO_NOT_TRACK": "True", "WHYLOGS_NO_ANALYTICS": "True", "NO_MKDOCS_2_WARNING": "1"}


def python_for_sessions() -> str | None:
    "None (nox's own Python) if the locks fit it; else the first that fits and starts; else what uv may fetch."
    if f"{sys.version_info.major}.{sys.version_info.minor}" in PYTHONS:
        return None
    for version in PYTHONS:
        found = shutil.which(f"python{version}")
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return version
    print(
        f"prodml_nb needs Python {' or '.join(PYTHONS)}; nox runs on {sys.version.split()[0]} and finds neither. "
        f"uv will try to fetch {PYTHONS[0]}; if it cannot, install one and run nox again.",
        file=sys.stderr,
    )
    return PYTHONS[0]


PYTHON = python_for_sessions()


def requirements(lock: str) -> list[str]:
    "What a lock is resolved from: `serve` is its extra alone, the others hold the project and its build tool too."
    extras = [line for name in EXTRAS[lock] for line in PROJECT["project"]["optional-dependencies"][name]]
    if lock == "serve":
        return extras
    return [*PROJECT["project"]["dependencies"], *PROJECT["dependency-groups"]["build"], *extras]


def install(session: nox.Session, lock: str) -> None:
    "The locked packages, by their hashes, and this project in place; nothing at all when neither has changed."
    path = LOCKS / f"{lock}.txt"
    state = hashlib.sha256(path.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()
    stamp = Path(session.virtualenv.location, f"installed-{lock}")
    if stamp.exists() and stamp.read_text() == state:
        return
    compiled = ["--compile-bytecode"] if session.venv_backend == "uv" else []
    session.install("--require-hashes", "-r", str(path), *compiled)
    session.install("--no-deps", "--no-build-isolation", "-e", ".")
    stamp.write_text(state)


@nox.session(python=PYTHON)
def demo(session: nox.Session) -> None:
    "The life of a real model in one to three minutes: trained, released, drifting, retrained, broken, rolled back."
    install(session, "runtime")
    session.run("prodml", "demo", *session.posargs, env=QUIET)


@nox.session(python=PYTHON)
def tests(session: nox.Session) -> None:
    "Every lesson of every notebook, then tests/ (arguments after -- go to pytest)."
    install(session, "dev")
    session.install("--no-deps", "--require-hashes", "-r", str(SERVER))
    session.run("nbdev-test", "--n-workers", "2", env=QUIET)
    session.run("pytest", "-n", "3", "--dist", "loadfile", "--no-loadscope-reorder", *session.posargs, env=QUIET)


@nox.session(python=PYTHON)
def notebooks(session: nox.Session) -> None:
    "The lessons alone (after --: one notebook or folder)."
    install(session, "dev")
    session.run("nbdev-test", "--n-workers", "2", *session.posargs, env=QUIET)


@nox.session(python=PYTHON)
def fuzz(session: nox.Session) -> None:
    "More than 10 000 requests that nobody thought of, to the real service (FUZZ_REQUESTS and FUZZ_SEED change them)."
    install(session, "dev")
    env = {"FUZZ_REQUESTS": os.environ.get("FUZZ_REQUESTS", "10000")}
    session.run("pytest", "tests/integration/test_fuzz.py", "-s", *session.posargs, env=QUIET | env)


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    "Style, import layers, and that modules, README and locks are what their sources say."
    install(session, "dev")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache", "--no-logo")
    session.run("pytest", "tests/test_repository.py", env=QUIET)


@nox.session(python=PYTHON)
def tidy(session: nox.Session) -> None:
    "Mend what lint would complain of: format, export the modules, clean the notebooks, write README.md."
    install(session, "dev")
    session.run("ruff", "check", "--fix", "--exit-zero", ".")
    session.run("ruff", "format", ".")
    session.run("nbdev-export")
    session.run("nbdev-clean")
    session.run("python", ".ci/docs.py", "readme")


@nox.session(python=PYTHON)
def docs(session: nox.Session) -> None:
    "The site in _docs/ from the notebooks; a broken link fails it."
    install(session, "docs")
    session.run("python", ".ci/docs.py", "site", env=QUIET)


@nox.session(venv_backend="none")
def lock(session: nox.Session) -> None:
    "Resolve prodml_nb/locks/*.txt and tests/server.txt anew from pyproject.toml (-- --upgrade: to the newest versions)."
    held_to: list[str] = []
    for name in EXTRAS:
        path = LOCKS / f"{name}.txt"
        compile_lock(session, path, requirements(name), *held_to)
        held_to = ["--constraint", str(LOCKS / "docs.txt")]
    compile_lock(session, SERVER, PROJECT["dependency-groups"]["server"], "--no-deps")


def compile_lock(session: nox.Session, path: Path, wanted: list[str], *how: str) -> None:
    "Resolve one lock."
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    source = Path(session.create_tmp(), f"{path.stem}.in")
    source.write_text("\n".join(wanted) + "\n", encoding="utf-8")
    session.run(
        uv, "pip", "compile", str(source), "--output-file", str(path), *how, *session.posargs,
        "--universal", "--python-version", "3.11", "--fork-strategy", "fewest", "--generate-hashes", "--quiet",
        "--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links",
        external=True,
    )  # fmt: skip
    path.write_text(LOCK_HEADER + path.read_text(encoding="utf-8"), encoding="utf-8")


@nox.session(python=PYTHON)
def bench(session: nox.Session) -> None:
    "The service beside other servers with the same model (options after --; see benchmarks/README.md)."
    install(session, "dev")
    session.run("python", "-m", "benchmarks.serving", *session.posargs, env=QUIET)


@nox.session(python=PYTHON)
def bench_workers(session: nox.Session) -> None:
    "Two workers of the service against one (options after --)."
    install(session, "dev")
    session.run("python", "-m", "benchmarks.workers", *session.posargs, env=QUIET)


@nox.session(python=PYTHON)
def bench_soak(session: nox.Session) -> None:
    "The service under five times what it can answer, for three minutes (options after --)."
    install(session, "dev")
    session.run("python", "-m", "benchmarks.soak", *session.posargs, env=QUIET)


@nox.session(python=PYTHON)
def bench_batch(session: nox.Session) -> None:
    "Rows that a second of CPU scores, beside scikit-learn (options after --)."
    install(session, "dev")
    session.run("python", "-m", "benchmarks.batch", *session.posargs, env=QUIET)


@nox.session(venv_backend="none")
def bench_lock(session: nox.Session) -> None:
    "Resolve benchmarks/locks/*.txt anew (-- --upgrade: to the newest versions)."
    session.run(sys.executable, "-m", "benchmarks.environments", *session.posargs, external=True)
