"""A run folder in which every text of others is hostile and tells its field, so that a report shows where it went."""

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.reports import samples
from workbench.evaluation.summary import ItemCase, Section, Summary
from workbench.records import Decision, Fingerprint
from workbench.rendering.escape import visible

_START = r"(?:<|&lt;|&#60;)b(?:\u202e|\[U\+202E\]|&#91;U\+202E&#93;) "
_END = r" x=.{1,80}?(?:\||&#124;)(?:\*|&#42;)"


def evil(name: str) -> str:
    """Text that is markup, ends an attribute, begins a reference and turns the writing direction; ``name`` tells it."""
    return f"<b\u202e {name} x='\"'>&|*"


def hostile_spans(source: str, field: str = "[a-z-]+", before: str = "") -> list[re.Match[str]]:
    """Hostile texts in a source, escaped or not (group ``shown``), of a field and behind a pattern."""
    return list(re.finditer(f"{before}(?P<shown>{_START}{field}{_END})", source))


def defect_of(shown: str, field: str, unsafe: str) -> str:
    """What is wrong with a hostile text as it stands in a source; empty where it is shown as it is, and as text."""
    if raw := sorted(set(unsafe + "\u202e") & set(shown)):
        return f"{field} stands there with {raw} as they are: {shown!r}"
    wanted = visible(evil(field))
    forms = (wanted, json.dumps(wanted, ensure_ascii=False)[1:-1])  # nested values are shown as JSON
    return "" if html.unescape(shown) in forms else f"{field} is shown as {html.unescape(shown)!r}, not {wanted!r}"


def hostile_run(folder: Path) -> Path:
    """A failed run with a gate, every text of it hostile."""
    return samples.write_run(
        folder, run=_record(), decided=_decision(), gated=_gate(), summed=_summary(), executed=_notebook()
    )


def _record() -> dict[str, Any]:
    parameters = {
        "evalset": evil("evalset"), evil("parameter-name"): evil("parameter"), "systems": [evil("system")],
    }  # fmt: skip
    return samples.run_record() | {
        "status": evil("run-status"), "error": evil("error"), "exit_reason": evil("exit-reason"),
        "notebook": evil("notebook"), "profile": evil("profile"), "parameters": parameters, "gate": evil("run-gate"),
        "started": evil("started"), "ended": evil("ended"), "seed": evil("seed"),
    }  # fmt: skip


def _decision() -> Decision:
    names = {samples.REFERENCE: evil("reference"), samples.CHOSEN: evil("arm")}
    kept = [c.arm for c in samples.claims()[:3]]
    claims = tuple(
        replace(
            c,
            arm=names.get(c.arm, c.arm),
            best=names.get(c.best, c.best),
            pairs=tuple(replace(p, other=names.get(p.other, p.other)) for p in c.pairs if p.other in kept),
        )
        for c in samples.claims()[:3]
    )
    open_claim = replace(claims[1], note=evil("note"), status=evil("status"), items_needed=(9, 12))
    claims = (claims[0], open_claim, claims[2])
    return replace(
        samples.decision(),
        question=evil("purpose"),
        profile=evil("decision-profile"),
        rule=replace(
            samples.RULE,
            metric=evil("metric"),
            objective=evil("objective"),
            reference=names[samples.REFERENCE],
            anchor=evil("anchor"),
        ),
        verdict=evil("verdict"),
        arm=names[samples.CHOSEN],
        parameters={evil("arm-parameter-name"): evil("arm-parameter")},
        sentence=evil("sentence"),
        claims=claims,
        fingerprint=Fingerprint({evil("input-name"): evil("input")}, {evil("provenance-name"): evil("provenance")}),
        notes=(evil("beside"),),
        evalset=evil("evalset-name"),
        accepted_on="2026-11-20",
        accepted_because=evil("reason"),
    )


def _gate() -> dict[str, Any]:
    claim = {"kind": evil("claim-kind"), "arm": evil("claim-arm"), "status": evil("claim-status"),
             "sentence": evil("claim-sentence")}  # fmt: skip
    return {"status": evil("gate-status"), "exit_code": 1, "sentence": evil("gate-sentence"), "claims": [claim]}


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
    return replace(
        sample,
        title=evil("title"),
        metric=evil("metric"),
        warnings=(evil("warning"),),
        frontier=tuple(replace(p, arm=evil("point")) for p in sample.frontier[1:2]),
        slices=tuple(
            replace(r, slice=evil("slice"), value=evil("tenant"), arm=evil("slice-arm")) for r in sample.slices[:1]
        ),
        changed=(case,),
        regressions=(case,),
        regressions_title=evil("losses"),
        assumed={"requests_per_month": evil("assumed")},
        would_change=(evil("would-change"),),
        sections=(
            Section(
                evil("section"), evil("section-note"), (evil("first-column"), evil("column")),
                ((evil("row-head"), evil("cell")),),
            ),
        ),
        cost_note=evil("cost-note"),
    )  # fmt: skip


def _notebook() -> dict[str, Any]:
    book = samples.notebook()
    book["cells"][2]["source"] = evil("source")
    return book
