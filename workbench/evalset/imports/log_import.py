"""What a log of another tool gives an evalset, or the ledger.

That is outcomes, a stream, labels, a run, what its calls cost, and rows of the ledger.
"""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import polars as pl

from workbench.errors import ConfigError, EvalsetError, unknown_name
from workbench.evalset.files import read_jsonl
from workbench.evalset.folder import Tell, add_evalset_file, folder_import_card, tell_nothing
from workbench.evalset.imports.logged_calls import (
    LoggedCall,
    LoggedScore,
    ToolLog,
    logged_arm_name,
    logged_call_price,
    logged_cost_nanos,
    logged_tier_lacks_price,
)
from workbench.evalset.imports.outcome_tables import GATES, OutcomeRepairs, checked_outcomes
from workbench.evalset.imports.pairs_and_streams import SAME_WORDS
from workbench.evalset.outcomes import FILE, STORED_SCHEMA, outcome_columns, outcomes_of
from workbench.evalset.traffic import traffic_stream_of_rows, words_answer_key
from workbench.inference.prices import NANOS_PER_USD, PriceTable, nanos
from workbench.records import content_hash, file_hash
from workbench.rendering.numbers import counted
from workbench.rendering.progress import waiting
from workbench.telemetry.ledger import Ledger, LedgerRow

PEOPLE, VERDICTS, RUN, ASKED, STREAM = (
    "labels.jsonl",
    "verdicts.jsonl",
    "retrieved.run",
    "asked.jsonl",
    "stream.parquet",
)
ANSWERS = "answers.jsonl"
EVALS = ("promptfoo", "inspect", "lm-eval")  # their calls were made to measure: nobody asked them
NO_TRAFFIC = (*EVALS, "openai-batch")
_FEW_PROMPTS = 10
_BY_HAND = "Who asked these prompts and when, how right and wrong were told apart, what the costs are"


@dataclass(frozen=True, slots=True)
class LogChoices:
    """What a user says about a log: which score is the quality, and `Repairs` of its outcomes."""

    score: str = ""
    repairs: OutcomeRepairs = field(default_factory=OutcomeRepairs)


@waiting("import of the log")
def import_log(
    log: ToolLog, out: Path, prices: PriceTable, *, choices: LogChoices | None = None, tell: Tell = tell_nothing
) -> list[Path]:
    """Write into the evalset folder ``out`` everything that a log holds for the notebooks; gives the files.

    ``outcomes.parquet`` from scores, ``stream.parquet`` from the requests of users, ``retrieved.run`` with
    ``asked.jsonl`` from searches, ``labels.jsonl`` from people's scores and ``verdicts.jsonl`` from models'; answers
    that nobody scored go to ``answers.jsonl``, to be graded. What cannot be made is told with the reason.

    Raises
    ------
    EvalsetError
        If nothing can be made of the log, or a log of tests has no outcomes, with the reason; or if a file is there.
    ConfigError
        If a score or a model that is named is not there.
    """
    notes = list[str]()
    parts = _files_of_log(log, out, prices, choices or LogChoices(), notes)
    if there := [name for name in parts if (out / name).exists()]:
        raise EvalsetError(f"{out} has {', '.join(there)} already; remove it or import under another name")
    if FILE in parts and not (out / "gates.toml").exists():
        parts["gates.toml"] = GATES.encode()
    notes = [*log.told(), *notes, *log_cost_lines(log, prices)]
    card = folder_import_card({path: () for path in log.files}, _BY_HAND, notes)
    done = [add_evalset_file(out, name, data, card=card) for name, data in parts.items()]
    for line in notes:
        tell(line)
    return done


