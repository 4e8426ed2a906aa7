"""The base of every notebook class: what a run reads, its folder, its rule, what was accepted before, and its gate.

`Experiment` is any run that ends in a decision and a gate; `PairedExperiment` one whose arms are scored on the same
items, picked on dev, and judged on test by their paired differences.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import Field, asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import polars as pl

from workbench.codec import to_plain
from workbench.config import Settings, SystemClock, load_settings
from workbench.errors import ConfigError
from workbench.evalset.evalset import HUB, Evalset, Load, load_evalset, require_dev
from workbench.evalset.gates import ASSUMED_REQUESTS, GatePolicy
from workbench.evaluation.accepted_decision import anchor_path, decision_path, name_use, split_uses, with_kept
from workbench.evaluation.consistency import beside_differs, differences, rule_again
from workbench.evaluation.decision import ArmFacts, Outcome, decide, make_claims
from workbench.evaluation.finalists import FINALIST, Finalists, beside_verdict, chosen_shares, require_arm, screen_arms
from workbench.evaluation.fingerprint import build_parameters, deciding_parameters, parameter_inputs, provenance
from workbench.evaluation.flip_points import FlipAxis, flip_points, flips_table
from workbench.evaluation.gate import Gate, account, check_gate
from workbench.evaluation.power import power_table
from workbench.evaluation.repeats import repeats_difference_note
from workbench.evaluation.run_record import RunRecord, begin_run, close_run
from workbench.evaluation.run_summary import (
    ScoredArms,
    Section,
    Summary,
    assumed_money,
    captioned_section,
    changed_cases,
    frontier_points,
    summary_section,
    would_change,
)
from workbench.inference.prices import PriceTable, project_prices
from workbench.records import Claim, Decision, Fingerprint, Rule, content_hash
from workbench.rendering.table import Table

OBJECTIVE = "usd_per_1k_requests"
KEPT = "as accepted"
MONEY_SHOWN = ("requests_per_month", "least_saving_usd", "least_saving_share", "point_usd", "max_usd_per_1k")
RULE_SHOWN = (
    "metric", "margin", "confidence", "floor", "latency_p95_ms", "min_coverage", *MONEY_SHOWN, "on_inconclusive",
    "on_stale",
)  # fmt: skip


class Parameters(Protocol):
    """Parameters of a notebook: a frozen dataclass of plain values, with the defaults of the notebook's cell."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def evalset(self) -> str:
        """Name of the evalset, its folder, or hub:NAME."""

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn."""


class PairedParameters(Parameters, Protocol):
    """Parameters with the arm that the user names as the one in use, "" for the accepted one."""

    @property
    def reference(self) -> str:
        """Name of the arm."""


P = TypeVar("P", bound=Parameters)
Q = TypeVar("Q", bound=PairedParameters)
S = TypeVar("S", bound=ScoredArms)


def finish_run(folder: Path, record: RunRecord | None, gate: Gate, fingerprint: dict[str, Any] | None) -> None:
    """Write ``gate.json``, and close the record of a run that no runner closes."""
    (folder / "gate.json").write_text(gate.to_json(), encoding="utf-8")
    if record:
        reason = "gate_failed" if gate.failed else "completed"
        close_run(record, SystemClock(), status="done", exit_reason=reason, gate=gate.status, fingerprint=fingerprint)


class Counted(Protocol):
    """A step that counts what must be 0."""

    @property
    def invariants(self) -> Mapping[str, int]:
        """Counts by name."""


class Experiment(Generic[P, S]):
    """One run of one notebook over one evalset, from what it reads to its gate.

    A notebook of its own is a subclass, together with `workbench.reports.ending.Notebook`, which draws. It says

    - ``notebook``, ``question``, ``title`` and its ``parameters_class``;
    - in `examine` and `read`, what it loads beside the evalset;
    - how arms are scored: with `PairedExperiment` that is ``score``, which returns a `ScoredArms`; all further steps
      are there;
    - what else it shows: `warnings`, `assumed`, `invariants`, and any table of its own, handed to `save`.

    ``tests/evaluation/test_own_notebook.py`` is a whole one.

    Attributes
    ----------
    parameters : dataclass
        The notebook's frozen parameter value.
    inputs : dict
        Input part of the fingerprint.
    accepted, anchor : Decision or None
        The committed decision, and the one whose arm no later one may lie far below; where there are such.
    provenance : dict
        The part of the fingerprint that is only shown, as it was when the run began.
    record : RunRecord or None
        Record of a run without a runner, as in JupyterLab, which this experiment closes itself.
    """

    notebook: ClassVar[str]
    question: ClassVar[str]
    title: ClassVar[str]
    parameters_class: ClassVar[type[Any]]
    cost_note: ClassVar[str] = ""
    items: ClassVar[str] = "questions"  # what is asked, in sentences
    items_last: ClassVar[bool] = True  # whether an item has the same name in another version of the test split
    rule_shown: ClassVar[tuple[str, ...]] = RULE_SHOWN  # settings of the policy that this notebook goes by

    def __init__(self, parameters: P, settings: Settings) -> None:
        """Load everything that can be refused, then make the run folder; nothing is computed.

        A folder from elsewhere is told by its name and what it holds: its path is another one on the next machine.
        """
        self._load(parameters, settings)
        given, folder = self.evalset.path.name, self.evalset.path
        if parameters.evalset.startswith(HUB):
            given = parameters.evalset
        elif folder.parent != settings.evalsets:
            given = str(folder.resolve())
            told = content_hash(*(f"{name} {sha256}" for name, sha256 in sorted(self.evalset.inputs.items())))
            self.parameters = replace(parameters, evalset=f"{folder.name}@{told[:8]}")
        rule = {"gates": self.policy.sha256, "prices": self.prices.sha256}
        self.inputs = {**self.read(), **parameter_inputs(self.parameters), **rule}
        paths = (decision_path(folder, self.notebook), anchor_path(folder, self.notebook))
        self.accepted, self.anchor = (Decision.load(path) if path.is_file() else None for path in paths)
        self.provenance = provenance(settings.root)
        shown = {**to_plain(self.parameters), "evalset": given}
        self.profile, self.record, self.folder = begin_run(settings, self.notebook, shown)

    def _load(self, parameters: P, settings: Settings, load: Load = load_evalset) -> None:
        self.settings, self.parameters = settings, parameters
        self.evalset: Evalset = load(parameters.evalset, settings=settings, seed=parameters.seed)
        self.policy: GatePolicy = self.evalset.policy(self.notebook)
        self.prices: PriceTable = project_prices(settings.root)
        self.examine()

    @classmethod
    def examined(cls, parameters: P, settings: Settings, load: Load = load_evalset) -> Self:
        """What a run would refuse is refused; the experiment has no folder, and no model is loaded."""
        (found := cls.__new__(cls))._load(parameters, settings, load)
        return found

    @classmethod
    def start(cls, **given: Any) -> Self:
        """Begin with the parameters of the notebook's cell, as `workbench.start` does."""
        return cls(build_parameters(cls.parameters_class, given), load_settings())

    def examine(self) -> None:
        """Load what the notebook reads beside the evalset without a model, and refuse what cannot be used."""

    def read(self) -> Mapping[str, str]:
        """Load what is left, such as encoders, after `examine`.

        Returns
        -------
        mapping of str to str
            Inputs of the fingerprint by name, beside parameters and prices.
        """
        return self.evalset.inputs

    def clusters(self, split: str) -> Mapping[str, str]:
        """Cluster of each item of a split: what the items are, and the unit that is resampled."""
        return self.evalset.split(split).clusters

    @property
    def config(self) -> Table:
        """Parameters and rule of this run."""
        rows = [(f.name, _parameter_text(getattr(self.parameters, f.name))) for f in fields(self.parameters)]
        assumed = (
            {"requests_per_month": f"{ASSUMED_REQUESTS:,} (assumed)"} if not self.policy.requests_per_month else {}
        )
        rows += [
            (f"gate: {name}", assumed.get(name) or _parameter_text(getattr(self.policy, name)))
            for name in self.rule_shown
        ]
        rows += [("profile", self.profile), ("accepted decision", self.accepted.arm if self.accepted else "none yet")]
        return Table.of(("setting", "value"), rows, "Parameters and rule of this run")

    @property
    def rechecks(self) -> bool:
        """Whether this run has exactly the inputs of the accepted decision, so that it is judged by its rule."""
        return self.accepted is not None and not self.accepted.fingerprint.changed(self.fingerprint())

    @property
    def accepted_scores(self) -> pl.DataFrame | None:
        """Test scores that the accepted decision rests on, of its deciding metric."""
        path = decision_path(self.evalset.path, self.notebook).with_suffix(".scores.parquet")
        return pl.read_parquet(path) if path.is_file() else None

    def fingerprint(self) -> Fingerprint:
        """Inputs and provenance of this run."""
        return Fingerprint(dict(self.inputs), dict(self.provenance))

    def rule(self, reference: str = "") -> Rule:
        """Rule of the policy, with the arm in use, if there is one."""
        p = self.policy
        return Rule(
            p.metric,
            OBJECTIVE,
            reference,
            p.margin,
            p.confidence,
            p.floor,
            p.latency_p95_ms,
            anchor=self.anchor.arm if self.anchor else "",
            requests_per_month=p.requests_per_month or ASSUMED_REQUESTS,
            least_saving_usd=p.least_saving_usd,
            least_saving_share=p.least_saving_share,
            point_usd=p.point_usd,
            max_usd_per_1k=p.max_usd_per_1k,
        )

    def count_test_use(self, arms: Collection[str]) -> int:
        """Note that these arms were judged on this test split; returns which use of it this is, from 1.

        A test split that is asked often enough says yes to something. `split_uses` says what counts, and from where.
        """
        return self._uses(mine := name_use(self.inputs, arms)).index(mine) + 1

    def _uses(self, use: str = "") -> list[str]:
        items, place = self.clusters("test") if self.items_last else (), (self.evalset.path, self.notebook)
        return split_uses(self.settings, *place, self.inputs, items, use)

    def rate(self, name: str) -> float:
        """Dollars of one unit of what the arms' amounts count."""
        return self.prices.rate(name)

    def conclude(self, claims: tuple[Claim, ...], rule: Rule, outcome: Outcome, *, n_dev_clusters: int = 0) -> Decision:
        """Write down what was decided on these claims, what it rests on, and until when it stands."""
        decision = Decision(
            notebook=self.notebook,
            question=self.question,
            profile=self.profile,
            rule=rule,
            verdict=outcome.verdict,
            arm=outcome.arm,
            parameters=next(c.parameters for c in claims if c.arm == outcome.arm),
            sentence=outcome.sentence,
            claims=claims,
            n_items=claims[0].n_items,
            n_clusters=claims[0].n_clusters,
            items_needed=outcome.items_needed,
            test_uses=rule.use,
            fingerprint=self.fingerprint(),
            settings=to_plain(deciding_parameters(self.parameters)),
            synthetic=self.evalset.synthetic,
            notes=outcome.notes,
            evalset=self.evalset.name,
            n_dev_clusters=n_dev_clusters,
            rates={name: self.rate(name) for name in dict.fromkeys(name for c in claims for name in c.amounts)},
        )
        return replace(decision, flips=flip_points(decision, self.axes(decision)))

    def until(self, decision: Decision) -> Table:
        """Until which prices, limits and rates the decision stands."""
        return flips_table(decision)

    def axes(self, decision: Decision) -> Sequence[FlipAxis]:
        """Figures of this notebook alone that may change, beside prices and limits."""
        return ()

    def warnings(self, test: S, dev: S | None) -> Sequence[str]:
        """What makes a pass mean less."""
        return self.evalset.notes

    @property
    def assumed(self) -> dict[str, str]:
        """A sentence for each figure of money that nobody has set, by the name of its setting."""
        return assumed_money(self.policy)

    @property
    def dev_note(self) -> str:
        """What is told above the scores on dev."""
        return f"All arms, on the {self.items} they were tuned on."

    def would_change(self, decision: Decision) -> Sequence[str]:
        """Sentences on what would make the decision another."""
        return would_change(decision)

    def invariants(self, decision: Decision, test: S) -> Mapping[str, int | None]:
        """Counts that must be 0, by name, beside those of the steps themselves; None where nothing can be counted."""
        return {}

    def summarise(self, decision: Decision, test: S, tables: Sequence[Table] = (), dev: S | None = None) -> Summary:
        """Everything the report shows beside the decision."""
        metric, sections = decision.rule.metric, map(captioned_section, (flips_table(decision), *tables))
        cases = test.cases(metric)
        lost = test.regressions(decision, cases)
        points: Sequence[Any] = ()
        scored: list[Section] = []
        if dev is not None:
            points = frontier_points(dev.of(metric), dev.facts, split=dev.split)
            told = f"Finalists, on {self.items} nobody tuned on."
            scored = [summary_section(dev.table, self.dev_note), summary_section(test.table, told)]
        return Summary(
            title=self.title,
            metric=metric,
            warnings=tuple(self.warnings(test, dev)),
            frontier=tuple(points),
            slices=tuple(test.slice_rows(metric)),
            changed=changed_cases(self.accepted_scores, test.of(metric), test.names, cases),
            regressions=lost.cases,
            regressions_title=lost.title,
            would_change=tuple(self.would_change(decision)),
            sections=(*(s for s in sections if s.rows), *scored),
            cost_note=self.cost_note,
            assumed=self.assumed,
        )

    def save(self, decision: Decision, test: S, *tables: Table, dev: S | None = None) -> Summary:
        """Write everything the report and the gate need into the run folder.

        Parameters
        ----------
        test, dev : ScoredArms
            Scores on test; and those on dev, where arms were picked on it.
        *tables : Table
            What else the report shows; the first sentence of a caption is the title there.
        """
        summary, metric = self.summarise(decision, test, tables, dev), decision.rule.metric
        parts = [] if dev is None else [dev.scores.with_columns(split=pl.lit(dev.split))]
        parts.append(test.scores_with_bounds(metric).with_columns(split=pl.lit(test.split)))
        pl.concat(parts, how="diagonal_relaxed").write_parquet(self.folder / "scores.parquet")
        (self.folder / "summary.json").write_text(summary.to_json(), encoding="utf-8")
        (self.folder / "decision.json").write_text(decision.to_json(), encoding="utf-8")
        return summary

    def close(self, decision: Decision, test: S, *steps: Counted) -> Gate:
        """Compare with the accepted decision, write ``gate.json`` and close the record; the caller enforces.

        ``steps`` are further ones whose invariants are counted, such as the scores on dev.
        """
        every: list[Counted] = [test, *steps]
        counted = [pair for step in every for pair in step.invariants.items()]
        counts: dict[str, int | None] = {name: sum(n for each, n in counted if each == name) for name, _ in counted}
        asked = replace(decision, claims=tuple(c for c in decision.claims if c.note != KEPT))
        gate = check_gate(
            self.accepted,
            decision,
            accepted_scores=self.accepted_scores,
            scores=test.of(decision.rule.metric),
            invariants=counts | dict(self.invariants(decision, test)),
            accounts=account(test.rows, asked, self.clusters("test"), min_coverage=self.policy.min_coverage),
            soft=self.policy.soft,
            run=self.folder.name,
            differs=self._differences(decision),
        )
        finish_run(self.folder, self.record, gate, asdict(decision.fingerprint))
        return gate

    def _differences(self, decision: Decision) -> list[str]:
        if self.accepted is None or not self.rechecks:
            return []
        path, policy = decision_path(self.evalset.path, self.notebook), self.rule(self.accepted.rule.reference)
        return [*differences(self.accepted, decision, policy), *beside_differs(path, self.accepted, self.folder)]


