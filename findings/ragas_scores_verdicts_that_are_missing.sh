#!/usr/bin/env bash
# ragas 0.4.3: a verdict that is missing raises the score, and a metric with two judges goes on with one of them.
#
# A good guess says that a judge who answers about one of three statements has not judged the answer. Faithfulness
# divides by the verdicts that came: 1 verdict of 3 statements, "true", is 1.0, as if all three were. AnswerAccuracy
# asks two prompts and takes the mean; an error of one of them, such as a spent budget, is tried five times, then
# swallowed, and the score is that of the other alone. Context recall takes any integer: 5 is a recall of 5.0.
#
# Seen: 1.0, 1.0 with five failed calls, and 5.0; none raises, and the result does not tell.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "ragas==0.4.3" "langchain-community>=0.4,<0.4.2" \
  "rouge-score>=0.1.2"
cd "$work"
RAGAS_DO_NOT_TRACK=true LITELLM_LOCAL_MODEL_COST_MAP=True "$work/venv/bin/python" - <<'PY'
import asyncio
import importlib.metadata

from ragas.llms.base import InstructorBaseRagasLLM
from ragas.metrics.collections import AnswerAccuracy, ContextRecall, Faithfulness

failed = []


class Judge(InstructorBaseRagasLLM):
    def generate(self, prompt, response_model):
        name = response_model.__name__
        if name == "StatementGeneratorOutput":
            return response_model(statements=["one", "two", "three"])
        if name == "NLIStatementOutput":
            return response_model(statements=[{"statement": "one", "reason": "r", "verdict": 1}])
        if name == "ContextRecallOutput":
            return response_model(classifications=[{"statement": "one", "reason": "r", "attributed": 5}])
        if "world class" in prompt:
            return response_model(rating=4)
        failed.append(prompt)
        raise RuntimeError("the budget is spent")

    async def agenerate(self, prompt, response_model):
        return self.generate(prompt, response_model)


def score(metric, **given):
    return asyncio.run(metric(llm=Judge()).ascore(user_input="q", **given)).value


faithful = score(Faithfulness, response="a", retrieved_contexts=["c"])
accurate = score(AnswerAccuracy, response="a", reference="r")
recalled = score(ContextRecall, reference="r", retrieved_contexts=["c"])
print("ragas", importlib.metadata.version("ragas"))
print("faithfulness, 1 verdict on 3 statements:", faithful)
print("answer accuracy, one of two judges failed", len(failed), "times:", accurate)
print("context recall of a verdict 5:", recalled)
assert faithful == 1.0, "missing verdicts now count"
assert accurate == 1.0 and len(failed) == 5, "a failed judge is no longer left out"
assert recalled == 5.0, "a verdict beside 0 and 1 is now refused"
PY
