"""LanceDB's failures as the package's own: OSError, RuntimeError and ValueError become StoreError."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from workbench.errors import StoreError

_NOISE = re.compile(r",? ?\S*\.cargo/\S+| Detail: Python exception.*|\n.*", re.DOTALL)

_RETRYABLE, _ATTEMPTS, _PAUSE_S = "Retryable commit conflict", 8, 0.1


def committed(write: Callable[[], None]) -> None:
    """Do a write again where another process's commit came first: LanceDB says which may simply be repeated."""
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return write()
        except (OSError, RuntimeError) as error:
            if _RETRYABLE not in str(error) or attempt == _ATTEMPTS:
                raise
        time.sleep(_PAUSE_S * attempt)


@contextmanager
def reported(asked: str) -> Iterator[None]:
    """Raise what LanceDB raises as a StoreError that says what was asked for.

    A write that failed has changed nothing that readers see: LanceDB commits a new version last.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = _NOISE.sub("", str(error)).strip() or type(error).__name__
        raise StoreError(f"cannot {asked}: {reason}") from error