def _files_of_log(
    log: ToolLog, out: Path, prices: PriceTable, choices: LogChoices, notes: list[str]
) -> dict[str, bytes]:
    """Files that can be made of a log, by name."""
    parts = dict[str, bytes]()
    try:
        of_outcomes = list[str]()
        parts[FILE] = _log_parquet(outcomes_in_log(log, prices, choices, of_outcomes))
        notes += of_outcomes
    except (EvalsetError, ConfigError) as error:
        if log.tool in EVALS or choices != LogChoices():
            raise
        notes.append(f"no outcomes: {str(error).partition(chr(10))[0]}")
    if log.tool not in NO_TRAFFIC and (requests := stream_in_log(log, notes)) is not None:
        parts[STREAM] = _log_parquet(requests)
    if not log_score_counts(log) and (unscored := answers_in_log(log, prices)):
        parts[ANSWERS] = unscored.encode()
        notes.append(f"{ANSWERS}: fill `quality`, 0 to 1, then: workbench import outcomes {ANSWERS} --name ANOTHER")
    if log.searches:
        parts[RUN], parts[ASKED] = run_in_log(log, out)
    parts |= {name: text.encode() for name, text in label_files_of_log(log, notes).items() if text}
    if not parts:
        raise EvalsetError(f"{log.tool}: nothing here for a notebook; {'; '.join(notes) or 'no call, no search'}")
    return parts


def _log_parquet(frame: pl.DataFrame) -> bytes:
    data = io.BytesIO()
    frame.write_parquet(data)
    return data.getvalue()


def log_score_counts(log: ToolLog) -> Counter[str]:
    """How many calls have a value of each score."""
    return Counter(s.name for call in log.calls for s in call.scores if s.value is not None)


def primary_log_score(log: ToolLog, asked: str = "") -> str:
    """Score that is the quality: the one that is asked for, promptfoo's own, or the only one.

    Raises
    ------
    ConfigError
        If it is not there, or several are and none is named.
    EvalsetError
        If no call has a score.
    """
    known = sorted(log_score_counts(log))
    if asked and asked not in known:
        raise ConfigError(f"--score: {unknown_name('score', asked, known)}")
    if not known:
        raise EvalsetError(f"no call of this {log.tool} log has a score, so that nothing says which answers are good")
    if asked or len(known) == 1:
        return asked or known[0]
    if log.tool == "promptfoo":
        return "score"
    raise ConfigError(
        f"the log has {counted(len(known), 'score')} ({', '.join(known)}); say which is the quality: --score NAME"
    )


def outcomes_in_log(log: ToolLog, prices: PriceTable, choices: LogChoices, notes: list[str]) -> pl.DataFrame:
    """Outcomes of a log, in the columns of `STORED_SCHEMA`.

    A call that failed is a failed outcome: its quality is 0. A repeat that a cache answered is no repeat. Cost is that
    of the tokens where their price is known, else what the log says; a failed call of unknown cost costs what the
    others of its model do on average.

    Raises
    ------
    EvalsetError
        If there are none, or they cannot be used, as `outcomes_of` says.
    ConfigError
        As `primary_log_score`.
    """
    name = primary_log_score(log, choices.score)
    rows, dropped = list[tuple[Any, ...]](), Counter[str]()
    seen = Counter[tuple[str, str]]()
    measured = {(c.prompt_id or c.prompt, logged_arm_name(c)) for c in log.calls if not c.cached}
    judged = set[str]()
    for call in sorted(log.calls, key=lambda c: (c.file, c.repeat or 0, c.line)):
        score = next((s for s in call.scores if s.name == name and s.value is not None), None)
        key = (call.prompt_id or content_hash(call.prompt)[:16], logged_arm_name(call))
        if score is None and not call.error:
            dropped[f"without {name}"] += 1
        elif not call.prompt.strip():
            dropped["without a prompt"] += 1
        elif call.cached and ((call.prompt_id or call.prompt, key[1]) in measured or seen[key]):
            dropped["repeated, and answered by a cache"] += 1
        else:
            judged |= {score.source} if score and not call.error else set()
            rows.append(_log_outcome_row(call, score, key[0], seen[key], prices))
            seen[key] += 1
    notes += [f"left out: {counted(n, 'call')} {why}" for why, n in dropped.items()]
    if not rows:
        raise EvalsetError(f"no call of this {log.tool} log is an outcome: all {len(log.calls):,} were left out")
    failed = sum(row[-1] for row in rows)
    notes.append(
        f"quality is {name}{', given by a model' if 'model' in judged else ''}; "
        f"{counted(failed, 'failed call is', 'failed calls are')} 0"
    )
    frame = pl.DataFrame(rows, schema={**_OUTCOME_SCHEMA, "failed": pl.Boolean}, orient="row")
    means = pl.col("cost_usd").mean().over("model", "config")
    frame = frame.with_columns(
        pl.when("failed").then(pl.col("cost_usd").fill_null(means)).otherwise("cost_usd").alias("cost_usd")
    )
    source = log.files[0] if len(log.files) == 1 else log.files[0].parent
    whole = checked_outcomes(frame.drop("failed"), source, {"repeat": "repeat"}, choices.repairs, notes)
    outcomes_of(whole, str(source))
    return whole.select(outcome_columns(whole))


