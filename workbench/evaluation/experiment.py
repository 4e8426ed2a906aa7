"""What every notebook shares: its run folder, its rule, what was accepted before, saving, and the gate."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import polars as pl

from workbench.config import Settings, SystemClock
from workbench.errors import ConfigError
from workbench.evalset.evalset import HUB, Evalset, require_dev
from workbench.evalset.gates import ASSUMED_REQUESTS, GatePolicy
from workbench.evaluation.decision import ArmFacts, Outcome, decide, make_claims
from workbench.evaluation.finalists import beside, chosen_shares, screen
from workbench.evaluation.gate import Gate, account, check_gate
from workbench.evaluation.provenance import parameter_inputs, provenance
from workbench.evaluation.run_record import RunRecord, close_run, open_run
from workbench.evaluation.sentences import percent
from workbench.evaluation.summary import Summary
from workbench.records import Claim, Decision, Fingerprint, Rule, content_hash, parameters_of
from workbench.rendering.table import Table

OBJECTIVE = "usd_per_1k_requests"
KEPT = "as accepted"
KEPT_ORDER = 1000  # arms that this run cannot ask stand behind those that it can
TEST_INPUTS = ("qrels/test", "outcomes", "stream")  # what a notebook judges on, the first that it has
MONEY_SHOWN = ("requests_per_month", "least_saving_usd", "least_saving_share", "point_usd", "max_usd_per_1k")
RULE_SHOWN = (
    "metric", "margin", "confidence", "floor", "latency_p95_ms", "min_coverage", *MONEY_SHOWN, "on_inconclusive",
    "on_stale",
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Finalists:
    """What goes to the test split: the rule, the arms with the reason for each, and the dev scores they came from.

    ``power`` is the chance that the test shows arms which are truly equal to be near each other, None where dev has no
    spread to tell; ``left_behind`` are arms that dev cannot rule out, but that the test could not carry.
    """

    rule: Rule
    roles: Mapping[str, str]
    dev: pl.DataFrame
    power: float | None = None
    left_behind: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Arms that are tested."""
        return tuple(self.roles)

    @property
    def n_dev_clusters(self) -> int:
        """Question families that they were picked on."""
        return self.dev["cluster"].n_unique()

    @property
    def always(self) -> tuple[str, ...]:
        """Arms that are tested whatever dev says."""
        return tuple(name for name, role in self.roles.items() if role != FINALIST)

    def _repr_html_(self) -> str:
        return self._table().to_html()

    def __repr__(self) -> str:
        return self._table().to_text()

    def _table(self) -> Table:
        why = f"Dev: {self.n_dev_clusters} families"
        if self.power is not None:
            why += (
                f"; if all are equal, the test shows one to be near the others with a chance of {percent(self.power)}"
            )
        if self.left_behind:
            why += f"; not ruled out by dev, but more than the test can carry: {', '.join(self.left_behind)}"
        return Table.of(("arm", "why it is tested"), list(self.roles.items()), why)


