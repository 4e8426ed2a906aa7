"""What a router may look at, and how it becomes numbers: length, surface, words, embeddings, confidence."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from workbench.errors import ConfigError
from workbench.evalset.outcomes import Requests

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
MAX_WORDS = 2000
_WORD = re.compile(r"\w\w+")
_SURFACE = (
    r"\S+",  # words
    r"\d+",  # numbers
    r"[.!?](?:\s|$)",  # sentences
    r"\n",
    r"[{}()\[\];=<>`]",  # code
    r"(?i)\b(?:why|how|prove|explain|derive|compare|design|analyse|analyze)\b",
    r"(?i)\b(?:if|unless|except|each|every|after|before|both)\b",
)


class Features(Protocol):
    """Requests to rows of numbers; what it learned when it was fitted are its fields."""

    def rows(self, requests: Requests) -> Any:
        """Rows, dense or sparse, shape (n, dimensions)."""


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Counts of what a complex prompt has many of, on a logarithmic scale and standardised; the first is length."""

    mean: Floats
    scale: Floats

    @classmethod
    def fit(cls, requests: Requests, *, only_length: bool = False) -> Self:
        """Learn mean and scale; ``only_length`` leaves the number of characters alone."""
        raw = _surface(requests.prompts, 1 if only_length else 1 + len(_SURFACE))
        scale = raw.std(0)
        return cls(raw.mean(0), np.where(scale > 0, scale, 1.0))

    def rows(self, requests: Requests) -> Floats:
        """Standardised log counts."""
        standardised: Floats = (_surface(requests.prompts, self.mean.size) - self.mean) / self.scale
        return standardised


def _surface(prompts: Sequence[str], columns: int) -> Floats:
    counts = [_counts(text)[:columns] for text in prompts]
    logs: Floats = np.log1p(np.array(counts, float).reshape(len(prompts), columns))
    return logs


@lru_cache(maxsize=100_000)  # every fold and every policy counts the same prompts
def _counts(text: str) -> tuple[int, ...]:
    return (len(text), *(len(re.findall(pattern, text)) for pattern in _SURFACE))


@dataclass(frozen=True, slots=True)
class Embedding:
    """Vectors of the prompts, made by the caller's encoder."""

    def rows(self, requests: Requests) -> Floats:
        """Vectors as they are.

        Raises
        ------
        ConfigError
            If the requests carry none.
        """
        if requests.vectors is None:
            raise ConfigError("this router reads embeddings, and the requests have none; give Requests their vectors")
        return requests.vectors


@dataclass(frozen=True, slots=True, eq=False)
class Tfidf:
    """Words weighted by how rare they are, of unit length; at most 2,000, the most frequent."""

    words: tuple[str, ...]
    idf: Floats
    _column: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_column", {word: i for i, word in enumerate(self.words)})

    @classmethod
    def fit(cls, requests: Requests) -> Self:
        """Learn the words that two prompts or more share, and their weights."""
        frequency: dict[str, int] = {}
        for text in requests.prompts:
            for word in set(_WORD.findall(text.lower())):
                frequency[word] = frequency.get(word, 0) + 1
        ranked = sorted((-n, word) for word, n in frequency.items() if n > 1)[:MAX_WORDS]
        words = tuple(sorted(word for _, word in ranked))
        shared = np.array([frequency[w] for w in words], float)
        return cls(words, np.log((1 + len(requests)) / (1 + shared)) + 1)

    def rows(self, requests: Requests) -> Any:
        """Sparse rows of unit length; a prompt of unknown words is a row of zeros."""
        from scipy.sparse import csr_array

        indices, indptr = [], [0]
        for text in requests.prompts:
            indices += [self._column[w] for w in _WORD.findall(text.lower()) if w in self._column]
            indptr.append(len(indices))
        weights = self.idf[np.array(indices, int)]
        x = csr_array((weights, np.array(indices, int), np.array(indptr)), (len(requests), len(self.words)))
        x.sum_duplicates()
        lengths = np.sqrt(x.multiply(x).sum(1))
        lengths[lengths == 0] = 1.0
        return x.multiply(1 / lengths[:, None]).tocsr()


@dataclass(frozen=True, slots=True)
class Confidence:
    """Confidence of one model in its own answer; the lowest where it gave none."""

    column: int

    def rows(self, requests: Requests) -> Floats:
        """One column in [0, 1].

        Raises
        ------
        ConfigError
            If the requests carry no confidence.
        """
        if requests.confidence is None:
            raise ConfigError("a cascade reads the confidence of its first model, and the requests have none")
        return np.nan_to_num(requests.confidence[:, [self.column]], nan=0.0)