class PairedExperiment(Experiment[Q, S], ABC):
    """An experiment whose arms are scored on the same items: dev picks who is tested, paired differences decide."""

    spreads: ClassVar[tuple[float, ...]]  # assumed per cluster of a paired difference, before any arm has run

    def arm_names(self) -> Collection[str]:
        """Arms that a headless run's reference may name, as far as `examine` knows them; none where it does not."""
        return ()

    @abstractmethod
    def score(self, arms: Sequence[Any], split: str) -> S:
        """Score every arm on every item of one split."""

    @property
    def own_systems(self) -> Collection[str]:
        """Names of the arms that are the user's own."""
        return ()

    def power(self) -> Table:
        """What the test split can show, before any arm has run: to a check again, else to a further set of arms."""
        rule = self.accepted.rule if self.accepted and self.rechecks else self.rule()
        if not self.rechecks:
            rule = replace(rule, use=len(self._uses()) + 1)
        return power_table(self.spreads, self.clusters("test"), rule, items=self.items)

    def finalists(self, dev: S) -> Finalists:
        """Pick on dev alone what is tested.

        Always tested are the accepted arm, the named one, the anchor and the user's own systems; beside them the arms
        that dev cannot rule out.

        Raises
        ------
        ConfigError, SplitError
            If the arm that is named is not one of this run; if a row is of an item that is not of dev.
        """
        accepted, names, asked = self.accepted, dev.names, self.parameters.reference
        scores = dev.of(self.policy.metric)
        require_dev(scores["item_id"].unique(), self.clusters("dev"), "picking finalists")
        if accepted is not None and self.rechecks:
            rule = rule_again(accepted.rule, self.rule(accepted.rule.reference))
            roles = dict.fromkeys(accepted.arms, FINALIST) | self._roles(rule.reference, names)
            stored = (rule.anchor, rule.reference)  # their scores are kept
            kept = {n: roles[n] for n in accepted.arms if n in names or n not in stored}
            return Finalists(rule, kept, scores)
        require_arm(asked, names)
        rule = self.rule(asked or (accepted.arm if accepted else ""))
        roles, n = self._roles(rule.reference, names), len(set(self.clusters("test").values()))
        found = screen_arms(scores, dev.facts, rule, always=roles, test_clusters=n, seed=self.parameters.seed)
        tested = {name: roles.get(name, FINALIST) for name in found.names}
        return Finalists(rule, tested, scores, found.power, found.left_behind)

    def _roles(self, reference: str, names: Collection[str]) -> dict[str, str]:
        """Arms that are tested whatever dev says, with the reason."""
        roles = dict.fromkeys(self.own_systems, "your own system")
        if self.anchor:
            roles[self.anchor.arm] = f"the anchor, accepted first on {self.anchor.accepted_on}"
        if self.accepted:
            roles[self.accepted.arm] = "the accepted arm"
        if reference:
            is_accepted = self.accepted is not None and self.accepted.arm == reference
            roles[reference] = "the accepted arm, in use" if is_accepted else "in use, named by you"
        return {name: why for name, why in roles.items() if name in names}

    def test(self, dev: S, finalists: Finalists) -> S:
        """Score the finalists on test, as they were made on dev.

        Raises
        ------
        ConfigError
            If an arm that is to be tested is not one of this run.
        """
        by_name = dict(zip(dev.names, dev.arms, strict=True))
        if gone := [n for n in finalists.names if n not in by_name]:
            raise ConfigError(f"the accepted arms {', '.join(gone)} are not among this run's arms")
        scored = self.score([by_name[n] for n in finalists.names], "test")
        order = {f.name: f.order for f in dev.facts}
        return replace(scored, facts=tuple(replace(f, order=order[f.name]) for f in scored.facts))

    def decide(self, test: S, finalists: Finalists) -> Decision:
        """Judge once on test, by the rule that was fixed on dev, and write down the decision."""
        rule, seed = finalists.rule, self.parameters.seed
        facts = self._as_timed_before(test.facts)
        places = ((self.accepted, decision_path), (self.anchor, anchor_path))
        before = {d.arm: (d, place(self.evalset.path, self.notebook)) for d, place in places if d is not None}
        gone = {a: found for a, found in before.items() if a in (rule.reference, rule.anchor) and a not in test.names}
        scores, kept, note = with_kept(test.of(rule.metric), gone, self.rate)
        against = with_kept(test.against(rule.metric), gone, self.rate)[0]
        facts = [*facts, *kept]
        if not self.rechecks:
            rule = replace(rule, use=self.count_test_use([f.name for f in facts]))
        claims = make_claims(scores, facts, rule, against=against, seed=seed)
        claims = tuple(replace(c, note=KEPT) if c.arm not in test.names else c for c in claims)
        order = {f.name: f.order for f in facts}
        outcome = decide(
            claims, rule, order=order, synthetic=self.evalset.synthetic, n_dev_clusters=finalists.n_dev_clusters
        )
        on_dev = [f for f in facts if f.name in set(finalists.dev["arm"])]
        dev = finalists.dev.filter(pl.col("arm").is_in([f.name for f in on_dev]))
        shares = chosen_shares(dev, scores, on_dev, rule, always=finalists.always, seed=seed)
        best = next(c.best for c in claims if c.arm == outcome.arm)
        repeats = [repeats_difference_note(scores, outcome.arm, best, self.items)]
        notes = [*outcome.notes, *note, *beside_verdict(claims, rule, outcome, shares), *filter(None, repeats)]
        outcome = replace(outcome, notes=tuple(notes))
        decision = self.conclude(claims, rule, outcome, n_dev_clusters=finalists.n_dev_clusters)
        return replace(decision, chosen_share=shares, n_documents=len(self.evalset.documents))

    def _as_timed_before(self, facts: Sequence[ArmFacts]) -> list[ArmFacts]:
        """Facts with the latencies of the accepted decision where this run only checks it again."""
        if self.accepted is None or not self.rechecks:
            return list(facts)
        before = {c.arm: c.latency_p95_ms for c in self.accepted.claims}
        return [replace(f, latency_p95_ms=before.get(f.name)) for f in facts]


def _parameter_text(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
