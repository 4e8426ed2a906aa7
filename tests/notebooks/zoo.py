"""A small project on disk, and notebooks that are sound but for one defect."""

import os
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from workbench.config import Settings

PARAMETERS = 'limit: int = 5  # questions\nmargin: float = 0.02\nlabel: str = "a # b"\nseed = 7'
SETUP = """import os, pathlib, time
run_dir = pathlib.Path(os.environ["WORKBENCH_RUN_DIR"])"""
GATE = """_ = (run_dir / "gate.json").write_text('{"status": "holds"}')"""
GATE_FAILS = """from workbench.errors import GateFailed
(run_dir / "gate.json").write_text('{"status": "broken"}')
raise GateFailed("nDCG@10 fell", status="broken", exit_code=1)"""
CHILD = """import subprocess
child = subprocess.Popen(["sleep", "300"])
_ = (run_dir / "child.pid").write_text(str(child.pid))"""
# PyDLL keeps the interpreter lock: neither an interrupt nor a thread of the kernel gets a turn.
NATIVE = "import ctypes\nctypes.PyDLL(None).sleep(300)"


def make_settings(root: Path) -> Settings:
    """Empty project below ``root``."""
    for folder in ("notebooks/profiles", "evalsets"):
        (root / folder).mkdir(parents=True)
    return Settings(root, root / "cache", root / "runs", "sqlite:///unused.sqlite")


def add_notebook(
    settings: Settings, name: str, *body: str, gate: str = GATE, parameters: str | None = PARAMETERS
) -> Path:
    """Write ``01_<name>.ipynb`` with the given cells between setup and gate, and an empty profile ``smoke``."""
    first = [] if parameters is None else [_code(parameters, "parameters")]
    cells = [new_markdown_cell(f"# {name}?"), *first, _code(SETUP, "setup"), *map(_code, body)]
    path = settings.notebooks / f"01_{name}.ipynb"
    nbformat.write(notebook_of([*cells, _code(gate, "gate")]), path)
    (settings.notebooks / "profiles" / f"{name}.smoke.yaml").write_text("", encoding="utf-8")
    return path


def notebook_of(cells: list[nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """Notebook of the given cells with the plain Python kernel."""
    spec = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": spec, "language_info": {"name": "python"}})


def _code(source: str, *tags: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kernels_of(folder: Path) -> list[int]:
    """Ids of the processes, other than this one, that were started for a run below ``folder``."""
    mark = f"WORKBENCH_RUN_DIR={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue
        if mark in environment and int(entry.name) != os.getpid() and is_running(int(entry.name)):
            found.append(int(entry.name))
    return found
