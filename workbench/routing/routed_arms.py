"""Arms of the routing notebook: every single model, and every policy at the threshold that dev gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import polars as pl

from workbench.evalset.outcomes import Outcomes
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.repeats import repeat_score_columns
from workbench.evaluation.run_summary import ItemCase, ScoredArms, item_cases, mean_by_arm
from workbench.records import Query
from workbench.rendering.numbers import counted, percent
from workbench.rendering.progress import Progress, waiting
from workbench.rendering.table import Column, Table
from workbench.routing.curves import cross_predict, curve_knob_values, fit_policy
from workbench.routing.policies import Policy, Router, one_model

METRIC = "correctness"
_SHARES_SHOWN = 4
_RIGHT = 0.5  # graded answers from here on are shown as right


@dataclass(frozen=True, slots=True, eq=False)
class RoutedArm:
    """A router at its threshold; ``held_out`` are the predictions for dev by routers that had not seen them."""

    router: Router
    order: int
    held_out: np.ndarray | None = None

    @property
    def name(self) -> str:
        """Model, or policy."""
        return self.router.policy

    @property
    def is_model(self) -> bool:
        """Whether it always takes the same model."""
        return self.held_out is None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ScoredRoutes(ScoredArms):
    """What the arms chose for the prompts of one split, with scores and facts."""

    words: ClassVar[tuple[str, str, str]] = ("prompt", "right", "asks")
    arms: tuple[RoutedArm, ...]
    outcomes: Outcomes
    picked: Mapping[str, np.ndarray]  # shape (repeats, prompts)

    @property
    def table(self) -> Table:
        """Quality, what an oracle would add, cost, latency, and the share that each model answers."""
        best = self.outcomes.quality.max(1).mean()
        means = mean_by_arm(self.scores, METRIC)
        rows = tuple(
            (f.name, means[f.name], best - means[f.name], f.cost_usd_per_1k, f.latency_p95_ms, self.shares(f.name))
            for f in sorted(self.facts, key=lambda f: -means[f.name])
        )
        columns = (
            Column("arm"),
            Column(METRIC, "number", digits=3),
            Column("regret to the oracle", "number", digits=3),
            Column("USD per 1,000", "usd"),
            Column("p95", "ms"),
            Column("who answers"),
        )
        more, cells = repeat_score_columns(self.scores, self.names)
        rows = tuple((*row, *cells[row[0]]) for row in rows)
        return Table((*columns, *more), rows, f"Arms on {self.split}, best first")

    def shares(self, arm: str) -> str:
        """Share of the requests that each model answers, largest first."""
        picked = self.picked[arm]
        counts = np.bincount(picked.ravel(), minlength=len(self.outcomes.models)) / picked.size
        ranked = [i for i in np.argsort(-counts, kind="stable") if counts[i] > 0]
        shown = [f"{self.outcomes.models[i]} {percent(counts[i])}" for i in ranked[:_SHARES_SHOWN]]
        rest = counts[ranked[_SHARES_SHOWN:]].sum()
        return ", ".join(shown) + (f", others {percent(rest)}" if rest else "")

    def cases(self, metric: str) -> Mapping[str, ItemCase]:
        """Every prompt with the models that are right, and the model that each arm asked."""
        part = self.outcomes
        asked = [Query(i, text) for i, text in zip(part.prompt_ids, part.requests.prompts, strict=True)]
        right = {
            i: [m for m, q in zip(part.models, row, strict=True) if q >= _RIGHT]
            for i, row in zip(part.prompt_ids, part.quality, strict=True)
        }
        returned = {
            arm: {
                i: list(dict.fromkeys(part.models[p] for p in of_prompt))
                for i, of_prompt in zip(part.prompt_ids, picked.T, strict=True)
            }
            for arm, picked in self.picked.items()
        }
        return item_cases(self.of(metric), asked, expected=right, returned=returned)


def model_arms(dev: Outcomes) -> list[RoutedArm]:
    """Every single model, cheapest first."""
    return [RoutedArm(one_model(i, dev.models, dev.cost_usd.mean(0)), i) for i in range(len(dev.models))]


def policy_arms(
    policies: Sequence[Policy], dev: Outcomes, *, reference: int, give_up: float, accepted: Mapping[str, Router]
) -> list[RoutedArm]:
    """Fit every policy on dev, and set its threshold by its held-out predictions there.

    The threshold is the cheapest at which it loses at most ``give_up`` (in units of quality) against the reference
    model, or the best where none does. Routers in ``accepted`` are taken as they were tested, not fitted again.

    Raises
    ------
    SplitError
        If a prompt is not of dev.
    """
    dev.require_dev("fitting a router and its threshold")
    target = dev.quality[:, reference].mean() - give_up
    out = []
    for i, policy in enumerate(policies):
        bar = Progress(f"fit {policy.name}", 1)
        with waiting(f"fit {policy.name}"):
            held_out = cross_predict(policy, dev)
            router = accepted.get(policy.name)
            if router is None:
                router = fit_policy(policy, dev)
                router = replace(router, value_usd=choose_quality_value(router, held_out, dev, target))
        bar.done(f"{policy.name}: learned on {counted(len(dev), 'prompt')}")
        out.append(RoutedArm(router, len(dev.models) + i, held_out))
    return out


def choose_quality_value(router: Router, predicted: np.ndarray, dev: Outcomes, target: float) -> float:
    """Value of a unit of quality, in dollars, whose choices are the cheapest that reach the target on dev."""
    rows, found = np.arange(len(dev)), []
    for value in curve_knob_values(dev.cost_usd):
        picked = router.pick(predicted, float(value))
        found.append((dev.quality[rows, picked].mean(), router.spend(picked, dev.cost_usd).mean(), float(value)))
    reached = [f for f in found if f[0] >= target - 1e-12]
    if reached:
        return min(reached, key=lambda f: (f[1], f[2]))[2]
    return max(found, key=lambda f: (f[0], -f[1]))[2]


def route_all_prompts(arms: Sequence[RoutedArm], part: Outcomes, split: str) -> ScoredRoutes:
    """Choices of every arm for the prompts of one split, in each repeat of them, and what they led to."""
    picked, frames, facts = {}, [], []
    for arm in arms:
        held_out = arm.held_out if split == "dev" else None
        chosen = [
            arm.router.route(one.requests) if held_out is None else arm.router.pick(held_out) for one in part.repeats
        ]
        rows = [_score_routes(arm, c, one, r) for r, (c, one) in enumerate(zip(chosen, part.repeats, strict=True))]
        picked[arm.name] = np.stack(chosen)
        frames += rows
        facts.append(_route_facts(arm, pl.concat(rows), picked[arm.name], part))
    return ScoredRoutes(split, tuple(arms), pl.concat(frames), tuple(facts), part, picked)


def _score_routes(arm: RoutedArm, picked: np.ndarray, part: Outcomes, repeat: int) -> pl.DataFrame:
    rows, router = np.arange(len(part)), arm.router
    latency = router.spend(picked, part.latency_ms)
    return pl.DataFrame(
        {
            "arm": [arm.name] * len(part),
            "item_id": part.prompt_ids,
            "repeat": np.full(len(part), repeat, np.int32),
            "metric": [METRIC] * len(part),
            "value": part.quality[rows, picked],
            "error": [None] * len(part),
            "cluster": part.clusters,
            "tenant_id": part.tenants,
            "latency_ms": [None] * len(part) if np.isnan(latency).any() else latency,
            "cost_usd": router.spend(picked, part.cost_usd) + router.overhead_usd,
            "slice_feature": part.requests.features,
            "slice_tenant_id": part.tenants if len(set(part.tenants)) > 1 else [""] * len(part),
        },
        schema=SCORES_SCHEMA | {"slice_feature": pl.String, "slice_tenant_id": pl.String},
    )


def _route_facts(arm: RoutedArm, rows: pl.DataFrame, picked: np.ndarray, part: Outcomes) -> ArmFacts:
    latency, router = rows["latency_ms"].to_numpy(), arm.router
    p95 = None if np.isnan(latency).any() else float(np.quantile(latency, 0.95))
    used = {name: 1000 * float(np.mean([router.spend(c, n) for c in picked])) for name, n in part.amounts.items()}
    amounts = {name: n for name, n in used.items() if n}
    usd_per_1k = 1000 * float(rows["cost_usd"].to_numpy().mean())
    return ArmFacts(arm.name, routed_arm_parameters(router), usd_per_1k, p95, arm.order, amounts=amounts)


def routed_arm_parameters(router: Router) -> dict[str, object]:
    """What the decision says of an arm; the router itself lies beside it, found by its hash."""
    value = "infinite" if np.isinf(router.value_usd) else router.value_usd
    return {"kind": "Router", "policy": router.policy, "value_usd": value, "sha256": router.sha256}
