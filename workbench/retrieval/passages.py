"""How many passages go to the model, and when none is near enough to answer from: both limits promised, not tuned.

A limit is set on dev by conformal risk control (Angelopoulos, Bates, Fisch, Lei and Schuster 2024): of all settings the
cheapest whose loss, averaged over families with one that is lost whole added, is at most ``lost``. Then the expected
loss in a family to come is at most ``lost``, however good or bad retrieval is, provided that **families are
exchangeable**: those to come are drawn as those of dev were. It is a promise on average over dev sets; one dev set may
lie above it.

Which questions the documents cannot answer is known for certain only where what answers them is taken away: such cases
are the same questions with every relevant document left out of the results. Another tenant's questions would not do,
because what they ask about overlaps.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import polars as pl

from workbench.codec import from_json, to_json
from workbench.errors import ConfigError, SplitError
from workbench.evalset.evalset import Split
from workbench.evaluation.compare import MIN_DIFFERING, mean_interval, most_worse_clusters
from workbench.records import Hit, Query
from workbench.rendering.numbers import percent
from workbench.rendering.table import Column, Interval, Table
from workbench.retrieval.metrics import with_grades

WIDEST = 10  # passages that the fewer are compared with
LOST = 0.1
UNANSWERABLE = 0.2  # share of the questions asked, taken until you know yours
ARTEFACT = "artefact.json"
PRECISION = "abstention precision"
Nearest = Callable[[Query, Collection[str]], tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Passages:
    """Documents for the model, and whether the nearest is near enough to answer from."""

    hits: tuple[Hit, ...]
    answerable: bool


@dataclass(frozen=True, slots=True)
class ContextLimits:
    """What one arm was calibrated to: how many passages are sent, and how near the nearest must be.

    Attributes
    ----------
    passages : int
        Documents that are sent, at most.
    closeness : float or None
        Score of the nearest passage (see `workbench.retrieval.searcher.Searcher.nearest`) under which a question may be
        refused; None where nothing can be promised.
    refuses : bool
        Whether refusing pays: shown on dev for the share of questions that is taken to have no answer.
    lost : float
        Share of a family's questions that each of the two may lose, on average.
    """

    arm: str
    passages: int
    closeness: float | None
    refuses: bool
    lost: float
    n_families: int

    def answers(self, closeness: float) -> bool:
        """Whether a question whose nearest passage is so close is answered."""
        return not self.refuses or self.closeness is None or closeness >= self.closeness

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the limits that a run left, or that lie beside an accepted decision as ``retrieval.artefact``.

        Raises
        ------
        ConfigError
            If they cannot be read.
        """
        if not path.is_file():
            raise ConfigError(f"{path} is not there; run and accept retrieval first: workbench run retrieval")
        return from_json(cls, path.read_bytes(), f"{path} holds no limits of passages")

    def save(self, folder: Path) -> None:
        """Leave them in the folder of a run; accepting it keeps them beside the decision."""
        (folder / ARTEFACT).write_text(to_json(self), encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class PassageEvidence:
    """What one arm found for the questions of one split.

    Attributes
    ----------
    split : str
        ``dev`` or ``test``.
    first : ndarray of int, shape (questions,)
        Rank of the first relevant document among the `WIDEST`, 0 where there is none.
    tokens : ndarray of int, shape (questions, WIDEST)
        Tokens of the document at each rank, 0 where nothing was found.
    nearest, without : ndarray of float, shape (questions,)
        Score of the nearest passage, and of the nearest that is not relevant; NaN where the arm is not ours.
    families : ndarray of int, shape (questions,)
        Code of each question's family, 0 .. m - 1.
    """

    split: str
    first: np.ndarray
    tokens: np.ndarray
    nearest: np.ndarray
    without: np.ndarray
    families: np.ndarray

    def take(self, families: np.ndarray) -> "PassageEvidence":
        """Questions of these families, each as often as it is named; a repeat is a family of its own."""
        places = [np.flatnonzero(self.families == f) for f in families]
        at, codes = np.concatenate(places), np.repeat(np.arange(len(places)), [len(p) for p in places])
        return PassageEvidence(
            self.split, self.first[at], self.tokens[at], self.nearest[at], self.without[at], codes.astype(int)
        )

    def by_family(self, values: np.ndarray, of: np.ndarray | None = None) -> np.ndarray:
        """Mean of each family, shape (families, ...), over the questions ``of``; families without any are left out."""
        rows = np.ones(len(self.first), bool) if of is None else of
        codes = np.unique(self.families[rows], return_inverse=True)[1]
        sums = np.zeros((codes.max(initial=-1) + 1, *values.shape[1:]))
        np.add.at(sums, codes, values[rows].astype(float))
        counts = np.bincount(codes, minlength=len(sums))
        return sums / counts.reshape(-1, *[1] * (values.ndim - 1))


def passage_evidence_of(
    run: pl.DataFrame, part: Split, nearest: Nearest | None, tokens: Callable[[str], int]
) -> PassageEvidence:
    """Lay what an arm found beside the judgements.

    Parameters
    ----------
    run : DataFrame
        Ranked hits, columns as `workbench.retrieval.metrics.RUN_SCHEMA`.
    nearest : callable or None
        Takes a query and ids of documents; returns the score of its nearest passage, and of the nearest that is of none
        of these. None for an arm that is not ours.
    tokens : callable
        Takes the id of a document, returns its tokens.
    """
    relevant = with_grades(run, part.qrels, depth=WIDEST)
    rank = dict(zip(relevant.query_ids, _first_passage_rank(relevant.gains > 0), strict=True))
    counts = {q.query_id: np.zeros(WIDEST, int) for q in part.queries}
    for query_id, doc_id, place in (
        run.filter(pl.col("rank") <= WIDEST).select("query_id", "doc_id", "rank").iter_rows()
    ):
        counts[query_id][place - 1] = tokens(doc_id)
    near = np.full((len(part.queries), 2), np.nan)
    for i, query in enumerate(part.queries if nearest else ()):
        near[i] = nearest(query, part.relevant(query.query_id))  # type: ignore[misc]
    families = np.unique([q.cluster or q.query_id for q in part.queries], return_inverse=True)[1]
    first = np.array([rank.get(q.query_id, 0) for q in part.queries], int)
    return PassageEvidence(part.name, first, np.stack([*counts.values()]), near[:, 0], near[:, 1], families)


def _first_passage_rank(relevant: np.ndarray) -> np.ndarray:
    """Rank of the first true of each row, 0 where there is none."""
    return np.where(relevant.any(1), relevant.argmax(1) + 1, 0)


def conformal_passage_choice(losses: np.ndarray, lost: float) -> int | None:
    """Place of the last setting that keeps the promise; None where none does.

    Parameters
    ----------
    losses : ndarray of float, shape (families, settings)
        Loss of each family in [0, 1], growing from setting to setting.
    lost : float
        Expected loss that is allowed in a family to come.

    Examples
    --------
    >>> conformal_passage_choice(np.array([[0.0, 0.0, 1.0]] * 19), 0.1)
    1
    >>> conformal_passage_choice(np.zeros((8, 3)), 0.1) is None  # a ninth family, lost whole, is more than a tenth
    True
    """
    m = len(losses)
    kept = np.flatnonzero((losses.sum(0) + 1) / (m + 1) <= lost) if m else np.array([], int)
    return int(kept[-1]) if kept.size else None


def calibrate_passages(
    dev: PassageEvidence, arm: str, *, lost: float = LOST, unanswerable: float = UNANSWERABLE
) -> ContextLimits:
    """Set both limits on dev.

    What may be lost is, of the questions for which the widest context holds a relevant document, the share of those
    whose context no longer does, and the share of those that are refused. Too few families for a promise leave the
    widest context, and refuse nothing. Refusing pays where wrong answers that it spares are shown to be more than right
    ones that it takes, at a share ``unanswerable`` of the questions.

    Raises
    ------
    SplitError
        If the evidence is not of dev.
    ConfigError
        If ``lost`` or ``unanswerable`` is no share.
    """
    for name, share in (("lost", lost), ("unanswerable", unanswerable)):
        if not 0 <= share <= 1:
            raise ConfigError(f"{name} is a share of questions, from 0 to 1, found {share!r}")
    if dev.split != "dev":
        raise SplitError(f"limits of passages are set on dev alone, found the split {dev.split!r}")
    asked = dev.first > 0
    if not asked.any():
        return ContextLimits(arm, WIDEST, None, False, lost, 0)
    fewer = np.arange(WIDEST, 0, -1)  # loses more from setting to setting
    choice = conformal_passage_choice(dev.by_family(dev.first[:, None] > fewer, asked), lost)
    passages = WIDEST if choice is None else int(fewer[choice])
    limits = ContextLimits(
        arm, passages, _passage_closeness(dev, asked, lost), True, lost, len(np.unique(dev.families[asked]))
    )
    precision = abstention_precision(dev, limits)
    return replace(limits, refuses=precision is not None and 1 - (precision.low or 0.0) <= unanswerable)


def _passage_closeness(dev: PassageEvidence, asked: np.ndarray, lost: float) -> float | None:
    if np.isnan(dev.nearest).any():
        return None
    grid = np.unique(dev.nearest[asked])
    choice = conformal_passage_choice(dev.by_family(dev.nearest[:, None] < grid, asked), lost)
    return None if choice is None else float(grid[choice])


def passage_outcome_rows(found: PassageEvidence, limits: ContextLimits) -> list[tuple[str, Interval | None]]:
    """What the limits keep, save and catch, family by family, each with its two-sided 95 % interval."""
    asked = found.first > 0
    kept = found.first <= limits.passages
    sent = found.tokens[:, : limits.passages].sum(1)
    saved = 1 - sent / np.maximum(found.tokens.sum(1), 1)
    rows: list[tuple[str, np.ndarray, np.ndarray]] = [
        (f"a relevant document among the {WIDEST}", asked, np.ones_like(asked)),
        ("a relevant document still sent, of these", kept, asked),
        (f"tokens saved against {WIDEST}", saved, np.ones_like(asked)),
    ]
    refused, caught = (near < (limits.closeness or 0.0) for near in (found.nearest, found.without))
    if limits.closeness is not None:
        rows += [
            ("answerable recall: not refused, of these", ~refused, asked),
            ("not refused, and a relevant document sent", ~refused & kept, asked),
            ("unanswerable ones that are refused", caught, asked),
        ]
    out: list[tuple[str, Interval | None]] = [(name, _passage_interval(found.by_family(v, of))) for name, v, of in rows]
    if limits.closeness is not None:
        out.append((f"{PRECISION}, as many unanswerable as answerable", abstention_precision(found, limits)))
    return out


def _passage_interval(families: np.ndarray) -> Interval | None:
    """Mean of families in [0, 1]; where few of them differ from 0 or 1, bounds that take each for a whole one."""
    m = len(families)
    if not m:
        return None
    mean, low, high = mean_interval(families, np.arange(m))
    under, over = int((families < 1).sum()), int((families > 0).sum())
    if min(under, over) < MIN_DIFFERING:
        low, high = (
            1 - float(most_worse_clusters(np.array(under), m, 0.975)),
            float(most_worse_clusters(np.array(over), m, 0.975)),
        )
    return Interval(mean, low, high)


def abstention_precision(found: PassageEvidence, limits: ContextLimits, draws: int = 2000) -> Interval | None:
    """Share of the refused that cannot be answered, were half of the questions such; None where nothing is refused.

    One minus it is the share of unanswerable questions from which on refusing pays, if a wrong answer costs what a
    right one is worth. By families; its interval by percentiles, as of any ratio.
    """
    asked = found.first > 0
    if limits.closeness is None or not asked.any():
        return None
    parts = np.stack([found.by_family(near < limits.closeness, asked) for near in (found.without, found.nearest)])
    if not parts.sum():
        return None
    m = parts.shape[1]
    drawn = parts[:, np.random.default_rng(0).integers(m, size=(draws, m))].sum(-1)
    low, high = np.quantile(drawn[0][drawn.sum(0) > 0] / drawn.sum(0)[drawn.sum(0) > 0], [0.025, 0.975])
    return Interval(float(parts[0].sum() / parts.sum()), float(low), float(high))


def passages_table(
    dev: PassageEvidence, test: PassageEvidence, limits: ContextLimits, *, unanswerable: float = UNANSWERABLE
) -> Table:
    """What the limits do on both splits, with the assumptions they rest on."""
    shown = [passage_outcome_rows(part, limits) for part in (dev, test)]
    rows = tuple((name, on_dev, on_test) for (name, on_dev), (_, on_test) in zip(*shown, strict=True))
    refusing = "refuse nothing: too few families for a promise, or passages without a score"
    if limits.closeness is not None:
        refusing = f"refuse where the nearest passage scores under {limits.closeness:.3f}"
        if not limits.refuses:
            refusing = f"refuse nothing (the limit would be a score of {limits.closeness:.3f})"
        if (precision := abstention_precision(dev, limits)) is not None:
            refusing += (
                f": on dev, refusing pays where {percent(1 - precision.estimate)} of the questions have no answer, at "
                f"most {percent(1 - (precision.low or 0.0))}, if a wrong answer costs what a right one is worth; "
                f"{percent(unanswerable)} are assumed"
            )
    caption = (
        f"How many passages, and when to refuse? {limits.arm}: send {limits.passages} of {WIDEST} documents, and "
        f"{refusing}. Each limit loses at most {percent(limits.lost)} of a family's questions on average, if families "
        f"to come are like the {limits.n_families} of dev (exchangeable). Unanswerable are the same questions with all "
        "relevant documents left out of the results: their neighbours remain, so they are the hardest kind. Means of "
        "families with 95 % intervals; dev has set the limits"
    )
    columns = (Column("share"), Column("dev", "interval"), Column("test", "interval"))
    return Table(columns, rows, caption)


def check_passages_arm(limits: ContextLimits, arm: str) -> None:
    """Refuse limits of another arm: its scores mean something else.

    Raises
    ------
    ConfigError
        If they are.
    """
    if limits.arm != arm:
        raise ConfigError(f"the limits were set for {limits.arm!r}, and {arm!r} is searched; run retrieval again")
