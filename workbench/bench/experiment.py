"""What every notebook shares: its run folder, its rule, what was accepted before, saving, and the gate."""

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import polars as pl

from workbench.bench.provenance import parameter_inputs, provenance
from workbench.clock import Clock, SystemClock
from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evaluation.decision import ArmFacts, Outcome, decide, make_claims, pick_finalists, pick_reference
from workbench.evaluation.evalset import HUB, Evalset, require_dev
from workbench.evaluation.gate import Gate, account, check_gate
from workbench.evaluation.policy import GatePolicy
from workbench.evaluation.summary import Summary
from workbench.records import Claim, Decision, Fingerprint, Rule, content_hash, parameters_of
from workbench.rendering.table import Table

OBJECTIVE = "usd_per_1k_requests"
MANY_TEST_USES = 10
TEST_INPUTS = ("qrels/test", "outcomes", "stream")  # what a notebook judges on, the first that it has
RULE_SHOWN = (
    "metric", "margin", "confidence", "floor", "latency_p95_ms", "min_coverage", "on_inconclusive", "on_stale"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Finalists:
    """What goes to the test split: the rule with its reference, and at most three arms beside it."""

    rule: Rule
    names: tuple[str, ...]
    why: str

    def _repr_html_(self) -> str:
        return self._table().to_html()

    def __repr__(self) -> str:
        return self._table().to_text()

    def _table(self) -> Table:
        rows = [(n, "reference" if n == self.rule.reference else "finalist") for n in self.names]
        return Table.of(("arm", "role"), rows, self.why)


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run of one notebook over one evalset.

    Attributes
    ----------
    parameters : object
        The notebook's frozen parameter value.
    inputs : dict
        Input part of the fingerprint.
    accepted : Decision or None
        The committed decision, where there is one.
    rule_shown : tuple of str
        Settings of the policy that this notebook goes by.
    dev_items : frozenset of str
        Items that finalists may be picked on.
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
    rule_shown: tuple[str, ...] = RULE_SHOWN
    dev_items: frozenset[str] = frozenset()

    @property
    def config(self) -> Table:
        """Parameters and rule of this run."""
        rows = [(f.name, _plain(getattr(self.parameters, f.name))) for f in fields(self.parameters)]
        rows += [(f"gate: {name}", _plain(getattr(self.policy, name))) for name in self.rule_shown]
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
        return Fingerprint(dict(self.inputs), provenance(self.settings.root))

    def rule(self, reference: str) -> Rule:
        """Rule of the policy against a reference named beforehand."""
        p = self.policy
        return Rule(p.metric, OBJECTIVE, reference, p.margin, p.confidence, p.floor, p.latency_p95_ms)

    def finalists(
        self, dev: pl.DataFrame, facts: Sequence[ArmFacts], *, asked: str, simple: Collection[str] = ()
    ) -> Finalists:
        """Pick on dev alone: the reference, and at most three cheaper arms that may be as good.

        Parameters
        ----------
        dev : DataFrame
            Rows of the deciding metric on dev.
        asked : str
            Reference named by the user, "" for the accepted arm, at first the best on dev.
        simple : collection of str
            Arms among which the best on dev is looked for; all where empty.

        Raises
        ------
        ConfigError, SplitError
            If the reference is not an arm of this run; if a row is of an item that is not of dev.
        """
        require_dev(dev["item_id"].unique(), self.dev_items, "picking finalists")
        accepted, names = self.accepted, [f.name for f in facts]
        if accepted is not None and self.rechecks:
            return Finalists(accepted.rule, accepted.arms, "Arms of the accepted decision, judged again by its rule")
        reference = asked or (accepted.arm if accepted and accepted.arm in names else "")
        why = "Reference: the accepted arm" if accepted and reference == accepted.arm else "Reference: named by you"
        if not reference:
            reference = pick_reference(dev, [f for f in facts if not simple or f.name in simple])
            why = f"Reference: the best {'of the simple arms' if simple else 'arm'} on dev"
        if reference not in names:
            raise ConfigError(f"reference {reference!r} is not an arm of this run; there are {', '.join(names)}")
        rule = self.rule(reference)
        picked = pick_finalists(dev, facts, rule)
        return Finalists(rule, (reference, *picked), f"{why}; finalists are cheaper and near it on dev")

    def decide(
        self, test: pl.DataFrame, facts: list[ArmFacts], rule: Rule, *, seed: int, against: pl.DataFrame | None = None
    ) -> Decision:
        """Judge the arms on the test split once, and write down the decision; ``against`` as in `make_claims`."""
        mine = pl.col("metric") == rule.metric
        against = None if against is None else against.filter(mine)
        claims = make_claims(test.filter(mine), facts, rule, against=against, seed=seed)
        order = {f.name: f.order for f in facts}
        outcome = decide(self._as_timed_before(claims), rule, order=order, synthetic=self.evalset.synthetic)
        return self.conclude(claims, rule, outcome)

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
            test_uses=self.count_test_use([c.arm for c in claims]),
            fingerprint=self.fingerprint(),
            settings={k: v for k, v in parameters_of(self.parameters).items() if k != "kind"},
            synthetic=self.evalset.synthetic,
        )

    def _as_timed_before(self, claims: tuple[Claim, ...]) -> tuple[Claim, ...]:
        """Claims with the latencies of the accepted decision where this run only checks it again."""
        if self.accepted is None or not self.rechecks:
            return claims
        before = {c.arm: c.latency_p95_ms for c in self.accepted.claims}
        return tuple(replace(c, latency_p95_ms=before.get(c.arm)) for c in claims)

    def count_test_use(self, arms: list[str]) -> int:
        """Note that these arms were judged on this test split; returns how many different sets have been.

        A test split that is asked often enough says yes to something. The list of this machine is in the cache;
        accepting a decision commits it beside the decision.
        """
        judged_on = next((self.inputs[name] for name in TEST_INPUTS if self.inputs.get(name)), "")
        mine = content_hash(*sorted(arms), judged_on)[:16]
        return len(note_test_use(self.settings, self.evalset.path, self.notebook, mine))

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
        invariants: Mapping[str, int],
        *,
        items: Collection[str],
        rows: pl.DataFrame | None = None,
    ) -> Gate:
        """Compare with the accepted decision and write ``gate.json``; the caller enforces.

        ``items`` are all of test, by the evalset; ``rows`` has each for every arm where ``test`` by its metric has not.
        """
        gate = check_gate(
            self.accepted,
            decision,
            accepted_scores=self.accepted_scores,
            scores=test.filter(pl.col("metric") == decision.rule.metric),
            invariants=invariants,
            accounts=account(test if rows is None else rows, decision, items, min_coverage=self.policy.min_coverage),
            soft=self.policy.soft,
        )
        (self.folder / "gate.json").write_text(gate.to_json(), encoding="utf-8")
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
    if evalset.path.parent != settings.evalsets and not parameters.evalset.startswith(HUB):
        told = content_hash(*(f"{name} {sha256}" for name, sha256 in sorted(evalset.inputs.items())))
        parameters = replace(parameters, evalset=f"{evalset.name}@{told[:8]}")
        inputs = {**inputs, **parameter_inputs(parameters)}
    accepted = decision_path(evalset.path, notebook)
    return Experiment(
        notebook=notebook,
        question=question,
        settings=settings,
        evalset=evalset,
        policy=evalset.policy(notebook),
        parameters=parameters,
        inputs=inputs,
        folder=open_run_folder(settings, notebook),
        profile=os.environ.get("WORKBENCH_PROFILE", "ci"),
        accepted=Decision.load(accepted) if accepted.is_file() else None,
        rule_shown=rule_shown,
        dev_items=frozenset(dev_items),
    )


def decision_path(evalset: Path, notebook: str) -> Path:
    """Where the accepted decision of a notebook lies."""
    return evalset / "decisions" / f"{notebook}.json"


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


def open_run_folder(settings: Settings, notebook: str, clock: Clock | None = None) -> Path:
    """Folder of this run: the runner's, or in JupyterLab one of its own.

    Raises
    ------
    ConfigError
        If the folder cannot be written.
    """
    if given := os.environ.get("WORKBENCH_RUN_DIR"):
        return Path(given)
    stamp = (clock or SystemClock()).now().strftime("%Y%m%dT%H%M%S")
    try:
        settings.runs.mkdir(parents=True, exist_ok=True)
        return Path(mkdtemp(prefix=f"{stamp}-{notebook}-interactive-", dir=settings.runs))  # one of its own, always
    except OSError as error:
        raise ConfigError(f"runs folder {settings.runs} cannot be written: {error}; set WORKBENCH_RUNS") from error


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value in (None, "") else str(value)
