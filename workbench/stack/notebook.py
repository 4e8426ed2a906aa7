"""The stack experiment: retrieval, routing and cache together, on one stream of requests, from what was recorded.

A level of retrieval is a context (how much of what was found is shown) filled by an arm: by the accepted one, or by
another all of whose prompts are answered too. A request that is not served from the cache gets the recorded answer to
the question that it asks, by the model that its route picks, with the documents that its level shows. A hit gets what
was answered to the request that filled the entry: right if that answer is right and the two need the same one. Nothing
is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from workbench.caching.cache_claims import CacheArm
from workbench.caching.guard import Guard, rules_sha256
from workbench.caching.stream_replay import StreamReplay, replay_stream, replay_without_cache
from workbench.codec import NEEDED, NEUTRAL, RANGE, Range, from_kinds, to_json
from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evalset.evalset import dev_clusters
from workbench.evalset.outcomes import Outcomes, outcome_amount_matrices, outcomes_of
from workbench.evalset.traffic import load_traffic_stream
from workbench.evaluation.accepted_decision import decision_path
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.evaluation.decision import ArmFacts
from workbench.evaluation.experiment import PairedExperiment
from workbench.evaluation.fingerprint import SEED, fingerprint_of_encoder
from workbench.evaluation.flip_points import FlipAxis
from workbench.inference.embedding import Embedder, load_embedder, unread_by_embedder
from workbench.inference.prices import price_of_query_embedding
from workbench.records import Decision, Rule, content_hash
from workbench.rendering.numbers import counted, percent
from workbench.rendering.progress import Progress
from workbench.rendering.table import Table
from workbench.reports.ending import Notebook
from workbench.retrieval.ingest import eval_vectors
from workbench.routing.policies import POLICIES, Router, make_policy, one_model
from workbench.routing.recorded_outcomes import recorded_outcomes, require_recorded
from workbench.routing.retrieval_levels import Level, judged_beside, levels_sentence, read_levels, uncovered_levels
from workbench.routing.routed_arms import policy_arms
from workbench.stack.layers import StackPage, read_layers
from workbench.stack.tables import (
    ScoredStack,
    StackCell,
    stack_effects_table,
    stack_joint_table,
    stack_marginals_table,
    stack_misses_table,
)

METRIC = "correctness"
EVERY = "every request is served"
CACHES = ("off", "exact", "accepted")
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StackParameters:
    """Parameters of ``07_stack``; the notebook's cell has the same names and defaults.

    ``contexts`` are names in the evalset's ``prompts.toml``, the narrowest first, filled by the accepted retrieval arm;
    ``retrievals`` other arms that fill them too, by default every one all of whose prompts are answered. ``routes`` are
    models or policies that read nothing but the request; ``caches`` "off", "exact", and "accepted": the semantic cache
    of the accepted caching decision. ``warmup`` requests fill the caches and are not judged.
    """

    evalset: str = "docs_qa"
    contexts: tuple[str, ...] = field(default=("bare", "top2", "top5"), metadata={NEEDED: True})
    routes: tuple[str, ...] = field(
        default=("local/smollm2-135m", "local/qwen2.5-coder-0.5b", "by_feature"), metadata={NEEDED: True}
    )
    caches: tuple[str, ...] = field(default=CACHES, metadata={NEEDED: True})
    warmup: int = field(default=500, metadata={RANGE: Range(0)})
    reference: str = ""
    seed: int = field(default=0, metadata=SEED)
    retrievals: tuple[str, ...] = field(default=(), metadata={NEUTRAL: ()})

    def __post_init__(self) -> None:
        for cache in self.caches:
            if cache not in CACHES:
                raise ConfigError(unknown_name("cache", cache, CACHES))


@dataclass(frozen=True, slots=True)
class StackArm:
    """One cell of the factorial, with its place among the arms, simplest first."""

    cell: StackCell
    cache: CacheArm
    order: int

    @property
    def name(self) -> str:
        """Context, route and cache."""
        return self.cell.name


@dataclass(frozen=True, slots=True, eq=False)
class RouteOutcomes:
    """What one route leads to for each recorded prompt, if it is asked: arrays of shape (prompts,)."""

    quality: Floats
    cost_usd: Floats
    latency_ms: Floats
    amounts: Mapping[str, Floats]


class StackExperiment(PairedExperiment[StackParameters, ScoredStack], Notebook[StackParameters, ScoredStack]):
    """Steps of the stack notebook, in the order in which it calls them.

    ``embedder`` stands in place of the one that the accepted caching decision names.
    """

    notebook = "stack"
    question = "Which retrieval, route and cache together are the cheapest that are good enough, end to end?"
    title = "Stack: retrieval, routing and cache together"
    parameters_class = StackParameters
    items = "requests"
    items_last = False  # requests are named by their places
    spreads = (0.1, 0.2, 0.35)
    cost_note = (
        "Cost is that of the recorded answers to requests that no cache served, of retrieving for them, and of "
        "embedding each request where a cache is semantic. A hit costs nothing and takes no time."
    )

    def __init__(self, parameters: StackParameters, settings: Any, *, embedder: Embedder | None = None) -> None:
        self._encoder = embedder
        self._walks: dict[str, StreamReplay] = {}
        self._routed: dict[tuple[str, str], RouteOutcomes] = {}
        self._uncached: dict[str, float] = {}  # dollars per 1,000 test requests of an arm, if no cache served any
        super().__init__(parameters, settings)

    def examine(self) -> None:
        """Load the stream, the recorded answers and the accepted decisions, and refuse what cannot be used.

        Raises
        ------
        ConfigError
            If a context, a route or an accepted cache is not there.
        EvalsetError
            If no request asks a question whose answer is recorded.
        """
        p, evalset = self.parameters, self.evalset
        self.stream = load_traffic_stream(evalset.path)
        if self.stream.synthetic:
            note = "The stream is made up: drawn from traffic.toml; what a cache saves follows from its plan."
            self.evalset = replace(evalset, synthetic=True, notes=(*evalset.notes, note))
        half = dev_clusters(set(self.stream.clusters), p.seed, 0.5)
        require_recorded(evalset)
        frame, read, self.notes = recorded_outcomes(evalset, self.prices)
        split = pl.when(pl.col("cluster").is_in(sorted(half))).then(pl.lit("dev")).otherwise(pl.lit("test"))
        levels, told = read_levels(evalset, self.prices, set(frame["prompt_id"]))
        frames, level_inputs = self._frames(frame, levels, told)
        self._read = {**read, **level_inputs}
        self.outcomes = {name: self._outcomes(rows.with_columns(split=split)) for name, rows in frames.items()}
        self.asked = self._asked(next(iter(self.outcomes.values())))
        judged = np.flatnonzero(self.asked >= 0)
        self.places = {
            name: np.array(
                [i for i in judged if i >= p.warmup and (self.stream.clusters[i] in half) == (name == "dev")]
            )
            for name in ("dev", "test")
        }
        if not all(len(places) for places in self.places.values()):
            raise EvalsetError(
                f"of {counted(len(self.stream), 'request')} {len(judged):,} ask a question with a recorded answer; "
                f"after {p.warmup:,} both halves of the families need some"
            )
        self._decided = self._cache_in_use() if "accepted" in p.caches else None
        self.accepted_cache: CacheArm | None = None
        if self._decided is not None:
            given = self._decided.parameters
            guard = from_kinds((Guard,), given["guard"], "the accepted guard") if given["guard"] else None
            self.accepted_cache = CacheArm("semantic", given["threshold"], guard, given["encoder_id"])

    def arm_names(self) -> Sequence[str]:
        """Every cell of the factorial."""
        return [arm.name for arm in self.prepare()]

    def read(self) -> Mapping[str, str]:
        """Load the encoder of the accepted cache."""
        cache_inputs: dict[str, str] = {}
        if (decision := self._decided) is not None:
            self.embedder = self._encoder or load_embedder(decision.settings["embedder"], self.settings)
            cache_inputs = {
                "cache": content_hash(to_json(decision.parameters)),
                **fingerprint_of_encoder(self.embedder),
            }
            if decision.parameters["guard"]:
                cache_inputs["guard"] = rules_sha256()
        return {**self._read, **self.evalset.inputs, "stream": self.stream.sha256, **cache_inputs}

    def _frames(
        self, frame: pl.DataFrame, levels: Sequence[Level], told: Sequence[str]
    ) -> tuple[dict[str, pl.DataFrame], dict[str, str]]:
        """Recorded answers by level of retrieval, and what was read for them; what has none is refused by name."""
        p, known, read = self.parameters, sorted(set(frame["config"])), dict[str, str]()
        for context in p.contexts:
            if context not in known:
                raise ConfigError(f"{unknown_name('context', context, known)}: nothing else is recorded")
        models = sorted(set(frame["model"]))
        for route in p.routes:
            if route not in (*models, *POLICIES) or (route in POLICIES and POLICIES[route].reads):
                free = [name for name, policy in POLICIES.items() if not policy.reads]
                raise ConfigError(unknown_name("route", route, [*models, *free]))
        gone = uncovered_levels(self.evalset, self.prices, levels, judged_beside(self.evalset))
        self.left_out = (*told, *gone)
        self._levels = levels
        found = {context: frame.filter(pl.col("config") == context) for context in p.contexts}
        self.filled_by = dict.fromkeys(found, "")
        for level in levels:
            mine = level.context in p.contexts and (not p.retrievals or level.retrieved.arm in p.retrievals)
            if mine and level.frame is not None:
                found[level.name] = level.frame.with_columns(config=pl.lit(level.name))
                self.filled_by[level.name] = level.retrieved.arm
                read |= level.inputs
        if lacking := [arm for arm in p.retrievals if arm not in self.filled_by.values()]:
            why = "; ".join(self.left_out) or "what it found is not recorded"
            raise ConfigError(f"retrieval arm {lacking[0]!r} fills no context whose prompts are all answered: {why}")
        return found, read

    def _outcomes(self, rows: pl.DataFrame) -> Outcomes:
        found = outcomes_of(rows, f"recordings of {self.evalset.name}", seed=self.parameters.seed)
        return replace(found, amounts=outcome_amount_matrices(rows, found))

    def _asked(self, outcomes: Outcomes) -> Ints:
        """Position of the recorded prompt that each request asks, -1 for none.

        A request asks the question whose words are in it; in other words, the first question that needs its answer.
        """
        rows = {prompt_id: i for i, prompt_id in enumerate(outcomes.prompt_ids)}
        mine: dict[str, list[tuple[str, int]]] = {}
        for q in self.evalset.queries:
            if (place := rows.get(f"{q.feature}:{q.query_id}")) is not None:
                mine.setdefault(q.tenant_id, []).append((q.text.strip().lower(), place))
        found, by_answer = np.full(len(self.stream), -1), dict[str, int]()
        told = zip(self.stream.queries, self.stream.tenants, self.stream.answer_keys, strict=True)
        for i, (text, tenant, key) in enumerate(told):
            lower = text.lower()
            same = [(len(words), -place) for words, place in mine.get(tenant, ()) if words in lower]
            if same:
                found[i] = -max(same)[1]
                by_answer[key] = min(by_answer.get(key, found[i]), found[i])
        keys = self.stream.answer_keys
        return np.array([place if place >= 0 else by_answer.get(keys[i], -1) for i, place in enumerate(found.tolist())])

    def _cache_in_use(self) -> Decision:
        """Accepted caching decision, which is for a semantic cache."""
        decision = Decision.accepted(self.evalset.path, "caching")
        if used := decision.parameters.get("verifier"):
            raise ConfigError(f"the accepted caching decision goes with verifier {used['name']}, which is not asked "
                              "here: leave out 'accepted' from caches")  # fmt: skip
        if decision.parameters.get("kind") != "semantic":
            raise ConfigError(f"the accepted caching decision is {decision.arm!r}, no semantic cache: leave out "
                              "'accepted' from caches")  # fmt: skip
        return decision

    def layers(self) -> StackPage:
        """The five layers on one page: what is configured, what was measured, what is missing."""
        return read_layers(self.settings)

    def clusters(self, split: str) -> Mapping[str, str]:
        """Family of each judged request of one half."""
        return {f"{i:05d}": self.stream.clusters[i] for i in self.places[split]}

    def contents(self) -> Table:
        """Requests of both halves, by what is known of them."""
        repeats = self._walk(CacheArm("exact")).hit
        rows = []
        for name, told in (("dev", "choosing"), ("test", "held out")):
            at = self.places[name]
            rows.append((told, len(at), len({self.stream.clusters[i] for i in at}), len(set(self.asked[at])),
                         f"{percent(repeats[at].mean())}"))  # fmt: skip
        unknown = len(self.stream) - int((self.asked >= 0).sum())
        gone = f"{unknown:,} of {len(self.stream):,} are left out: no answer to their question is recorded"
        levels = levels_sentence(self.prices, list(self.outcomes), self._levels)
        caption = f"Requests after {self.parameters.warmup:,} that fill the caches. {gone}. {levels}"
        names = ("half", "requests", "families", "questions", "repeats word for word")
        return Table.of(names, rows, caption)

    def prepare(self) -> list[StackArm]:
        """Every cell of the factorial, simplest first: no cache before exact, single models before policies."""
        p, kinds = self.parameters, {"off": CacheArm("off"), "exact": CacheArm("exact")}
        if self.accepted_cache:
            kinds["accepted"] = self.accepted_cache
        cells = product(sorted(p.caches, key=CACHES.index), p.routes, self.outcomes)
        return [
            StackArm(StackCell(level, route, kinds[cache].name), kinds[cache], place)
            for place, (cache, route, level) in enumerate(cells)
        ]

    def score(self, arms: Sequence[StackArm], split: str) -> ScoredStack:
        """Send every request of one half through every cell."""
        at, frames, facts, misses = self.places[split], [], [], dict[str, npt.NDArray[np.bool_]]()
        bar = Progress(f"{split} requests", len(arms))
        for done, arm in enumerate(arms, start=1):
            frame, fact, hit = self._score(arm, at)
            frames.append(frame)
            facts.append(fact)
            misses[arm.name] = ~hit
            bar.update(done)
        bar.done(f"{counted(len(arms), 'cell')}, {len(at):,} {split} requests each")
        return ScoredStack(split, tuple(arms), pl.concat(frames), tuple(facts), misses)

    def _score(self, arm: StackArm, at: Ints) -> tuple[pl.DataFrame, ArmFacts, npt.NDArray[np.bool_]]:
        routed, walk = self._route(arm.cell.context, arm.cell.route), self._walk(arm.cache)
        hit, asked = walk.hit[at], self.asked[at]
        source = np.where(hit, self.asked[walk.matched[at]], asked)
        value = np.where(walk.false[at] | (source < 0), 0.0, routed.quality[source])
        embed = [price_of_query_embedding(self.embedder_name)] if arm.cache.kind == "semantic" else []
        cost = np.where(hit, 0.0, routed.cost_usd[asked]) + self.prices.cost_usd(embed)
        latency = np.where(hit, 0.0, routed.latency_ms[asked])
        used = {name: 1000 * float((each[asked] * ~hit).mean()) for name, each in routed.amounts.items()}
        used |= {name: used.get(name, 0.0) + 1000 * n for name, n in self.prices.amounts(embed).items()}
        self._uncached[arm.name] = 1000 * (float(routed.cost_usd[asked].mean()) + self.prices.cost_usd(embed))
        n, stream = len(at), self.stream
        columns = {
            "arm": [arm.name] * n, "item_id": [f"{i:05d}" for i in at], "repeat": np.zeros(n, np.int32),
            "metric": [METRIC] * n, "value": value, "error": [None] * n, "cluster": [stream.clusters[i] for i in at],
            "tenant_id": [stream.tenants[i] for i in at], "latency_ms": latency, "cost_usd": cost,
            "slice_tenant_id": [stream.tenants[i] for i in at], "slice_feature": [stream.features[i] for i in at],
        }  # fmt: skip
        frame = pl.DataFrame(columns, schema=SCORES_SCHEMA | {"slice_tenant_id": pl.String, "slice_feature": pl.String})
        p95 = float(np.quantile(latency, 0.95))
        amounts = {name: n for name, n in used.items() if n}
        told = {"context": arm.cell.context, "route": arm.cell.route, "cache": arm.cell.cache}
        if filled_by := self.filled_by[arm.cell.context]:
            told |= {"context": arm.cell.context.partition(" of ")[0], "retrieval": filled_by}
        return frame, ArmFacts(arm.name, told, 1000 * float(cost.mean()), p95, arm.order, amounts=amounts), hit

    @property
    def embedder_name(self) -> str:
        """Encoder of the accepted cache, as prices name it."""
        return str(Decision.accepted(self.evalset.path, "caching").settings["embedder"])

    def _route(self, context: str, route: str) -> RouteOutcomes:
        """What a route leads to for every prompt; policies are fitted on the choosing half."""
        if (context, route) not in self._routed:
            outcomes = self.outcomes[context]
            router = self._router(outcomes, f"{route}@{context}" if route not in POLICIES else route)
            picked = router.route(outcomes.requests)
            self._routed[context, route] = RouteOutcomes(
                outcomes.quality[np.arange(len(picked)), picked],
                router.spend(picked, outcomes.cost_usd) + router.overhead_usd,
                router.spend(picked, outcomes.latency_ms),
                {name: router.spend(picked, each) for name, each in outcomes.amounts.items()},
            )
        return self._routed[context, route]

    def _router(self, outcomes: Outcomes, name: str) -> Router:
        if name in outcomes.models:
            return one_model(outcomes.models.index(name), outcomes.models, outcomes.cost_usd.mean(0))
        dev = outcomes.part("dev")
        best = int(dev.quality.mean(0).argmax())
        (arm,) = policy_arms([make_policy(name, dev.models)], dev, reference=best, give_up=0.0, accepted={})
        return arm.router

    def _walk(self, arm: CacheArm) -> StreamReplay:
        """The whole stream through one cache, as it fills."""
        if arm.name not in self._walks:
            if arm.kind == "off":
                self._walks[arm.name] = replay_without_cache(self.stream)
            else:
                vectors = self._vectors() if arm.kind == "semantic" else None
                found = replay_stream(self.stream, vectors, threshold=arm.threshold or 2.0, guard=arm.guard)
                self._walks[arm.name] = found
        return self._walks[arm.name]

    def _vectors(self) -> npt.NDArray[np.float32]:
        texts = self.stream.queries
        vectors = eval_vectors(texts, self.embedder, self.settings.cache, label="requests")
        vectors[unread_by_embedder(self.embedder, texts)] = 0
        return vectors

    def plain(self, arms: Sequence[StackArm]) -> StackCell:
        """What effects are told against: the widest context, the dearest single model, no cache."""
        p = self.parameters
        context, models = p.contexts[-1], [r for r in p.routes if r not in POLICIES] or list(p.routes)
        cost = {route: float(self._route(context, route).cost_usd.mean()) for route in models}
        cache = next((a.cell.cache for a in arms if a.cache.kind == "off"), arms[0].cell.cache)
        return StackCell(context, max(models, key=cost.__getitem__), cache)

    def effects(self, dev: ScoredStack, held_out: ScoredStack) -> Table:
        """Savings alone and together, on the half that chose and on the other one."""
        return stack_effects_table(dev, held_out, self.plain(dev.arms), seed=self.parameters.seed)

    def marginals(self, dev: ScoredStack, held_out: ScoredStack) -> Table:
        """What each level of each factor does on average over all levels of the others, on both halves."""
        return stack_marginals_table(dev, held_out, self.plain(dev.arms), seed=self.parameters.seed)

    def joint(self, decision: Decision, dev: ScoredStack, held_out: ScoredStack) -> Table:
        """What the decided cell saves and is worth on the half that chose, and on the one that did not."""
        return stack_joint_table(dev, held_out, self.plain(dev.arms), decision.arm, seed=self.parameters.seed)

    def misses(self, held_out: ScoredStack) -> Table:
        """What a route saves on the requests that miss the cache."""
        return stack_misses_table(held_out, self.plain(held_out.arms), seed=self.parameters.seed)

    def rule(self, reference: str = "") -> Rule:
        """Rule of the policy; in use is the cell of the accepted decisions, where they are one and none is named."""
        paths = [decision_path(self.evalset.path, name) for name in ("routing", "caching")]
        if not reference and all(path.is_file() for path in paths):
            routing, caching = (Decision.load(path) for path in paths)
            route, _, context = routing.arm.partition("@")
            together = StackCell(context, route, caching.arm).name
            reference = together if together in [arm.name for arm in self.prepare()] else ""
        return super().rule(reference)

    def axes(self, decision: Decision) -> Sequence[FlipAxis]:
        """The repeat rate of the requests: hits of every cell change in proportion to it."""
        at = self.places["test"]
        exact = float(self._walk(CacheArm("exact")).hit[at].mean())
        hits = {c.arm: 1 - c.cost_usd_per_1k / self._uncached.get(c.arm, c.cost_usd_per_1k) for c in decision.claims}
        if exact <= 0 or max(hits.values()) <= 0:
            return ()

        def costs(rate: float) -> tuple[Any, list[float]]:
            usd = [(self._uncached.get(c.arm, c.cost_usd_per_1k), c.cost_usd_per_1k) for c in decision.claims]
            return decision.rule, [off + (on - off) * rate / exact for off, on in usd]

        return [FlipAxis("repeat rate", "of requests", exact, costs, 0.0, exact / max(hits.values()), EVERY)]

    def warnings(self, test: ScoredStack, dev: ScoredStack | None) -> Sequence[str]:
        """What makes a pass mean less."""
        told = "A request in other words than a recorded question is taken to get the recorded answer to it"
        return [*self.evalset.notes, *self.notes, told, *self.left_out]
