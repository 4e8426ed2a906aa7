"""The costs notebook: what was spent and why. It decides nothing; its gate holds what must be true of any ledger."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import polars as pl

from workbench.codec import RANGE, Range
from workbench.config import Settings, load_settings
from workbench.costs import tables
from workbench.costs.cost_bridge import cost_bridge, cost_what_if
from workbench.costs.invoices import read_invoice, reconcile_invoice
from workbench.costs.spend import GROUPS, ShareBy, Spend, load_spend, spend_moment, spend_spikes
from workbench.costs.unit_economics import cost_per_good_answer, customer_margins, read_revenue
from workbench.errors import ConfigError
from workbench.evalset.evalset import Load, load_evalset
from workbench.evaluation.experiment import finish_run
from workbench.evaluation.fingerprint import SEED, build_parameters
from workbench.evaluation.gate import gate_of_counts
from workbench.evaluation.run_record import begin_run
from workbench.evaluation.run_summary import Summary, captioned_section
from workbench.inference.budgets import Budgets
from workbench.inference.messages import Usage
from workbench.inference.prices import project_prices
from workbench.rendering.table import Column, Table
from workbench.reports.ending import tell_gate
from workbench.state import open_engine
from workbench.telemetry.ledger import Ledger

_WEEK = 7
_SCOPE = re.compile(r"=(?=&|,|$)")  # a budget of calls that name nobody


@dataclass(frozen=True, slots=True)
class CostsParameters:
    """Parameters of the costs notebook.

    Attributes
    ----------
    since, until, before : str
        ISO dates: the period, and where the period begins that it is compared with; empty: everything, and its last
        seven days with the seven before.
    share_by : str
        How shared cost is split over tenants: cost, calls, tokens or even.
    instead : tuple of str
        MODEL=OTHER: what the period would have cost had another model been asked.
    revenue, good : str
        CSV files: tenant_id and revenue_usd; request and good (0 or 1).
    invoice : tuple of str
        Files of one invoice of the period.
    nameless_limit : float
        Share of the money that product calls without a tenant may cost, in [0, 1].
    shown : int
        Rows of a table.
    """

    since: str = ""
    until: str = ""
    before: str = ""
    share_by: ShareBy = "cost"
    instead: tuple[str, ...] = ()
    revenue: str = ""
    good: str = ""
    invoice: tuple[str, ...] = ()
    nameless_limit: float = field(default=0.05, metadata={RANGE: Range(0, 1)})
    shown: int = field(default=40, metadata={RANGE: Range(1, 1_000_000)})
    seed: int = field(default=0, metadata=SEED)


class CostsExperiment:
    """One run of the costs notebook over the ledger of the state database.

    It has no arms, no evalset and no decision: `gate` holds counts that must be 0.
    """

    notebook: ClassVar[str] = "costs"
    title: ClassVar[str] = "What was spent, for whom, and why?"
    parameters_class: ClassVar[type[Any]] = CostsParameters

    def __init__(self, parameters: CostsParameters, settings: Settings) -> None:
        """Read the ledger and refuse what cannot be used, then make the run folder."""
        self._load(parameters, settings)
        self.engine = open_engine(settings.state_url)
        self.spend = load_spend(Ledger(self.engine), since=parameters.since, until=parameters.until)
        plain = {f.name: getattr(parameters, f.name) for f in fields(parameters)}
        self.profile, self.record, self.folder = begin_run(settings, self.notebook, plain)

    def _load(self, parameters: CostsParameters, settings: Settings) -> None:
        """Read what lies beside the ledger, and refuse what cannot be used."""
        since, until = map(spend_moment, (parameters.since, parameters.until))
        if since and until and not since < until:
            raise ConfigError(f"since {parameters.since} is not before until {parameters.until}: the period is empty")
        if parameters.before and not spend_moment(parameters.before) < spend_moment(parameters.since):
            raise ConfigError("before is the start of the period that ends at since: give both, in this order")
        self.parameters, self.settings = parameters, settings
        self.instead = dict(map(_model_instead, parameters.instead))
        if len(self.instead) < len(parameters.instead):
            raise ConfigError(f"instead asks another in the place of each model once, found {list(parameters.instead)}")
        self.prices = project_prices(settings.root)
        for other in self.instead.values():
            self.prices.cost_nanos(other, Usage(fresh=1))  # an unknown price is refused
        self.revenue = read_revenue(self._path(parameters.revenue)) if parameters.revenue else None
        self.outcomes = self._outcomes() if parameters.good else None
        self.billed = read_invoice(*map(self._path, parameters.invoice)) if parameters.invoice else None

    @classmethod
    def examined(cls, parameters: CostsParameters, settings: Settings, load: Load = load_evalset) -> Self:
        """What a run would refuse is refused; the ledger is not read."""
        (found := cls.__new__(cls))._load(parameters, settings)
        return found

    @classmethod
    def start(cls, **given: Any) -> Self:
        """Begin with the parameters of the notebook's cell, as `workbench.start` does."""
        return cls(build_parameters(CostsParameters, given), load_settings())

    @property
    def config(self) -> Table:
        """Parameters of this run, and what it read."""
        rows = [(f.name, str(getattr(self.parameters, f.name) or "none")) for f in fields(self.parameters)]
        rows += [("rows of the ledger", f"{len(self.spend.rows):,}"), ("prices", self.prices.version)]
        return Table.of(("setting", "value"), rows, "Parameters of this run")

    def budgets(self) -> Table:
        """Every budget that was drawn on: limit, spent, held."""
        money = ("limit", "spent", "held")
        rows = [
            (
                _SCOPE.sub("=(none)", r["scope"]),
                r["window"],
                *(None if (n := r[f"{name}_nanos"]) is None else n / 1e9 for name in money),
            )
            for r in Budgets(self.engine).table().head(self.parameters.shown).iter_rows(named=True)
        ]
        columns = (Column("budget"), Column("window"), *(Column(f"{name} usd", "usd") for name in money))
        return Table(columns, tuple(rows), "Spent against budgets")

    def matrix(self) -> Table:
        """Feature x tenant, direct and allocated."""
        return tables.spend_matrix_table(self.spend, self.parameters.share_by, self.parameters.shown)

    def gaps(self) -> Table:
        """What names nobody, and what nobody priced."""
        return tables.spend_gaps_table(self.spend)

    def by(self, *names: str) -> Table:
        """Sums by some columns: feature, tenant, user, purpose, model, route, status, price, day, hour."""
        return tables.spend_table(self.spend, *names, shown=self.parameters.shown)

    def units(self) -> list[Table]:
        """Cost of a request, and of a good answer where outcomes are given."""
        found = [tables.unit_cost_table(self.spend)]
        if self.outcomes is not None:
            costs = cost_per_good_answer(self.spend, self.outcomes, seed=self.parameters.seed)
            found.append(tables.good_answer_cost_table(costs))
        return found

    def customers(self) -> Table:
        """Cost of each active customer, with its margin where revenue is given."""
        found = customer_margins(self.spend.matrix(self.parameters.share_by), self.revenue or {})
        return tables.customer_margins_table(found, self.parameters.shown)

    def tokens(self) -> Table:
        """Tokens by class."""
        return tables.token_cost_table(self.spend)

    def bridge(self) -> Table:
        """Why the period cost more or less than the one before."""
        return tables.cost_bridge_table(cost_bridge(*self._periods, self.prices))

    def waste(self) -> Table:
        """Retries, failovers, errors, evals and judges."""
        return tables.spend_waste_table(self.spend)

    def spikes(self) -> Table:
        """Hours far above the usual, by tenant."""
        return tables.spend_spikes_table(self._spikes.head(self.parameters.shown))

    def what_if(self) -> Table:
        """The period under other prices, models, and without our cache."""
        found = cost_what_if(self.spend, self.prices, self.instead)
        rows = tuple((choice, nanos / 1e9) for choice, nanos in found.items())
        caption = "The same tokens under other choices. Whether answers stay as good is not asked here"
        return Table((Column("choice"), Column("usd", "usd")), rows, caption)

    def invoice(self) -> list[Table]:
        """Ledger and invoice, with the likeliest cause of each difference; without an invoice, how to give one."""
        if self.billed is None:
            return [Table.of(("invoice",), [], "No invoice is given: invoice= takes the files of one.")]
        return tables.invoice_tables(reconcile_invoice(self.spend, self.billed, self.prices), self.parameters.shown)

    def save(self, *shown: Table) -> Summary:
        """Write what the report shows."""
        sections = tuple(s for s in map(captioned_section, shown) if s.rows)
        title = tables.spend_headline(self.spend)
        summary = Summary(title=title, metric="usd", warnings=tuple(self.warnings()), sections=sections)
        (self.folder / "summary.json").write_text(summary.to_json(), encoding="utf-8")
        return summary

    def warnings(self) -> Sequence[str]:
        """What a reader should see first: hours far above the usual, and a ledger without rows."""
        if self.spend.rows.is_empty():
            return [f"The ledger has no call {tables.spend_period(self.spend)}."]
        told = [f"{tenant} spent ${cost / 1e9:,.2f} in the hour {hour}, flagged at {at}"
                for tenant, hour, at, cost, _ in self._spikes.head(3).iter_rows()]  # fmt: skip
        return told

    def invariants(self) -> Mapping[str, int | None]:
        """Counts that must be 0; None of an empty ledger."""
        names = ("calls without a price", "product calls without a tenant, above the limit",
                 "sums that are not the ledger's")  # fmt: skip
        if self.spend.rows.is_empty():
            return dict.fromkeys(names)
        gaps = {row["gap"]: row for row in self.spend.gaps().iter_rows(named=True)}
        nameless = gaps["no tenant"]
        above = nameless["share_of_cost"] > self.parameters.nameless_limit
        counts = (gaps["no price"]["calls"], nameless["calls"] if above else 0, len(self.unequal()))
        return dict(zip(names, counts, strict=True))

    def unequal(self) -> list[str]:
        """Names of the tables whose sum is not that of the ledger."""
        spend, total = self.spend, self.spend.total_nanos
        sums = {name: spend.by(name)["cost_nanos"].sum() for name in GROUPS}
        matrix = spend.matrix(self.parameters.share_by)
        sums["matrix"] = int(matrix["direct_nanos"].sum()) + int(matrix["allocated_nanos"].sum())
        sums["waste"] = spend.waste()["cost_nanos"].sum()
        sums["token classes"] = spend.by_class(self.prices)["cost_nanos"].sum()
        bridge = cost_bridge(*self._periods, self.prices)
        closes = bridge.before_nanos + sum(bridge.effects.values()) == bridge.after_nanos
        return [name for name, found in sums.items() if found != total] + ([] if closes else ["bridge"])

    def gate(self) -> None:
        """Count what must be 0, write ``gate.json``, draw the report where no runner does, and enforce.

        Raises
        ------
        GateFailed
            If a count is not 0.
        """
        gate = gate_of_counts(self.invariants())
        finish_run(self.folder, self.record, gate, None)
        tell_gate(gate, self.record)

    @cached_property
    def _spikes(self) -> pl.DataFrame:
        return spend_spikes(self.spend)

    @cached_property
    def _periods(self) -> tuple[Spend, Spend]:
        """The period and the one before: as named, else the last seven days and the seven before them."""
        p = self.parameters
        if p.before:
            return load_spend(Ledger(self.engine), since=p.before, until=p.since), self.spend
        rows = self.spend.rows
        if rows.is_empty():
            return self.spend, self.spend
        end = date.fromisoformat(str(rows["started"].max())[:10]) + timedelta(days=1)
        start, first = (str(end - timedelta(days=n)) for n in (_WEEK, 2 * _WEEK))
        at = pl.col("started")
        return Spend(rows.filter(at >= first, at < start), first, start), Spend(
            rows.filter(at >= start), start, str(end)
        )

    def _path(self, given: str) -> Path:
        """File as it was given, from the project's root where it is not absolute: kernels work in another folder."""
        return self.settings.root / given

    def _outcomes(self) -> pl.DataFrame:
        path = self._path(self.parameters.good)
        try:
            return pl.read_csv(path, infer_schema_length=None)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise ConfigError(f"{path} is not a CSV with request and good: {error}") from error


def _model_instead(text: str) -> tuple[str, str]:
    model, equals, other = text.partition("=")
    if not (model and equals and other):
        raise ConfigError(f"instead takes MODEL=OTHER, found {text!r}")
    return model, other
