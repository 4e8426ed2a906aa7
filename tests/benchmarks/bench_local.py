"""Local models at work: seconds to load, tokens a second, in this process.

Run as a program: ``python -m tests.benchmarks.bench_local [--threads N] [model ...]``. What it prints depends on the
machine and its load; prices rest on a committed calibration instead.
"""

import argparse
import statistics
import sys
import time

from workbench.config import load_settings
from workbench.inference.hosted_models import Provider
from workbench.inference.local_models import CHAT_MODELS, LocalModels
from workbench.inference.messages import LOCAL, Request, Response
from workbench.rendering.table import Table

SHORT = "Name three cities of France."
LONG = " ".join(f"Fact {i}: the square of {i} is {i * i}." for i in range(20)) + " What is the square of 12?"
REPEATS, TOKENS = 3, 32


def measure(provider: Provider, model: str) -> tuple[float, float, float]:
    """Milliseconds to the first token of a short prompt, and tokens a second of a long prompt and of an answer."""
    short = [ask(provider, model, SHORT) for _ in range(REPEATS)]
    long = ask(provider, model, LONG)
    writing_s = [(r.latency_ms - r.first_token_ms) / 1000 / max(r.usage.output - 1, 1) for r in short]
    return (
        statistics.median(r.first_token_ms for r in short),
        1000 * long.usage.fresh / long.first_token_ms,
        1 / statistics.median(writing_s),
    )


def ask(provider: Provider, model: str, text: str) -> Response:
    request = Request(model, ({"role": "user", "content": text},), max_tokens=TOKENS)
    return provider.complete(request, timeout_s=600, on_text=len)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(CHAT_MODELS))
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    folder, rows = load_settings().cache / "weights", []
    for name in asked.models:
        model, local = LOCAL + name, LocalModels(folder, threads=asked.threads)
        started = time.monotonic()
        local.server(model)
        rows.append([name, time.monotonic() - started, *measure(local, model)])
    names = ["model", "load s", "first token ms", "prompt tokens/s", "answer tokens/s"]
    sys.stdout.write(Table.of(names, rows, f"{asked.threads} thread(s)").to_text() + "\n")


if __name__ == "__main__":
    main()
