"""Judges: a pinned model with our prompt, asked through the workbench client, several times, in both orders.

Calls are attributed to the purpose ``judge``, so that they are budgeted, priced and told apart from the product's;
with live recordings a batch that was cut off goes on where it stopped. An answer that is no verdict is no verdict: its
row has an error and no value, and is counted, never guessed.

An evalset keeps what its judges are measured on: recorded answers, their truth by a program, and recorded verdicts.
"""

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import polars as pl

from workbench.config import Settings
from workbench.errors import ConfigError, ProviderError, RateLimited
from workbench.evalset.evalset import Evalset
from workbench.evaluation.compare import SCORES_SCHEMA
from workbench.inference.batch import BatchItem, CostEstimate, complete_batch, estimate_batch
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.messages import Completion, Request
from workbench.inference.prices import PriceTable
from workbench.inference.recordings import FOLDER, Recordings
from workbench.quality.labels import Label, Truth, truth
from workbench.records import content_hash
from workbench.routing.recorded_outcomes import (
    answer_names_accepted,
    answer_says,
    is_yes_no,
    recorded_requests_of,
    recording_file,
)
from workbench.telemetry.attribution import attributed

VERDICTS_SCHEMA = SCORES_SCHEMA | {"order": pl.String, "rationale": pl.String, "model_served": pl.String}
_SINGLE = {"yes": 1.0, "no": 0.0}
_PAIR = {"a": 1.0, "b": 0.0, "tie": 0.5}
_FIELD = re.compile(r"\{(question|reference|context|answer|answer_a|answer_b)\}")
_FENCE = re.compile(r"<(/?\s*(?:question|reference|context|answer)\b)", re.IGNORECASE)


class Judged(NamedTuple):
    """One answer to judge, with the question and what else the prompt shows; ``answer_b`` makes it a pair."""

    item_id: str
    question: str
    answer: str
    reference: str = ""
    context: str = ""
    answer_b: str | None = None
    cluster: str = ""
    tenant_id: str = ""


@dataclass(frozen=True, slots=True)
class Judge:
    """A model with a prompt, a rubric and parameters: everything that its verdicts depend on.

    Attributes
    ----------
    prompt : str
        Instructions with ``{question}``, ``{reference}``, ``{context}`` and ``{answer}``, or ``{answer_a}`` and
        ``{answer_b}``. It must ask for the verdict first: yes or no; of a pair a, b or tie.
    rubric : str
        Version of the rules that the labels follow too.
    samples : int
        How often each answer is judged, each time with another seed; more than one needs a temperature.

    Raises
    ------
    ConfigError
        If the prompt shows no answer, or repeats would be copies.
    """

    name: str
    model: str
    prompt: str
    rubric: str
    metric: str = "correct"
    max_tokens: int = 8
    temperature: float = 0.0
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        asked = set(_FIELD.findall(self.prompt))
        if "answer" not in asked and not {"answer_a", "answer_b"} <= asked:
            raise ConfigError(f"the prompt of judge {self.name!r} must hold {{answer}}, or {{answer_a}}, {{answer_b}}")
        if self.samples < 1 or (self.samples > 1 and not self.temperature):
            raise ConfigError(
                f"judge {self.name!r} has samples={self.samples} at temperature {self.temperature:g}, where repeats "
                "are copies; set a temperature above 0, or one sample"
            )

    @property
    def pairwise(self) -> bool:
        """Whether it compares two answers."""
        return "{answer_a}" in self.prompt

    def request(self, item: Judged, *, sample: int = 0, swapped: bool = False) -> Request:
        """Request for one verdict; ``swapped`` shows the second answer first."""
        first, second = item.answer, item.answer_b
        if swapped and second is not None:
            first, second = second, first
        shown = {"question": item.question, "reference": item.reference, "context": item.context,
                 "answer": first, "answer_a": first, "answer_b": second or ""}  # fmt: skip
        # one pass, so that no answer brings a field of its own; what would end our fence cannot
        text = _FIELD.sub(lambda found: _FENCE.sub("\u2039\\1", shown[found[1]]), self.prompt)
        return Request(
            self.model, ({"role": "user", "content": text},), max_tokens=self.max_tokens, temperature=self.temperature,
            seed=self.seed + sample,
        )  # fmt: skip

    def rests_on(self, verdicts: pl.DataFrame, anchors: str = "") -> dict[str, str]:
        """What its licence rests on: the model asked and those that served, prompt, rubric, parameters, anchors."""
        served = sorted(set(verdicts["model_served"].drop_nulls()))
        parameters = f"{self.max_tokens} {self.temperature!r} {self.seed} {self.samples}"
        return {
            "model": " ".join([self.model, *served]),
            "prompt": content_hash(self.prompt),
            "rubric": self.rubric,
            "parameters": parameters,
            "anchors": anchors,
        }


