"""The user's own system as an arm: a run file, a hits table, or a Python callable, beside ours."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from workbench.config import Settings
from workbench.errors import ConfigError, ProviderError
from workbench.orchestration.user_modules import files_of, import_module_of
from workbench.records import Hit, Query, content_hash
from workbench.retrieval.trec import read_run_with_notes

FORM = "NAME=PATH@USD or NAME=module:function@USD, USD being its dollars per 1,000 requests"


@dataclass(frozen=True, slots=True, eq=False)
class SystemArm:
    """A system that is not ours: its name, where its hits come from, and what the user says it costs.

    ``search`` is None for a run file, whose hits are in ``run``, and of which ``notes`` tells what is odd.
    """

    name: str
    source: str
    cost_usd_per_1k: float
    sha256: str
    search: Callable[[Query], Iterable[Hit]] | None = field(default=None, repr=False)
    run: pl.DataFrame | None = field(default=None, repr=False)
    notes: tuple[str, ...] = field(default=(), repr=False)


def load_systems(entries: Iterable[str], settings: Settings) -> list[SystemArm]:
    """Systems from the notebook's ``systems`` parameter.

    A callable gets a `Query` and returns hits, ``(doc_id, score)`` pairs, or document ids, best first; its module
    is an installed one, or lies in ``notebooks/`` or the project's root. Its hash is that of its file and of the files
    of the project that it imports.

    Raises
    ------
    ConfigError
        If an entry is not of the form, its cost is missing or negative, or its source is not found.
    """
    return [_load_system(entry, settings) for entry in entries]


def _load_system(entry: str, settings: Settings) -> SystemArm:
    name, equals, rest = entry.partition("=")
    source, at, cost = rest.rpartition("@")
    if not (name and equals and source and at):
        raise ConfigError(f"system {entry!r} is not {FORM}; a cost that is not known cannot be compared")
    try:
        usd = float(cost)
    except ValueError:
        usd = -1.0
    if not 0 <= usd < math.inf:
        raise ConfigError(f"system {name!r} costs {cost!r}; say its dollars per 1,000 requests, 0 or more")
    path = settings.root / source
    if path.is_file():
        run, notes = read_run_with_notes(path)
        return SystemArm(name, source, usd, content_hash(path.read_bytes()), run=run, notes=notes)
    module, colon, function = source.partition(":")
    if not colon:
        raise ConfigError(f"system {name!r}: no file {path}, and {source!r} is not module:function")
    try:
        loaded = import_module_of(module, settings.root)
        call = getattr(loaded, function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"system {name!r}: {source!r} cannot be imported: {error}") from error
    if not callable(call):
        raise ConfigError(f"system {name!r}: {source!r} cannot be called; it is {call!r}")
    files = files_of(loaded, settings.root)
    sha256 = content_hash(*(file.read_bytes() for file in files)) if files else ""
    return SystemArm(name, source, usd, sha256, search=_guarded(name, call))


def _guarded(name: str, call: Callable[[Query], Any]) -> Callable[[Query], list[Hit]]:
    """Make foreign code an arm: whatever it raises becomes that item's error, not the end of the run."""

    def search(query: Query) -> list[Hit]:
        try:
            return [_callable_hit(item, place) for place, item in enumerate(call(query))]
        except Exception as error:  # the boundary to code that is not ours
            raise ProviderError(f"system {name!r} failed on {query.query_id}: {error!r}") from error

    return search


def _callable_hit(item: Any, place: int) -> Hit:
    if isinstance(item, Hit):
        return item
    if isinstance(item, str):
        return Hit(item, -float(place))
    doc_id, score = item
    return Hit(str(doc_id), float(score))


def system_inputs(systems: Iterable[SystemArm]) -> Mapping[str, str]:
    """Hash of each system's source, for the fingerprint."""
    return {f"system {s.name}": s.sha256 for s in systems}
