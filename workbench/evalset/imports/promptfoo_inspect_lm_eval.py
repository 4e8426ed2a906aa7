"""Logs of promptfoo, Inspect and lm-eval: prompts that models were tested on, with scores and, at times, repeats."""

import json
import re
import string
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from workbench.errors import EvalsetError
from workbench.evalset.cells import Unusable, id_cell, number_cell, parse_json_cell, shown_cell
from workbench.evalset.files import Row, read_jsonl, scan_jsonl
from workbench.evalset.imports.log_fields import (
    field_amount,
    field_at,
    field_objects,
    field_text,
    log_document,
    log_files_in,
    log_rows,
    message_text_field,
    moment_field,
    question_field,
    tier_field,
    usage_fields,
    usd_field,
)
from workbench.evalset.imports.logged_calls import LoggedCall, LoggedScore, Source, ToolLog
from workbench.extras import extras_named
from workbench.records import content_hash
from workbench.rendering.numbers import counted

_MODEL_GRADED = (
    "llm-rubric",
    "model-graded",
    "factuality",
    "g-eval",
    "answer-relevance",
    "context-",
    "pi",
    "select-best",
)
_ERROR = 2  # promptfoo's failureReason: 1 is an assertion that failed
_ZSTD = 93
_LOCAL_HEADER = 30
_MEMBER_LIMIT = 2**31
_INSPECT_VALUES = {"C": 1.0, "I": 0.0, "P": 0.5, "N": 0.0, "yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}


def read_promptfoo(paths: Sequence[Path]) -> ToolLog:
    """Read results of ``promptfoo eval -o out.json`` or ``-o out.jsonl``.

    A cached row has no latency, and costs what its tokens would: it repeats what was measured before. A cost of 0 is
    none. A row that nothing was asserted of passes there, and has no score here.

    Raises
    ------
    EvalsetError
        If a file is none of these.
    """
    files = log_files_in(paths, (".json", ".jsonl"), "promptfoo results")
    log = ToolLog("promptfoo", tuple(files))
    for path in files:
        if path.suffix.lower() == ".csv":
            raise EvalsetError(f"{path}: promptfoo's CSV has no tokens and no costs; write -o {path.stem}.json")
        rows = _promptfoo_rows(path, log)
        labels: dict[str, set[str]] = {}
        for _, row in rows:
            labels.setdefault(field_text(row, "provider.id", "provider"), set()).add(field_text(row, "provider.label"))
        templates = sorted({field_text(row, "prompt.label") for _, row in rows})
        ids = {provider for provider, found in labels.items() if len(found) > 1}

        def call(line: int, row: dict[str, Any], several: int = len(templates), ids: set[str] = ids) -> LoggedCall:
            return _promptfoo_call(line, row, several > 1, ids)

        log.each(path, rows, call)
    _promptfoo_one_text_per_prompt(log)
    return log


def _promptfoo_rows(path: Path, log: ToolLog) -> list[Row]:
    if path.suffix.lower() == ".json":
        document = log_document(path)
        found = field_at(document, "results.results")
        found = field_at(document, "results") if found is None else found
        if not isinstance(found, list):
            raise EvalsetError(f"{path} has no list results.results; it is the file of promptfoo eval -o out.json")
        rows = []
        for place, row in enumerate(found, start=1):
            if isinstance(row, dict):
                rows.append((place, row))
            else:
                log.read += 1
                log.set_aside(path, place, f"a result is an object, found {type(row).__name__}")
        return rows
    return log_rows(path, log)


def _promptfoo_call(line: int, row: dict[str, Any], several: bool, ids: set[str]) -> LoggedCall:
    model = field_text(row, "provider.id", "provider")
    asked = field_text(row, "prompt.raw")
    variables = row.get("vars") or field_at(row, "testCase.vars") or {}
    if not model or not asked:
        raise Unusable("a result of promptfoo has provider.id and prompt.raw")
    tokens, said = field_at(row, "response.tokenUsage") or row.get("tokenUsage") or {}, row.get("response")
    cached = field_at(said, "cached") is True
    details = field_at(tokens, "completionDetails")
    errored = row.get("failureReason") == _ERROR or (not isinstance(said, dict) and bool(row.get("error")))
    parts = [
        field_text(row, "provider.label") if model in ids else "",
        field_text(row, "prompt.label") if several else "",
    ]
    output = field_at(said, "output")
    return LoggedCall(
        line=line,
        model=model,
        call_id=field_text(row, "id"),
        prompt_id=content_hash(json.dumps(variables, sort_keys=True, default=str) if variables else asked)[:16],
        prompt=asked,
        config=" / ".join(part for part in parts if part),
        output=output if isinstance(output, str) else json.dumps(output) if output is not None else "",
        error=(field_text(row, "error") or "error") if errored else "",
        usage=usage_fields(
            field_at(tokens, "prompt"),
            field_at(tokens, "completion"),
            cache_read=field_at(details, "cacheReadInputTokens"),
            cache_write=field_at(details, "cacheCreationInputTokens"),
            inside=True,
        ),
        usd=usd_field("cost", row.get("cost")),
        latency_ms=None if cached or errored else field_amount(row, "latencyMs"),
        cached=cached,
        cluster=field_text(row, "testCase.metadata.cluster", "metadata.cluster"),
        feature=field_text(row, "testCase.metadata.feature", "metadata.feature"),
        tenant_id=field_text(row, "testCase.metadata.tenant_id", "metadata.tenant_id"),
        scores=() if errored else tuple(_promptfoo_scores(row)),
    )


def _promptfoo_scores(row: dict[str, Any]) -> Iterator[LoggedScore]:
    parts = field_objects(field_at(row, "gradingResult.componentResults"))
    if not parts and not field_at(row, "testCase.assert"):
        return
    kinds = [field_text(part, "assertion.type") for part in parts]
    judged: Source = "model" if any(kind.startswith(_MODEL_GRADED) for kind in kinds) else "code"
    by_people = [p for p in parts if field_text(p, "assertion.type") == "human"]
    judged = "human" if by_people else judged
    yield LoggedScore("score", number_cell("score", row.get("score")), judged)
    yield LoggedScore("success", float(row.get("success") is True), judged)
    for name, value in (row.get("namedScores") or {}).items() if isinstance(row.get("namedScores"), dict) else ():
        yield LoggedScore(str(name), number_cell(str(name), value), "model" if judged == "model" else "code")
    for part in by_people:
        yield LoggedScore(
            "human", number_cell("score", part.get("score")), "human", "promptfoo", field_text(part, "reason")
        )


def _promptfoo_one_text_per_prompt(log: ToolLog) -> None:
    """Where several templates put the same variables into words, the prompt is that of the first."""
    texts: dict[str, str] = {}
    for call in log.calls:
        texts.setdefault(call.prompt_id, call.prompt)
    log.calls = [replace(c, prompt=texts[c.prompt_id]) if texts[c.prompt_id] != c.prompt else c for c in log.calls]


def read_inspect(paths: Sequence[Path]) -> ToolLog:
    """Read logs of Inspect, ``.eval`` or ``.json``; each is of one model, and an epoch is a repeat.

    A sample that failed has no score there, and leaves the mean; here it is a failed outcome. A score that says
    nothing of the answer, since the scorer left nothing of the target, is none.

    Raises
    ------
    EvalsetError
        If a file is no log.
    """
    files = log_files_in(paths, (".eval", ".json"), "Inspect logs")
    log = ToolLog("inspect", tuple(files))
    blind = Counter[str]()
    for path in files:
        header, rows = _inspect_log(path)
        model, judges = field_text(header, "eval.model"), _inspect_graders(header)
        if not model:
            raise EvalsetError(f"{path} names no model (eval.model): it is no log of Inspect")
        task, tier = field_text(header, "eval.task"), tier_field(field_at(header, "eval.model_args.service_tier"))
        read = partial(_inspect_call, model=model, task=task, judges=judges)

        def sample(
            line: int, row: dict[str, Any], read: Callable[..., LoggedCall] = read, tier: str = tier
        ) -> LoggedCall:
            call = read(line, row)
            kept = tuple(score for score in call.scores if not _says_nothing(score.name, row.get("target")))
            blind.update(score.name for score in call.scores if score not in kept)
            return replace(call, scores=kept, tier=tier)

        log.each(path, rows, sample)
    for name, n in blind.items():
        told = f"left out: {counted(n, 'score')} of {name}, as Inspect's {name}() takes their targets as nothing"
        log.notes.append(f"{told}, such as {_NOTHING[name]}, and cannot tell a right answer from a wrong one")
    return log


def _without_punctuation(target: str) -> str:
    """What Inspect's match() compares of a target."""
    return target.strip(string.whitespace + string.punctuation)


def _without_articles(target: str) -> str:
    """What Inspect's exact() and f1() compare of a target, but for its numbers."""
    bare = "".join(letter for letter in target.casefold() if letter not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", "", bare).strip()


# inspect-ai 0.3.285: exact() passes over a target of which nothing is left, match() finds it at the end of any text
_LEFT_OF_TARGET: Mapping[str, Callable[[str], str]] = {
    "match": _without_punctuation, "exact": _without_articles, "f1": _without_articles,
}  # fmt: skip
_NOTHING = {"match": "<", "exact": "A", "f1": "A"}


def _says_nothing(scorer: str, target: Any) -> bool:
    targets = target if isinstance(target, list) else [target]
    bare = _LEFT_OF_TARGET.get(scorer)
    left = [bare(one) for one in targets if isinstance(one, str)] if bare else []
    return bool(left) and (not all(left) if scorer == "match" else not any(left))


def _inspect_graders(header: Any) -> dict[str, Source]:
    """Who judged, by scorer: a model where its name says so."""
    found = field_at(header, "eval.scorers")
    names = [field_text(one, "name") for one in found] if isinstance(found, list) else []
    return {name: "model" if "model_graded" in name else "human" if "human" in name else "code" for name in names}


def _inspect_call(line: int, row: dict[str, Any], model: str, task: str, judges: Mapping[str, Source]) -> LoggedCall:
    sample_id = id_cell("id", row.get("id"))
    if sample_id is None:
        raise Unusable("a sample has an id")
    used = field_at(row, "model_usage")
    mine = used.get(model) if isinstance(used, dict) else None
    others = [name for name in used if name != model] if isinstance(used, dict) else []
    error = field_text(row, "error.message") if row.get("error") else ""
    seconds = field_amount(row, "working_time", "total_time")
    started = row.get("started_at")
    metadata = row.get("metadata")
    epoch = number_cell("epoch", row.get("epoch"))
    asked = row.get("input")
    scores = field_at(row, "scores")
    return LoggedCall(
        line=line,
        model=model,
        call_id=field_text(row, "uuid"),
        prompt_id=f"{task}/{sample_id}" if task else sample_id,
        prompt=asked if isinstance(asked, str) else question_field(asked),
        repeat=int(epoch) if epoch is not None and abs(epoch) < 1e9 else None,
        output=field_text(row, "output.completion"),
        error=error or ("error" if row.get("error") else ""),
        usage=usage_fields(
            field_at(mine, "input_tokens"),
            field_at(mine, "output_tokens"),
            cache_read=field_at(mine, "input_tokens_cache_read"),
            cache_write=field_at(mine, "input_tokens_cache_write"),
            inside=False,
        ),
        usd=usd_field("total_cost", field_at(mine, "total_cost")) if not others else None,
        latency_ms=None if seconds is None or error else seconds * 1000,
        started=moment_field("started_at", started)[1] if started else "",
        cluster=field_text(metadata, "cluster"),
        feature=field_text(metadata, "feature") or task,
        tenant_id=field_text(metadata, "tenant_id"),
        scores=tuple(_inspect_scores(scores, judges)) if isinstance(scores, dict) and not row.get("error") else (),
    )


def _inspect_scores(scores: dict[str, Any], judges: Mapping[str, Source]) -> Iterator[LoggedScore]:
    for name, found in scores.items():
        value = field_at(found, "value")
        values = value.items() if isinstance(value, dict) else [("", value)]
        for part, one in values:
            yield LoggedScore(f"{name}/{part}" if part else name, _inspect_value(one), judges.get(name, "code"))


def _inspect_value(value: Any) -> float | None:
    """Number of a score: C is 1, P is one half, I and N are 0; what is no single value is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value in _INSPECT_VALUES:
        return _INSPECT_VALUES[value]
    try:
        return number_cell("score", value)
    except Unusable:
        return None


def _inspect_log(path: Path) -> tuple[Any, Iterable[Row]]:
    try:
        return _inspect_archive(path) if zipfile.is_zipfile(path) else _inspect_json(path)
    except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, NotImplementedError):
        raise EvalsetError(f"{path} is a damaged archive; inspect log convert writes the log anew") from None


def _inspect_json(path: Path) -> tuple[Any, list[Row]]:
    document = log_document(path)
    samples = field_at(document, "samples")
    if not isinstance(samples, list):
        raise EvalsetError(f"{path} has no samples: it is no log of Inspect, or only its header")
    return document, [(place, row) for place, row in enumerate(samples, start=1) if isinstance(row, dict)]


def _inspect_archive(path: Path) -> tuple[Any, Iterator[Row]]:
    """Header and samples of an ``.eval``: a ZIP whose members are mostly zstd, which this Python may not read."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: info for info in archive.infolist()}
    if "header.json" not in members:
        raise EvalsetError(f"{path} has no member header.json: it is no finished log of Inspect")
    samples = sorted((i for n, i in members.items() if n.startswith("samples/")), key=lambda info: info.header_offset)

    def rows() -> Iterator[Row]:
        for place, info in enumerate(samples, start=1):
            row = _inspect_member(path, info)
            yield place, row if isinstance(row, dict) else {}

    return _inspect_member(path, members["header.json"]), rows()


def _inspect_member(path: Path, info: zipfile.ZipInfo) -> Any:
    """JSON of one member, read at its place in the archive: nothing is extracted, and no name becomes a path."""
    if info.file_size > _MEMBER_LIMIT:
        raise EvalsetError(f"{path}: a member says that it holds {counted(info.file_size, 'byte')}; that is no sample")
    try:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = struct.unpack("<26xHH", file.read(_LOCAL_HEADER))
            file.seek(info.header_offset + _LOCAL_HEADER + name + extra)
            raw = file.read(info.compress_size)
        return parse_json_cell(_inspect_unzipped(raw, info).decode())
    except (ValueError, RecursionError, struct.error, zlib.error, OSError) as error:
        told = error if isinstance(error, Unusable) else "the archive is damaged"
        what = f"{path}: the member {shown_cell(info.filename)} cannot be read: {told}"
        raise EvalsetError(f"{what}. inspect log convert writes the log anew") from None


def _inspect_unzipped(raw: bytes, info: zipfile.ZipInfo) -> bytes:
    if info.compress_type == zipfile.ZIP_STORED:
        return raw
    if info.compress_type == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-15).decompress(raw, info.file_size)
    if info.compress_type != _ZSTD:
        raise ValueError(info.compress_type)
    with extras_named():
        import pyarrow as pa
    with pa.CompressedInputStream(pa.BufferReader(raw), "zstd") as stream:
        return bytes(stream.read(info.file_size))


def read_lm_eval(paths: Sequence[Path]) -> ToolLog:
    """Read ``samples_*.jsonl`` of lm-eval, each with the ``results_*.json`` beside it that names the model.

    Rows of several filters of a document are one call with a score for each, ``metric,filter`` as lm-eval names them.
    Neither tokens nor costs are logged, and of several answers only the first is scored.

    Raises
    ------
    EvalsetError
        If there is no file of samples, or nothing tells its model.
    """
    given = log_files_in(paths, (".jsonl",), "lm-eval samples")
    files = [path for path in given if path.suffix.lower() == ".jsonl"]
    if not files:
        raise EvalsetError(f"{given[0]} is no file samples_*.jsonl; write them with lm_eval --log_samples")
    log = ToolLog("lm-eval", tuple(files))
    for path in files:
        model, task = _lm_eval_model(path)
        rows, defects = scan_jsonl(path)
        if not rows:
            read_jsonl(path)
        for defect in defects:
            log.read += 1
            log.set_aside(path, defect.line, defect.problem)
        known: dict[str, int] = {}

        def sample(
            line: int, row: dict[str, Any], model: str = model, task: str = task, known: dict[str, int] = known
        ) -> LoggedCall | LoggedScore:
            call = _lm_eval_call(line, row, model, task)
            if (before := known.setdefault(call.prompt_id, len(log.calls))) == len(log.calls):
                return call
            log.calls[before] = replace(log.calls[before], scores=log.calls[before].scores + call.scores)
            return call.scores[0]

        log.each(path, rows, sample)
    return log


def _lm_eval_model(path: Path) -> tuple[str, str]:
    """Model and task of a file ``samples_TASK_TIME.jsonl``."""
    task, _, stamp = path.stem.removeprefix("samples_").rpartition("_")
    results = path.with_name(f"results_{stamp}.json")
    if not results.is_file():
        there = sorted(path.parent.glob("results_*.json"))
        results = there[0] if len(there) == 1 else results
    if not results.is_file():
        raise EvalsetError(f"{path}: which model was it? {results.name} beside it tells that, and is not there")
    document = log_document(results)
    model = field_text(document, "model_name")
    if not model or model not in json.dumps(field_at(document, "config.model_args") or ""):
        model = field_text(
            document, "model_source", "config.model"
        )  # a name that lm-eval has made up anew for each run
    if not model:
        raise EvalsetError(f"{results} names no model (model_name, config.model)")
    return model, task


def _lm_eval_call(line: int, row: dict[str, Any], model: str, task: str) -> LoggedCall:
    doc = id_cell("doc_id", row.get("doc_id"))
    if doc is None or "resps" not in row:
        raise Unusable("a sample of lm-eval has doc_id and resps")
    metrics = row.get("metrics")
    names = [name for name in metrics if isinstance(name, str)] if isinstance(metrics, list) else []
    kind = field_text(row, "filter") or "none"
    if not names:
        raise Unusable("a sample names its metrics")
    arguments = row.get("arguments")
    args = next(iter(arguments.values()), None) if isinstance(arguments, dict) else field_at(arguments, "0")
    asked = field_text(args, "arg_0") or field_text(args, "0") or question_field(field_at(args, "arg_0"))
    output = field_at(row, "filtered_resps.0")
    return LoggedCall(
        line=line,
        model=model,
        prompt_id=f"{task}/{field_text(row, 'doc_hash')[:16] or doc}",
        prompt=asked or field_text(row, "doc.question", "doc.query", "doc.text"),
        output=output if isinstance(output, str) else message_text_field(output) or json.dumps(output),
        feature=task,
        scores=tuple(LoggedScore(f"{name},{kind}", _lm_eval_score(row.get(name))) for name in names),
    )


def _lm_eval_score(value: Any) -> float | None:
    if isinstance(value, bool):
        return float(value)
    try:
        return number_cell("metric", value)
    except Unusable:
        return None
