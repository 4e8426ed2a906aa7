# ruff: noqa: T201
"""Simulate items that are answered several times, in families: intervals, parts of the variance, and what to buy next.

Usage: nice python -m tests.benchmarks.simulate_repeats [draws]

An interval is that of item means over resampled families, two-sided at 95 %; beside it stands what comes of taking each
answer for an item of its own. A piece of advice, 20 more questions or 3 more repeats, comes from the estimated parts
and is judged by the true ones; it is right where the plan that it names leaves no wider an interval than the other, or,
where it calls them equal, where the widths differ by at most 5 %.
"""

import sys
from dataclasses import dataclass

import numpy as np

from workbench.evaluation.compare import bootstrap_t
from workbench.evaluation.repeats import MORE_QUESTIONS, MORE_REPEATS, RepeatComponents, repeat_components

CONFIDENCE = 0.975  # one side of 95 %
EQUAL = 0.05


@dataclass(frozen=True)
class Nest:
    """A population of families, items in them and repeats; ``sd`` of each part, on the scale of a latent normal."""

    name: str
    families: int
    most_items: int  # a family has 1 to so many
    repeats: int
    sd: tuple[float, float, float]
    binary: bool

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Values, shape (items, repeats), and the family of each item."""
        clusters = np.repeat(np.arange(self.families), rng.integers(1, self.most_items + 1, self.families))
        level = self.sd[0] * rng.normal(size=self.families)[clusters] + self.sd[1] * rng.normal(size=clusters.size)
        latent = level[:, None] + self.sd[2] * rng.normal(size=(clusters.size, self.repeats))
        return (latent > -0.5).astype(float) if self.binary else latent, clusters

    def mean(self) -> float:
        """Mean of the item means, as many families come to it."""
        big = Nest(self.name, 200_000, self.most_items, 1, self.sd, self.binary)
        return float(big.draw(np.random.default_rng(99))[0].mean()) if self.binary else 0.0


NESTS = (
    Nest("graded, 120 families of 1 to 4", 120, 4, 3, (1.0, 0.7, 0.7), binary=False),
    Nest("graded, 30 families of 1 to 8", 30, 8, 3, (1.0, 0.7, 0.7), binary=False),
    Nest("right or wrong, 120 families of 1 to 4", 120, 4, 3, (1.0, 1.0, 0.7), binary=True),
    Nest("right or wrong, 40 families of 1 to 8", 40, 8, 5, (1.0, 0.5, 1.0), binary=True),
    Nest("right or wrong, single items", 100, 1, 3, (1.0, 0.0, 1.0), binary=True),
    Nest("right or wrong, flaky", 60, 3, 5, (0.3, 0.3, 1.5), binary=True),
)


def covered(nest: Nest, draws: int) -> tuple[float, float]:
    """Share of draws whose interval holds the truth: of item means by family, and of answers taken for items."""
    truth, hits = nest.mean(), np.zeros(2)
    for seed in range(draws):
        values, clusters = nest.draw(np.random.default_rng(seed))
        flat = values.ravel()
        for i, (row, codes) in enumerate(((values.mean(1), clusters), (flat, np.arange(flat.size)))):
            bounds = bootstrap_t(row[None], codes, confidence=CONFIDENCE, draws=1000 if i == 0 else 400, seed=seed)
            hits[i] += bounds.low[0] <= truth <= bounds.high[0]
    return float(hits[0] / draws), float(hits[1] / draws)


def parts_ratio(nest: Nest, draws: int) -> np.ndarray:
    """Estimated parts of the variance of the mean by the true ones, on average; graded populations only."""
    found = []
    for seed in range(draws):
        values, clusters = nest.draw(np.random.default_rng(seed))
        told, true = repeat_components(values, clusters), true_parts(nest, clusters)
        found.append([told.families / true.families, told.items / true.items, told.repeats / true.repeats])
    return np.mean(found, axis=0)


def true_parts(nest: Nest, clusters: np.ndarray) -> RepeatComponents:
    """Parts of the variance of the mean of these items, from the standard deviations that they were drawn with."""
    n, sizes = clusters.size, np.bincount(clusters)
    family, item, repeat = np.square(nest.sd)
    return RepeatComponents(family * (sizes**2).sum() / n**2, item / n, repeat / nest.repeats / n, n, nest.repeats)


def advice_right(draws: int) -> tuple[float, float, dict[str, int]]:
    """Share of right advice over populations of all kinds, the share without those called equal, and what was said."""
    rng, right, said = np.random.default_rng(7), [], []
    for seed in range(draws):
        sd = tuple(np.sqrt(rng.dirichlet((1, 1, 1))))
        nest = Nest("", int(rng.integers(30, 200)), int(rng.integers(1, 6)), int(rng.integers(2, 6)), sd, binary=False)
        values, clusters = nest.draw(np.random.default_rng(seed))
        advice, true = repeat_components(values, clusters).better(), true_parts(nest, clusters)
        questions, repeats = true.after(questions=MORE_QUESTIONS) ** 0.5, true.after(repeats=MORE_REPEATS) ** 0.5
        ratio = repeats / questions  # above 1: questions narrow the interval more
        right.append(abs(ratio - 1) <= EQUAL if advice == "either" else (ratio >= 1) == (advice == "questions"))
        said.append(advice)
    sided = [ok for ok, advice in zip(right, said, strict=True) if advice != "either"]
    return float(np.mean(right)), float(np.mean(sided)), {a: said.count(a) for a in sorted(set(said))}


def main() -> None:
    """Print coverage by population, the ratios of the parts, and the share of right advice."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    for nest in NESTS:
        ours, naive = covered(nest, draws)
        print(f"{nest.name:40} x {nest.repeats}: covered {ours:.1%}; each answer an item: {naive:.1%}", flush=True)
    for nest in NESTS[:2]:
        print(f"{nest.name:40} parts, estimated by true: {parts_ratio(nest, draws).round(2).tolist()}", flush=True)
    share, sided, said = advice_right(500)
    print(f"advice right in {share:.1%} of 500 draws ({sided:.1%} of those that name a plan); said: {said}")


if __name__ == "__main__":
    main()
