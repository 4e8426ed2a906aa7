"""What a run rests on: inputs that make a decision stale, and provenance that is only shown."""

import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from workbench.codec import from_plain
from workbench.errors import ConfigError
from workbench.evalset.gates import unknown_parameter
from workbench.extras import VERSION
from workbench.inference.embedding import Embedder
from workbench.records import content_hash
from workbench.telemetry.context import attributed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Parameters = TypeVar("Parameters", bound="DataclassInstance")
SHOWN = ("lancedb", "onnxruntime", "numpy", "polars", "scipy", "scikit-learn", "papermill")
PROBE = ("how do I drop rows with missing values", "join two tables on the nearest timestamp", "Überlauf? ∑ 0x7f")


def build_parameters(kind: type[Parameters], given: Mapping[str, Any]) -> Parameters:
    """Frozen parameter value from a notebook's plain ones; lists become tuples.

    Raises
    ------
    ConfigError
        If names are no fields of ``kind`` (the nearest are named) or values have another type.
    """
    known = [f.name for f in fields(kind)]
    for name in given:
        if name not in known:
            raise ConfigError(unknown_parameter(name, known))
    return from_plain(kind, dict(given), "these parameters cannot be used", noun="parameter")


def parameter_inputs(parameters: Any) -> dict[str, str]:
    """Each parameter as one input of the fingerprint, so that a stale decision says which one changed."""
    return {f"parameter {f.name}": repr(getattr(parameters, f.name)) for f in fields(parameters)}


def encoder_probe(embedder: Embedder) -> str:
    """Hash of the vectors of fixed sentences, to three decimals.

    Integer kernels differ between processor families, so that the same weights may rank otherwise elsewhere; such
    a machine is another input, not a regression.
    """
    with attributed(purpose="eval"):
        vectors = embedder.embed(PROBE)
    return content_hash(np.round(vectors, 3).astype(np.float32).tobytes())[:16]


def encoder_inputs(embedder: Embedder) -> dict[str, str]:
    """Inputs of the fingerprint that an encoder makes: its name with its weights, and its probe."""
    return {"weights": embedder.encoder_id, "encoder probe": encoder_probe(embedder)}


def provenance(root: Path) -> dict[str, str]:
    """Versions, commit, dirty flag and machine; shown, never decides."""
    out = {"version workbench": VERSION} | {f"version {name}": metadata.version(name) for name in SHOWN}
    out["python"] = platform.python_version()
    out["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    commit = _git(root, "rev-parse", "--short=12", "HEAD")
    if commit:
        out["commit"] = commit
        out["dirty"] = "yes" if _git(root, "status", "--porcelain", "--untracked-files=no") else "no"
    return out


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
