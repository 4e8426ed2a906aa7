"""Gates as JUnit XML, for build servers that show tests."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from workbench.evaluation.gate import GateClaim
from workbench.rendering.escape import visible
from workbench.reports.results import Results, load_results

_LIMIT = 2000


def junit_xml(runs: Mapping[str, Path]) -> str:
    """A suite for each named run folder: one test case for the run itself, and one a claim of its gate.

    ``broken`` fails and ``error`` errs. ``inconclusive`` and ``stale`` fail too, unless the policy made
    the gate's exit code 0: then they are skipped, so that the tests are never greener than the build. So are ``new``
    and ``not tested``, where nothing was checked.

    Raises
    ------
    RunError
        If there is no such folder.
    """
    root = ET.Element("testsuites")
    for name, run_dir in runs.items():
        _suite(root, _clean(name, 200), load_results(run_dir))
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, name: str, results: Results) -> None:
    suite = ET.SubElement(root, "testsuite", {"name": f"workbench.{name}"})
    if results.run.get("started"):
        suite.set("timestamp", _clean(results.run["started"], 40))
    _run_case(suite, name, results)
    for claim in results.gate.claims if results.gate else ():
        _claim_case(suite, name, claim, softened=results.gate is not None and results.gate.exit_code == 0)
    for kind, tag in (("tests", "testcase"), ("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(kind, str(sum(1 for _ in suite.iter(tag))))


def _run_case(suite: ET.Element, name: str, results: Results) -> None:
    case = ET.SubElement(suite, "testcase", {"classname": f"workbench.{name}", "name": "run"})
    if results.seconds is not None:
        case.set("time", f"{results.seconds:.3f}")
    if results.problems:
        message = _clean(" ".join(results.problems), _LIMIT)
        ET.SubElement(case, "error", {"type": _clean(results.status, 40), "message": message})


def _claim_case(suite: ET.Element, name: str, claim: GateClaim, *, softened: bool) -> None:
    where = {"classname": f"workbench.{name}.{_clean(claim.kind, 80)}", "name": _clean(claim.arm, 200)}
    case = ET.SubElement(suite, "testcase", where)
    if claim.status in ("holds", "identical"):
        return
    tag = "error" if claim.status == "error" else "failure"
    if claim.status in ("new", "not tested") or (claim.status in ("inconclusive", "stale") and softened):
        tag = "skipped"
    said = {"type": _clean(claim.status, 40), "message": _clean(claim.sentence, _LIMIT)}
    ET.SubElement(case, tag, said if tag != "skipped" else {"message": said["message"]})


def _clean(text: object, limit: int) -> str:
    return visible(str(text), limit)
