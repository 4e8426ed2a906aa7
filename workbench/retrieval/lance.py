"""LanceDB's failures as the package's own: OSError, RuntimeError and ValueError become StoreError."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from workbench.errors import StoreError

_SOURCE_LINE = re.compile(r",? ?\S*\.cargo/\S+")


@contextmanager
def reported(asked: str) -> Iterator[None]:
    """Raise what LanceDB raises as a StoreError that says what was asked for.

    A write that failed has changed nothing that readers see: LanceDB commits a new version last.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        reason = _SOURCE_LINE.sub("", str(error)).strip().splitlines()
        raise StoreError(f"cannot {asked}: {reason[0] if reason else type(error).__name__}") from error
