"""An environment for each family of servers, installed from a lock of its own."""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
LOCKS = HERE / "locks"
PROJECT_LOCK = HERE.parent / "prodml_nb" / "locks" / "runtime.txt"
PIPELINE = ("joblib", "numpy", "pandas", "scikit-learn")
WANTED = {
    "fastapi": ("fastapi", "uvicorn", "uvloop", "httptools", "orjson", "onnxruntime", *PIPELINE),
    "mlflow": ("mlflow", "uvloop", "httptools", *PIPELINE),
    "mlserver": ("mlserver", "mlserver-sklearn", *PIPELINE),
    "bentoml": ("bentoml", "uvloop", "httptools", *PIPELINE),
}
# in every environment of the version that the project itself has: the model and its runtimes are the same everywhere
SHARED = ("bentoml", "httptools", "onnxruntime", "uvloop", *PIPELINE)
HEADER = (
    "# Made from benchmarks/environments.py by `nox -s bench_lock`, for Python 3.11 on Linux. Not edited by hand.\n"
)


def uv() -> str:
    "The uv beside this Python, or any other."
    found = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if found is None:
        raise SystemExit("the servers' environments are made with uv, which is not here; run: python -m pip install uv")
    return found


def pins() -> list[str]:
    "The shared packages, at the project's versions."
    locked = dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", PROJECT_LOCK.read_text(encoding="utf-8"), re.MULTILINE))
    return [f"{name}=={locked[name]}" for name in SHARED]


def lock(more: list[str]) -> None:
    "Resolve benchmarks/locks/*.txt anew."
    for name, wanted in WANTED.items():
        held = {pin.partition("==")[0]: pin for pin in pins()}
        path = LOCKS / f"{name}.txt"
        subprocess.run(
            [
                uv(), "pip", "compile", "-", "--output-file", str(path), *more, "--python-version", "3.11",
                "--python-platform", "linux", "--generate-hashes", "--quiet", "--no-header", "--no-annotate",
                "--no-emit-index-url", "--no-emit-find-links",
            ],
            input="\n".join(held.get(one, one) for one in wanted), text=True, check=True,
        )  # fmt: skip
        path.write_text(HEADER + path.read_text(encoding="utf-8"), encoding="utf-8")


def python_of(name: str, home: Path) -> Path:
    "The interpreter of an environment, installed now if its lock changed since."
    folder, path = home / "environments" / name, LOCKS / f"{name}.txt"
    python, stamp = folder / "bin" / "python", folder / "installed"
    state = hashlib.sha256(path.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == state:
        return python
    wanted = sys.executable if sys.version_info[:2] == (3, 11) else "3.11"
    subprocess.run([uv(), "venv", "--quiet", "--clear", "--python", wanted, str(folder)], check=True)
    install = ["pip", "install", "--quiet", "--python", str(python), "--compile-bytecode", "--require-hashes", "-r"]
    subprocess.run([uv(), *install, str(path)], check=True)
    stamp.write_text(state)
    return python


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description="Resolve the locks of the servers to compare with.",
        epilog="Example: nox -s bench_lock -- --upgrade",
    )
    parser.add_argument("--upgrade", action="store_true", help="to the newest versions")
    lock(["--upgrade"] if parser.parse_args().upgrade else [])
