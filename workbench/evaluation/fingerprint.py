"""What a run rests on: inputs that make a decision stale, and provenance that is only shown."""

import os
import platform
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import Field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from workbench.codec import NEEDED, NEUTRAL, RANGE, Range, from_plain, shown, to_plain
from workbench.errors import ConfigError
from workbench.evalset.gates import unknown_parameter
from workbench.extras import VERSION
from workbench.inference.embedding import Embedder
from workbench.records import content_hash, file_hash
from workbench.telemetry.attribution import attributed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Parameters = TypeVar("Parameters", bound="DataclassInstance")
FORMERLY = "formerly"  # of a field's metadata: the parameter of one value in whose place it stands
BESIDE = "beside"  # of a field's metadata, next to NEUTRAL: what is shown beside the decision and is no part of it
SHOWN_PACKAGES = ("lancedb", "onnxruntime", "numpy", "polars", "scipy", "scikit-learn", "papermill")
SEED = {RANGE: Range(0, 2**32 - 1)}  # of a field's metadata: what numpy and scikit-learn both take
PROBE = ("how do I drop rows with missing values", "join two tables on the nearest timestamp", "Überlauf? ∑ 0x7f")


def build_parameters(kind: type[Parameters], given: Mapping[str, Any]) -> Parameters:
    """Frozen parameter value from a notebook's plain ones; lists become tuples.

    Raises
    ------
    ConfigError
        If names are no fields of ``kind`` (the nearest are named), values have another type or lie outside the
        `RANGE` of their field, or a list names something twice, has an empty entry, or is empty and `NEEDED`.
    """
    known, given = [f.name for f in fields(kind)], dict(given)
    for f in fields(kind):
        if (old := f.metadata.get(FORMERLY)) and old in given:
            if f.name in given:
                raise ConfigError(f"parameters {old!r} and {f.name!r} are the same; give {f.name!r} alone")
            given[f.name] = [given.pop(old)]
    for name in given:
        if name not in known:
            raise ConfigError(unknown_parameter(name, known))
    told = "these parameters cannot be used"
    built = from_plain(kind, dict(given), told, noun="parameter")
    values = ((f, getattr(built, f.name)) for f in fields(kind))
    if problems := [problem for f, value in values if (problem := _parameter_problem(f, value))]:
        raise ConfigError(f"{told}: {'; '.join(problems)}")
    return built


def _parameter_problem(field: Field[Any], value: Any) -> str:
    """What a parameter cannot be, with what is expected; "" where it fits."""
    asked = f"{field.name} = {shown(value)}: "
    if RANGE in field.metadata:
        problem: str = field.metadata[RANGE].problem(value)
        return problem and asked + problem
    if not isinstance(value, tuple):
        return ""
    if field.metadata.get(NEEDED) and not value:
        return f"{field.name} needs at least one value"
    if blank := [entry for entry in value if not str(entry).strip()]:
        return f"{field.name} has an entry without a name, {blank[0]!r}: leave it out"
    if twice := [entry for entry in dict.fromkeys(value) if value.count(entry) > 1]:
        return f"{field.name} must be all different, and names {twice[0]!r} twice"
    return ""


def deciding_parameters(parameters: Parameters) -> Parameters:
    """Parameters as a decision keeps them: each that is only shown beside it (`BESIDE`) has its `NEUTRAL` value."""
    return replace(parameters, **{f.name: f.metadata[NEUTRAL] for f in fields(parameters) if f.metadata.get(BESIDE)})


def parameter_inputs(parameters: Any) -> dict[str, str]:
    """Each parameter as one input of the fingerprint, so that a stale decision says which one changed.

    A decision that was accepted before a parameter came stays valid: one that holds its `NEUTRAL` value is no input,
    and one that took the place of another (`FORMERLY`) is told as that where it has a single value.
    """
    out, parameters = {}, deciding_parameters(parameters)
    for f in fields(parameters):
        value, old = getattr(parameters, f.name), f.metadata.get(FORMERLY)
        if NEUTRAL in f.metadata and value == f.metadata[NEUTRAL]:
            continue
        name, value = (old, value[0]) if old and len(value) == 1 else (f.name, value)
        out[f"parameter {name}"] = repr(value)
    return out


