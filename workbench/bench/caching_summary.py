"""What the caching run leaves for its report and its gate: scores, slices, false hits worth reading."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from workbench.bench.experiment import Experiment, decision_path
from workbench.bench.telling import assumed_money, is_default, section_of
from workbench.evaluation.cache_claims import METRIC
from workbench.evaluation.comparison import SCORES_SCHEMA
from workbench.evaluation.exploring import MAX_CASES, changed_cases, slice_rows
from workbench.evaluation.stream import Replay, serve_nothing
from workbench.evaluation.summary import ItemCase, Section, SliceRow, Summary
from workbench.evaluation.traffic import Stream
from workbench.records import Decision
from workbench.rendering.table import Table
from workbench.reports.views import needed_words

QUARTERS = 4


def score_rows(stream: Stream, replays: Mapping[str, Replay], part: slice) -> pl.DataFrame:
    """One row an arm and test request it served: 1 where the answer was another one, else 0.

    Of a semantic arm these are the hits that similarity decided.
    """
    places = np.arange(len(stream))[part]
    quarter = {int(i): int(QUARTERS * k / max(len(places), 1)) + 1 for k, i in enumerate(places)}
    rows = []
    for arm, found in replays.items():
        own = found.hit & (found.exact if arm == "exact" else ~found.exact)
        rows += [
            (arm, item_id(i), 0, METRIC, float(found.false[i]), None, stream.clusters[i], stream.tenants[i], None, None,
             stream.tenants[i], f"quarter {quarter[i]}")
            for i in places[own[places]].tolist()
        ]  # fmt: skip
    schema = SCORES_SCHEMA | {"slice_tenant": pl.String, "slice_age of the cache": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def request_rows(stream: Stream, replays: Mapping[str, Replay], part: slice) -> pl.DataFrame:
    """One row an arm and test request, served or not: the error rate, 1 where a false hit was served.

    With them it is told that every request was replayed; the scores of the deciding rate hold hits alone.
    """
    frames = []
    for arm, found in {"off": serve_nothing(stream), **replays}.items():
        places = np.arange(len(found.hit))[part]
        values = {"item_id": [item_id(i) for i in places.tolist()], "value": found.false[places].astype(float)}
        told = {"arm": arm, "repeat": 0, "metric": "error_rate"}
        frames.append(pl.DataFrame(values).with_columns(**{name: pl.lit(value) for name, value in told.items()}))
    return pl.concat(frames)


def item_id(position: int) -> str:
    """Name of a request."""
    return f"request-{position:06d}"


def slice_rows_of(scores: pl.DataFrame) -> list[SliceRow]:
    """False-hit rate of each arm by tenant and by age of the cache, over the hits of that arm alone."""
    arms = scores["arm"].unique(maintain_order=True).to_list()
    return [row for arm in arms for row in slice_rows(scores.filter(pl.col("arm") == arm), [arm])]


def regression_cases(stream: Stream, replays: Mapping[str, Replay], part: slice) -> dict[str, list[ItemCase]]:
    """Test requests that each arm served wrongly, nearest first."""
    out = {}
    places = np.arange(len(stream))[part]
    for arm, found in replays.items():
        wrong = sorted(places[found.false[places]].tolist(), key=lambda i: (-found.similarity[i], i))
        out[arm] = [_case(stream, arm, found, i) for i in wrong]
    return out


def _case(stream: Stream, arm: str, found: Replay, i: int) -> ItemCase:
    match = int(found.matched[i])
    return ItemCase(
        item_id=item_id(i),
        question=stream.queries[i],
        expected=(stream.answer_keys[i],),
        returned={arm: (stream.answer_keys[match],)},
        values={arm: float(found.similarity[i])},
        note=f"Similarity {found.similarity[i]:.3f} to: {stream.queries[match]}",
    )


def summarise(
    experiment: Experiment,
    decision: Decision,
    scores: pl.DataFrame,
    false_hits: Mapping[str, Sequence[ItemCase]],
    tables: Sequence[Table],
) -> Summary:
    """Everything the report shows beside the decision."""
    focus = decision.arm if decision.arm in false_hits else next(reversed(list(false_hits)), "")
    cases = {case.item_id: case for found in false_hits.values() for case in found}
    before = decision_path(experiment.evalset.path, "caching").with_suffix(".scores.parquet")
    accepted = pl.read_parquet(before) if before.is_file() else None
    return Summary(
        title="Caching: whether to cache, and how closely questions must match",
        metric=METRIC,
        warnings=experiment.evalset.notes,
        slices=tuple(slice_rows_of(scores)),
        changed=changed_cases(accepted, scores, list(false_hits), cases),
        regressions=tuple(false_hits.get(focus, ())[:MAX_CASES]),
        regressions_title=f"What {focus} answered wrongly",
        would_change=_would_change(decision),
        sections=tuple(_section(table) for table in tables if table.rows),
        cost_note="The rate is that of the hits which similarity decided: false hits by hits. Differences are those of "
        "the certificate, on the calibration part; the rate beside them is the true replay on the later test part. "
        "Cost is calls still made, and the embedding of each question.",
        assumed=assumed_money(experiment.policy) | _assumed_call(experiment.parameters),
    )


def _assumed_call(parameters: Any) -> dict[str, str]:
    if not is_default(parameters, "call_usd"):
        return {}
    told = f"A request that is not served from the cache is assumed to cost ${parameters.call_usd:g}: set call_usd."
    return {"call_usd": told}


def _would_change(decision: Decision) -> tuple[str, ...]:
    out = []
    for claim in decision.claims:
        if claim.status == "holds":
            out.append(f"{claim.arm}: an alpha under {claim.high:.3f} would no longer be certified.")
        elif claim.status == "inconclusive" and claim.items_needed:
            out.append(f"{claim.arm}: {needed_words(claim)} more labelled hits would settle it at this rate.")
        elif claim.status in ("inconclusive", "broken"):
            out.append(f"{claim.arm}: {claim.note}.")
    return tuple(out)


def _section(table: Table) -> Section:
    title, _, note = table.caption.partition(". ")
    return section_of(table, note, title=title)
