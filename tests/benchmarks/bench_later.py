# ruff: noqa: T201
"""What a verifier off the path gains beside the same one in line, replayed on the traffic of an evalset.

``python -m tests.benchmarks.bench_later docs_qa caching_demo``: for each evalset the guard alone at the threshold that
was accepted; the fitted verifier in line, from the cosine on at which dev pairs keep their limit; and the same one
later, from that cosine on, where the guard serves at once from the accepted threshold on. Then likewise a verifier that
knows the answer keys, which is the most that any could gain. First with answers to misses kept, as our cache does, then
with the answers of the warm-up alone, a tier of curated answers. Shares are of the test part; "earlier" is the share
that is answered from an entry of another text, "curated" that from an entry of the warm-up. Then what `03_caching`
certifies, and how long a check in line keeps its request waiting.
"""

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from workbench.caching.cache_study import CachingParameters, Semantic
from workbench.caching.notebook import CachingExperiment
from workbench.caching.stream_replay import StreamReplay, replay_stream
from workbench.caching.verifiers import Allows, Checks, LaterChecks, Verdict, VerifierUsed
from workbench.config import load_settings
from workbench.inference.embedding import load_embedder
from workbench.records import Decision

TIMED = 60
COLUMNS = ("arm", "hits", "earlier", "curated", "false", "checks/1,000", "USD/1,000", "entries", "promoted")


@dataclass(frozen=True)
class Knowing:
    """A verifier that knows which requests share an answer key."""

    answers: dict[str, set[int]] = field(repr=False)
    used: VerifierUsed = VerifierUsed("answer keys", 0.5, "", 0.0)

    def check(self, pairs: Sequence[tuple[str, str]]) -> list[Verdict]:
        """Whether the two have an answer key in common."""
        return [Verdict(bool(self.answers[a] & self.answers[b])) for a, b in pairs]


def knowing(run: CachingExperiment) -> Knowing:
    """The verifier of a stream."""
    answers: dict[str, set[int]] = {}
    for text, answer in zip(run.study.stream.queries, run.study.stream.answers.tolist(), strict=True):
        answers.setdefault(text, set()).add(answer)
    return Knowing(answers)


def arms(run: CachingExperiment, semantic: Semantic) -> Iterator[tuple[str, float, Allows | None, float]]:
    """Name, threshold, way of matching, and USD of a check."""
    accepted = Decision.accepted(run.evalset.path, "caching").parameters["threshold"]
    later = next(way for way in semantic.ways.values() if isinstance(way, LaterChecks))
    line, known = later.checks, Checks(later.checks.guard, knowing(run))
    usd = line.verifier.used.usd_per_check
    yield "exact repeats", 2.0, None, 0.0
    yield f"guard @{accepted:g}", accepted, later.guard, 0.0
    for name, checks, price in (("fitted", line, usd), ("answer keys", known, 0.0)):
        yield f"{name}, in line @{later.floor:g}", later.floor, checks, price
        yield f"guard @{accepted:g}, {name} later from {later.floor:g}", accepted, replace(later, checks=checks), price


def row(name: str, found: StreamReplay, run: CachingExperiment, usd: float) -> tuple[str, ...]:
    """What one cache did on the test part."""
    part = run.study.parts["test"]
    own, checks = (found.hit & ~found.exact)[part], 1000 * found.checked[part].mean()
    curated = (found.hit & (found.matched < run.parameters.warmup))[part]
    shares = [f"{100 * x.mean():.1f} %" for x in (found.hit[part], own, curated)]
    false = f"{found.false[part].sum()} of {own.sum()}"
    return (name, *shares, false, f"{checks:.0f}", f"{checks * usd:.2g}", f"{found.entries:,}", f"{found.promoted:,}")


def rows(run: CachingExperiment, semantic: Semantic, fills: int | None) -> Iterator[tuple[str, ...]]:
    """A row for each arm."""
    for name, threshold, way, usd in arms(run, semantic):
        found = replay_stream(run.study.stream, semantic.vectors, threshold=threshold, guard=way, fills=fills,
                       blocks=semantic.blocks)  # fmt: skip
        yield row(name, found, run, usd)


def check_ms(run: CachingExperiment, semantic: Semantic) -> tuple[float, float]:
    """Median and 95 % quantile of milliseconds that one fitted check takes in the serving cache, one pair at a time."""
    embedder = load_embedder(run.parameters.embedder, run.settings)
    shadow, stream = semantic.shadows["similarity"], run.study.stream
    near = np.flatnonzero(~shadow.exact & (shadow.similarity >= 0.3))
    places = np.random.default_rng(0).choice(near, TIMED, replace=False)
    fitted, took = run.fitted, []
    assert fitted is not None
    for i in places:
        pair = (stream.queries[i], stream.queries[shadow.matched[i]])
        started = time.perf_counter()
        fitted.probabilities([pair], embedder.embed)
        took.append(1000 * (time.perf_counter() - started))
    return float(np.median(took)), float(np.quantile(took, 0.95))


def main(evalset: str) -> None:
    """Both tables of one evalset."""
    verifiers = ("fitted", "later:fitted")
    run = CachingExperiment(CachingParameters(evalset=evalset, verifiers=verifiers), load_settings())
    semantic = run.semantic()
    print("\none check: median {:.1f} ms, 95 % under {:.1f} ms".format(*check_ms(run, semantic)))
    for name, fills in (("answers to misses are kept", None), ("curated answers alone", run.parameters.warmup)):
        print(f"\n{evalset}, {name}\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
        for each in rows(run, semantic, fills):
            print(f"| {' | '.join(each)} |", flush=True)
    print(f"\n{evalset}, certificates")
    for arm, found in run.certify(semantic).arms:
        if found and arm.kind == "semantic":
            print(
                f"{arm.name}: {found.certified}, {found.false} false of {found.hits}, <= {found.high:.4f}; {found.note}"
            )


if __name__ == "__main__":
    for asked in sys.argv[1:]:
        main(asked)
