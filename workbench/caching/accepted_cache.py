"""The cache of an accepted decision: as it was tested, or refused with what to do."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from workbench.caching.cache import SemanticCache
from workbench.caching.fitted_verifier import FittedVerifier
from workbench.caching.guard import Guard, make_guard
from workbench.caching.verifiers import (
    FITTED,
    MODEL,
    FittedCheck,
    Later,
    ModelVerifier,
    Verifier,
    load_callable_verifier,
)
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evaluation.accepted_decision import read_artefact
from workbench.evaluation.consistency import require_served
from workbench.inference.client import Client
from workbench.inference.embedding import Embedder, load_embedder, wake_embedder
from workbench.inference.prices import project_prices
from workbench.records import Decision
from workbench.rendering.numbers import counted
from workbench.state import open_engine


def load_semantic(
    settings: Settings,
    evalset: str,
    *,
    engine: sa.Engine | None = None,
    embedder: Embedder | None = None,
    accept_provisional: bool = False,
    client: Client | None = None,
    **options: Any,
) -> SemanticCache:
    """Cache with threshold, guard and verifier of an evalset's accepted caching decision.

    Parameters
    ----------
    engine, embedder : optional
        By default the project's state database, and the encoder that the decision names.
    accept_provisional : bool
        Whether a decision may be used that rests on synthetic traffic or pairs.
    client : Client, optional
        Asks a verifier that is a model; it needs no cache of its own.
    **options
        Those of `SemanticCache`.

    Raises
    ------
    ConfigError
        If there is no such decision, it turns no semantic cache on, or it no longer fits: another encoder, other
        prices, pairs or words of the guard than those it was tested with, or a guard that judges these pairs otherwise.
    """
    folder = settings.evalsets / evalset
    decision = Decision.accepted(folder, "caching")
    if why := _cache_refusal(decision, accept_provisional):
        raise ConfigError(f"the caching decision of {evalset!r} does not turn a semantic cache on: {why}")
    require_served(decision, folder)
    chosen = decision.parameters
    guard = None if chosen["guard"] is None else _accepted_guard(**chosen["guard"])
    embedder = embedder or load_embedder(decision.settings["embedder"], settings)
    now = {"weights": embedder.encoder_id, "prices": project_prices(settings.root).sha256}
    tested = make_guard(decision.settings["guard"]) if guard else None  # an arm's own may have fewer checks
    if changed := _changed_cache_inputs(decision, now, folder / "pairs.jsonl", tested):
        raise ConfigError(
            f"the caching decision of {evalset!r} was tested with another {', '.join(changed)}; check it again with: "
            "workbench check caching"
        )
    engine = engine or open_engine(settings.state_url)
    if used := chosen.get("verifier"):
        options = {"verifier": load_accepted_verifier(used, settings, folder, embedder, client)} | options
    if later := chosen.get("later"):
        before = None if later["guard"] is None else _accepted_guard(**later["guard"])
        options = {"later": Later(later["floor"], before)} | options
    wake_embedder(embedder)
    return SemanticCache(engine, embedder=embedder, threshold=chosen["threshold"], guard=guard, **options)


def load_accepted_verifier(
    used: Mapping[str, Any], settings: Settings, folder: Path, embedder: Embedder, client: Client | None
) -> Verifier:
    """Verifier of a decision.

    Raises
    ------
    ConfigError
        If it is not the one that was tested, or a model without a client to ask it with.
    """
    name = used["name"]
    found: Verifier | None = None
    if name == FITTED:
        saved = read_artefact(folder / "decisions" / "caching.artefact")
        if FITTED in saved:
            found = FittedCheck(FittedVerifier.load(saved[FITTED]), embedder.embed)
    elif name.startswith(MODEL):
        if client is None:
            raise ConfigError(f"the caching decision goes with {name}: give load_semantic a client= to ask it with")
        found = ModelVerifier(client, name.removeprefix(MODEL), least=used["least"])
    else:
        found = load_callable_verifier(f"{name}@0", settings)
    if found is None or found.used.sha256 != used["sha256"]:
        raise ConfigError(
            f"the caching decision was tested with another verifier {name}; check it again: workbench check caching"
        )
    return found


def _accepted_guard(*, kind: str = "Guard", **checks: bool) -> Guard:
    try:
        if kind == "Guard" and checks:
            return Guard(**checks)
    except TypeError as error:
        raise ConfigError(f"the decision's guard is not one this version knows: {error}") from error
    raise ConfigError(
        f"the decision's guard is of kind {kind!r} with {counted(len(checks), 'check')}; this version knows 'Guard'"
    )


def _cache_refusal(decision: Decision, accept_provisional: bool) -> str:
    if decision.verdict == "provisional" and not accept_provisional:
        return (
            f"its verdict on {decision.arm!r} is provisional, because it rests on synthetic traffic or pairs; "
            "decide again on your own, or pass accept_provisional=True"
        )
    if decision.verdict not in ("chosen", "provisional"):
        return f"its verdict is {decision.verdict!r} ({decision.sentence}); label more or lower the target, then decide"
    if decision.parameters.get("kind") != "semantic":
        return f"it chose {decision.arm!r}, which has no threshold; for exact repeats use workbench.ResponseCache"
    return ""


def _changed_cache_inputs(decision: Decision, now: dict[str, str], file: Path, guard: Guard | None) -> list[str]:
    """Inputs of the decision that are no longer what they were, as far as a running system can know them."""
    written = file.read_bytes() if file.is_file() else b""
    now = now | {"pairs": hashlib.sha256(written).hexdigest() if written else ""}
    before = decision.fingerprint.inputs
    changed = [name for name, value in now.items() if before.get(name) != value]
    if guard and "pairs" not in changed:
        rows = [json.loads(line) for line in written.split(b"\n") if line.strip()]
        if guard.sha256((row["query_b"], row["query_a"]) for row in rows) != before.get("guard"):
            changed.append("guard")
    return changed
