"""How often each cluster is drawn in the resamples of a bootstrap; the same for all intervals on one split."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

_BLOCK = 250
# Resamples times clusters of which the weights are kept: 16 MB, and of four splits at most.
_KEPT_WEIGHTS = 2**21


def cluster_weights(m: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of ``m`` clusters is drawn, shape (block, m), in blocks so that memory stays flat.

    Each interval on one split rests on the same resamples, so those of a split of usual size are drawn once, and kept;
    the blocks are read-only.
    """
    kept = 0 < m * draws <= _KEPT_WEIGHTS
    return iter(_kept_cluster_weights(m, draws, seed)) if kept else _drawn_cluster_weights(m, draws, seed)


@lru_cache(maxsize=4)
def _kept_cluster_weights(m: int, draws: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_drawn_cluster_weights(m, draws, seed))


def _drawn_cluster_weights(m: int, draws: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    for start in range(0, draws, _BLOCK):
        n = min(_BLOCK, draws - start)
        # A multinomial, counted in a fifth of the time that numpy's own takes.
        drawn = rng.integers(m, size=(n, m)) + m * np.arange(n)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=n * m).reshape(n, m).astype(float)
        weights.flags.writeable = False
        yield weights
