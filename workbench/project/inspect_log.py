"""What a log of another tool can decide: for each notebook yes, no, or what is missing and what it costs to get."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from workbench.caching.threshold_certificate import hits_needed_to_certify
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.gates import default_gate_policy
from workbench.evalset.imports.log_import import (
    NO_TRAFFIC,
    LogChoices,
    log_score_counts,
    outcomes_in_log,
    primary_log_score,
    requests_in_log,
    scores_in_log,
)
from workbench.evalset.imports.logged_calls import LoggedCall, ToolLog, logged_arm_name, logged_cost_nanos
from workbench.evalset.imports.outcome_tables import OutcomeRepairs
from workbench.evalset.outcomes import DEV_SHARE, Outcomes, outcomes_of
from workbench.evaluation.compare import MIN_CLUSTERS
from workbench.evaluation.decision import MIN_DEV_CLUSTERS
from workbench.evaluation.power import clusters_needed
from workbench.inference.prices import NANOS_PER_USD, PriceTable
from workbench.rendering.numbers import counted, percent, usd
from workbench.rendering.table import Table

Can = Literal["yes", "no", "not yet"]
TO_SPEAK = math.ceil(max(MIN_CLUSTERS / (1 - DEV_SHARE), MIN_DEV_CLUSTERS / DEV_SHARE))


@dataclass(frozen=True, slots=True)
class LogAnswer:
    """Whether a log can decide the question of one notebook; ``needs`` is what is missing, and what it costs."""

    notebook: str
    can: Can
    because: str
    needs: str = ""


def what_a_log_decides(log: ToolLog, prices: PriceTable, score: str = "") -> tuple[LogAnswer, ...]:
    """Answer for each notebook.

    >>> what_a_log_decides(read_log("promptfoo", [Path("out.json")]), load_prices())  # doctest: +SKIP

    Raises
    ------
    ConfigError
        If the score that is named is not there.
    """
    if score:
        primary_log_score(log, score)
    parts = (
        _log_answer_on_retrieval(log),
        _log_answer_on_routing(log, prices, score),
        _log_answer_on_caching(log),
        _log_answer_on_pipeline(log),
        _log_answer_on_quality(log),
    )
    return (*parts, _log_answer_on_costs(log, prices))


def log_answers_table(answers: tuple[LogAnswer, ...]) -> Table:
    """One row per notebook."""
    rows = [(a.notebook, a.can, a.because, a.needs) for a in answers]
    return Table.of(("notebook", "decides", "because", "what is missing"), rows, "What this log can decide")


def _log_answer_on_retrieval(log: ToolLog) -> LogAnswer:
    questions = {search.query for search in log.searches}
    if not questions:
        needs = "spans of searches with the ids of documents; or documents and questions: workbench new"
        return LogAnswer("retrieval", "no", "no search is in the log", needs)
    documents = {doc for search in log.searches for doc, _ in search.hits[:10]}
    pairs = {(search.query, doc) for search in log.searches for doc, _ in search.hits[:10]}
    short = max(0, TO_SPEAK - len(questions))
    more = f"{counted(short, 'more question')}, " if short else ""
    needs = f"{more}the documents themselves, and grades of {counted(len(pairs), 'hit')} by people"
    return LogAnswer(
        "retrieval",
        "not yet",
        f"{counted(len(questions), 'question')} found {counted(len(documents), 'document')}",
        needs,
    )


def _log_answer_on_routing(log: ToolLog, prices: PriceTable, score: str) -> LogAnswer:
    known = log_score_counts(log)
    if not known:
        return LogAnswer("routing", "no", "no score says which answers are good", "a score of each answer")
    try:
        name = primary_log_score(log, score)
    except ConfigError:
        return LogAnswer(
            "routing", "not yet", f"{counted(len(known), 'score')}: {', '.join(sorted(known))}", "--score NAME"
        )
    scored = [call for call in log.calls if call.error or any(s.name == name for s in call.scores)]
    arms = Counter(logged_arm_name(call) for call in scored)
    prompts = {call.prompt_id or call.prompt for call in scored}
    if len(arms) == 1:
        return _log_of_one_model(scored, prices, len(prompts))
    unpriced = sorted(
        {logged_arm_name(c) for c in scored if not c.error and logged_cost_nanos(c, prices) is None and c.usd is None}
    )
    try:
        # a price of nothing stands in for those that are not known: whether outcomes can be made does not rest on them
        free = OutcomeRepairs(costs=dict.fromkeys(unpriced, 0.0), drop_incomplete=True)
        found = outcomes_of(outcomes_in_log(log, prices, LogChoices(name, free), []))
    except (EvalsetError, ConfigError) as error:
        told = str(error).partition("\n")[0]
        return LogAnswer("routing", "not yet", f"{counted(len(arms), 'model')}, but no prompt that each answered", told)
    return _log_of_several_models(found, unpriced, len(prompts))


def _log_of_one_model(scored: list[LoggedCall], prices: PriceTable, prompts: int) -> LogAnswer:
    """The same prompts have to be asked of a second model; at most for what they cost here."""
    costs = [cost for call in scored if (cost := _log_usd(call, prices)) is not None]
    ask = min(prompts, _log_prompts_needed(0.5)) if prompts >= TO_SPEAK else prompts
    about = (
        f"about {usd(ask * sum(costs) / len(costs))} at the cost of {scored[0].model}" if costs else "no cost is known"
    )
    more = f", and {counted(TO_SPEAK - prompts, 'more prompt')} of both" if prompts < TO_SPEAK else ""
    because = f"one model per prompt ({counted(prompts, 'prompt')}, {logged_arm_name(scored[0])})"
    return LogAnswer("routing", "no", because, f"ask {ask:,} of the prompts of a second model: {about}{more}")


def _log_of_several_models(found: Outcomes, unpriced: list[str], prompts: int) -> LogAnswer:
    dev, test = (len(np.unique(found.part(split).clusters)) for split in ("dev", "test"))
    partly = f" ({counted(prompts - len(found), 'prompt')} not answered by all)" if prompts > len(found) else ""
    because = f"{counted(len(found.models), 'model')} answered {counted(len(found), 'prompt')}{partly}"
    missing = []
    if dev < MIN_DEV_CLUSTERS or test < MIN_CLUSTERS:
        missing.append(
            f"about {counted(max(1, TO_SPEAK - dev - test), 'more prompt')}: under {MIN_CLUSTERS} in test "
            "nothing is said"
        )
    if unpriced:
        missing.append(
            f"a price: --cost {unpriced[0]}=USD{f', and of {len(unpriced) - 1} more' if unpriced[1:] else ''}"
        )
    if missing:
        return LogAnswer("routing", "not yet", because, "; ".join(missing))
    best = int(found.quality.mean(axis=0).argmax())
    spread = max(float(np.std(found.quality[:, i] - found.quality[:, best])) for i in range(len(found.models)))
    margin, wanted = default_gate_policy("routing").margin, _log_prompts_needed(spread)
    more = f"a margin of {margin:g} takes about {counted(wanted, 'prompt')}" if wanted > len(found) else ""
    return LogAnswer("routing", "yes", because, more)


def _log_prompts_needed(sd: float) -> int:
    """Prompts with which the usual margin is likely to be shown, dev and test together."""
    return math.ceil(clusters_needed(max(sd, 0.05), default_gate_policy("routing").margin) / (1 - DEV_SHARE))


def _log_usd(call: LoggedCall, prices: PriceTable) -> float | None:
    nanos = logged_cost_nanos(call, prices)
    return call.usd if nanos is None else nanos / NANOS_PER_USD


def _log_answer_on_caching(log: ToolLog) -> LogAnswer:
    if log.tool in NO_TRAFFIC:
        return LogAnswer("caching", "no", "prompts of a test or a batch are no traffic", "a log of production")
    asked = requests_in_log(log)
    if not asked:
        needs = "the texts of requests: let your tracing keep what is asked"
        return LogAnswer("caching", "no", f"none of {counted(len(log.calls), 'call')} tells what was asked", needs)
    words = Counter((call.tenant_id, call.feature, " ".join(call.prompt.casefold().split())) for call in asked)
    again = len(asked) - len(words)
    because = (
        f"{counted(len(asked), 'request')}, {len(words):,} different, {percent(again / len(asked))} asked before in "
        "the same words"
    )
    needed = hits_needed_to_certify(default_gate_policy("caching").alpha, 0.0)
    pairs = "labelled pairs tell which other words may share an answer"
    if len(words) < TO_SPEAK:
        return LogAnswer("caching", "not yet", because, f"{counted(TO_SPEAK - len(words), 'more different question')}")
    if needed and again < needed:
        return LogAnswer(
            "caching",
            "not yet",
            because,
            f"about {counted(needed - again, 'more repeat')} to show {counted(needed, 'hit')}",
        )
    return LogAnswer("caching", "yes", because, f"for more than the same words: {pairs}")


def _log_answer_on_pipeline(log: ToolLog) -> LogAnswer:
    features = {call.feature for call in log.calls if call.feature}
    because = (
        f"{counted(len(features), 'feature')}, each in one configuration"
        if features
        else "one configuration of the flow"
    )
    return LogAnswer("pipeline", "no", because, "answers of other configurations: workbench record")


def _log_answer_on_quality(log: ToolLog) -> LogAnswer:
    people, judges = Counter[str](), Counter[str]()
    both: dict[tuple[str, str], set[str]] = {}
    for item, _, score in scores_in_log(log):
        if score.source != "code" and score.value is not None:
            (people if score.source == "human" else judges)[score.name] += 1
            both.setdefault((item, score.name), set()).add(score.source)
    twice = Counter(name for (_, name), sources in both.items() if len(sources) > 1)
    name, best = twice.most_common(1)[0] if twice else ("", 0)
    because = (
        f"{counted(sum(people.values()), 'label')} by people, {counted(sum(judges.values()), 'verdict')} of models"
    )
    if best >= 2 * MIN_CLUSTERS:
        return LogAnswer(
            "quality", "yes", f"{because}; {counted(best, 'answer has', 'answers have')} both of {name}", ""
        )
    missing = f"labels by people of {counted(2 * MIN_CLUSTERS - best, 'answer')} that a model judged"
    if not judges:
        missing = f"verdicts of a model, and labels by people of {2 * MIN_CLUSTERS:,} of the same answers"
    return LogAnswer("quality", "no" if not best else "not yet", because, missing)


def _log_answer_on_costs(log: ToolLog, prices: PriceTable) -> LogAnswer:
    if not log.calls:
        return LogAnswer("costs", "no", "no call of a model is in the log", "calls with their tokens")
    costs = [_log_usd(call, prices) for call in log.calls]
    known = [cost for cost in costs if cost is not None]
    paid = sum(1 for call in log.calls if not (call.cached or call.error))
    if not known:
        models = ", ".join(sorted({call.model for call in log.calls})[:3])
        needs = f"tokens, and a price in models.toml of {models}"
        return LogAnswer("costs", "no", f"{counted(len(log.calls), 'call')}, none with a cost", needs)
    because = f"{usd(sum(known))} in {counted(len(log.calls), 'call')}"
    return LogAnswer("costs", "yes", because, "; ".join(_log_gaps(log, paid - min(len(known), paid))))


def _log_gaps(log: ToolLog, unpriced: int) -> Iterator[str]:
    if unpriced:
        yield f"{counted(unpriced, 'call has', 'calls have')} no cost"
    for what, lack in (
        ("tenant", [c for c in log.calls if not c.tenant_id]),
        ("feature", [c for c in log.calls if not c.feature]),
        ("time", [c for c in log.calls if not c.started]),
    ):
        if lack:
            yield f"{counted(len(lack), 'call names', 'calls name')} no {what}"