FINALIST = "dev does not rule it out"


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run of one notebook over one evalset.

    Attributes
    ----------
    parameters : object
        The notebook's frozen parameter value.
    inputs : dict
        Input part of the fingerprint.
    accepted, anchor : Decision or None
        The committed decision, and the one whose arm no later one may lie far below; where there are such.
    rule_shown : tuple of str
        Settings of the policy that this notebook goes by.
    dev_items : frozenset of str
        Items that finalists may be picked on.
    provenance : dict
        The part of the fingerprint that is only shown, as it was when the run began.
    record : RunRecord or None
        Record of a run without a runner, as in JupyterLab, which this experiment closes itself.
    """

    notebook: str
    question: str
    settings: Settings
    evalset: Evalset
    policy: GatePolicy
    parameters: Any
    inputs: Mapping[str, str]
    folder: Path
    profile: str
    accepted: Decision | None
    anchor: Decision | None = None
    rule_shown: tuple[str, ...] = RULE_SHOWN
    dev_items: frozenset[str] = frozenset()
    provenance: Mapping[str, str] = field(default_factory=dict)
    record: RunRecord | None = None

    @property
    def config(self) -> Table:
        """Parameters and rule of this run."""
        rows = [(f.name, _plain(getattr(self.parameters, f.name))) for f in fields(self.parameters)]
        assumed = (
            {"requests_per_month": f"{ASSUMED_REQUESTS:,} (assumed)"} if not self.policy.requests_per_month else {}
        )
        rows += [(f"gate: {name}", assumed.get(name) or _plain(getattr(self.policy, name))) for name in self.rule_shown]
        rows += [("profile", self.profile), ("accepted decision", self.accepted.arm if self.accepted else "none yet")]
        return Table.of(("setting", "value"), rows, "Parameters and rule of this run")

    @property
    def rechecks(self) -> bool:
        """Whether this run has exactly the inputs of the accepted decision, so that it is judged by its rule."""
        return self.accepted is not None and not self.accepted.fingerprint.changed(Fingerprint(dict(self.inputs)))

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

    def finalists(
        self,
        dev: pl.DataFrame,
        facts: Sequence[ArmFacts],
        *,
        asked: str,
        test_clusters: int,
        systems: Collection[str] = (),
        seed: int = 0,
    ) -> Finalists:
        """Pick on dev alone what is tested.

        Always tested are the accepted arm, the named one, the anchor and the user's own systems; beside them the arms
        that dev cannot rule out.

        Parameters
        ----------
        dev : DataFrame
            Rows of the deciding metric on dev.
        asked : str
            Arm that the user names as the one in use; "" for the accepted one, if there is one.
        test_clusters : int
            Question families in test.
        systems : collection of str
            Arms that are the user's own.

        Raises
        ------
        ConfigError, SplitError
            If the arm that is named is not one of this run; if a row is of an item that is not of dev.
        """
        require_dev(dev["item_id"].unique(), self.dev_items, "picking finalists")
        accepted, names = self.accepted, [f.name for f in facts]
        if accepted is not None and self.rechecks:
            roles = dict.fromkeys(accepted.arms, FINALIST) | self._roles(accepted.rule.reference, names, systems)
            stored = (accepted.rule.anchor, accepted.rule.reference)  # their scores are kept
            return Finalists(accepted.rule, {n: roles[n] for n in accepted.arms if n in names or n not in stored}, dev)
        if asked and asked not in names:
            raise ConfigError(f"reference {asked!r} is not an arm of this run; there are {', '.join(names)}")
        rule = self.rule(asked or (accepted.arm if accepted else ""))
        roles = self._roles(rule.reference, names, systems)
        found = screen(dev, facts, rule, always=roles, test_clusters=test_clusters, seed=seed)
        return Finalists(
            rule, {name: roles.get(name, FINALIST) for name in found.names}, dev, found.power, found.left_behind
        )

    def _roles(self, reference: str, names: Collection[str], systems: Collection[str]) -> dict[str, str]:
        """Arms that are tested whatever dev says, with the reason."""
        roles = dict.fromkeys(systems, "your own system")
        if self.anchor:
            roles[self.anchor.arm] = f"the anchor, accepted first on {self.anchor.accepted_on}"
        if self.accepted:
            roles[self.accepted.arm] = "the accepted arm"
        if reference:
            is_accepted = self.accepted is not None and self.accepted.arm == reference
            roles[reference] = "the accepted arm, in use" if is_accepted else "in use, named by you"
        return {name: why for name, why in roles.items() if name in names}

    def decide(
        self,
        test: pl.DataFrame,
        facts: Sequence[ArmFacts],
        finalists: Finalists,
        *,
        seed: int,
        against: pl.DataFrame | None = None,
        n_documents: int = 0,
    ) -> Decision:
        """Judge the arms on the test split once, and write down the decision; ``against`` as in `make_claims`."""
        mine = pl.col("metric") == finalists.rule.metric
        test = test.filter(mine)
        facts = self._as_timed_before(facts)
        rule = finalists.rule
        against = test if against is None else against.filter(mine)
        asked, (test, facts, note) = facts, self._with_kept(test, facts, rule)
        against = self._with_kept(against, asked, rule)[0]
        if not self.rechecks:
            rule = replace(rule, use=self.count_test_use([f.name for f in facts]))
        claims = make_claims(test, facts, rule, against=against, seed=seed)
        claims = tuple(replace(c, note=KEPT) if c.arm not in {f.name for f in asked} else c for c in claims)
        order = {f.name: f.order for f in facts}
        outcome = decide(
            claims, rule, order=order, synthetic=self.evalset.synthetic, n_dev_clusters=finalists.n_dev_clusters
        )
        on_dev = [f for f in facts if f.name in set(finalists.dev["arm"])]
        names = [f.name for f in on_dev]
        shares = chosen_shares(
            finalists.dev.filter(pl.col("arm").is_in(names)), test, on_dev, rule, always=finalists.always, seed=seed
        )
        notes = [*outcome.notes, *note, *beside(claims, rule, outcome, shares)]
        decision = self.conclude(claims, rule, replace(outcome, notes=tuple(notes)))
        return replace(decision, chosen_share=shares, n_documents=n_documents, n_dev_clusters=finalists.n_dev_clusters)

    def conclude(self, claims: tuple[Claim, ...], rule: Rule, outcome: Outcome) -> Decision:
        """Write down what was decided on these claims, and what it rests on."""
        return Decision(
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
            settings=_settings_of(self.parameters),
            synthetic=self.evalset.synthetic,
            notes=outcome.notes,
            evalset=self.evalset.name,
        )

    def _with_kept(
        self, test: pl.DataFrame, facts: Sequence[ArmFacts], rule: Rule
    ) -> tuple[pl.DataFrame, list[ArmFacts], list[str]]:
        """Scores and facts with those of the accepted arm and of the anchor as they were accepted.

        They join where the rule goes by them and this run cannot ask them again; a sentence for each that was judged
        on other questions than these.
        """
        facts, notes = list(facts), []
        kept = {d.arm: (d, path) for d, path in self._accepted_before() if d.arm in (rule.reference, rule.anchor)}
        for arm, (decision, path) in kept.items():
            if any(f.name == arm for f in facts):
                continue
            scores = pl.read_parquet(path.with_suffix(".scores.parquet")).filter(pl.col("arm") == arm)
            if set(scores["item_id"]) != set(test["item_id"]):
                notes.append(f"{arm}, accepted before, is no arm of this run and was judged on other questions.")
                continue
            clusters = test.select("item_id", "cluster").unique("item_id")
            rows = scores.join(clusters, on="item_id").select("arm", "item_id", "repeat", "value", "cluster")
            test = pl.concat([test, rows], how="diagonal_relaxed")
            claim, place = decision.claim(arm), len(facts) + KEPT_ORDER
            facts.append(ArmFacts(arm, claim.parameters, claim.cost_usd_per_1k, claim.latency_p95_ms, place))
        return test, facts, notes

    def _accepted_before(self) -> list[tuple[Decision, Path]]:
        """Accepted decision and that of the anchor, where there are such, with their files."""
        folder, name = self.evalset.path, self.notebook
        both = [(self.accepted, decision_path(folder, name)), (self.anchor, anchor_path(folder, name))]
        return [(decision, path) for decision, path in both if decision is not None]

    def _as_timed_before(self, facts: Sequence[ArmFacts]) -> list[ArmFacts]:
        """Facts with the latencies of the accepted decision where this run only checks it again."""
        if self.accepted is None or not self.rechecks:
            return list(facts)
        before = {c.arm: c.latency_p95_ms for c in self.accepted.claims}
        return [replace(f, latency_p95_ms=before.get(f.name)) for f in facts]

    def count_test_use(self, arms: Collection[str]) -> int:
        """Note that these arms were judged on this test split; returns which use of it this is, from 1.

        A test split that is asked often enough says yes to something; new questions begin anew. The list of this
        machine is in the cache;
        accepting a decision commits it beside the decision.
        """
        judged_on = next((self.inputs[name] for name in TEST_INPUTS if self.inputs.get(name)), "")
        split, mine = content_hash(judged_on)[:8], content_hash(*sorted(arms))[:8]
        uses = note_test_use(self.settings, self.evalset.path, self.notebook, f"{split}{mine}")
        return [use for use in uses if use.startswith(split)].index(f"{split}{mine}") + 1

    def save(self, decision: Decision, summary: Summary, scores: pl.DataFrame) -> Path:
        """Write scores, summary and decision into the run folder; returns the folder."""
        scores.write_parquet(self.folder / "scores.parquet")
        (self.folder / "summary.json").write_text(summary.to_json(), encoding="utf-8")
        (self.folder / "decision.json").write_text(decision.to_json(), encoding="utf-8")
        return self.folder

    def gate(
        self,
        decision: Decision,
        test: pl.DataFrame,
        invariants: Mapping[str, int | None],
        *,
        items: Collection[str],
        rows: pl.DataFrame | None = None,
    ) -> Gate:
        """Compare with the accepted decision, write ``gate.json`` and close the record; the caller enforces.

        ``items`` are all of test, by the evalset; ``rows`` has each for every arm where ``test`` by its metric has not.
        """
        asked = replace(decision, claims=tuple(c for c in decision.claims if c.note != KEPT))
        gate = check_gate(
            self.accepted,
            decision,
            accepted_scores=self.accepted_scores,
            scores=test.filter(pl.col("metric") == decision.rule.metric),
            invariants=invariants,
            accounts=account(test if rows is None else rows, asked, items, min_coverage=self.policy.min_coverage),
            soft=self.policy.soft,
            run=self.folder.name,
        )
        (self.folder / "gate.json").write_text(gate.to_json(), encoding="utf-8")
        if self.record:
            close_run(
                self.record,
                SystemClock(),
                status="done",
                exit_reason="gate_failed" if gate.failed else "completed",
                gate=gate.status,
                fingerprint=asdict(decision.fingerprint),
            )
        return gate


def open_experiment(
    notebook: str,
    question: str,
    *,
    settings: Settings,
    evalset: Evalset,
    parameters: Any,
    inputs: Mapping[str, str],
    rule_shown: tuple[str, ...] = RULE_SHOWN,
    dev_items: Collection[str] = (),
) -> Experiment:
    """Begin an experiment in its run folder, with the policy of its evalset and what was accepted before.

    A folder from elsewhere is told by its name and what it holds: its path is another one on the next machine.
    """
    given = evalset.path.name
    if parameters.evalset.startswith(HUB):
        given = parameters.evalset
    elif evalset.path.parent != settings.evalsets:
        given = str(evalset.path.resolve())
        told = content_hash(*(f"{name} {sha256}" for name, sha256 in sorted(evalset.inputs.items())))
        parameters = replace(parameters, evalset=f"{evalset.name}@{told[:8]}")
        inputs = {**inputs, **parameter_inputs(parameters)}
    record = _own_record(settings, notebook, {**_settings_of(parameters), "evalset": given})
    accepted, anchor = decision_path(evalset.path, notebook), anchor_path(evalset.path, notebook)
    return Experiment(
        notebook=notebook,
        question=question,
        settings=settings,
        evalset=evalset,
        policy=evalset.policy(notebook),
        parameters=parameters,
        inputs=inputs,
        folder=record.run_dir if record else Path(os.environ["WORKBENCH_RUN_DIR"]),
        profile=_profile(),
        accepted=Decision.load(accepted) if accepted.is_file() else None,
        anchor=Decision.load(anchor) if anchor.is_file() else None,
        rule_shown=rule_shown,
        dev_items=frozenset(dev_items),
        provenance=provenance(settings.root),
        record=record,
    )


def decision_path(evalset: Path, notebook: str) -> Path:
    """Where the accepted decision of a notebook lies."""
    return evalset / "decisions" / f"{notebook}.json"


def anchor_path(evalset: Path, notebook: str) -> Path:
    """Where the decision lies whose arm is the anchor; its scores lie beside it."""
    return evalset / "decisions" / "anchor" / f"{notebook}.json"


def note_test_use(settings: Settings, evalset: Path, notebook: str, use: str = "") -> list[str]:
    """Arm sets that were judged on the test split, on this machine and before the last acceptance, with this one."""
    local = settings.cache / "test_uses" / f"{evalset.name}-{notebook}"
    known: list[str] = []
    for path in (decision_path(evalset, notebook).with_suffix(".uses"), local):
        known += path.read_text(encoding="utf-8").split() if path.is_file() else []
    uses = list(dict.fromkeys([*known, use] if use else known))
    local.parent.mkdir(parents=True, exist_ok=True)
    local.write_text("\n".join(uses) + "\n", encoding="utf-8")
    return uses


def _own_record(settings: Settings, notebook: str, parameters: dict[str, Any]) -> RunRecord | None:
    """Record and folder of a run that nobody else keeps a record of; None where a runner does."""
    if os.environ.get("WORKBENCH_RUN_DIR"):
        return None
    return open_run(settings, notebook, profile=_profile(), parameters=parameters, clock=SystemClock())


def _profile() -> str:
    return os.environ.get("WORKBENCH_PROFILE", "ci")


def _settings_of(parameters: Any) -> dict[str, Any]:
    return {name: value for name, value in parameters_of(parameters).items() if name != "kind"}


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
