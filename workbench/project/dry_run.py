"""``workbench run --dry-run``: what a run would embed and ask, how long that takes, and what it costs.

No kernel is started, nothing is asked of a hosted model, and nothing is written. What cannot be known before a run is
said to be unknown: how many arms dev lets through to test, and what fitting takes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from workbench.caching.notebook import CachingExperiment
from workbench.caching.verifiers import MODEL, verifier_asked
from workbench.config import Settings
from workbench.evalset.evalset import Evalset, load_evalset
from workbench.evalset.traffic import load_traffic_pairs, load_traffic_stream
from workbench.evaluation.compare import MIN_CLUSTERS
from workbench.evaluation.decision import MIN_DEV_CLUSTERS
from workbench.evaluation.finalists import FEWEST, MOST
from workbench.evaluation.start import examined_experiment
from workbench.inference.embedding import Embedder, HostedEmbedder, load_embedder
from workbench.inference.encoders import MiniLM
from workbench.inference.messages import Usage
from workbench.inference.prices import MS_PER_HOUR, project_prices
from workbench.pipeline.notebook import PipelineExperiment
from workbench.pipeline.routes import embedder_of_routes
from workbench.rendering.numbers import cents, counted, usd
from workbench.rendering.progress import duration, waiting
from workbench.retrieval.arms import CHUNKERS, FITTED, make_arms
from workbench.retrieval.ingest import IngestVectorCache
from workbench.retrieval.notebook import RetrievalExperiment
from workbench.routing.notebook import RoutingExperiment
from workbench.runner.accept_and_check import evalset_of
from workbench.runner.headless import Job, planned_headless_job
from workbench.runner.runs import list_runs
from workbench.telemetry.attribution import attributed

PROBED = 16  # texts that a local encoder is timed on
OUTCOMES_ARE_THERE = "nothing: outcomes are those of the table, or recorded"
RECORDED = "nothing: answers and verdicts are recorded; workbench record tells what recording takes"
CHARACTERS = 4  # of a token, where a hosted encoder's price is told


@dataclass(frozen=True, slots=True)
class DryRun:
    """What a run has to do: texts to embed by what they are, and searches by arm with their milliseconds.

    ``lacks`` says why the run could give no verdict, where that is known; ``embedder`` names the encoder where no
    parameter does.
    """

    texts: Mapping[str, Sequence[str]]
    searches: str = ""
    search_ms: float = 0.0
    asked: str = "nothing is asked of a model"
    lacks: str = ""
    embedder: str = ""


def foresee_run(settings: Settings, job: Job) -> Iterator[str]:
    """Lines that say what the run of a job would take.

    Raises
    ------
    ConfigError, EvalsetError
        If the run would be refused: parameters and data are checked as a run checks them.
    """
    job = planned_headless_job(job, settings)
    p = dict(job.parameters)
    given = str(p.get("evalset", ""))
    with waiting(f"reading what {job.notebook} reads"):
        found = examined_experiment(job.notebook, p, settings)
    yield f"{job.notebook} on {given or 'no evalset'}, profile {job.profile}: its parameters fit; nothing is started"
    seconds = 0.0
    if given:
        with waiting("looking for what there is to do"):
            ahead = _dry_run(found, p, settings)
        for name in [ahead.embedder] if ahead.embedder else _dry_run_embedders(p) if ahead.texts else ():
            told, took = _dry_run_embedding(ahead.texts, load_embedder(name, settings), settings)
            yield from told
            seconds += took
        if ahead.searches:
            yield f"to search: {ahead.searches}; about {duration(ahead.search_ms / 1000)} at the rates of prices.toml"
        seconds += ahead.search_ms / 1000
        yield f"to ask: {ahead.asked}"
        if ahead.lacks:
            yield ahead.lacks
    yield from _dry_run_time(settings, job, given, seconds)


def _dry_run_embedders(p: Mapping[str, Any]) -> Sequence[str]:
    """Encoders that a notebook is given: several of retrieval's, one of the others'."""
    return [str(p["embedder"])] if p.get("embedder") else [str(name) for name in p["embedders"]]


def _dry_run(found: Any, p: Mapping[str, Any], settings: Settings) -> DryRun:
    """Work of one notebook; of one of your own, nothing can be said."""
    match found:
        case RetrievalExperiment():
            return _dry_run_of_retrieval(p, found.evalset, settings)
        case CachingExperiment():
            pairs, stream = load_traffic_pairs(found.evalset.path)[0], load_traffic_stream(found.evalset.path)
            texts = {
                "requests": stream.queries,
                "questions of pairs": [t for x in pairs for t in (x.query_a, x.query_b)],
            }
            verifiers, most = dict.fromkeys(map(verifier_asked, p["verifiers"])), p["max_cost_usd"]
            models = [v.removeprefix(MODEL) for v in verifiers if v.startswith(MODEL)]
            asked = f"{', '.join(models)} about near pairs whose answer is not recorded, for at most {cents(most)}"
            return DryRun(texts, asked=asked) if models else DryRun(texts)
        case RoutingExperiment():
            prompts = found.outcomes.requests.prompts if found.reads_vectors else []
            return DryRun({"prompts": prompts} if prompts else {}, asked=OUTCOMES_ARE_THERE)
        case PipelineExperiment() if embedder := embedder_of_routes(p.get("routes", ()), found.evalset):
            return DryRun({"questions": [q.text for q in found.evalset.queries]}, asked=RECORDED, embedder=embedder)
        case None:
            load_evalset(str(p["evalset"]), settings=settings, seed=int(p.get("seed", 0)))
            return DryRun({}, asked="what your own notebook asks is not known here")
    return DryRun({}, asked=RECORDED)


def _dry_run_of_retrieval(p: Mapping[str, Any], evalset: Evalset, settings: Settings) -> DryRun:
    tokenizer, texts = MiniLM(settings.cache / "weights"), dict[str, Sequence[str]]()
    for name in p["chunkers"]:
        texts[f"chunks of {name}"] = [c.text for d in evalset.documents for c in CHUNKERS[name].chunk(d, tokenizer)]
    plain = [name for name in p["strategies"] if name not in FITTED]
    arms = (
        make_arms(p["chunkers"], plain, embedders=_dry_run_embedders(p), stores=p.get("stores", ("lance",)))
        if plain
        else []
    )
    each = len(_dry_run_embedders(p)) * len(p.get("stores", ("lance",)))
    fitted = len(p["chunkers"]) * (len(p["strategies"]) - len(plain)) * each
    n_dev, n_test = (len(evalset.split(split).queries) for split in ("dev", "test"))
    prices, tenants = project_prices(settings.root), len(evalset.tenants)
    rows = sum(map(len, texts.values())) // max(len(texts) * tenants, 1)
    usd = [prices.cost_usd(arm.work(rows)) for arm in arms]
    each_ms = max(usd, default=0.0) / prices.usd_per_vcpu_hour * MS_PER_HOUR
    n, most = len(arms) + fitted, min(len(arms) + fitted, MOST)
    told = (
        f"{counted(n_dev, 'dev question')} with each of {counted(n, 'arm')} ({fitted} of them fitted first), "
        f"then {counted(n_test, 'test question')} "
    )
    told += f"with the {min(n, FEWEST)} to {most} that dev does not rule out"
    if systems := len(p.get("systems", ())):
        told += f", and {systems} of your own, whose time and cost are yours"
    return DryRun(texts, told, each_ms * (n * n_dev + most * n_test), lacks=_dry_run_too_few(evalset))


def _dry_run_too_few(evalset: Evalset) -> str:
    """Line that says that no arm could be judged; "" where the question families are enough."""
    dev, test = (len({query.cluster for query in evalset.split(split).queries}) for split in ("dev", "test"))
    if dev >= MIN_DEV_CLUSTERS and test >= MIN_CLUSTERS:
        return ""
    needed = f"{MIN_DEV_CLUSTERS} and {MIN_CLUSTERS} are needed"
    return (
        f"no verdict: there are {counted(dev, 'family')} of questions in dev and {test} in test, {needed}; "
        "label more first"
    )


def _dry_run_embedding(
    texts: Mapping[str, Sequence[str]], embedder: Embedder, settings: Settings
) -> tuple[list[str], float]:
    """What is to be embedded of it, and the seconds; a hosted encoder is not asked."""
    path, told, missing = settings.cache / "vectors.sqlite", list[str](), dict[str, None]()
    for what, each in texts.items():
        new = IngestVectorCache(path).missing(each, embedder) if path.is_file() else list(dict.fromkeys(each))
        missing |= dict.fromkeys(new)
        told.append(f"to embed: {counted(len(new), 'new text')} of {len(each):,} {what}, with {embedder.encoder_id}")
    if not missing:
        return [*told, "cost: nothing; vectors of all of them are in the cache"], 0.0
    if isinstance(embedder, HostedEmbedder):
        tokens = sum(map(len, missing)) // CHARACTERS
        paid = embedder.books.prices.cost_nanos(embedder.model, Usage(tokens)) / 1e9
        return [
            *told,
            f"cost: about {usd(paid)}, for {counted(tokens, 'token')} of {CHARACTERS} characters at its price",
        ], 0.0
    probe = list(missing)[:: max(len(missing) // PROBED, 1)][:PROBED]
    with attributed(purpose="eval"):
        embedder.embed(probe[:1])  # loads the weights
        started = time.perf_counter()
        embedder.embed(probe)
    seconds = (time.perf_counter() - started) / len(probe) * len(missing)
    told.append(f"that takes about {duration(seconds)}, by {len(probe)} of them that were embedded just now")
    return [*told, "cost: no dollars; the encoder runs on this machine"], seconds


def _dry_run_time(settings: Settings, job: Job, evalset: str, seconds: float) -> Iterator[str]:
    """How long the run takes: what the last one of its kind took, or what can be told before the first."""
    for record in reversed(list_runs(settings)):
        kind = (record.notebook, record.profile, evalset_of(record) if evalset else "")
        if record.status == "done" and record.ended and kind == (job.notebook, job.profile, evalset):
            took = (datetime.fromisoformat(record.ended) - datetime.fromisoformat(record.started)).total_seconds()
            yield f"time: the last run of this kind, {record.run_dir.name}, took {duration(took)} in all"
            return
    known = f"about {duration(seconds)} for that, and " if seconds else ""
    yield f"time: {known}what kernel, fitting, bounds and report take is not known: no run of this kind is here yet"
