"""What the steps of the caching notebook hand on to each other; each shows itself as its table."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from workbench.evaluation.cache_claims import CacheArm, CacheResult
from workbench.evaluation.certification import Certificate
from workbench.evaluation.stream import Replay, Shadow
from workbench.rendering.table import Table


@dataclass(frozen=True, repr=False)
class Step:
    """A value that is shown as its table, in Jupyter and as text."""

    table: Table

    def _repr_html_(self) -> str:
        return self.table.to_html()

    def __repr__(self) -> str:
        return self.table.to_text()


@dataclass(frozen=True, repr=False)
class Semantic(Step):
    """Every request's vector and its nearest earlier request, by way of matching; cosines of the labelled pairs."""

    vectors: npt.NDArray[np.float32]
    shadows: dict[str, Shadow]
    pair_similarity: npt.NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Certified(Step):
    """Arms with their certificates, simplest first."""

    arms: tuple[tuple[CacheArm, Certificate | None], ...]


@dataclass(frozen=True, repr=False)
class Replayed(Step):
    """What the true replay of each arm did on the test part."""

    results: tuple[CacheResult, ...]
    replays: dict[str, Replay]