def declared_parameter_names(kind: Any, given: Mapping[str, Any], declared: Collection[str]) -> dict[str, Any]:
    """Parameters under the names that a notebook's cell has, which may be older or newer than those that were kept.

    >>> from dataclasses import field, make_dataclass
    >>> later = field(default=("lance",), metadata={NEUTRAL: ("lance",)})
    >>> kind = make_dataclass("P", [("many", tuple, field(metadata={FORMERLY: "one"})), ("stores", tuple, later)])
    >>> declared_parameter_names(kind, {"one": "a"}, ["many"])
    {'many': ['a']}
    >>> declared_parameter_names(kind, {"many": ["a"], "stores": ["lance"]}, ["one"])
    {'one': 'a'}
    >>> neutral = make_dataclass("P", [("calls", str, field(metadata={NEUTRAL: ""}))])
    >>> declared_parameter_names(neutral, {"calls": ""}, [])
    {}
    """
    out = dict(given)
    for f in fields(kind):
        old = f.metadata.get(FORMERLY, "")
        if old in out and old not in declared and f.name in declared:
            out[f.name] = [out.pop(old)]
        elif f.name not in out or f.name in declared:
            continue
        elif old in declared and len(out[f.name]) == 1:
            (out[old],) = out.pop(f.name)
        elif NEUTRAL in f.metadata and to_plain(out[f.name]) == to_plain(f.metadata[NEUTRAL]):
            del out[f.name]
    return out


def fingerprint_encoder_probe(embedder: Embedder) -> str:
    """Hash of the vectors of fixed sentences, to three decimals.

    Integer kernels differ between processor families, so that the same weights may rank otherwise elsewhere; such
    a machine is another input, not a regression.
    """
    with attributed(purpose="eval"):
        vectors = embedder.embed(PROBE)
    return content_hash(np.round(vectors, 3).astype(np.float32).tobytes())[:16]


def fingerprint_of_encoder(embedder: Embedder, name: str = "") -> dict[str, str]:
    """Inputs of the fingerprint that an encoder makes: its name with its weights, and its probe.

    ``name`` is that of one beside the first.
    """
    found = {"weights": embedder.encoder_id, "encoder probe": fingerprint_encoder_probe(embedder)}
    return {f"{what} {name}".strip(): value for what, value in found.items()}


def provenance(root: Path) -> dict[str, str]:
    """Versions, commit, dirty flag and machine; shown, never decides."""
    out = {"version workbench": VERSION} | {f"version {name}": metadata.version(name) for name in SHOWN_PACKAGES}
    out["python"] = platform.python_version()
    out["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    commit = _git_of_code(root, "rev-parse", "--short=12", "HEAD")
    if commit:
        out["commit"] = commit
        out["dirty"] = "yes" if _git_of_code(root, "status", "--porcelain", "--untracked-files=no") else "no"
    return out


def code_tree_hash(root: Path, apart: Collection[Path] = ()) -> str:
    """Hash of the code of a folder's repository as it stands: its commit, and each file that differs or is new.

    ``apart`` are folders that do not count. "" where no commit tells: outside a repository, or where it ignores the
    folder.
    """
    top, commit = Path(_git_of_code(root, "rev-parse", "--show-toplevel")), _git_of_code(root, "rev-parse", "HEAD")
    if not commit or _git_of_code(root, "check-ignore", str(root.resolve())):
        return ""
    listed = [_git_of_code(top, "diff", "--name-only", "--no-renames", "-z", "HEAD")]
    listed += [_git_of_code(top, "ls-files", "--others", "--exclude-standard", "-z")]
    outside, parts = [folder.resolve() for folder in apart], [commit]
    for name in sorted({name for names in listed for name in names.split("\0") if name}):
        path = top / name
        if "__pycache__" not in path.parts and not any(path.is_relative_to(folder) for folder in outside):
            parts += [name, _changed_content(path)]
    return content_hash(*parts)


def _changed_content(path: Path) -> str:
    """What a changed path holds: a file its bytes, a repository inside the repository its files."""
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.is_file() and ".git" not in p.parts)
        return content_hash(*(part for p in inside for part in (str(p), file_hash(p))))
    return file_hash(path) if path.is_file() else "gone"


def _git_of_code(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *words],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",  # a name that is no UTF-8 is a file all the same
            check=False,
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip("\n") if done.returncode == 0 else ""
