"""What the result of a check rests on, so that one which was interrupted takes a result again only if nothing moved.

A fingerprint is known when a run has read its inputs. This is known before: it is wider, and moves where a fingerprint
would not.
"""

import json
import os
import platform
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from workbench.config import Settings
from workbench.errors import EvalsetError
from workbench.evalset.evalset import find_evalset
from workbench.evaluation.accepted_decision import note_test_use
from workbench.evaluation.fingerprint import code_tree_hash
from workbench.extras import DISTRIBUTION
from workbench.records import content_hash, file_hash

_OF_A_RUN = ("WORKBENCH_RUN_DIR", "WORKBENCH_RUNS", "WORKBENCH_PROFILE")
_SOURCES = (".py", ".ipynb", ".toml", ".yaml", ".yml")
_IMPORTED = (*_SOURCES, ".json", ".pyd", ".so")
# What is installed says of itself, and of its files; "" is the file itself where there is no folder.
_SAID = ("METADATA", "PKG-INFO", "", "RECORD", "direct_url.json")


def result_rests_on(settings: Settings, notebook: str, profile: str, parameters: Mapping[str, Any]) -> str:
    """``result_rests_on(settings, "retrieval", "ci", parameters)``: hash of all that the result of a run rests on.

    It holds the commit and each file that differs from it, the evalset with its decisions and recordings, files that
    parameters name, weights, the notebooks, this package, all that is installed, the environment's settings and the
    machine.

    Returns
    -------
    str
        "" where nothing tells whether the code has moved, as outside a git repository, or the evalset is gone.
    """
    apart = (settings.runs, settings.cache)
    code = code_tree_hash(settings.root, apart)
    try:
        evalset = find_evalset(str(parameters["evalset"]), settings) if parameters.get("evalset") else None
    except EvalsetError:
        return ""
    if not code:
        return ""
    asked = json.dumps([notebook, profile, parameters], sort_keys=True, default=repr)
    uses = note_test_use(settings, evalset, notebook) if evalset else []
    sources = [p for p in settings.notebooks.rglob("*") if p.suffix in _SOURCES]
    sources += [p for p in settings.root.glob("*") if p.suffix in _SOURCES]
    return content_hash(
        code,
        asked,
        hash_of_files(settings.root, sources),
        hash_of_files(evalset, evalset.rglob("*")) if evalset else "",
        hash_of_files(settings.root, _named_files_of_result(settings.root, parameters)),
        package_hash(),
        *(str(use) for use in uses),
        *_weights_of_result(settings.cache / "weights"),
        *_installed_of_result(apart),
        *(f"{n}={v}" for n, v in sorted(os.environ.items()) if n.startswith("WORKBENCH_") and n not in _OF_A_RUN),
        *(str(p) for p in (settings.root, settings.cache, settings.state_url, settings.store_url, settings.tables_url)),
        f"{platform.node()} {platform.platform()} {platform.machine()} {os.cpu_count()} {sys.version}",
    )


def package_hash() -> str:
    """Hash of this package's own files."""
    package = Path(__file__).parents[1]
    return hash_of_files(package, package.rglob("*"))


def hash_of_files(root: Path, paths: Iterable[Path]) -> str:
    """Hash of files: where each lies below ``root``, and its content; folders and compiled Python do not count."""
    files = sorted(p for p in paths if p.is_file() and "__pycache__" not in p.parts)
    return content_hash(*(part for p in files for part in (os.path.relpath(p, root), file_hash(p))))


def _named_files_of_result(root: Path, value: Any) -> Iterator[Path]:
    """Files that parameters name, alone or as in ``NAME=FILE@USD``; of a folder, all that it holds."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for each in value:
            yield from _named_files_of_result(root, each)
    elif isinstance(value, str):
        for part in {value, *re.split("[=@]", value)}:
            path = (root / part).resolve() if part and os.path.exists(os.path.join(root, part)) else root
            if not root.is_relative_to(path):  # a folder above says nothing of what is meant
                yield from path.rglob("*") if path.is_dir() else [path]


def _weights_of_result(folder: Path) -> Iterator[str]:
    """Size and time of each file of weights: what they hold is checked where they are loaded."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found = path.stat()
            yield f"{path.relative_to(folder)} {found.st_size} {found.st_mtime_ns}"


def _installed_of_result(apart: Collection[Path]) -> Iterator[str]:
    """What all that is installed says of itself, and the code of each folder that is imported as it is written.

    This package is not among these: `package_hash` has its own files.
    """
    said: list[str] = []
    for each in metadata.distributions():  # what it says of itself is hashed as it stands: parsing it is dear
        about = [each.read_text(name) or "" for name in _SAID]
        origin = json.loads(about[-1] or "{}")
        editable = origin.get("dir_info", {}).get("editable") and str(origin.get("url", "")).startswith("file://")
        theirs = editable and each.name != DISTRIBUTION
        code = _imported_code_hash(Path(url2pathname(origin["url"].removeprefix("file://"))), apart) if theirs else ""
        said.append(content_hash(*about, code))
    yield from sorted(said)
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        yield folder  # two folders of one repository have the same hash
        yield _imported_code_hash(Path(folder), apart)


def _imported_code_hash(folder: Path, apart: Collection[Path]) -> str:
    """Hash of the code of the folder's repository; without one, of what can be imported from the folder or archive."""
    if known := code_tree_hash(folder, apart):
        return known
    outside = [each.resolve() for each in apart]
    inside = [folder] if folder.is_file() else (p for p in folder.resolve().rglob("*") if p.suffix in _IMPORTED)
    return hash_of_files(folder.resolve(), (p for p in inside if not any(map(p.is_relative_to, outside))))
