"""What the routing run leaves for its report: frontier, slices, cases, warnings, what would change it."""

from collections.abc import Mapping

import polars as pl

from workbench.bench.experiment import MANY_TEST_USES, Experiment, decision_path
from workbench.bench.routing_arms import Routed
from workbench.bench.telling import focus_of, section_of, would_change
from workbench.evaluation.exploring import changed_cases, frontier_points, item_cases, slice_rows, worst_regressions
from workbench.evaluation.summary import ItemCase, Summary
from workbench.records import Decision, Query
from workbench.rendering.table import Table

_RIGHT = 0.5  # graded answers from here on are shown as right


def summarise(
    experiment: Experiment, decision: Decision, dev: Routed, test: Routed, tables: Mapping[str, Table]
) -> Summary:
    """Everything the report shows beside the decision."""
    reference, names = decision.rule.reference, [f.name for f in test.facts]
    cases = cases_of(test)
    before = decision_path(experiment.evalset.path, experiment.notebook).with_suffix(".scores.parquet")
    accepted = pl.read_parquet(before) if before.is_file() else None
    sections = [
        *(section_of(table, table.caption, title=title) for title, table in tables.items()),
        section_of(dev.table(), "On the prompts they were tuned on; policies by routers that had not seen them."),
        section_of(test.table(), "Finalists, on prompts nobody tuned on."),
    ]
    return Summary(
        title="Routing: the cheapest way to a good enough answer",
        metric=decision.rule.metric,
        warnings=_warnings(experiment, decision, test),
        frontier=tuple(frontier_points(dev.scores, dev.facts, split="dev")),
        slices=tuple(slice_rows(test.scores, names)),
        changed=changed_cases(accepted, test.scores, names, cases),
        regressions=worst_regressions(cases, reference=reference, arm=focus_of(decision)),
        would_change=would_change(decision),
        sections=tuple(sections),
        cost_note="Cost is what the outcomes record or declare for each call, plus the counted work of routing; "
        "a cascade pays for both of its calls. Latency is that of the recorded calls.",
    )


def cases_of(test: Routed) -> dict[str, ItemCase]:
    """One case a prompt: the models that are right, and whom each arm asked."""
    part = test.outcomes
    asked = [Query(i, text) for i, text in zip(part.prompt_ids, part.requests.prompts, strict=True)]
    right = {
        i: [m for m, q in zip(part.models, row, strict=True) if q >= _RIGHT]
        for i, row in zip(part.prompt_ids, part.quality, strict=True)
    }
    returned = {
        arm: {i: [part.models[p]] for i, p in zip(part.prompt_ids, picked, strict=True)}
        for arm, picked in test.picked.items()
    }
    return item_cases(test.scores, asked, expected=right, returned=returned)


def _warnings(experiment: Experiment, decision: Decision, test: Routed) -> tuple[str, ...]:
    out = [*experiment.evalset.notes, *test.outcomes.notes]
    out += [
        f"{a.name} is a class of your own: it is fitted again in every run." for a in test.arms if not a.router.storable
    ]
    if decision.test_uses >= MANY_TEST_USES:
        out.append(f"This test split has judged {decision.test_uses} sets of arms: it is worn, collect fresh prompts.")
    return tuple(out)
