# ruff: noqa: T201
"""What a shadow promises: its level at any look, how soon it ends, and that users notice nothing.

python -m tests.benchmarks.simulate_shadow [simulations] [calls]: 0 leaves a part out.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from workbench.config import SystemClock
from workbench.inference.budgets import DEFAULT_BUDGETS, Budgets
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Request, Response, Usage
from workbench.inference.prices import load_prices
from workbench.quality.monitoring import bet_stakes, capital_growth, mixed_capital
from workbench.quality.shadow import Shadow
from workbench.quality.shadow_pairs import ShadowEvidence
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger
from workbench.telemetry.spans import Tracing
from workbench.testing import ScriptedModel

Floats = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int], float], Floats]
MARGIN, DELTA, LOOKS, SOON, AT_ONCE = 0.05, 0.05, 10_000, 4_000, 50
LIVE, OTHER = "local/qwen2.5-coder-0.5b", "local/smollm2-135m"
ASK = [{"role": "user", "content": "How do I join two frames by their nearest key?"}]
PROVIDER_S = 0.02
BOOKS_USD = 1.5e-4  # a few dozen calls of the challenger


def differ(share: float) -> Draw:
    """Right or wrong: so large a share of the pairs differs."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Floats:
        u, most = rng.random(shape), max(share, abs(mean))
        return (u < (most + mean) / 2).astype(float) - (u > 1 - (most - mean) / 2)

    return draw


def graded(sd: float) -> Draw:
    """Scores by degrees, so that all pairs differ a little; a beta distribution on [-1, 1]."""

    def draw(rng: np.random.Generator, shape: tuple[int, int], mean: float) -> Floats:
        middle, n = (1 + mean) / 2, (1 - mean**2) / sd**2 - 1
        return 2 * rng.beta(middle * n, (1 - middle) * n, shape) - 1

    return draw


POPULATIONS: dict[str, Draw] = {
    "right or wrong, 6 % differ": differ(0.06),
    "right or wrong, 20 % differ": differ(0.2),
    "right or wrong, 50 % differ": differ(0.5),
    "graded, sd .1": graded(0.1),
    "graded, sd .25": graded(0.25),
}


def first_looks(x: Floats, margin: float = MARGIN, delta: float = DELTA) -> tuple[Floats, Floats]:
    """Look at which each path would first be said to hold, and to be broken; infinite for never."""
    out = []
    for values, mean in ((x, -margin), (-x, margin)):
        bets = bet_stakes(mean, margin)
        over = mixed_capital(capital_growth(values, mean, bets).cumsum(axis=1)) >= -np.log(delta)
        out.append(np.where(over.any(1), over.argmax(1) + 1.0, np.inf))
    return out[0], out[1]


def naive_looks(x: Floats, margin: float = MARGIN, delta: float = DELTA) -> tuple[Floats, Floats]:
    """Return the same by the t test for one look, made at every look from the thirtieth on."""
    n = np.arange(1, x.shape[1] + 1)
    mean = x.cumsum(1) / n
    se = np.sqrt(np.maximum((x**2).cumsum(1) / n - mean**2, 1e-12) / n)
    out = []
    for sign in (1, -1):
        over = (sign * (mean + margin) / se > -ndtri(delta)) & (n >= 30)
        out.append(np.where(over.any(1), over.argmax(1) + 1.0, np.inf))
    return out[0], out[1]


def simulate(
    draw: Draw, mean: float, simulations: int, looks: int = LOOKS, seed: int = 0, by: Callable = first_looks
) -> tuple[Floats, Floats]:
    """`first_looks` of many paths with one true mean."""
    rng, parts = np.random.default_rng(seed), []
    for start in range(0, simulations, AT_ONCE):
        parts.append(by(draw(rng, (min(AT_ONCE, simulations - start), looks), mean)))
    holds, broken = (np.concatenate([part[i] for part in parts]) for i in range(2))
    return holds, broken


def fixed_n(sd: float, power: float, margin: float = MARGIN, delta: float = DELTA) -> float:
    """Pairs of the one test that is made once, sized for a truth one margin away, when the spread is known."""
    return float(((-ndtri(delta) + ndtri(power)) * sd / margin) ** 2)


