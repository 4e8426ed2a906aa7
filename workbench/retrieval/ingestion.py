"""Ingestion as a job: the table of an arm made ready, with progress, going on after a kill."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from workbench.config import Settings
from workbench.evalset.evalset import find_evalset, load_evalset
from workbench.inference.embedding import Embedder, load_embedder
from workbench.inference.encoders import MiniLM
from workbench.orchestration.live_step import progress
from workbench.orchestration.steps import StepCall, flow, outside
from workbench.records import Decision
from workbench.retrieval.arms import build_arm
from workbench.retrieval.chunking import Tokenizer
from workbench.retrieval.searcher import Searcher

Encoders = Callable[[str], tuple[Embedder, Tokenizer]]  # by the name that an arm gives its embedder


@outside()
def arm_in_use(evalset: str, *, project: Settings) -> dict[str, Any]:
    """Parameters of the accepted retrieval arm of an evalset."""
    return Decision.accepted(find_evalset(evalset, project), "retrieval").parameters


@outside()
def corpus_version(evalset: str, *, project: Settings) -> str:
    """Version of an evalset's corpus."""
    return load_evalset(evalset, settings=project).inputs["corpus"]


@outside()
def prepare_table(
    evalset: str, arm: Mapping[str, Any], corpus: str, *, project: Settings, encoders: Encoders
) -> dict[str, Any]:
    """Make the table of an arm hold the corpus, and index it; what is there already is not embedded again."""
    documents, built = load_evalset(evalset, settings=project).documents, build_arm(dict(arm))
    made = {name: encoders(name) for name in built.embedders}
    (_, tokenizer), embedders = made[built.embedder], {name: embedder for name, (embedder, _) in made.items()}
    tell = partial(progress, "documents")
    report = Searcher(documents, corpus, project, embedders, tokenizer, tell).prepare(built)
    return {"arm": built.name, **(asdict(report) if report else {})}


def _project(settings: Settings) -> Settings:
    return settings


def _encoders(settings: Settings) -> Encoders:
    def load(name: str) -> tuple[Embedder, Tokenizer]:
        tokenizer = MiniLM(settings.cache / "weights")
        return (tokenizer if name == "minilm" else load_embedder(name, settings)), tokenizer

    return load


@flow(tools={"project": _project, "encoders": _encoders}, concurrency=1)
def ingest_evalset(step: StepCall, evalset: str, arm: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Make the table ready that an arm searches, by default the one in the accepted retrieval decision."""
    arm = arm or step(arm_in_use, evalset)
    done: dict[str, Any] = step(prepare_table, evalset, arm, step(corpus_version, evalset))
    return done
