"""Tenant, user and feature of a call: set once around the work, inherited by all inside, also in other threads."""

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import ParamSpec, TypeVar

from workbench.errors import ConfigError, unknown_name

PURPOSES = ("product", "eval", "judge", "ingest", "shadow")
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Attribution:
    """Tenant, user, feature, purpose and item of a call; what is not known is empty and reported as unattributed."""

    tenant_id: str = ""
    user_id: str = ""
    feature: str = ""
    purpose: str = "product"
    item_id: str = ""


_NOBODY = Attribution()
_CURRENT: contextvars.ContextVar[Attribution] = contextvars.ContextVar("wb_attribution", default=_NOBODY)


def current_attribution() -> Attribution:
    """Attribution of the calling code."""
    return _CURRENT.get()


@contextmanager
def attributed(**given: str) -> Iterator[Attribution]:
    """Set some fields for everything inside; the others are inherited.

    >>> with attributed(tenant_id="acme"), attributed(feature="search"):
    ...     current_attribution()
    Attribution(tenant_id='acme', user_id='', feature='search', purpose='product', item_id='')

    Raises
    ------
    ConfigError
        If a field or a purpose is not known.
    """
    names = [f.name for f in fields(Attribution)]
    for name in given:
        if name not in names:
            raise ConfigError(unknown_name("attribution", name, names))
    if given.get("purpose", PURPOSES[0]) not in PURPOSES:
        raise ConfigError(unknown_name("purpose", given["purpose"], PURPOSES))
    token = _CURRENT.set(replace(_CURRENT.get(), **given))
    try:
        yield _CURRENT.get()
    finally:
        _CURRENT.reset(token)


def carry_attribution(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Run ``function`` in a copy of this context wherever it is called: for threads, which do not inherit it."""
    context = contextvars.copy_context()

    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        return context.copy().run(function, *args, **kwargs)

    return run
