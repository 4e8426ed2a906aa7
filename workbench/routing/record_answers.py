"""Record what the models answer to an evalset's questions: hours of work, so it can be cut off and goes on later."""

import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from workbench.config import Settings
from workbench.errors import ConfigError, unknown_name
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.inference.batch import BatchItem, complete_batch, estimate_batch
from workbench.inference.budgets import Budget
from workbench.inference.client import Client
from workbench.inference.recordings import Recordings
from workbench.rendering.numbers import counted, usd
from workbench.rendering.progress import Progress
from workbench.rendering.table import Column, Table
from workbench.routing.prompts import load_prompts
from workbench.routing.recorded_hits import ArmHits, accepted_hits_search, keep_search_hits, renew_hits
from workbench.routing.recorded_outcomes import FIND, RecordedRequest, recorded_requests_of, recording_file
from workbench.routing.retrieval_levels import core_hours, keep_level_hits, retrieve_level
from workbench.telemetry.attribution import attributed


def record_answers(
    evalset: str,
    *,
    settings: Settings,
    models: Sequence[str] = (),
    max_cost_usd: float | None = None,
    questions: int | None = None,
    repeats: int = 1,
    retrieval: str = "",
    tell: Callable[[str], None] = print,
    client: Client | None = None,
) -> int:
    """Ask every model everything that has no recorded answer yet.

    Parameters
    ----------
    models : sequence of str, optional
        Some of those in the evalset's ``prompts.toml``; all by default.
    max_cost_usd : float, optional
        Needed to ask anything, and the limit of all models together; without it only the estimate is told.
    questions : int, optional
        Stop after this many, for a pilot that shows whether there is something to route.
    repeats : int
        Answers to every request; several need a ``temperature`` in ``prompts.toml``, or each would be the first again.
    retrieval : str
        Name of another arm of 01_retrieval whose prompts are asked: a level of retrieval in 07_stack once all of them
        are answered. By default those of the accepted one.
    client : Client, optional
        Asks with other providers or budgets than those of the project.

    Returns
    -------
    int
        How many requests failed.

    Raises
    ------
    ConfigError
        If ``max_cost_usd`` is missing or too low, a model is not in ``prompts.toml``, repeats would be copies, no arm
        is called so, or a number is below 1; nothing was asked then.
    """
    found = load_evalset(evalset, settings=settings)
    prompts, search = load_prompts(found), accepted_hits_search(found, settings)
    known = prompts.models
    for name, number in (("repeats", repeats), ("questions", questions)):
        if number is not None and number < 1:
            raise ConfigError(f"{name} is a number from 1 on, found {number}")
    if repeats > 1 and not prompts.temperature:
        how = "ask each question once, or set temperature in prompts.toml, as your product has it"
        raise ConfigError(f"repeats={repeats} at temperature {prompts.temperature:g} says nothing more; {how}")
    if unknown := [m for m in models if m not in known]:
        raise ConfigError(unknown_name("model", unknown[0], known) + f"; add it to models in {found.name}/prompts.toml")
    retrieved = None
    if retrieval:
        retrieved, search = retrieve_level(found, settings, retrieval, tell)
    else:
        renew_hits(found, search, tell)
    files = {model: Recordings(recording_file(found, model), live=True) for model in models or known}
    asked = list(recorded_requests_of(found, models=[*files], retrieved=retrieved))
    asked = asked if questions is None else requests_of_first(asked, questions)
    client = budgeted_client(client or Client.open(settings), max_cost_usd)
    errors = record_all_answers(client, files, asked, max_cost_usd, tell, repeats=repeats)
    written = (
        (a.query.tenant_id, text) for a, text in _answered_requests(found, known, retrieved) if a.feature == FIND
    )
    if retrieved:
        keep_level_hits(found, retrieved, written, search)
    else:
        keep_search_hits(found, written, search)
    return errors


def budgeted_client(client: Client, max_cost_usd: float | None) -> Client:
    """The client with one budget for all that it is still to ask."""
    if client.books.budgets is None or max_cost_usd is None:
        return client
    limit = Budget(max_cost_usd, "total", name=f"record {uuid.uuid4().hex[:12]}")
    return replace(client, books=replace(client.books, budgets=client.books.budgets.and_also(limit)))


