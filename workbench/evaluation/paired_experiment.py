"""Experiments whose arms are scored on the same items: dev picks who is tested, paired differences on test decide."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, TypeVar

import polars as pl

from workbench.errors import ConfigError
from workbench.evalset.evalset import require_dev
from workbench.evaluation.decision import ArmFacts, decide, make_claims
from workbench.evaluation.experiment import KEPT, Experiment, Parameters, S
from workbench.evaluation.finalists import FINALIST, Finalists, beside, chosen_shares, screen
from workbench.evaluation.in_use import anchor_path, decision_path
from workbench.evaluation.power import power_table
from workbench.records import Decision, Rule
from workbench.rendering.table import Table

KEPT_ORDER = 1000  # arms that this run cannot ask stand behind those that it can


class PairedParameters(Parameters, Protocol):
    """Parameters with the arm that the user names as the one in use, "" for the accepted one."""

    @property
    def reference(self) -> str:
        """Name of the arm."""


Q = TypeVar("Q", bound=PairedParameters)


class PairedExperiment(Experiment[Q, S], ABC):
    """An experiment whose arms are scored on the same items: dev picks who is tested, paired differences decide."""

    spreads: ClassVar[tuple[float, ...]]  # assumed per cluster of a paired difference, before any arm has run

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
            roles = dict.fromkeys(accepted.arms, FINALIST) | self._roles(accepted.rule.reference, names)
            stored = (accepted.rule.anchor, accepted.rule.reference)  # their scores are kept
            kept = {n: roles[n] for n in accepted.arms if n in names or n not in stored}
            return Finalists(accepted.rule, kept, scores)
        if asked and asked not in names:
            raise ConfigError(f"reference {asked!r} is not an arm of this run; there are {', '.join(names)}")
        rule = self.rule(asked or (accepted.arm if accepted else ""))
        roles, n = self._roles(rule.reference, names), len(set(self.clusters("test").values()))
        found = screen(scores, dev.facts, rule, always=roles, test_clusters=n, seed=self.parameters.seed)
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
        asked, (scores, facts, note) = facts, self._with_kept(test.of(rule.metric), facts, rule)
        against = self._with_kept(test.against(rule.metric), asked, rule)[0]
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
        notes = [*outcome.notes, *note, *beside(claims, rule, outcome, shares)]
        decision = self.conclude(claims, rule, replace(outcome, notes=tuple(notes)))
        n_documents, n_families = len(self.evalset.documents), finalists.n_dev_clusters
        return replace(decision, chosen_share=shares, n_documents=n_documents, n_dev_clusters=n_families)

    def _with_kept(
        self, test: pl.DataFrame, facts: Sequence[ArmFacts], rule: Rule
    ) -> tuple[pl.DataFrame, list[ArmFacts], list[str]]:
        """Scores and facts with those of the accepted arm and of the anchor as they were accepted.

        They join where the rule goes by them and this run cannot ask them again; a sentence for each that was judged
        on other questions than these.
        """
        facts, notes = list(facts), []
        places = ((self.accepted, decision_path), (self.anchor, anchor_path))
        before = {d.arm: (d, place(self.evalset.path, self.notebook)) for d, place in places if d is not None}
        for arm, (decision, path) in before.items():
            if arm not in (rule.reference, rule.anchor) or any(f.name == arm for f in facts):
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

    def _as_timed_before(self, facts: Sequence[ArmFacts]) -> list[ArmFacts]:
        """Facts with the latencies of the accepted decision where this run only checks it again."""
        if self.accepted is None or not self.rechecks:
            return list(facts)
        before = {c.arm: c.latency_p95_ms for c in self.accepted.claims}
        return [replace(f, latency_p95_ms=before.get(f.name)) for f in facts]