def parse_judge_verdict(text: str, *, pairwise: bool = False) -> float | None:
    """Verdict that an answer begins with, also behind the word "verdict"; None for everything else.

    >>> parse_judge_verdict("Yes, because"), parse_judge_verdict("**Verdict:** no"), parse_judge_verdict("It might be.")
    (1.0, 0.0, None)
    >>> parse_judge_verdict("B", pairwise=True), parse_judge_verdict("A and B are good", pairwise=True)
    (0.0, None)
    """
    words = _PAIR if pairwise else _SINGLE
    found = re.match(rf"\W*(?:verdict\W*)?({'|'.join(words)})\b(?!\s*(?:and|or|/)\b)", text, re.IGNORECASE)
    return words[found[1].lower()] if found else None


def judge_cost(judge: Judge, items: Sequence[Judged], prices: PriceTable) -> CostEstimate:
    """What judging them costs at most; recorded verdicts are not subtracted."""
    return estimate_batch([item.request for item in _judge_batch(judge, items)], prices)


def ask_judge(
    judge: Judge,
    items: Sequence[Judged],
    client: Client,
    *,
    max_cost_usd: float | None,
    threads: int = 1,
    tell: Callable[[str], None] = print,
) -> pl.DataFrame:
    """``ask_judge(judge, items, client, max_cost_usd=1.0)``: one row a verdict, columns `VERDICTS_SCHEMA`.

    ``repeat`` is the sample, ``order`` "ab" or "ba" of a pair, whose value is the share that the first answer wins.

    Raises
    ------
    ConfigError
        If an item does not fit the judge, or the money is missing or too low.
    RecordingMiss, BudgetExceeded, SettlementFailed
        From the first call that could not be made; what was answered before is recorded.
    """
    for item in items:
        if judge.pairwise != (item.answer_b is not None):
            kind = "pairs of answers" if judge.pairwise else "single answers"
            raise ConfigError(f"judge {judge.name!r} judges {kind}, and item {item.item_id!r} is none")
    with attributed(purpose="judge"):
        done = complete_batch(client, _judge_batch(judge, items), max_cost_usd=max_cost_usd, threads=threads, tell=tell)
    rows = [
        _judge_verdict_row(judge, item, sample, order, done[_judge_item_id(judge, item, sample, order)])
        for item in items
        for sample, order in _asked_of_judge(judge)
    ]
    return pl.DataFrame(rows, schema=VERDICTS_SCHEMA, orient="row")


def judge_order_flips(verdicts: pl.DataFrame) -> tuple[int, int]:
    """Pairs whose verdict turned with the order, and pairs that were judged in both orders; ties turn nothing."""
    means = verdicts.drop_nulls("value").group_by("item_id", "order").agg(pl.col("value").mean())
    both = means.filter(pl.col("order") == "ab").join(means.filter(pl.col("order") == "ba"), on="item_id")
    return int(((both["value"] - 0.5) * (both["value_right"] - 0.5) < 0).sum()), len(both)


def judge_repeat_noise(verdicts: pl.DataFrame) -> tuple[int, int]:
    """Repeats of the same item and order that differ from its first, and how many there were."""
    first = verdicts.filter(pl.col("repeat") == 0).select("item_id", "order", first="value")
    rest = verdicts.filter(pl.col("repeat") > 0).join(first, on=["item_id", "order"], nulls_equal=True)
    rest = rest.drop_nulls(["value", "first"])
    return int((rest["value"] != rest["first"]).sum()), len(rest)


def _asked_of_judge(judge: Judge) -> list[tuple[int, str]]:
    orders = ("ab", "ba") if judge.pairwise else ("",)
    return [(sample, order) for sample in range(judge.samples) for order in orders]


def _judge_item_id(judge: Judge, item: Judged, sample: int, order: str) -> str:
    return ":".join(["judge", judge.name, item.item_id, *filter(None, [order, str(sample or "")])])


def _judge_batch(judge: Judge, items: Sequence[Judged]) -> list[BatchItem]:
    return [
        BatchItem(
            _judge_item_id(judge, i, sample, order), judge.request(i, sample=sample, swapped=order == "ba"), i.tenant_id
        )
        for i in items
        for sample, order in _asked_of_judge(judge)
    ]


def _judge_verdict_row(
    judge: Judge, item: Judged, sample: int, order: str, done: Completion | Exception
) -> tuple[object, ...]:
    value: float | None = None
    error: str | None = None
    said: Mapping[str, object] = {}
    if isinstance(done, Completion):
        response = done.response
        value = parse_judge_verdict(response.text, pairwise=judge.pairwise)
        error = None if value is not None else "no verdict"
        said = {"ms": response.latency_ms, "usd": done.cost_usd, "why": response.text, "served": response.model}
    elif isinstance(done, ProviderError | RateLimited):
        error = f"{type(done).__name__}: {done}"
    else:
        raise done
    if value is not None and order == "ba":
        value = 1 - value
    return (
        judge.name, item.item_id, sample, judge.metric, value, error, item.cluster or item.item_id, item.tenant_id,
        said.get("ms"), said.get("usd"), order or None, said.get("why"), said.get("served"),
    )  # fmt: skip


