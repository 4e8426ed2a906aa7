"""What the version control shows of an accepted decision: gates before looks, and nothing taken back afterwards.

A history is worth what its host keeps of it: whoever can rewrite it can rewrite this.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from workbench.evalset.gates import default_gate_policy, scan_gates
from workbench.project.recompute_decision import RecomputedPart
from workbench.records import Decision, file_hash
from workbench.rendering.numbers import counted

FIXED, COMMITTED = "gates fixed before", "committed"
# Settings of a rule that must not change once the scores are known; the rest follows from what was accepted before.
OF_RULE = ("metric", "margin", "confidence", "floor", "latency_limit_ms", "max_usd_per_1k", "point_usd")


@dataclass(frozen=True, slots=True)
class GitHistory:
    """Commits of the repository that holds a decision; None of `of` where there is none, or no git."""

    root: Path

    @classmethod
    def of(cls, folder: Path) -> "GitHistory | None":
        """History of the repository of a folder."""
        found = _git_history(folder, "rev-parse", "--show-toplevel")
        return cls(Path(found.decode().strip())) if found else None

    def name(self, path: Path) -> str:
        """Path inside the repository."""
        return path.resolve().relative_to(self.root.resolve()).as_posix()

    def content(self, commit: str, path: Path) -> bytes | None:
        """Bytes of a file in a commit, None where it is not in it."""
        return None if commit.startswith("-") else _git_history(self.root, "show", f"{commit}:{self.name(path)}")

    def knows(self, commit: str) -> bool:
        """Whether a commit is here; what git would take for an option is none."""
        return (
            not commit.startswith("-") and _git_history(self.root, "cat-file", "-e", f"{commit}^{{commit}}") is not None
        )

    def commits(self, path: Path) -> list[str]:
        """Commits that changed a file, the newest first."""
        return (_git_history(self.root, "log", "--format=%H", "--", self.name(path)) or b"").decode().split()

    def changed(self, paths: list[Path]) -> list[str]:
        """Of these files those that are not committed as they lie here."""
        names = [self.name(path) for path in paths]
        lines = (
            (_git_history(self.root, "status", "--porcelain", "--ignored", "--", *names) or b"").decode().splitlines()
        )
        return [line[3:] for line in lines]


def _git_history(folder: Path, *words: str) -> bytes | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, check=False)
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None


def look_back_at_decision(decision: Decision, path: Path, *, sealed: str = "") -> Iterator[RecomputedPart]:
    """Check an accepted decision against the history of its repository.

    Parameters
    ----------
    path : Path
        File of the decision; its scores and uses lie beside it, the gates two folders above.
    sealed : str
        sha256 of ``gates.toml`` that somebody was given before the test was looked at, "" for none.
    """
    gates = path.parents[1] / "gates.toml"
    if sealed:
        now = file_hash(gates) if gates.is_file() else "that of no file"
        told = f"the sealed hash is {sealed[:12]}, that of {gates.name} {now[:12]}"
        yield RecomputedPart(FIXED, "verified" if sealed == now else "contradicted", told)
    history = GitHistory.of(path.parent)
    if history is None:
        if not sealed:
            told = "there is no git history here, and no sealed hash was given (--sealed)"
            yield RecomputedPart(FIXED, "not verified", told)
        yield RecomputedPart("nothing taken back", "not verified", "there is no git history here")
        return
    files = [path, path.with_suffix(".scores.parquet"), path.with_suffix(".uses"), gates]
    files = [file for file in files if file.is_file()]
    changed = history.changed(files)
    told = (
        f"not as they lie here: {', '.join(changed)}" if changed else f"{counted(len(files), 'file')}, as they lie here"
    )
    yield RecomputedPart(COMMITTED, "not verified" if changed else "verified", told)
    if not sealed:
        yield _gates_before_decision(decision, path, gates, history)
    yield from _same_rule_in_history(decision, path, history)
    yield from _uses_kept_in_history(path, history)


def _gates_before_decision(decision: Decision, path: Path, gates: Path, history: GitHistory) -> RecomputedPart:
    """Whether the gates of the decision were committed before its run began, or at least before it was accepted."""
    begun, want = decision.fingerprint.provenance.get("commit", ""), decision.fingerprint.inputs.get("gates", "")

    def asks_it(commit: str) -> bool:
        return want in gates_hashes(history.content(commit, gates), decision.notebook)

    known = bool(begun) and history.knows(begun)
    if known and asks_it(begun):
        return RecomputedPart(FIXED, "verified", f"the run began at commit {begun}, which asks the same")
    if known and decision.fingerprint.provenance.get("dirty") == "no":
        told = f"the run began at commit {begun} with nothing changed, and that has other gates"
        return RecomputedPart(FIXED, "contradicted", told)
    accepted = history.commits(path)[:1]
    if accepted and history.knows(f"{accepted[0]}^") and asks_it(f"{accepted[0]}^"):
        return RecomputedPart(
            FIXED, "verified", f"they were committed before {accepted[0][:12]}, which has the decision"
        )
    told = "the gates came with the decision, in one commit" if accepted else "the decision is in no commit"
    missing = "" if known else f"; commit {begun or '?'} of its run is not here (git fetch --unshallow)"
    return RecomputedPart(FIXED, "not verified", f"{told}, so that nothing shows which was first{missing}")


def gates_hashes(data: bytes | None, notebook: str) -> set[str]:
    """Hashes by which a decision may name these gates: of what they ask of its notebook, or of the file as it is."""
    if data is None:
        return {default_gate_policy(notebook).sha256, ""}
    with TemporaryDirectory() as folder:
        (file := Path(folder) / "gates.toml").write_bytes(data)
        asked = scan_gates(file)[0].get(notebook) or default_gate_policy(notebook)
    return {asked.sha256, hashlib.sha256(data).hexdigest()}


def _same_rule_in_history(decision: Decision, path: Path, history: GitHistory) -> Iterator[RecomputedPart]:
    """Whether the same scores once stood under another rule: one that was changed after they were seen."""
    scores, name = path.with_suffix(".scores.parquet"), "rule kept once scores were seen"
    if not scores.is_file():
        return
    now, looked = scores.read_bytes(), 0
    for commit in history.commits(path):
        raw = history.content(commit, path)
        if raw is None or history.content(commit, scores) != now:
            continue
        looked += 1
        try:
            then = json.loads(raw)["rule"]
        except (ValueError, KeyError, TypeError):
            continue
        pairs = {n: (then[n], getattr(decision.rule, n)) for n in OF_RULE if n in then}
        if other := [f"{n} was {a}, is {b}" for n, (a, b) in pairs.items() if a != b]:
            yield RecomputedPart(
                name, "contradicted", f"commit {commit[:12]} has the same scores by another rule: {other[0]}"
            )
            return
    if looked:
        yield RecomputedPart(
            name, "verified", f"in {counted(looked, 'commit that has', 'commits that have')} these scores"
        )


def _uses_kept_in_history(path: Path, history: GitHistory) -> Iterator[RecomputedPart]:
    """Whether every use of the present test split that was ever committed is still in the list."""
    uses = path.with_suffix(".uses")
    now = uses.read_text(encoding="utf-8").split() if uses.is_file() else []
    splits, ever = {use[:8] for use in now[-1:]}, set[str]()
    for commit in history.commits(uses):
        ever |= set((history.content(commit, uses) or b"").decode(errors="replace").split())
    lost = sorted(use for use in ever - set(now) if use[:8] in splits or not now)
    if lost:
        told = f"committed and gone: {counted(len(lost), 'use')} of this test split, {', '.join(lost[:5])}"
        yield RecomputedPart("uses kept", "contradicted", told)
    elif ever:
        yield RecomputedPart("uses kept", "verified", f"all {len(now)} that were ever committed of this test split")