# What `logs.checked` reads beside outcomes; repeats out of a cache are left out before it.
_OUTCOME_SCHEMA: Mapping[str, Any] = {**STORED_SCHEMA, "cached": pl.Float64, "line": pl.Int64}


def _log_outcome_row(
    call: LoggedCall, score: LoggedScore | None, prompt_id: str, repeat: int, prices: PriceTable
) -> tuple[Any, ...]:
    by_tokens, use = logged_cost_nanos(call, prices), call.usage
    cost = call.usd if by_tokens is None else by_tokens / NANOS_PER_USD
    values = {
        "prompt_id": prompt_id, "prompt": call.prompt, "model": call.model, "config": call.config or None,
        "quality": 0.0 if call.error or score is None else score.value, "cost_usd": cost,
        "latency_ms": call.latency_ms, "tokens_in": use.input if use else None,
        "tokens_out": use.output if use else None, "cluster": call.cluster or None, "feature": call.feature or None,
        "tenant_id": call.tenant_id or None, "repeat": repeat, "line": call.line,
    }  # fmt: skip
    return (*(values.get(name) for name in _OUTCOME_SCHEMA), bool(call.error))


def log_cost_lines(log: ToolLog, prices: PriceTable) -> list[str]:
    """By model: calls, failures, cached answers, what the tokens cost by the price table, and what the log says.

    Then the models whose answers are the same.
    """
    lines, groups = [], dict[str, list[LoggedCall]]()
    for call in log.calls:
        groups.setdefault(logged_arm_name(call), []).append(call)
    for name, calls in groups.items():
        mine = [cost for call in calls if (cost := logged_cost_nanos(call, prices)) is not None]
        logged = [call.usd for call in calls if call.usd is not None]
        price = logged_call_price(calls[0], prices)
        by_tokens = f"${sum(mine) / NANOS_PER_USD:.6f} by the tokens of {len(mine):,}" if mine else "no known price"
        if not mine and price:
            by_tokens = "no price of what was used" if any(c.usage for c in calls) else "no tokens"
        told = f"${sum(logged):.6f} by the log, for {len(logged):,}" if logged else "the log says no cost"
        odd = [f"{n:,} {what}" for what, n in (("failed", sum(bool(c.error) for c in calls)),
               ("from a cache", sum(c.cached for c in calls))) if n]  # fmt: skip
        lines.append(
            f"{name}: {counted(len(calls), 'call')}{''.join(f', {text}' for text in odd)}; {by_tokens}; {told}"
        )
    return lines + _tier_lines(log, prices) + _same_answers(groups)


def _tier_lines(log: ToolLog, prices: PriceTable) -> list[str]:
    """A line on the calls of each tier that has no price here: what they are taken to cost."""
    lacking = [call for call in log.calls if call.usage and logged_tier_lacks_price(call, prices)]
    told = Counter((call.tier, call.usd is not None, logged_call_price(call, prices)) for call in lacking)
    return [
        f"{counted(n, 'call')} ran at tier {tier}, whose price is not known here: priced as "
        f"{'the log says' if by_log else 'standard'}; its own price is a row {f'{name}@{tier}'!r} of models.toml"
        for (tier, by_log, name), n in told.items()
    ]