def level(simulations: int) -> None:
    print(f"(a) false verdicts over {LOOKS:,} looks, {simulations:,} simulations, margin {MARGIN}, delta {DELTA}")
    print("population | A/A called worse | at the margin: called worse | called good enough | t tests call worse")
    for name, draw in POPULATIONS.items():
        aa, edge = simulate(draw, 0.0, simulations), simulate(draw, -MARGIN, simulations, seed=1)
        naive = simulate(draw, -MARGIN, simulations, seed=1, by=naive_looks)
        said = [np.isfinite(v).mean() for v in (aa[1], edge[1], edge[0], naive[1])]
        print(f"{name} | " + " | ".join(f"{v:.3%}" for v in said))


def soonness(simulations: int) -> None:
    print("(b) pairs until the verdict, beside one t test sized for a truth one margin away (80 %, 90 % power)")
    print("population | truth | mean | median | 90 % | decided | fixed n 80 %, 90 % | mean / fixed n 80 %, 90 %")
    for name, draw in POPULATIONS.items():
        for mean in (-2 * MARGIN, -4 * MARGIN, 0.0):
            found = simulate(draw, mean, simulations, SOON, seed=2)[0 if mean == 0 else 1]
            sd = float(draw(np.random.default_rng(3), (1, 100_000), mean).std())
            n80, n90 = fixed_n(sd, 0.8), fixed_n(sd, 0.9)
            took = np.minimum(found, SOON)
            print(f"{name} | {mean:+.2f} | {took.mean():.0f} | {np.median(took):.0f} | {np.quantile(took, 0.9):.0f} | "
                  f"{np.isfinite(found).mean():.1%} | {n80:.0f}, {n90:.0f} | {took.mean() / n80:.2f}, "
                  f"{took.mean() / n90:.2f}")  # fmt: skip


@dataclass
class Bad:
    """A challenger of one bad kind."""

    kind: str
    ends: threading.Event

    def __call__(self, request: Request) -> str | Request:
        if self.kind == "hangs":
            self.ends.wait()
        if self.kind == "raises":
            raise SystemExit("no")
        if self.kind == "overspends":  # each may cost more than there is, and the last answers cost more than was said
            return Request(OTHER, request.messages, max_tokens=10**6)
        if self.kind == "is busy":
            sum(i * i for i in range(10**6))
        return "merge_asof"


def client_of(folder: Path, name: str, shadow: Shadow | None = None) -> Client:
    engine = open_engine(f"sqlite:///{folder / name}.sqlite")
    said = Response("merge_asof", LIVE, Usage(40, output=4))
    model = ScriptedModel(lambda request: said, delay_ms=1000 * PROVIDER_S, clock=SystemClock())
    books = Books(load_prices(), Budgets(engine, DEFAULT_BUDGETS), Ledger(engine), None, Tracing(engine))
    return Client({"": model}, books, shadow=shadow)


def block(client: Client, calls: int) -> list[tuple[float, float]]:
    """Seconds that each call took, and of processor time that it took its own thread."""
    took = []
    for _ in range(calls):
        began, cpu = time.perf_counter(), time.thread_time()
        done = client.complete(ASK, model=LIVE)
        took.append((time.perf_counter() - began, time.thread_time() - cpu))
        assert done.text == "merge_asof"
    return took


