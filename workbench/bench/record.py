"""Record what the models answer to an evalset's questions: hours of work, so it can be cut off and goes on later."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from workbench.bench.answers import FIND, FOLDER, HITS, SEARCHES, Asked, asked_of, load_prompts, recording_file
from workbench.config import Settings
from workbench.errors import ConfigError, unknown_name
from workbench.evaluation.evalset import Evalset, load_evalset
from workbench.inference.batch import Item, complete_all
from workbench.inference.client import Client
from workbench.inference.embedding import MiniLM
from workbench.inference.local import PREFIX
from workbench.inference.prices import PriceTable
from workbench.inference.recording import Recordings
from workbench.records import Decision, Query
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table
from workbench.retrieval.arms import build_arm
from workbench.retrieval.searching import Searcher

BYTES_PER_TOKEN, HITS_KEPT = 4, 5


def record(
    evalset: str,
    *,
    settings: Settings,
    models: Sequence[str] = (),
    max_cost_usd: float | None = None,
    questions: int | None = None,
    tell: Callable[[str], None] = print,
) -> int:
    """Ask every model everything that has no recorded answer yet.

    Parameters
    ----------
    models : sequence of str, optional
        Some of those in the evalset's ``prompts.toml``; all by default.
    max_cost_usd : float, optional
        Needed to ask anything, and the limit of each model's part; without it only the estimate is told.
    questions : int, optional
        Stop after this many, for a pilot that shows whether there is something to route.

    Returns
    -------
    int
        How many requests failed.

    Raises
    ------
    ConfigError
        If ``max_cost_usd`` is missing or too low, or a model is not in ``prompts.toml``; nothing was asked then.
    """
    found = load_evalset(evalset, settings=settings)
    known, search, errors = load_prompts(found).models, _Search(found, settings), 0
    if unknown := [m for m in models if m not in known]:
        raise ConfigError(unknown_name("model", unknown[0], known) + f"; add it to models in {found.name}/prompts.toml")
    if _asked_for(found) != {q.query_id for q in found.queries}:
        search.write(HITS, ({"query_id": q.query_id, "doc_ids": search(q)} for q in found.queries))
    for model in models or known:
        recordings = Recordings(recording_file(found, model), live=True)
        client = Client.open(settings, recordings=recordings)
        asked = list(asked_of(found, models=[model]))
        asked = asked if questions is None else [a for a in asked if a.query.query_id in _first(asked, questions)]
        tell(f"{model}: about {_hours(asked, recordings, client.books.prices):.1f} hours on one core")
        bar = Progress(model, len(asked))
        items = [Item(a.item_id, a.request, a.query.tenant_id, a.feature) for a in asked]
        done = complete_all(client, items, max_cost_usd=max_cost_usd, tell=tell, on_done=bar.update)
        errors += sum(isinstance(answer, Exception) for answer in done.values())
        failed = [str(answer) for answer in done.values() if isinstance(answer, Exception)]
        bar.done(f"{model}: {len(done) - len(failed)} answers, {len(failed)} errors {failed[:1] or ''}")
    written = sorted({(a.query.tenant_id, text) for a, text in _answers(found, known) if a.feature == FIND})
    search.write(
        SEARCHES, ({"tenant_id": t, "query": text, "doc_ids": search(Query("", text, t))} for t, text in written)
    )
    return errors


def _asked_for(evalset: Evalset) -> set[str]:
    """Questions whose documents are recorded."""
    path = evalset.path / FOLDER / HITS
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return {json.loads(line)["query_id"] for line in lines if line}


def drift(
    evalset: str, *, settings: Settings, model: str, sample: int = 20, max_cost_usd: float | None = None
) -> Table:
    """Ask a sample again, live, and say how many answers are no longer those that were recorded."""
    found = load_evalset(evalset, settings=settings)
    recordings = Recordings(recording_file(found, model))
    asked = [a for a in asked_of(found, models=[model]) if recordings.count(a.request)][:sample]
    if not asked:
        raise ConfigError(f"nothing is recorded of {model} for {evalset!r}; record it with: workbench record {evalset}")
    items = [Item(a.item_id, a.request, a.query.tenant_id, a.feature) for a in asked]
    live = complete_all(Client.open(settings), items, max_cost_usd=max_cost_usd)
    rows: Counter[str] = Counter()
    for a in asked:
        answer, before = live[a.item_id], recordings.find(a.request)
        if isinstance(answer, Exception):
            rows["failed"] += 1
        elif before is not None:
            rows["same text" if answer.text == before.text else "another text"] += 1
    columns = (Column("answer"), Column("items", "count"), Column("share", "share"))
    told = tuple((name, n, n / len(asked)) for name, n in sorted(rows.items()))
    return Table(columns, told, f"{model} asked again, against its recordings")


def evalset_models(evalset: str, settings: Settings) -> tuple[str, ...]:
    """Models that the evalset's ``prompts.toml`` names."""
    return load_prompts(load_evalset(evalset, settings=settings)).models


def _answers(evalset: Evalset, models: Sequence[str]) -> Iterable[tuple[Asked, str]]:
    """Every request that has a recorded answer, with its text."""
    files = {m: Recordings(recording_file(evalset, m)) for m in models}
    for asked in asked_of(evalset, models=models):
        recordings = files[asked.request.model]
        if response := recordings.find(asked.request):
            yield asked, response.text.strip()


def _first(asked: Sequence[Asked], questions: int) -> set[str]:
    return set(list(dict.fromkeys(a.query.query_id for a in asked))[:questions])


def _hours(asked: Sequence[Asked], recordings: Recordings, prices: PriceTable) -> float:
    """Processor hours of what local models are still to answer; they are priced by processor time."""
    still = [a.request for a in asked if not recordings.count(a.request) and a.request.model.startswith(PREFIX)]
    tokens = [sum(len(str(m["content"]).encode()) for m in r.messages) // BYTES_PER_TOKEN for r in still]
    spent = sum(
        prices.worst_nanos(r.model, input_tokens=n, max_tokens=r.max_tokens) for r, n in zip(still, tokens, strict=True)
    )
    return spent / 1e9 / prices.usd_per_vcpu_hour


class _Search:
    """The accepted retrieval arm, made ready when it is first asked."""

    def __init__(self, evalset: Evalset, settings: Settings) -> None:
        self.evalset, self.settings = evalset, settings
        self._ready: Callable[[Query], list[str]] | None = None

    def __call__(self, query: Query) -> list[str]:
        """Ids of the first five documents."""
        if self._ready is None:
            self._ready = self._make()
        return self._ready(query)

    def write(self, name: str, rows: Iterable[dict[str, object]]) -> None:
        """Write one file of recorded hits, whole or not at all."""
        path: Path = self.evalset.path / FOLDER / name
        path.parent.mkdir(exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        part.replace(path)

    def _make(self) -> Callable[[Query], list[str]]:
        path = self.evalset.path / "decisions" / "retrieval.json"
        if not path.is_file():
            raise ConfigError(f"contexts are what the accepted retrieval finds; accept a decision first ({path})")
        arm = build_arm(Decision.load(path).parameters)
        model = MiniLM(self.settings.cache / "weights")
        manifest = self.evalset.inputs["corpus"]
        searcher = Searcher(self.evalset.documents, manifest, self.settings, model, model)
        searcher.prepare(arm)
        return lambda query: [hit.doc_id for hit in searcher.search(arm, query, HITS_KEPT)]