def _same_answers(groups: Mapping[str, Iterable[LoggedCall]]) -> list[str]:
    """A line on each two models that answered all prompts alike: one of them may never have been asked.

    lm-eval 0.4.13 (--use_cache) and ragas 0.4.3 (DiskCacheBackend) keep answers by what was asked, not by who was, and
    hand those of one model out as the next one's. A few labels are no sign: half of the answers must differ.
    """
    said = {name: dict[str, list[str]]() for name in groups}
    for name, calls in groups.items():
        for call in calls:
            if call.output and not call.error:
                said[name].setdefault(call.prompt_id or call.prompt, []).append(call.output)
    lines = []
    for one, other in combinations(said, 2):
        both = [prompt for prompt in said[one] if prompt in said[other]]
        alike = all(sorted(said[one][prompt]) == sorted(said[other][prompt]) for prompt in both)
        differ = len({tuple(said[one][prompt]) for prompt in both})
        if alike and len(both) >= _FEW_PROMPTS and 2 * differ >= len(both):
            lines.append(
                f"{one} and {other} answered all {counted(len(both), 'prompt')} in the same words: if a cache "
                "was in use, "
                "it may not tell models apart, and one of them was not asked; record them without it"
            )
    return lines


def requests_in_log(log: ToolLog) -> list[LoggedCall]:
    """What users asked: the first call of each trace that tells its question, in the order they came."""
    asked, traces = list[LoggedCall](), set[str]()
    for call in sorted(log.calls, key=lambda c: (c.started, c.file, c.line)):
        if call.prompt.strip() and not (call.trace_id and call.trace_id in traces):
            traces.add(call.trace_id)
            asked.append(call)
    return asked


def stream_in_log(log: ToolLog, notes: list[str]) -> pl.DataFrame | None:
    """Requests as a stream for caching; None if no call tells what was asked.

    Nothing in a log says which requests may share an answer: those of the same words do, and no others. So a cache
    that serves other words looks worse than it may be, never better.
    """
    asked = requests_in_log(log)
    timed = [call for call in asked if call.started]
    if timed and len(timed) < len(asked):
        notes.append(
            f"{counted(len(asked) - len(timed), 'request has', 'requests have')} no time and are left out of the stream"
        )
    rows = []
    for call in timed or asked:
        row = {"query": call.prompt, "answer_key": words_answer_key(call.prompt), "at": call.started or None}
        row |= {"tenant_id": call.tenant_id, "feature": call.feature, "user_id": call.user_id}
        rows.append((call.line, row))
    if not rows:
        return None
    frame, defects, _ = traffic_stream_of_rows(log.tool, rows)
    if defects:
        raise EvalsetError("the requests are no stream:", defects)
    notes.append(f"stream: {SAME_WORDS}")
    return frame.sort("pos")


def run_in_log(log: ToolLog, out: Path) -> tuple[bytes, bytes]:
    """Searches as a TREC run, and the questions that were asked; a question of the evalset keeps its own id."""
    path = out / "queries.jsonl"
    known = {str(row.get("text")): str(row.get("_id")) for _, row in read_jsonl(path)} if path.is_file() else {}
    asked, lines = dict[str, str](), list[str]()
    for search in log.searches:
        name = known.get(search.query) or content_hash(search.query)[:16]
        if name in asked:
            continue  # the same question again: its first answer stands
        asked[name] = search.query
        for place, (doc, score) in enumerate(search.hits, start=1):
            lines.append(f"{name} Q0 {doc} {place} {score!r} {log.tool}\n")
    rows = (json.dumps({"_id": name, "text": text}, ensure_ascii=False) + "\n" for name, text in asked.items())
    return "".join(lines).encode("utf-8", "replace"), "".join(rows).encode("utf-8", "replace")


def answers_in_log(log: ToolLog, prices: PriceTable) -> str:
    """Lines of answers with an empty ``quality``, in the columns of outcomes; "" if no answer is in the log."""
    lines, seen = list[str](), Counter[tuple[str, str]]()
    for call in log.calls:
        if call.prompt.strip() and (call.output or call.error):
            key = (call.prompt_id or content_hash(call.prompt)[:16], logged_arm_name(call))
            values = dict(zip(_OUTCOME_SCHEMA, _log_outcome_row(call, None, key[0], seen[key], prices), strict=False))
            row = {name: value for name, value in values.items() if value is not None and name != "line"}
            graded = {"answer": call.output, "quality": 0.0 if call.error else None}
            lines.append(json.dumps(row | graded, ensure_ascii=False) + "\n")
            seen[key] += 1
    return "".join(lines)


