"""What an encoder of texts promises."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Embedder(Protocol):
    """Texts to vectors; one instance is one pinned model."""

    @property
    def encoder_id(self) -> str:
        """Name of the model and its weights: two encoders of one id give the same vectors."""

    @property
    def dimension(self) -> int:
        """Length of each vector."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """One L2-normalised row for each text, shape ``(len(texts), dimension)``."""
