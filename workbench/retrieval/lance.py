"""LanceDB's failures as the package's own: OSError, RuntimeError and ValueError become StoreError."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from workbench.errors import StoreError

_NOISE = re.compile(r",? ?\S*\.cargo/\S+| Detail: Python exception.*|\n.*", re.DOTALL)


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
