"""Record what the models answer to an evalset's questions: hours of work, so it can be cut off and goes on later."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from workbench.bench.answers import FIND, Asked, asked_of, load_prompts, recording_file
from workbench.bench.retrieved import accepted_search, keep_searches, renew
from workbench.config import Settings
from workbench.errors import ConfigError, unknown_name
from workbench.evaluation.evalset import Evalset, load_evalset
from workbench.inference.batch import Item, complete_all
from workbench.inference.client import Client
from workbench.inference.local import PREFIX
from workbench.inference.prices import PriceTable
from workbench.inference.recording import Recordings
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table
from workbench.telemetry.context import attributed

BYTES_PER_TOKEN = 4


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
    known, search, errors = load_prompts(found).models, accepted_search(found, settings), 0
    if unknown := [m for m in models if m not in known]:
        raise ConfigError(unknown_name("model", unknown[0], known) + f"; add it to models in {found.name}/prompts.toml")
    renew(found, search, tell)
    for model in models or known:
        recordings = Recordings(recording_file(found, model), live=True)
        client = Client.open(settings, recordings=recordings)
        asked = list(asked_of(found, models=[model]))
        asked = asked if questions is None else [a for a in asked if a.query.query_id in _first(asked, questions)]
        tell(f"{model}: about {_hours(asked, recordings, client.books.prices):.1f} hours on one core")
        bar = Progress(model, len(asked))
        items = [Item(a.item_id, a.request, a.query.tenant_id, a.feature) for a in asked]
        with attributed(purpose="eval"):
            done = complete_all(client, items, max_cost_usd=max_cost_usd, tell=tell, on_done=bar.update)
        errors += sum(isinstance(answer, Exception) for answer in done.values())
        failed = [str(answer) for answer in done.values() if isinstance(answer, Exception)]
        bar.done(f"{model}: {len(done) - len(failed)} answers, {len(failed)} errors {failed[:1] or ''}")
    keep_searches(found, ((a.query.tenant_id, text) for a, text in _answers(found, known) if a.feature == FIND), search)
    return errors


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
    with attributed(purpose="eval"):
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