def scores_in_log(log: ToolLog) -> Iterator[tuple[str, str, LoggedScore]]:
    """Scores with the item that each is of, and its time: of calls, and of what no call was found for."""
    for call in log.calls:
        item = call.trace_id or call.call_id or f"{call.prompt_id or call.prompt[:80]}@{logged_arm_name(call)}"
        yield from ((item, call.started, score) for score in call.scores)
    yield from ((item, "", score) for item, score in log.scores)


def label_files_of_log(log: ToolLog, notes: list[str]) -> dict[str, str]:
    """Lines of `PEOPLE` and `VERDICTS`, in the form of ``workbench.quality.labels``."""
    lines: dict[str, list[str]] = {PEOPLE: [], VERDICTS: []}
    outside = 0
    for item, when, score in scores_in_log(log):
        if score.source == "code" or score.value is None:
            continue
        if not 0 <= score.value <= 1:
            outside += 1
            continue
        row = {"item_id": item, "metric": score.name, "value": score.value, "rater": score.rater or "not told",
               "source": score.source, "rubric": f"as logged by {log.tool}", "at": when}  # fmt: skip
        lines[PEOPLE if score.source == "human" else VERDICTS].append(json.dumps(row, ensure_ascii=False) + "\n")
    if outside:
        told = counted(outside, "score of people or models is", "scores of people or models are")
        notes.append(f"{told} not in [0, 1] and no label")
    return {name: "".join(found) for name, found in lines.items()}


def ledger_rows_of_log(log: ToolLog, prices: PriceTable, purpose: str) -> list[LedgerRow]:
    """Calls of a log as rows of the ledger; the same log gives the same ids, so that nothing is booked twice.

    Cost is that of the tokens, else what the log says, else 0 without a price version: `workbench costs` shows those
    as calls that have no price. A call without a time gets that of its file.
    """
    times = {path.name: datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in log.files}
    hashes = {path.name: file_hash(path)[:16] for path in log.files}
    ids, rows = Counter[str](), []
    for call in log.calls:
        own = call.call_id or f"{hashes.get(call.file, call.file)} {call.line}"
        ids[own] += 1
        cost, version = _log_cost_of(call, prices, log.tool)
        use = call.usage
        started = call.started or times[call.file].isoformat(timespec="seconds") if call.file in times else call.started
        rows.append(
            LedgerRow(
                call_id=f"{log.tool}-{content_hash(own, call.model, call.started, str(ids[own]))[:24]}",
                attempt=0, started=started, latency_ms=call.latency_ms or 0.0, trace_id=call.trace_id,
                item_id=call.prompt_id, tenant_id=call.tenant_id, user_id=call.user_id, feature=call.feature,
                purpose=purpose, model_asked=logged_call_price(call, prices) or call.model,
                model_served=call.served or call.model,
                route="", reason=f"imported from {log.tool}", fresh_tokens=use.fresh if use else 0,
                cache_read_tokens=use.cache_read if use else 0, cache_write_tokens=use.cache_write if use else 0,
                output_tokens=use.output if use else 0, price_version=version, cost_nanos=0 if call.cached else cost,
                status="cached" if call.cached else "error" if call.error else "ok", error_class=call.error[:80],
            )
        )  # fmt: skip
    return rows


def _log_cost_of(call: LoggedCall, prices: PriceTable, tool: str) -> tuple[int, str]:
    if (cost := logged_cost_nanos(call, prices)) is not None:
        tier = "" if logged_tier_lacks_price(call, prices) else call.tier
        return cost, f"{prices.version}{f'+{tier}' if tier else ''}"
    return (0, "") if call.usd is None else (nanos(call.usd), f"as logged by {tool}")


@waiting("calls into the ledger")
def book_log(log: ToolLog, ledger: Ledger, prices: PriceTable, purpose: str) -> tuple[int, int]:
    """Add the calls of a log to the ledger; gives how many were added, and how many were there already."""
    rows = ledger_rows_of_log(log, prices, purpose)
    there = set(ledger.columns(["call_id"])["call_id"])
    new = [row for row in rows if row.call_id not in there]
    for start in range(0, len(new), 5_000):
        ledger.add(new[start : start + 5_000])
    return len(new), len(rows) - len(new)
