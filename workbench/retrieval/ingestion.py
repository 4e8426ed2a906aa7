"""Ingestion as a job: the table of an arm made ready, with progress, going on after a kill."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from workbench.config import Settings
from workbench.evalset.evalset import load_evalset
from workbench.inference.embedding import MiniLM, load_embedder
from workbench.orchestration.live_step import progress
from workbench.orchestration.steps import StepCall, flow, outside
from workbench.records import Decision
from workbench.retrieval.arms import build_arm
from workbench.retrieval.searcher import Searcher


@outside()
def arm_in_use(evalset: str, *, project: Settings) -> dict[str, Any]:
    """Parameters of the accepted retrieval arm of an evalset, and the version of its corpus."""
    found = load_evalset(evalset, settings=project)
    decision = Decision.accepted(found.path, "retrieval")
    return {"arm": decision.parameters, "corpus": found.inputs["corpus"]}


@outside()
def prepare_table(evalset: str, arm: Mapping[str, Any], corpus: str, *, project: Settings) -> dict[str, Any]:
    """Make the table of an arm hold the corpus, and index it; what is there already is not embedded again."""
    found = load_evalset(evalset, settings=project)
    built, tokenizer = build_arm(dict(arm)), MiniLM(project.cache / "weights")
    embedder = tokenizer if built.embedder == "minilm" else load_embedder(built.embedder, project)
    searcher = Searcher(
        found.documents, corpus, project, embedder, tokenizer, lambda done, total: progress("documents", done, total)
    )
    report = searcher.prepare(built)
    return {"table": searcher.table_name(built), **(asdict(report) if report else {})}


def _project(settings: Settings) -> Settings:
    return settings


@flow(tools={"project": _project}, concurrency=1)
def ingest_evalset(step: StepCall, evalset: str) -> dict[str, Any]:
    """Make the table ready that the accepted retrieval decision of an evalset searches."""
    asked = step(arm_in_use, evalset)
    done: dict[str, Any] = step(prepare_table, evalset, asked["arm"], asked["corpus"])
    return done