def load_judges(path: Path, rubric: str, metric: str) -> list[Judge]:
    """Judges of a ``judges.toml``, in its order.

    Raises
    ------
    ConfigError
        If the file is absent or a judge is not of the form.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))["judge"]
        return [
            Judge(name, **(row | {"rubric": rubric, "metric": metric, "prompt": row["prompt"].strip()}))
            for name, row in tables.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"{path} is no table of judges, [judge.NAME] with model and prompt: {error!r}") from error


FILE = "judges.toml"


@dataclass(frozen=True, slots=True)
class JudgedAnswers:
    """Which recorded answers are judged: those of one model to one feature with one context.

    ``most`` is how many at most, 0 for all: the first in the order of `asked_of`, which has nothing to do with them.
    """

    model: str
    context: str
    feature: str
    metric: str
    rubric: str
    most: int = 0

    @classmethod
    def load(cls, evalset: Evalset) -> "JudgedAnswers":
        """Read the evalset's ``judges.toml``.

        Raises
        ------
        ConfigError
            If it is absent or not of the form.
        """
        path = evalset.path / FILE
        try:
            return cls(**tomllib.loads(path.read_text(encoding="utf-8"))["answers"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path} does not say which answers are judged, [answers]: {error!r}") from error


@dataclass(frozen=True, slots=True, eq=False)
class AnswersToJudge:
    """Answers with what a judge is shown, and the accepted-name check of each as the truth of a program.

    Attributes
    ----------
    splits : dict of str to str
        Split of each item.
    recordings_sha256 : str
        Hash of the answers that were read.
    """

    items: tuple[Judged, ...]
    truth: Truth
    splits: dict[str, str]
    recordings_sha256: str


def answers_to_judge(evalset: Evalset, what: JudgedAnswers, prices: PriceTable) -> AnswersToJudge:
    """Recorded answers of an evalset, each with its question, reference and whether a program finds it right."""
    recordings = Recordings(recording_file(evalset, what.model))
    client = Client({}, Books(prices), recordings=recordings)
    items: list[Judged] = []
    labels: list[Label] = []
    splits: dict[str, str] = {}
    for asked in recorded_requests_of(evalset, models=[what.model]):
        own = asked.feature == what.feature == asked.query.feature and asked.context == what.context
        if not own or not recordings.count(asked.request) or len(items) == (what.most or -1):
            continue
        request, query = asked.request, asked.query
        done = client.complete(
            request.messages, model=request.model, max_tokens=request.max_tokens, item_id=asked.item_id
        )
        right = (answer_says if is_yes_no(query.accept) else answer_names_accepted)(done.text, query.accept)
        items.append(
            Judged(
                query.query_id, query.text, done.text, query.reference, cluster=query.cluster, tenant_id=query.tenant_id
            )
        )
        labels.append(Label(query.query_id, what.metric, float(right), "accepted names", "code", what.rubric))
        splits[query.query_id] = asked.split
    if not items:
        raise ConfigError(f"no answer of {what.model} to {what.feature} with {what.context} is recorded")
    known = truth(labels, what.metric, rubric=what.rubric, source="code")
    return AnswersToJudge(tuple(items), known, splits, recordings.read_sha256())


def judges_of(evalset: Evalset, what: JudgedAnswers) -> list[Judge]:
    """Judges of the evalset's ``judges.toml``."""
    return load_judges(evalset.path / FILE, what.rubric, what.metric)


def judge_verdict_file(evalset: Evalset, judge: Judge) -> Path:
    """File of one judge's recorded verdicts."""
    return evalset.path / FOLDER / f"judge-{judge.name}.jsonl"


def recorded_judge_verdicts(
    evalset: Evalset, judge: Judge, items: Sequence[Judged], prices: PriceTable
) -> tuple[pl.DataFrame, str]:
    """Verdicts of one judge out of its recordings, priced as they would be asked, with the hash of what was read.

    Raises
    ------
    RecordingMiss
        If a verdict is not recorded.
    """
    recordings = Recordings(judge_verdict_file(evalset, judge))
    client = Client({}, Books(prices), recordings=recordings)
    found = ask_judge(judge, items, client, max_cost_usd=float("inf"), tell=_nothing_of_replay)
    usd = [
        (prices.cost_nanos(judge.model, said.usage) / 1e9 if said is not None and said.usage else None)
        for said in (recordings.find(judge.request(item)) for item in items)
    ]
    return found.with_columns(cost_usd=pl.Series(usd, dtype=pl.Float64)), recordings.read_sha256()


def record_judge_verdicts(
    evalset: Evalset,
    settings: Settings,
    *,
    max_cost_usd: float,
    judges: Sequence[str] = (),
    tell: Callable[[str], None],
) -> None:
    """Ask the evalset's judges for the verdicts that are not recorded yet; goes on where it stopped."""
    what = JudgedAnswers.load(evalset)
    client = Client.open(settings)
    answers = answers_to_judge(evalset, what, client.books.prices)
    for judge in judges_of(evalset, what):
        if judges and judge.name not in judges:
            continue
        recordings = Recordings(judge_verdict_file(evalset, judge), live=True)
        mine = Client(client.providers, client.books, recordings=recordings)
        ask_judge(judge, answers.items, mine, max_cost_usd=max_cost_usd, tell=tell)


def _nothing_of_replay(_: str) -> None:
    """Say nothing of what a replay costs, which is nothing."""
