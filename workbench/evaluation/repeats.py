"""Items that were answered several times: where an interval's width comes from, and what would narrow it.

An answer lies in an item, an item in a family. The deciding test averages an item's repeats first and resamples
families (`workbench.evaluation.compare`): that is right whatever the parts are (Miller 2024), and the parts only say
what to buy next. They are estimated by the nested analysis of variance for unequal sizes (Searle, Casella and McCulloch
1992, chapter 5); one that comes out below 0 counts as 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from workbench.evaluation.compare import item_clusters
from workbench.rendering.numbers import percent
from workbench.rendering.table import Column, Value

MORE_QUESTIONS, MORE_REPEATS = 20, 3  # what a sentence compares
RIGHT = 0.5  # graded answers from here on count as right
NO_CHOICE = 0.02  # plans whose intervals differ by less than this share of their width do as much as each other


@dataclass(frozen=True, slots=True)
class RepeatComponents:
    """Variance of a mean in its parts: they add up to the square of its standard error.

    Attributes
    ----------
    families, items, repeats : float
        What families, the questions inside them, and the repeats of a question add to the variance of the mean.
    n_items : int
    n_repeats : float
        Answers to an item: their harmonic mean, where items have unequally many.
    """

    families: float
    items: float
    repeats: float
    n_items: int
    n_repeats: float

    @property
    def total(self) -> float:
        """Variance of the mean."""
        return self.families + self.items + self.repeats

    def after(self, *, questions: int = 0, repeats: int = 0) -> float:
        """Variance of the mean with more questions, in families as those there are, or more repeats of each."""
        again = self.repeats * self.n_repeats / (self.n_repeats + repeats)
        return (self.families + self.items + again) * self.n_items / (self.n_items + questions)

    def better(self, questions: int = MORE_QUESTIONS, repeats: int = MORE_REPEATS) -> str:
        """Which of two plans narrows the interval more: ``questions``, ``repeats``, or ``either``.

        >>> RepeatComponents(4.0, 3.0, 1.0, n_items=100, n_repeats=3).better()
        'questions'
        >>> RepeatComponents(1.0, 1.0, 6.0, 100, 3).better()
        'repeats'
        """
        first, second = self.after(questions=questions) ** 0.5, self.after(repeats=repeats) ** 0.5
        if abs(first - second) <= NO_CHOICE * max(first, second):
            return "either"
        return "questions" if first < second else "repeats"

    def shares(self) -> tuple[float, float, float]:
        """Parts of families, questions and repeats; all 0 where nothing varies."""
        return tuple(part / self.total if self.total else 0.0 for part in (self.families, self.items, self.repeats))  # type: ignore[return-value]

    def sentence(self, items: str = "questions") -> str:
        """Where the width comes from, and which of the two plans does more; "" where nothing varies."""
        if not self.total:
            return ""
        by = [percent(share) for share in self.shares()]
        head = f"families make {by[0]}, {items} inside them {by[1]} and repeats {by[2]} of its variance"
        more, again = f"{MORE_QUESTIONS} more {items}", f"{MORE_REPEATS} more repeats of each of the {self.n_items:,}"
        told = {
            "questions": f"{more} do more than {again}",
            "repeats": f"{again} do more than {more}",
            "either": f"{more} and {again} do about as much",
        }[self.better()]
        return f"{head}; {told}"


def repeat_components(values: np.ndarray, clusters: np.ndarray) -> RepeatComponents:
    """Parts of the variance of the mean of item means.

    Parameters
    ----------
    values : ndarray of float, shape (items, repeats)
        Answers to each item; NaN where one has fewer. An item needs at least one.
    clusters : ndarray of int, shape (items,)
        Family of each item, 0 .. m - 1.
    """
    n, m = len(values), int(clusters.max()) + 1
    counts = (~np.isnan(values)).sum(1)
    means = np.nanmean(values, axis=1)
    spare = int((counts - 1).sum())
    within = float(np.nansum((values - means[:, None]) ** 2) / spare) if spare else 0.0
    sizes = np.bincount(clusters, minlength=m)
    by_family = np.bincount(clusters, means, minlength=m) / sizes
    noise, inside = float(np.mean(1 / counts)), n - m  # of the mean of an item's repeats
    of_items = float(((means - by_family[clusters]) ** 2).sum() / inside) if inside else 0.0
    item = max(of_items - within * noise, 0.0)
    between = float((sizes * (by_family - means.mean()) ** 2).sum() / max(m - 1, 1))
    alike = (n - (sizes**2).sum() / n) / max(m - 1, 1)  # items of a family, were all families alike
    family = max((between - item - within * noise) / alike, 0.0) if m > 1 else 0.0
    return RepeatComponents(family * float((sizes**2).sum()) / n**2, item / n, within * noise / n, n, 1 / noise)


def repeated_values(scores: pl.DataFrame, arm: str, items: Sequence[str], *, missing: float = 0.0) -> np.ndarray:
    """Values of one arm, shape (items, repeats); what failed counts ``missing``, what was not asked is NaN."""
    mine = scores.filter(pl.col("arm") == arm).with_columns(pl.col("value").fill_nan(missing).fill_null(missing))
    at = {item: i for i, item in enumerate(items)}
    repeats = {r: i for i, r in enumerate(sorted(scores["repeat"].unique()))}
    out = np.full((len(items), len(repeats)), np.nan)
    for item, repeat, value in mine.select("item_id", "repeat", "value").iter_rows():
        out[at[item], repeats[repeat]] = value
    return out


def pass_all_repeats(values: np.ndarray) -> float:
    """pass^k: share of the items of which all k repeats are right (Yao et al. 2024); values as in `repeat_components`.

    >>> pass_all_repeats(np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]]))
    0.3333333333333333
    """
    return float(((values >= RIGHT) | np.isnan(values)).all(1).mean())


def repeat_flip_rate(values: np.ndarray) -> float | None:
    """Chance that two answers to one item differ in being right, without bias; None where nothing was asked twice.

    >>> repeat_flip_rate(np.array([[1, 1, 1], [1, 0, 1], [0, 0, 0]]))
    0.2222222222222222
    """
    n = (~np.isnan(values)).sum(1)
    right = (values >= RIGHT).sum(1)
    asked = n > 1
    return float(np.mean((2 * right * (n - right) / np.maximum(n * (n - 1), 1))[asked])) if asked.any() else None


def repeat_columns(
    values: Mapping[str, np.ndarray], clusters: np.ndarray
) -> tuple[list[Column], dict[str, list[Value]]]:
    """Columns that a table has where items were answered several times, and the cells of each arm; else none."""
    most = max((row.shape[1] for row in values.values()), default=1)
    if most < 2:
        return [], {name: [] for name in values}
    columns = [
        Column(f"pass^{most}", "number", digits=3),
        Column("flip rate", "share"),
        Column("variance from families, questions, repeats"),
    ]
    cells: dict[str, list[Value]] = {}
    for name, row in values.items():
        parts = repeat_components(row, clusters)
        told = " + ".join(percent(share) for share in parts.shares()) if parts.total else "none"
        cells[name] = [pass_all_repeats(row), repeat_flip_rate(row), told]
    return columns, cells


def repeat_score_columns(scores: pl.DataFrame, arms: Sequence[str]) -> tuple[list[Column], dict[str, list[Value]]]:
    """`repeat_columns` of rows of one metric."""
    items, codes = item_clusters(scores)
    return repeat_columns({arm: repeated_values(scores, arm, items) for arm in arms}, codes)


def repeats_difference_note(scores: pl.DataFrame, arm: str, other: str, items: str = "questions") -> str:
    """What the interval of a paired difference is made of, in a sentence; "" where nothing was asked twice.

    Parameters
    ----------
    scores : DataFrame
        Rows of one metric and one split, of both arms.
    """
    both = scores.filter(pl.col("arm").is_in([arm, other]))
    if both["arm"].n_unique() < 2 or both["repeat"].n_unique() < 2:
        return ""
    names, codes = item_clusters(both)
    first, second = (repeated_values(both, name, names) for name in (arm, other))
    alone = [~np.isnan(one[:, 1:]).all() for one in (first, second)]
    if not all(alone):  # one of them was asked once, and has no repeats to be paired
        first, second = (one if more else one[:, :1] for one, more in zip((first, second), alone, strict=True))
    difference = first - second
    if np.isnan(difference).all(1).any() or not (told := repeat_components(difference, codes).sentence(items)):
        return ""
    return f"Of the difference between {arm} and {other}, {told}."
