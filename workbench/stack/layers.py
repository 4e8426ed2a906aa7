"""The five layers on one page: what is configured, what was measured and when, and what is missing, in order.

Reads what is there (settings, evalsets, decisions, runs, the state database) and changes nothing: on a fresh clone, on
a project that has only logs, and on one in use.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa

from workbench.config import Settings
from workbench.costs.spend import Spend, load_spend
from workbench.evaluation.run_record import RunRecord
from workbench.inference.prices import project_prices
from workbench.inference.weights import WEIGHTS, weights_are_there
from workbench.orchestration.runs_database import flows_url, runs_schema
from workbench.records import Decision
from workbench.rendering.numbers import counted, percent, usd
from workbench.rendering.table import Table
from workbench.rendering.text import cell_html, escape, verdict_label
from workbench.state import open_engine, reading_engine
from workbench.telemetry.ledger import Ledger

LAYERS = ("inference", "retrieval", "orchestration", "evaluation and observability", "caching")
# What an evalset must hold for a notebook: any one of these sets of files.
NEEDS = {
    "retrieval": (("queries.jsonl", "qrels"),),
    "routing": (("outcomes.parquet",), ("prompts.toml",)),
    "caching": (("stream.parquet",), ("traffic.toml",)),
}
_NOTHING = "nothing yet"
FLOWS = "workflow_status"  # the table in which dbos keeps runs
_LAYER_OF = {"retrieval": "retrieval", "routing": "inference", "caching": "caching", "pipeline": "orchestration"}


@dataclass(frozen=True, slots=True)
class LayerFact:
    """One thing that is known of a layer; what is empty is not there.

    Attributes
    ----------
    when : str
        ISO date of the measurement.
    evidence : Path or None
        File or folder that shows it.
    """

    layer: str
    what: str
    configured: str
    measured: str
    when: str = ""
    evidence: Path | None = None


@dataclass(frozen=True, slots=True)
class LayerGap:
    """Something that is missing: what it would decide, and what it needs."""

    layer: str
    missing: str
    decides: str
    needs: str


@dataclass(frozen=True, slots=True, repr=False)
class StackPage:
    """What is known of each layer, and the missing items with the weightiest first; shows itself in a notebook."""

    root: Path
    facts: tuple[LayerFact, ...]
    gaps: tuple[LayerGap, ...]

    @property
    def table(self) -> Table:
        """One row per fact, by layer."""
        rows = [
            (f.layer, f.what, f.configured or _NOTHING, f.measured or _NOTHING, f.when, self._place(f.evidence))
            for f in self.facts
        ]
        names = ("layer", "what", "configured", "measured", "when", "evidence")
        return Table.of(names, rows, f"The layers of {self.root.name}")

    @property
    def backlog(self) -> Table:
        """Missing items, the weightiest first."""
        rows = [(n, g.layer, g.missing, g.decides, g.needs) for n, g in enumerate(self.gaps, start=1)]
        return Table.of(("", "layer", "missing", "what it would decide", "what it needs"), rows, "What is missing")

    def to_html(self, folder: Path) -> str:
        """Both tables, with links to the evidence that hold in a folder."""
        links = "".join(
            f'<li>{escape(f.layer)}: <a href="{escape(quote(Path(os.path.relpath(f.evidence, folder)).as_posix()))}">'
            f"{escape(self._place(f.evidence)).replace('/', '/<wbr>')}</a></li>"
            for f in self.facts
            if f.evidence is not None
        )
        shown = f"<p>Evidence</p><ul>{links}</ul>" if links else ""
        tables = "".join(f'<div class="wb-scroll stack paths">{t.to_html()}</div>' for t in (self.table, self.backlog))
        return f"{tables}{shown}"

    def page(self, folder: Path) -> str:
        """One whole HTML page that loads and runs nothing, for a file in this folder."""
        css = (files("workbench.reports") / "templates" / "report.css").read_text(encoding="utf-8")
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Layers</title>'
            f"<style>{css}</style></head><body><main><h1>What is there, and what is missing</h1>"
            f"{self.to_html(folder)}</main></body></html>"
        )

    def _place(self, path: Path | None) -> str:
        if path is None:
            return ""
        inside = path.is_relative_to(self.root)
        return path.relative_to(self.root).as_posix() if inside else f"{path.parent.name}/{path.name}"

    def _repr_html_(self) -> str:
        return cell_html(self.to_html(Path.cwd()))

    def __repr__(self) -> str:
        return f"{self.table.to_text()}\n\n{self.backlog.to_text()}"


def read_layers(settings: Settings) -> StackPage:
    """Read the layers of a project; nothing is written, and no database is made.

    >>> print(read_layers(load_settings()))  # doctest: +SKIP
    """
    spend, tables = _layer_spend(settings)
    tables[FLOWS] = _layer_flows(settings)
    decisions = _layer_decisions(settings)
    facts = [
        *_inference_layer(settings, spend),
        *_orchestration_layer(tables),
        *_evaluation_layer(settings, tables),
        *_caching_layer(spend),
        *(_layer_of_decision(path, decision) for path, decision in decisions if decision.notebook in _LAYER_OF),
    ]
    for layer in LAYERS:
        if not any(fact.layer == layer for fact in facts):
            facts.append(LayerFact(layer, layer, "", ""))
    facts.sort(key=lambda fact: LAYERS.index(fact.layer))
    gaps = [
        *_layer_money_gaps(spend),
        *_layer_decision_gaps(settings, [d for _, d in decisions]),
        *_layer_other_gaps(tables),
    ]
    return StackPage(settings.root, tuple(facts), tuple(gaps))


def _layer_spend(settings: Settings) -> tuple[Spend | None, dict[str, int]]:
    """Rows of the ledger, if there is one, and how many rows each table of the state database has."""
    file = sa.make_url(settings.state_url).database or ""
    if settings.state_url.startswith("sqlite") and not Path(file).is_file():
        return None, {}
    engine = open_engine(settings.state_url)
    try:
        names = [n for n in sa.inspect(reading_engine(engine)).get_table_names() if n.startswith("wb_")]
        with reading_engine(engine).begin() as connection:
            count = sa.select(sa.func.count())
            sizes = {n: connection.execute(count.select_from(sa.table(n))).scalar_one() for n in names}
        return (load_spend(Ledger(engine)) if sizes.get("wb_ledger") else None), sizes
    finally:
        engine.dispose()


def _layer_flows(settings: Settings) -> int:
    """How many runs of durable flows are kept."""
    url = flows_url(settings.state_url)
    if url.startswith("sqlite") and not Path(sa.make_url(url).database or "").is_file():
        return 0
    engine = sa.create_engine(url)
    try:
        schema = None if url.startswith("sqlite") else runs_schema(engine)
        if not sa.inspect(engine).has_table(FLOWS, schema):
            return 0
        with engine.connect() as connection:
            return connection.execute(
                sa.select(sa.func.count()).select_from(sa.table(FLOWS, schema=schema))
            ).scalar_one()
    finally:
        engine.dispose()


def _layer_decisions(settings: Settings) -> list[tuple[Path, Decision]]:
    paths = sorted(settings.evalsets.glob("*/decisions/*.json")) if settings.evalsets.is_dir() else []
    return [(path, Decision.load(path)) for path in paths]


def _inference_layer(settings: Settings, spend: Spend | None) -> Iterator[LayerFact]:
    prices = project_prices(settings.root)
    own = settings.root / "models.toml"
    told = f"{counted(len(prices.models), 'model')} with a price, version {prices.version}"
    yield LayerFact("inference", "prices", told, "", prices.version.partition("+")[0], own if own.is_file() else None)
    there = [name for name, weights in WEIGHTS.items() if weights_are_there(weights, settings.cache / "weights")]
    yield LayerFact("inference", "local models", ", ".join(there), "")
    if spend is not None:
        models = spend.by("model")
        calls, last = spend.rows["call_id"].n_unique(), str(spend.rows["started"].max())
        measured = f"{counted(calls, 'call')}, {usd(spend.total_nanos / 1e9)}"
        yield LayerFact(
            "inference", "calls", f"{counted(len(models), 'model was', 'models were')} asked", measured, last[:10]
        )


def _orchestration_layer(tables: dict[str, int]) -> Iterator[LayerFact]:
    if tables.get(FLOWS):
        yield LayerFact("orchestration", "durable flows", "runs are kept", f"{counted(tables[FLOWS], 'run')}")


def _evaluation_layer(settings: Settings, tables: dict[str, int]) -> Iterator[LayerFact]:
    layer = "evaluation and observability"
    for folder in _layer_evalsets(settings):
        can = ", ".join(notebook for notebook in NEEDS if _layer_has(folder, notebook))
        yield LayerFact(layer, f"evalset {folder.name}", f"can decide: {can}" if can else "", "", "", folder)
    runs = settings.runs
    records = [RunRecord.load(path) for path in sorted(runs.iterdir()) if path.is_dir()] if runs.is_dir() else []
    if records:
        last, done = records[-1], sum(record.status == "done" for record in records)
        told = f"{counted(len(records), 'run')}, {done:,} done"
        yield LayerFact(layer, "runs", "", told, last.started[:10], last.report or last.run_dir)
    if tables.get("wb_span"):
        yield LayerFact(layer, "traces", "spans are stored", f"{counted(tables['wb_span'], 'span')}")


def _caching_layer(spend: Spend | None) -> Iterator[LayerFact]:
    if spend is None:
        return
    for row in (r for r in spend.by("status").iter_rows(named=True) if r["status"] == "cached"):
        told = f"{counted(row['calls'], 'answer')} from our cache saved {usd(row['saved_nanos'] / 1e9)}"
        yield LayerFact("caching", "hits", "a cache serves", told)


def _layer_of_decision(path: Path, decision: Decision) -> LayerFact:
    evalset = path.parents[1].name
    label = verdict_label(decision.verdict, decision.rule.reference)
    claim = decision.claim(decision.arm) if decision.arm in decision.arms else None
    told = f"{label}: {decision.rule.metric} {claim.estimate:.3f}" if claim else label
    told += ", on made-up traffic" if decision.synthetic else ""
    what = f"{decision.notebook} on {evalset}"
    return LayerFact(_LAYER_OF[decision.notebook], what, decision.arm, told, decision.accepted_on, path)


def _layer_evalsets(settings: Settings) -> list[Path]:
    return sorted(p for p in settings.evalsets.iterdir() if p.is_dir()) if settings.evalsets.is_dir() else []


def _layer_has(folder: Path, notebook: str) -> bool:
    return any(all((folder / name).exists() for name in names) for names in NEEDS[notebook])


def _layer_money_gaps(spend: Spend | None) -> Iterator[LayerGap]:
    if spend is None:
        needs = "models asked through workbench.Client, or the log of another tool: workbench import TOOL PATH --ledger"
        yield LayerGap("inference", "no call is in the ledger", "what each feature and customer costs", needs)
        return
    found = {row["gap"]: row for row in spend.gaps().iter_rows(named=True)}
    if n := found["no price"]["calls"]:
        needs = "their prices in models.toml in the project's root"
        yield LayerGap("inference", f"{counted(n, 'call has', 'calls have')} no price", "what they cost", needs)
    if n := found["no tenant"]["calls"]:
        share = found["no tenant"]["share_of_cost"]
        needs = "attributed(tenant_id=...) around the calls"
        yield LayerGap(
            "inference",
            f"{counted(n, 'call names', 'calls name')} no tenant ({percent(share, 1)} of the money)",
            "margins",
            needs,
        )


def _layer_decision_gaps(settings: Settings, decisions: Sequence[Decision]) -> Iterator[LayerGap]:
    decided = {"retrieval": "how documents are found", "routing": "which model answers", "caching": "what is cached"}
    for notebook, what in decided.items():
        layer, mine = _LAYER_OF[notebook], [d for d in decisions if d.notebook == notebook]
        able = [folder.name for folder in _layer_evalsets(settings) if _layer_has(folder, notebook)]
        if not able:
            files_of = " or ".join(" and ".join(names) for names in NEEDS[notebook])
            yield LayerGap(
                layer, f"no evalset for {notebook}", what, f"an evalset with {files_of}: workbench import --help"
            )
        elif not mine:
            needs = f"workbench run {notebook} --evalset {able[0]}, then workbench accept {notebook}"
            yield LayerGap(layer, f"{notebook} is not decided", what, needs)
        for decision in mine:
            yield from _weak_layers(layer, decision, what)


def _weak_layers(layer: str, decision: Decision, what: str) -> Iterator[LayerGap]:
    if decision.verdict == "inconclusive" and decision.items_needed:
        few = f"{counted(decision.items_needed[0], 'more question')} with answers"
        yield LayerGap(layer, f"{decision.notebook} on {decision.evalset} cannot tell", what, few)
    if decision.synthetic:
        needs = "your own traffic: workbench import stream"
        yield LayerGap(layer, f"{decision.notebook} on {decision.evalset} rests on made-up traffic", what, needs)


def _layer_other_gaps(tables: dict[str, int]) -> Iterator[LayerGap]:
    if not tables.get("wb_span"):
        needs = "Client.open(...) stores spans by itself; see workbench trace"
        yield LayerGap(LAYERS[3], "no trace is stored", "why a request was slow, dear or wrong", needs)
    if not tables.get(FLOWS):
        needs = "a flow of plain functions, run durably"
        yield LayerGap(
            "orchestration", "no durable flow was run", "whether a crash repeats calls that were paid", needs
        )
