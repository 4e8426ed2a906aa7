"""A run folder in which every text of others is hostile and tells its field, so that a report shows where it went."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.reports import samples
from workbench.evaluation.run_summary import PRODUCTION, ItemCase, Section, Summary, WeekRow
from workbench.records import Claim, Decision, Fingerprint
from workbench.rendering.text import visible
from workbench.reports.run import VOLUME

_START = r"(?:<|&lt;|&#60;)b(?:\u202e|\[U\+202E\]|(?:\\|&#92;)u202e|&#91;U\+202E&#93;) "
_END = r" x=.{1,80}?(?:\||&#124;)(?:\*|&#42;)"


def evil(name: str) -> str:
    """Text that is markup, ends an attribute, begins a reference and turns the writing direction.

    ``name`` tells it: one letter where no more is drawn.
    """
    return f"<b\u202e {name} x='\"'>&|*"


def hostile_spans(source: str, field: str = "[a-z-]+", before: str = "") -> list[re.Match[str]]:
    """Hostile texts in a source, escaped or not (group ``shown``), of a field and behind a pattern."""
    return list(re.finditer(f"{before}(?P<shown>{_START}{field}{_END})", source))


def defect_of(shown: str, field: str, unsafe: str) -> str:
    """What is wrong with a hostile text as it stands in a source; empty where it is shown as it is, and as text."""
    if raw := sorted(set(unsafe + "\u202e") & set(shown)):
        return f"{field} stands there with {raw} as they are: {shown!r}"
    wanted = visible(evil(field))
    # nested values are shown as JSON, and what an error quotes as Python does
    forms = (wanted, json.dumps(wanted, ensure_ascii=False)[1:-1], repr(evil(field))[1:-1])
    return "" if html.unescape(shown) in forms else f"{field} is shown as {html.unescape(shown)!r}, not {wanted!r}"


def hostile_run(folder: Path, *, of_rates: bool = False) -> Path:
    """A failed run with a gate, every text of it hostile; ``of_rates`` decides by a rate, where lower is better."""
    decided = _decision()
    if of_rates:
        decided = replace(decided, rule=replace(decided.rule, direction="lower"), verdict="chosen")
    return samples.write_run(
        folder, run=_record(), decided=decided, gated=_gate(), summed=_summary(), executed=_notebook()
    )


def bare_run(folder: Path) -> Path:
    """A run without a name, whose decision and summary cannot be read: only its gate speaks."""
    hostile_run(folder)
    record = {name: value for name, value in _record().items() if name != "notebook"}
    (folder / "run.json").write_text(json.dumps(record))
    for name, strange in (("decision", "strange-field"), ("summary", "foreign-field")):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {evil(strange): 1}))
    return folder


def _record() -> dict[str, Any]:
    parameters = {
        "evalset": evil("evalset"), evil("parameter-name"): evil("parameter"), "systems": [evil("system")],
    }  # fmt: skip
    check = {name: evil(f"check-{name}") for name in ("began", "place", "rests_on")} | {"asked": [evil("check-asked")]}
    cell = {"number": 1, "tag": evil("cell-tag"), "status": evil("cell-status"), "seconds": 1.0}
    return samples.run_record() | {
        "status": evil("run-status"), "error": evil("error"), "exit_reason": evil("exit-reason"),
        "notebook": evil("notebook"), "profile": evil("profile"), "parameters": parameters, "gate": evil("run-gate"),
        "started": evil("started"), "ended": evil("ended"), "seed": evil("seed"), "process": evil("process"),
        "report_error": evil("report-error"), "fingerprint": {"inputs": evil("run-input")}, "cells": [cell],
        "check": check,
    }  # fmt: skip


def _decision() -> Decision:
    reference, arm = evil("reference"), evil("arm")
    return Decision(
        notebook=evil("decision-notebook"),
        question=evil("purpose"),
        profile=evil("decision-profile"),
        rule=replace(
            samples.RULE,
            metric=evil("metric"),
            objective=evil("objective"),
            reference=reference,
            anchor=evil("anchor"),
            point_usd=1.0,
            max_usd_per_1k=9.0,
        ),
        verdict="inconclusive",
        arm=arm,
        parameters={evil("arm-parameter-name"): evil("arm-parameter")},
        sentence=f"{evil('headline')}: {evil('sentence')}",
        claims=_claims(reference, arm, evil("other")),
        n_items=300,
        n_clusters=104,
        items_needed=(9, 20),
        test_uses=3,
        fingerprint=Fingerprint({evil("input-name"): evil("input")}, {evil("provenance-name"): evil("provenance")}),
        settings={evil("setting-name"): evil("setting")},
        notes=(evil("decision-note"),),
        chosen_share={arm: 0.3, evil("share"): 0.2, "": 0.5},
        evalset=evil("decided-evalset"),
        accepted_because=evil("reason"),
        accepted_on=evil("accepted-on"),
    )


def _claims(*arms: str) -> tuple[Claim, ...]:
    """Claims of the arm in use, of the decided one and of an open one, each compared with the two others."""
    out = []
    for arm, sample in zip(arms, samples.claims(), strict=False):
        pair = sample.pairs[0]
        claim = replace(
            sample,
            arm=arm,
            parameters={evil("claim-parameter-name"): evil("claim-parameter")},
            note=evil("note"),
            best=evil("best"),
            items_needed=(9, 20),
            spread=(0.6, 0.7),
            pairs=tuple(replace(pair, other=other) for other in arms if other != arm),
        )
        out.append(claim)
    # a note stands in the place of the number of questions
    return *out[:2], replace(out[2], status="inconclusive", items_needed=None, note=evil("open-note"))


def _gate() -> dict[str, Any]:
    claim = {"kind": "sameness", "arm": evil("claim-arm"), "status": "broken",
             "sentence": evil("claim-sentence"), "changed": [evil("changed")]}  # fmt: skip
    return {"status": "broken", "exit_code": 1, "sentence": evil("gate-sentence"), "claims": [claim]}


def _summary() -> Summary:
    sample = samples.summary()
    case = ItemCase(
        item_id=evil("item"),
        question=evil("question"),
        expected=(evil("expected"),),
        returned={evil("case-arm"): (evil("document"),)},
        values={evil("case-arm"): 0.5},
        note=evil("case-note"),
    )
    section = Section(
        evil("section"), evil("section-note"), (evil("first-column"), evil("column")),
        ((evil("row-head"), evil("cell")),),
    )  # fmt: skip
    weeks = [WeekRow(evil("group"), week, 40, 400.0, 0.8, 0.7, 0.9) for week in ("2026-06-01", evil("week"))]
    return replace(
        sample,
        title=evil("title"),
        metric=evil("metric"),
        warnings=(evil("warning"),),
        frontier=tuple(replace(p, arm=evil("point"), split=evil("s")) for p in sample.frontier[1:2]),
        slices=tuple(
            replace(r, slice=evil("slice"), value=evil("tenant"), arm=evil("slice-arm")) for r in sample.slices[:1]
        ),
        changed=(case,),
        regressions=(case,),
        regressions_title=evil("regressions-title"),
        would_change=(evil("would-change"),),
        sections=(section, replace(section, title=PRODUCTION)),
        cost_note=evil("cost-note"),
        assumed={VOLUME: evil("assumed"), evil("assumed-name"): evil("assumed")},
        weeks=tuple(weeks),
    )


def _notebook() -> dict[str, Any]:
    book = samples.notebook()
    book["cells"][2]["source"] = evil("source")
    return book
