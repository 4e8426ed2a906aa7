"""What the routing run leaves for its report: frontier, slices, cases, warnings, what would change it."""

from collections.abc import Mapping

import polars as pl

from workbench.bench.experiment import Experiment, decision_path
from workbench.bench.routing_arms import Routed
from workbench.bench.telling import assumed_money, compared, is_default, losses, losses_title, section_of, would_change
from workbench.evaluation.exploring import changed_cases, frontier_points, item_cases, slice_rows
from workbench.evaluation.summary import ItemCase, Summary
from workbench.records import Decision, Query
from workbench.rendering.table import Table

_LEFT_OUT = " is left out: "  # says that a policy of the list cannot be fed by these outcomes
_RIGHT = 0.5  # graded answers from here on are shown as right


def summarise(
    experiment: Experiment, decision: Decision, dev: Routed, test: Routed, tables: Mapping[str, Table]
) -> Summary:
    """Everything the report shows beside the decision."""
    names = [f.name for f in test.facts]
    cases, pair = cases_of(test), compared(decision, names)
    lost = losses(cases, pair)
    before = decision_path(experiment.evalset.path, experiment.notebook).with_suffix(".scores.parquet")
    accepted = pl.read_parquet(before) if before.is_file() else None
    sections = [
        *(section_of(table, table.caption, title=title) for title, table in tables.items()),
        section_of(dev.table(), _dev_note(test)),
        section_of(test.table(), "Finalists, on prompts nobody tuned on."),
    ]
    return Summary(
        title="Routing: the cheapest way to a good enough answer",
        metric=decision.rule.metric,
        warnings=_warnings(experiment, test),
        frontier=tuple(frontier_points(dev.scores, dev.facts, split="dev")),
        slices=tuple(slice_rows(test.scores, names)),
        changed=changed_cases(accepted, test.scores, names, cases),
        regressions=lost,
        regressions_title=losses_title(pair, any_found=bool(lost)),
        would_change=would_change(decision),
        sections=tuple(sections),
        cost_note="Cost is what the outcomes record or declare for each call, plus the counted work of routing; "
        "a cascade pays for both of its calls. Latency is that of the recorded calls.",
        assumed=assumed_money(experiment.policy),
    )


def regression_table(decision: Decision, test: Routed) -> Table | None:
    """Prompts on which the decided arm loses most against what is in use, or the best other; None without one."""
    pair = compared(decision, list(test.picked))
    if pair is None:
        return None
    (arm, other), found = pair, losses(cases_of(test), pair)
    rows = [(c.question, ", ".join(c.expected[:2]), c.returned[other][0], c.returned[arm][0]) for c in found]
    names = ("prompt", "right", f"{other} asks", f"{arm} asks")
    return Table.of(names, rows, losses_title(pair, any_found=bool(rows)))


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


def _dev_note(test: Routed) -> str:
    """What the scores on dev are, and which policies are not among them."""
    told = "On the prompts they were tuned on; policies by routers that had not seen them."
    return " ".join([told, *(f"{note}." for note in test.outcomes.notes if _LEFT_OUT in note)])


def _warnings(experiment: Experiment, test: Routed) -> tuple[str, ...]:
    asked = not is_default(experiment.parameters, "policies")
    out = [*experiment.evalset.notes, *(note for note in test.outcomes.notes if asked or _LEFT_OUT not in note)]
    out += [
        f"{a.name} is a class of your own: it is fitted again in every run." for a in test.arms if not a.router.storable
    ]
    return tuple(out)
