"""Fakes for tests, the package's own and those of its users; nothing in the package imports this."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class WordTokenizer:
    """Words and single punctuation marks are the tokens.

    >>> WordTokenizer().offsets("a bc.")
    [(0, 1), (2, 4), (4, 5)]
    """

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Characters of each token."""
        return [m.span() for m in re.finditer(r"\w+|[^\w\s]", text)]


@dataclass(frozen=True, slots=True)
class HashEmbedder:
    """Bag of hashed words: texts that share words are near, the same text is always the same vector.

    >>> near, same = HashEmbedder().embed(["join two frames", "join two tables"])
    >>> bool(near @ same > 0.5)
    True
    """

    dimension: int = 64
    seed: int = 0

    @property
    def encoder_id(self) -> str:
        """Name of the encoder with all that its vectors depend on."""
        return f"hash-{self.dimension}-{self.seed}"

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Sum of one fixed random direction for each word, of unit length."""
        rows = [sum(_direction(word, self.seed, self.dimension) for word in _words(text)) for text in texts]
        sums = np.array(rows).reshape(len(texts), self.dimension)
        unit: npt.NDArray[np.float32] = (sums / np.linalg.norm(sums, axis=1, keepdims=True)).astype(np.float32)
        return unit


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower()) or ["", text]


@lru_cache(maxsize=10_000)
def _direction(word: str, seed: int, dimension: int) -> npt.NDArray[np.float64]:
    digest = blake2b(f"{seed}:{word}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "big")).standard_normal(dimension)
