"""Ingests by Ray while a worker is killed, and prints what a test asserts: ``python -m tests.inference.ray_child``."""

import json
import subprocess
import sys
import threading
import time
from functools import partial

from tests.benchmarks.bench_ray import kill_one, table_of
from workbench.inference.ray_embedding import RayEmbedder
from workbench.records import Document
from workbench.testing import HashEmbedder, WordTokenizer

DIMENSION = 32


class SlowEmbedder(HashEmbedder):
    """Takes its time for a batch, so that a worker can be killed in the middle of one."""

    def embed(self, texts):
        time.sleep(0.2)
        return super().embed(texts)


def addresses() -> list[str]:
    """Where processes of Ray listen."""
    told = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = (line.split() for line in told if any(name in line for name in ('"raylet"', '"gcs_server"', '"ray::')))
    return sorted({words[3].rpartition(":")[0] for words in ours})


def main() -> None:
    documents = [Document(f"d{i}", f"text {i} of {i % 7} words") for i in range(3_000)]
    slow = partial(SlowEmbedder, dimension=DIMENSION)
    expected, _ = table_of(documents, HashEmbedder(dimension=DIMENSION), WordTokenizer(), 1024)
    embedder, killed = RayEmbedder(slow(), slow, workers=2), list[int]()
    thread = threading.Thread(target=kill_one, args=(killed, 0.1), daemon=True)
    thread.start()
    found, _ = table_of(documents, embedder, WordTokenizer(), 1024)
    listening = addresses()
    embedder.close()
    told = {"rows": len(found), "equal": found == expected, "killed": len(killed), "listening": listening}
    sys.stdout.write(f"\n{json.dumps(told)}\n")


if __name__ == "__main__":
    main()
