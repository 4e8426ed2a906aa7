"""Choose retrieval, routing and caching by evidence, and keep the choice true in CI.

The public names are loaded when first used, so that ``import workbench`` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.bench import start
    from workbench.evaluation.evalset import load_evalset
    from workbench.records import Decision, Document, Hit, Query

__all__ = ["Decision", "Document", "Hit", "Query", "load_evalset", "start"]

_HOMES = {
    "Decision": "workbench.records",
    "Document": "workbench.records",
    "Hit": "workbench.records",
    "Query": "workbench.records",
    "load_evalset": "workbench.evaluation.evalset",
    "start": "workbench.bench",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'workbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
