"""Two runs side by side: what was asked otherwise, what was decided, and which items moved.

The second side may be what another commit accepted: its decision and scores are read from the history.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evaluation.accepted_decision import decision_path
from workbench.evaluation.run_record import RunRecord
from workbench.project.decision_history import GitHistory
from workbench.records import Decision
from workbench.rendering.numbers import counted
from workbench.rendering.table import Column, Table
from workbench.runner.runs import list_runs

MOVED = 10  # items that are shown


@dataclass(frozen=True, slots=True, eq=False)
class RunSides:
    """Two finished runs of one notebook: each with its decision and its test scores of the deciding metric."""

    runs: tuple[RunRecord, RunRecord]
    decisions: tuple[Decision, Decision]
    scores: tuple[pl.DataFrame, pl.DataFrame]


def find_run(settings: Settings, name: str) -> RunRecord:
    """Record of a run by its folder, its name below runs/, or how that name begins or ends.

    Raises
    ------
    ConfigError
        If there is none, or more than one.
    """
    if Path(name).is_dir() and (Path(name) / "run.json").is_file():
        return RunRecord.load(Path(name))
    if (settings.runs / name / "run.json").is_file():
        return RunRecord.load(settings.runs / name)
    there = sorted(p for p in settings.runs.glob("*/") if p.name.startswith(name) or p.name.endswith(name))
    if len(there) != 1:
        found = f"{counted(len(there), 'run')}: {', '.join(p.name for p in there[:5])}" if there else "none"
        raise ConfigError(f"{name!r} names {found} in {settings.runs}; see: workbench runs")
    return RunRecord.load(there[0])


def newest_run(settings: Settings) -> RunRecord:
    """Record of the run that was started last.

    Raises
    ------
    ConfigError
        If there is none.
    """
    if not (found := list_runs(settings)):
        raise ConfigError(f"no runs in {settings.runs}; make one: workbench run retrieval")
    return found[-1]


def load_run_sides(settings: Settings, before: str, after: str) -> RunSides:
    """Read two runs.

    Raises
    ------
    ConfigError
        If one made no decision, or they are of different notebooks, metrics or evalsets.
    """
    first, second = find_run(settings, before), find_run(settings, after)
    for record in (first, second):
        if not (record.run_dir / "decision.json").is_file():
            raise ConfigError(f"{record.run_dir.name} made no decision: it {record.error or f'is {record.status}'}")
    one, other = (Decision.load(record.run_dir / "decision.json") for record in (first, second))
    if (one.notebook, one.rule.metric) != (other.notebook, other.rule.metric):
        told = " and ".join(f"{d.notebook} by {d.rule.metric}" for d in (one, other))
        raise ConfigError(f"these runs do not compare: {told}")
    if len({d.settings.get("evalset") for d in (one, other)}) > 1:
        told = " and ".join(str(d.settings.get("evalset")) for d in (one, other))
        raise ConfigError(f"these runs do not compare: they asked other questions, those of {told}")
    return RunSides((first, second), (one, other), (_run_test_scores(first, one), _run_test_scores(second, other)))


def run_differences_told(sides: RunSides) -> Iterator[str]:
    """Lines that say how the second run differs from the first, verdicts first."""
    for record, decision in zip(sides.runs, sides.decisions, strict=True):
        yield f"{record.run_dir.name}: {decision.sentence}"
    yield from _decision_differences(sides)


def _decision_differences(sides: RunSides) -> Iterator[str]:
    one, other = sides.decisions
    changed = one.fingerprint.changed(other.fingerprint)
    yield f"inputs that differ: {', '.join(changed) or 'none'}"
    if (table := run_arms_table(sides)).rows:
        yield table.to_text()
    if (table := run_moved_items_table(sides)).rows:
        yield table.to_text()


def run_arms_table(sides: RunSides) -> Table:
    """Mean of the deciding metric on test by arm, in both runs; failed items count in neither mean."""
    means = [dict(frame.group_by("arm").agg(pl.col("value").mean()).iter_rows()) for frame in sides.scores]
    arms = dict.fromkeys([*means[0], *means[1]])
    rows = []
    for arm in arms:
        a, b = means[0].get(arm), means[1].get(arm)
        rows.append((arm, a, b, None if a is None or b is None else b - a))
    metric = sides.decisions[0].rule.metric
    columns = (Column("arm"), *(Column(n, "number", digits=3) for n in (f"{metric} before", "after", "difference")))
    return Table(columns, tuple(rows))


def run_moved_items_table(sides: RunSides) -> Table:
    """Items whose score moved most, of the arm that the second run decided for, the losses first."""
    arm = sides.decisions[1].arm
    frames = [f.filter(pl.col("arm") == arm).group_by("item_id").agg(pl.col("value").mean()) for f in sides.scores]
    both = frames[0].join(frames[1], on="item_id").with_columns(moved=pl.col("value_right") - pl.col("value"))
    both = both.filter(pl.col("moved").abs() > 1e-9).sort(pl.col("moved").abs(), "item_id", descending=[True, False])
    rows = tuple(both.head(MOVED).sort("moved").select("item_id", "value", "value_right", "moved").iter_rows())
    columns = (Column("item"), *(Column(n, "number", digits=3) for n in ("before", "after", "moved")))
    caption = f"{counted(both.height, 'item')} moved for {arm}; those that moved most:"
    return Table(columns, rows, caption=caption)


def _run_test_scores(record: RunRecord, decision: Decision) -> pl.DataFrame:
    path = record.run_dir / "scores.parquet"
    if not path.is_file():
        raise ConfigError(f"{record.run_dir.name} has no scores.parquet")
    scores = pl.read_parquet(path).filter(pl.col("metric") == decision.rule.metric)
    return scores.filter(pl.col("split") == "test") if "split" in scores.columns else scores


FLIPS = 4000


def require_commit(settings: Settings, ref: str) -> GitHistory:
    """History of the project's repository, with a commit of that name.

    Raises
    ------
    ConfigError
        If the project is in no repository, or that has no such commit.
    """
    history = GitHistory.of(settings.root)
    if history is None:
        raise ConfigError(f"{settings.root} is in no git repository, so that there is no {ref} to compare with")
    if not history.knows(ref):
        raise ConfigError(
            f"the repository has no commit {ref!r}; see: git log --oneline (or git fetch, where CI is shallow)"
        )
    return history


def run_differences_since(
    settings: Settings, history: GitHistory, evalset: str, record: RunRecord, ref: str, *, noise: bool = False
) -> Iterator[str]:
    """Lines that say how a run differs from the decision that another commit accepted.

    ``noise`` adds how large a difference of the means two equal versions would show.
    """
    path = decision_path(settings.evalsets / evalset, record.notebook)
    raw, scores = history.content(ref, path), history.content(ref, path.with_suffix(".scores.parquet"))
    if raw is None or scores is None:
        yield f"  {ref} has no accepted decision of {evalset}/{record.notebook}"
        return
    if not (record.run_dir / "decision.json").is_file():
        yield "  this run made no decision, so that nothing is compared"
        return
    before, now = Decision.from_json(raw, f"{path.name} of {ref}"), Decision.load(record.run_dir / "decision.json")
    sides = RunSides(
        (record, record), (before, now), (pl.read_parquet(io.BytesIO(scores)), _run_test_scores(record, now))
    )
    yield f"{ref}: {before.sentence}"
    yield from _decision_differences(sides)
    if noise:
        yield _run_noise(sides)


def _run_noise(sides: RunSides) -> str:
    """Difference that two equal versions show in 95 of 100 cases, by swapping the two inside whole families.

    A randomization test of no difference at all (Fisher 1935), by families as everywhere: it says what chance does on
    these questions, not how far an arm may lie below another.
    """
    arm, after = sides.decisions[1].arm, sides.scores[1]
    mean = [f.filter(pl.col("arm") == arm).group_by("item_id").agg(pl.col("value").mean()) for f in sides.scores]
    both = mean[0].join(mean[1], on="item_id").sort("item_id")
    if "cluster" not in after.columns or both.is_empty():
        return f"A/A: nothing to tell it from for {arm}"
    families = after.filter(pl.col("arm") == arm).select("item_id", "cluster").unique("item_id")
    both = both.join(families, on="item_id").with_columns(
        moved=(pl.col("value_right") - pl.col("value")).fill_null(0.0)
    )
    sums = both.group_by("cluster").agg(pl.col("moved").sum()).sort("cluster")["moved"].to_numpy()
    if not np.abs(sums).any():
        return f"A/A: no item of {arm} moved, so that there is no difference and no noise"
    found, signs = float(sums.sum()), np.random.default_rng(0).choice((-1.0, 1.0), (FLIPS, len(sums)))
    chance = np.abs(signs @ sums)
    reach, share = float(np.quantile(chance, 0.95)) / both.height, float((chance >= abs(found) - 1e-12).mean())
    what = "more than noise" if share < 0.05 else "no more than noise"
    return (
        f"A/A: {arm} moved by {found / both.height:+.4f}; two equal versions move by up to {reach:.4f} either way in "
        f"95 of 100 cases, so this is {what} (p = {share:.3f})"
    )
