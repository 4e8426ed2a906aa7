"""Where answers are lost: the step of a recorded run but for which the answer could have been right.

Each run is read as it was recorded; what another outcome of one step would have changed follows from the record alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from workbench.errors import EvalsetError
from workbench.evalset.evalset import Split
from workbench.evaluation.compare import mean_interval
from workbench.orchestration.steps import FlowRun
from workbench.pipeline.flow import Shelf
from workbench.records import Query
from workbench.rendering.table import Column, Interval, Table
from workbench.rendering.text import cell_html
from workbench.routing.prompts import passage
from workbench.routing.recorded_outcomes import answer_names_accepted, answer_says, is_yes_no

RIGHT = "right"
KINDS = (
    "stale cache", "check too strict", "retrieval miss", "rank cut", "context cut", "refusal", "wrong draft",
)  # fmt: skip
WHAT = {
    "stale cache": "a wrong answer came from the cache",
    "check too strict": "a right draft was made, and refused",
    "retrieval miss": "no relevant document was retrieved",
    "rank cut": "one was retrieved, ranked below what any draft was shown",
    "context cut": "one was shown, and what answers the question was cut away",
    "refusal": "it was shown whole; no draft was right, and none was given",
    "wrong draft": "it was shown whole, and a wrong draft was given",
}


@dataclass(frozen=True, slots=True)
class ItemLoss:
    """One question: whether its answer is right, and if not, what lost it; ``kind`` is "right" or one of `KINDS`."""

    item_id: str
    kind: str
    cluster: str
    cost_usd: float


def is_right_answer(text: str, accept: Sequence[str]) -> bool:
    """Whether an answer names one of the accepted names, or says the accepted yes or no."""
    return (answer_says if is_yes_no(accept) else answer_names_accepted)(text, accept)


def loss_of(
    run: FlowRun, query: Query, grades: Mapping[str, int], shelf: Shelf, *, cost_usd: float | None = None
) -> ItemLoss:
    """What lost the answer to one question.

    Parameters
    ----------
    run : FlowRun
        Its run of the answer flow.
    grades : mapping of str to int
        Grade of each judged document; above 0 is relevant.
    cost_usd : float, optional
        What the run is worth in dollars, by default what was charged for it.

    Raises
    ------
    EvalsetError
        If the run has not ended with a result.
    """
    if run.status != "done":
        raise EvalsetError(f"run {run.run_id} of {query.query_id!r} is {run.status}, so nothing says what it lost")
    drafts = [step.output for step in run.steps if step.name == "draft"]
    found = next(step.output for step in run.steps if step.name == "retrieve")
    relevant = [doc_id for doc_id, grade in grades.items() if grade > 0]
    shown = {doc_id for drafted in drafts for doc_id in drafted["shown"]}
    if is_right_answer(run.result["answer"], query.accept):
        kind = RIGHT
    elif any(is_right_answer(drafted["text"], query.accept) for drafted in drafts):
        kind = "check too strict"
    elif run.result["status"] == "answered" and drafts[-1]["source"] == "cache":
        kind = "stale cache"
    elif not set(relevant) & set(found):
        kind = "retrieval miss"
    elif not set(relevant) & shown:
        kind = "rank cut"
    elif not _shows_answer(run, query, [doc_id for doc_id in relevant if doc_id in shown], shelf):
        kind = "context cut"
    else:
        kind = "refusal" if run.result["status"] == "refused" else "wrong draft"
    cost = run.result["cost_nanos"] / 1e9 if cost_usd is None else cost_usd
    return ItemLoss(query.query_id, kind, query.cluster or query.query_id, cost)


def _shows_answer(run: FlowRun, query: Query, shown: Sequence[str], shelf: Shelf) -> bool:
    """Whether what drafts were shown of the relevant documents names what is accepted, where the documents do."""
    texts = [shelf.documents[doc_id].text for doc_id in shown]
    if is_yes_no(query.accept) or not any(answer_names_accepted(text, query.accept) for text in texts):
        return True  # nothing of it can have been cut away
    drafts = [step for step in run.steps if step.name == "draft"]
    contexts = {step.output.get("context", step.inputs["kwargs"]["context"]) for step in drafts}
    characters = max(shelf.prompts.contexts[context].characters for context in contexts)
    return any(answer_names_accepted(passage(text, query.text, characters), query.accept) for text in texts)


@dataclass(frozen=True, slots=True)
class Losses:
    """What became of every question of a split; ``arm`` is named if it is another than the one that was asked for."""

    items: Sequence[ItemLoss]
    arm: str = ""

    @property
    def quality(self) -> float:
        """Share of right answers, in [0, 1]."""
        return sum(item.kind == RIGHT for item in self.items) / len(self.items)

    def table(self) -> Table:
        """Points lost at each step, with 95 % intervals over families, and dollars spent on those questions."""
        names = sorted({item.cluster for item in self.items})
        codes = np.array([names.index(item.cluster) for item in self.items])
        rows = []
        for kind in (RIGHT, *KINDS):
            mine = np.array([item.kind == kind for item in self.items], dtype=float)
            points = Interval(*(100 * value for value in mean_interval(mine, codes)))
            usd = sum(item.cost_usd for item in self.items if item.kind == kind)
            rows.append((kind, int(mine.sum()), points, 1000 * usd / len(self.items), WHAT.get(kind, "")))
        columns = (
            Column("what"), Column("questions", "count"), Column("points", "interval", digits=1),
            Column("USD per 1,000", "usd"), Column("meaning"),
        )  # fmt: skip
        told = f"{100 * self.quality:.1f} of 100 points; the others by the step that lost them"
        told += f"; of {self.arm}, since the arm in use was not run here" if self.arm else ""
        return Table(columns, tuple(rows), told)

    def _repr_html_(self) -> str:
        return cell_html(self.table().to_html())

    def __repr__(self) -> str:
        return self.table().to_text()


def losses(runs: Mapping[str, FlowRun], part: Split, shelf: Shelf) -> Losses:
    """``losses(run_items(flows, dev, plan), dev, library.of("docs_qa"))``: what lost each answer of a split."""
    asked: Iterable[Query] = (query for query in part.queries if query.query_id in runs)
    return Losses([loss_of(runs[q.query_id], q, part.qrels[q.query_id], shelf) for q in asked])