def unseen(kind: str, calls: int, folder: Path, *, rate: float = 0.05, in_block: int = 50) -> list[Floats]:
    """What `block` says without a shadow, twice, and with one; blocks in turn, each begun when the last is quiet."""
    ends = threading.Event()
    other = OTHER if kind == "answers" else Bad(kind, ends)
    shadow = Shadow(f"bad-{kind.replace(' ', '-')}", other, lambda request, text: 1.0, margin=MARGIN, rate=rate,
                    budget_usd=1e-6 if kind == "overspends" else 10.0, confidence=1 - 1e-9, timeout_s=5.0)  # fmt: skip
    clients = [client_of(folder, f"{kind} {i}", (None, None, shadow)[i]) for i in range(3)]
    rng, took = np.random.default_rng(0), ([], [], [])
    for client in clients:
        block(client, 10)
    for _ in range(calls // in_block):
        for which in rng.permutation(3):
            took[which].extend(block(clients[which], in_block))
            until = time.monotonic() + 3
            while shadow._open and kind != "hangs" and time.monotonic() < until:
                time.sleep(0.01)
    ends.set()
    shadow.close()
    return [np.array(side) for side in took]


def p99_ratio(off: Floats, on: Floats, seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the 99th percentiles with its 95 % bootstrap interval."""
    rng = np.random.default_rng(seed)
    drawn = [np.quantile(rng.choice(v, (1000, len(v))), 0.99, axis=1) for v in (off, on)]
    low, high = np.quantile(drawn[1] / drawn[0], (0.025, 0.975))
    return float(np.quantile(on, 0.99) / np.quantile(off, 0.99)), float(low), float(high)


def latency(calls: int) -> None:
    print(f"(c) complete() with a provider of {1000 * PROVIDER_S:.0f} ms, calls in turn in one run")
    print(
        "challenger | drawn | calls a side | p50 off, on ms | p99 off, on ms | p99 on / off (95 %) | off / off | CPU ms"
    )
    with tempfile.TemporaryDirectory() as name:
        for rate in (0.05, 1.0):
            folder = Path(name) / f"{rate}"
            folder.mkdir()
            found = {
                kind: unseen(kind, calls, folder, rate=rate) for kind in ("answers", "hangs", "raises", "overspends")
            }
            found["these four together"] = [np.concatenate(side) for side in zip(*found.values(), strict=True)]
            found["is busy"] = unseen("is busy", calls, folder, rate=rate)
            for kind, (off, again, on) in found.items():
                (p50, p99), (q50, q99) = (1000 * np.quantile(v[:, 0], (0.5, 0.99)) for v in (off, on))
                told = ["{:.2f} ({:.2f} to {:.2f})".format(*p99_ratio(off[:, 0], v[:, 0])) for v in (on, again)]
                cpu, own = (1000 * np.median(v[:, 1]) for v in (off, on))
                print(f"{kind} | {rate:.0%} | {len(on)} | {p50:.1f}, {q50:.1f} | {p99:.1f}, {q99:.1f} | {told[0]} | "
                      f"{told[1]} | {cpu:.2f}, {own:.2f}", flush=True)  # fmt: skip


def books(calls: int) -> None:
    print("(d, e) a budget for some, a queue of 5, a close of 1 s, and a second process on the same store")
    with tempfile.TemporaryDirectory() as name:
        folder, kept = Path(name), []
        for turn in range(2):
            shadow = Shadow("books", OTHER, lambda request, text: 1.0, margin=MARGIN, budget_usd=BOOKS_USD, rate=1.0,
                            queue_size=5, close_s=1.0)  # fmt: skip
            client = client_of(folder, "books", shadow)
            before = shadow._watch.pairs
            with_threads = [threading.Thread(target=block, args=(client, calls)) for _ in range(8)]
            for thread in with_threads:
                thread.start()
            for thread in with_threads:
                thread.join()
            began = time.monotonic()
            shadow.close()
            closed = time.monotonic() - began
            found = ShadowEvidence(client.books.budgets.engine).verdict("books")
            rows = client.books.ledger.frame()
            charged = rows.filter(rows["purpose"] == "shadow")["cost_nanos"].sum() / 1e9
            kept.append(found.claim.n_items)
            ends = found.claim.n_items + sum(found.counts[n] for n in ("dropped", "refused", "lost"))
            print(f"process {turn + 1}: began with {before} pairs, has {found.claim.n_items}; {found.counts}; drawn "
                  f"less ends {found.counts['drawn'] - ends}; spent {found.spent_usd:.9f} (ledger {charged:.9f}) of "
                  f"{found.budget_usd:.9f}; close took {closed:.2f} s")  # fmt: skip


def main(arguments: Sequence[str]) -> None:
    simulations, calls = (int(arguments[0]) if arguments else 2000), (int(arguments[1]) if arguments[1:] else 1000)
    if simulations:
        level(simulations)
        soonness(min(simulations, 500))
    if calls:
        books(20)
        latency(calls)


if __name__ == "__main__":
    main(sys.argv[1:])
