"""What tables of costs take on a growing ledger: ``pytest -m bench -s tests/benchmarks/bench_costs.py``.

``python -m tests.benchmarks.bench_costs postgresql 100000`` measures one database up to so many rows.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.bench_ledger import grow
from tests.databases import KINDS, database_url
from tests.telemetry.rows import row
from workbench.inference.budgets import Budgets
from workbench.inference.prices import load_prices
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger

SIZES = (10_000, 100_000, 1_000_000)
MEGABYTES, SECONDS = 2000.0, 5.0
# Four weeks of hours, three models, tokens that differ: what neither database words in its own way.
VARIED = {
    "started": "'2026-11-' || substr(cast(101 + i / 50 % 28 as text), 2, 2) || 'T' || "
    "substr(cast(100 + i / 7 % 24 as text), 2, 2) || ':30:00+00:00'",
    "model_asked": "'local/m' || (i / 10 % 3)",
    "fresh_tokens": "900 + i % 97",
    "cache_read_tokens": "i % 311",
    "trace_id": "'t' || (i / 30)",
}


def measure(url: str) -> None:
    """Print processor seconds of each table and the peak of memory, in a process of its own."""
    from workbench.costs import tables
    from workbench.costs.cost_bridge import cost_bridge
    from workbench.costs.focus import BillingAccount, focus_frame
    from workbench.costs.spend import Spend, load_spend, spend_spikes
    from workbench.costs.unit_economics import customer_margins

    prices, ledger = load_prices(), Ledger(open_engine(url))
    started = time.process_time()
    spend = load_spend(ledger)
    sys.stdout.write(f"{len(spend.rows):9,} rows  read {time.process_time() - started:.2f} s")
    half = spend.rows.height // 2
    before, after = Spend(spend.rows.head(half)), Spend(spend.rows.tail(half))
    steps: dict[str, Callable[[], object]] = {
        "by user": lambda: tables.spend_table(spend, "user"),
        "by day, model": lambda: tables.spend_table(spend, "day", "model"),
        "matrix": lambda: tables.spend_matrix_table(spend),
        "gaps": lambda: tables.spend_gaps_table(spend),
        "requests": lambda: tables.unit_cost_table(spend),
        "margins": lambda: tables.customer_margins_table(customer_margins(spend.matrix(), {})),
        "tokens": lambda: tables.token_cost_table(spend),
        "waste": lambda: tables.spend_waste_table(spend),
        "spikes": lambda: spend_spikes(spend, "user"),
        "bridge": lambda: cost_bridge(before, after, prices),
        "focus": lambda: focus_frame(spend, prices, BillingAccount("a")),
    }
    for name, step in steps.items():
        started = time.process_time()
        step()
        sys.stdout.write(f"  {name} {time.process_time() - started:.2f}")
    sys.stdout.write(f"  peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000:,.0f} MB\n")


def growth(kind: str, folder: Path, largest: int) -> None:
    """Grow a ledger tenfold at a time and measure each size; refuse what takes more than the notebook may."""
    with database_url(kind, folder) as url:
        engine = open_engine(url)
        ledger, size = Ledger(engine), 0
        Budgets(engine)
        ledger.add([row("model", 0, 0, fresh_tokens=900, output_tokens=80, model_asked="local/m", trace_id="")])
        for goal in [size for size in SIZES if size <= largest]:
            grow(engine, ledger, size, goal, VARIED)
            size = goal
            done = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.bench_costs", url],
                capture_output=True, text=True, check=True, env=dict(os.environ),
            )  # fmt: skip
            sys.stdout.write(f"\n{kind} {done.stdout}")
            sys.stdout.flush()
            tables, _, peak = done.stdout.partition("read ")[2].rpartition("  peak ")
            assert float(peak.partition(" MB")[0].replace(",", "")) < MEGABYTES
            took = [float(part.rpartition(" ")[2]) for part in tables.split("  ")[1:]]
            assert max(took) < SECONDS
        engine.dispose()


@pytest.mark.bench
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_growth(kind, tmp_path):
    growth(kind, tmp_path, SIZES[-1])


if __name__ == "__main__":
    if sys.argv[1] in KINDS:
        with tempfile.TemporaryDirectory() as place:
            growth(sys.argv[1], Path(place), int(sys.argv[2]))
    else:
        measure(sys.argv[1])
