"""What an evalset knows of its judges: recorded answers, their truth by a program, and recorded verdicts."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from workbench.config import Settings
from workbench.errors import ConfigError
from workbench.evalset.evalset import Evalset
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.prices import PriceTable
from workbench.inference.recordings import FOLDER, Recordings
from workbench.quality.judges import Judge, Judged, ask_judge, load_judges
from workbench.quality.labels import Label, Truth, truth
from workbench.routing.recorded_outcomes import asked_of, is_yes_no, names_accepted, recording_file, says

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
    for asked in asked_of(evalset, models=[what.model]):
        own = asked.feature == what.feature == asked.query.feature and asked.context == what.context
        if not own or not recordings.count(asked.request) or len(items) == (what.most or -1):
            continue
        request, query = asked.request, asked.query
        done = client.complete(
            request.messages, model=request.model, max_tokens=request.max_tokens, item_id=asked.item_id
        )
        right = (says if is_yes_no(query.accept) else names_accepted)(done.text, query.accept)
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


def verdict_file(evalset: Evalset, judge: Judge) -> Path:
    """File of one judge's recorded verdicts."""
    return evalset.path / FOLDER / f"judge-{judge.name}.jsonl"


def recorded_verdicts(
    evalset: Evalset, judge: Judge, items: Sequence[Judged], prices: PriceTable
) -> tuple[pl.DataFrame, str]:
    """Verdicts of one judge out of its recordings, priced as they would be asked, with the hash of what was read.

    Raises
    ------
    RecordingMiss
        If a verdict is not recorded.
    """
    recordings = Recordings(verdict_file(evalset, judge))
    client = Client({}, Books(prices), recordings=recordings)
    found = ask_judge(judge, items, client, max_cost_usd=float("inf"), tell=_nothing)
    usd = [
        (prices.cost_nanos(judge.model, said.usage) / 1e9 if said is not None and said.usage else None)
        for said in (recordings.find(judge.request(item)) for item in items)
    ]
    return found.with_columns(cost_usd=pl.Series(usd, dtype=pl.Float64)), recordings.read_sha256()


def record_verdicts(
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
        recordings = Recordings(verdict_file(evalset, judge), live=True)
        mine = Client(client.providers, client.books, recordings=recordings)
        ask_judge(judge, answers.items, mine, max_cost_usd=max_cost_usd, tell=tell)


def _nothing(_: str) -> None:
    """Say nothing of what a replay costs, which is nothing."""
