#!/usr/bin/env bash
# pydantic-evals 2.62.0: where the truth is a word, such as "pass" and "fail", every case is a positive, and the area under
# the precision-recall curve is a perfect 1.0 for any judge, also for one that has it the wrong way round.
#
# A good guess says that positive_from="labels", which by its type only ever is a text, tells two labels apart, or asks
# which of them is the positive one. PrecisionRecallEvaluator takes bool(label): "fail", "no" and "False" are as true as
# "pass", only "" is not. positive_from="expected_output" does the same with words. With nothing to be precise about
# the precision is 1 at each threshold, and the judge passes whatever gate the area is for. ROCAUCEvaluator of the same
# data gives NaN, which no threshold refuses either. Truth as a bool, by an assertion or in expected_output, is read right.
#
# Known: no report was found.
#
# Seen: area 1.0 of a judge that is always right and of one that is always wrong, by labels and by expected_output; 1.0
# and .3044 with booleans.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "pydantic-evals==2.62.0" "pydantic-ai-slim==2.62.0"
"$work/venv/bin/python" -W ignore - <<'PY'
from dataclasses import dataclass
from importlib.metadata import version

from pydantic_evals import Case, Dataset
from pydantic_evals.evaluators import Evaluator, PrecisionRecallEvaluator


@dataclass
class Judge(Evaluator):
    def evaluate(self, ctx):
        return {"confidence": ctx.output, "grade": ctx.metadata}


def area(right: bool, source: str, words: bool = True) -> float:
    truth = [i >= 5 for i in range(10)]
    names = ["pass" if yes else "fail" for yes in truth]
    cases = [
        Case(name=f"c{i}", inputs=i, expected_output=names[i] if words else truth[i], metadata=names[i])
        for i in range(10)
    ]
    curve = PrecisionRecallEvaluator(score_key="confidence", positive_from=source, positive_key="grade")
    dataset = Dataset(name="judge", cases=cases, evaluators=[Judge()], report_evaluators=[curve])
    report = dataset.evaluate_sync(lambda i: i / 10 if right else 1 - i / 10, progress=False)
    return round(next(a.value for a in report.analyses if a.type == "scalar"), 4)


print("pydantic-evals", version("pydantic-evals"))
for source in ("labels", "expected_output"):
    seen = area(True, source), area(False, source)
    print(f"{source}, 'pass' and 'fail': right judge {seen[0]}, wrong judge {seen[1]}")
    assert seen == (1.0, 1.0), "words are told apart, or refused, now"
bools = area(True, "expected_output", words=False), area(False, "expected_output", words=False)
print("expected_output, True and False: right judge", bools[0], "wrong judge", bools[1])
assert bools[0] == 1.0 and bools[1] < 0.5
PY