def record_all_answers(
    client: Client, files: Mapping[str, Recordings], asked: Sequence[RecordedRequest], max_cost_usd: float | None,
    tell: Callable[[str], None], *, repeats: int = 1,
) -> int:  # fmt: skip
    """Ask each model what has no recorded answer yet, saying first what that takes; returns how many failed.

    Raises
    ------
    ConfigError
        If ``max_cost_usd`` is missing, or may not be enough; nothing was asked then.
    """
    still = [a.request for a in asked for _ in range(files[a.request.model].count(a.request), repeats)]
    prices, total = client.books.prices, len(asked) * repeats
    name = next((recordings.path.parent.parent.name for recordings in files.values()), "")
    tell(
        f"{name}: {total - len(still):,} of {counted(total, 'answer is', 'answers are')} recorded; still to ask: "
        f"{estimate_batch(still, prices)}, about {core_hours(still, prices):.1f} hours on one core"
    )
    worst_usd = estimate_batch(still, prices).worst_usd
    if still and (max_cost_usd is None or worst_usd > max_cost_usd):
        given = "no max_cost_usd" if max_cost_usd is None else f"max_cost_usd={max_cost_usd:g}"
        raise ConfigError(
            f"what is still to ask may cost {usd(worst_usd, up=True)}, found {given}; set it at or above that"
        )
    errors = 0
    for model, recordings in files.items():
        mine = [a for a in asked if a.request.model == model]
        for _ in range(repeats):  # what is recorded comes first, each answer once
            errors += _record_model_answers(replace(client, recordings=recordings), model, mine, max_cost_usd, tell)
    return errors


def _record_model_answers(
    client: Client,
    model: str,
    asked: Sequence[RecordedRequest],
    max_cost_usd: float | None,
    tell: Callable[[str], None],
) -> int:
    """Ask one model, say what came of it, and return how many requests failed."""
    bar = Progress(model, len(asked))
    items = [BatchItem(a.item_id, a.request, a.query.tenant_id, a.feature) for a in asked]
    with attributed(purpose="eval"):
        done = complete_batch(
            client, items, max_cost_usd=max_cost_usd, tell=lambda told: tell(f"{model}: {told}"), on_done=bar.update
        )
    failed = [str(answer) for answer in done.values() if isinstance(answer, Exception)]
    live = [c for c in done.values() if not isinstance(c, Exception) and c.source == "model"]
    cost_usd = sum(c.cost_nanos for c in live) / 1e9
    sentence = (
        f"{model}: {counted(len(done) - len(failed), 'answer')} ({len(live):,} asked now for {usd(cost_usd)}), "
        f"{counted(len(failed), 'error')}{': ' if failed else ''}{''.join(failed[:1])}"
    )
    bar.done(sentence)
    tell(sentence)
    return len(failed)


def recorded_answer_drift(
    evalset: str, *, settings: Settings, model: str, sample: int = 20, max_cost_usd: float | None = None
) -> Table:
    """Ask a sample again, live, and say how many answers are no longer those that were recorded."""
    found = load_evalset(evalset, settings=settings)
    recordings = Recordings(recording_file(found, model))
    asked = [a for a in recorded_requests_of(found, models=[model]) if recordings.count(a.request)][:sample]
    if not asked:
        raise ConfigError(f"nothing is recorded of {model} for {evalset!r}; record it with: workbench record {evalset}")
    items = [BatchItem(a.item_id, a.request, a.query.tenant_id, a.feature) for a in asked]
    with attributed(purpose="eval"):
        live = complete_batch(Client.open(settings), items, max_cost_usd=max_cost_usd)
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


def _answered_requests(
    evalset: Evalset, models: Sequence[str], retrieved: ArmHits | None
) -> Iterable[tuple[RecordedRequest, str]]:
    """Every request that has a recorded answer, with its text."""
    files = {m: Recordings(recording_file(evalset, m)) for m in models}
    for asked in recorded_requests_of(evalset, models=models, retrieved=retrieved):
        recordings = files[asked.request.model]
        for occurrence in range(recordings.count(asked.request)):
            if response := recordings.find(asked.request, occurrence):
                yield asked, response.text.strip()


def requests_of_first(asked: Sequence[RecordedRequest], questions: int) -> list[RecordedRequest]:
    """Requests of the first so many questions, in their order."""
    wanted = set(list(dict.fromkeys(a.query.query_id for a in asked))[:questions])
    return [a for a in asked if a.query.query_id in wanted]
