#!/usr/bin/env bash
# lm-eval 0.4.13: with one --use_cache path for two models, the second is never asked and gets the first one's scores.
#
# A good guess says that "Path to cache model responses" is a folder for a sweep, as one cache serves all models in other
# tools. The key is the kind of request and its text; who was asked is not in it. The results file names the second
# model and has the first one's numbers, and of two models that score alike the cheaper one is chosen. Give each model,
# and each setting of it, a path of its own.
#
# Known: EleutherAI/lm-evaluation-harness#2715 and #4063, open.
#
# Seen: a model that says "yes" and one that says "no" both have exact_match 1.0 by one cache, the second without a
# request; 0.0 by a cache of its own.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "lm-eval==0.4.13" "datasets==5.2.0"
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 "$work/venv/bin/python" -W ignore - 2>said.txt <<'PY' || { cat said.txt; exit 1; }
import json
from importlib.metadata import version

import lm_eval
from lm_eval.api.model import LM


class Says(LM):
    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, 0

    def generate_until(self, requests, **_):
        self.asked += len(requests)
        return [self.answer] * len(requests)

    def loglikelihood(self, requests, **_):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


with open("questions.jsonl", "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"question": f"Is {i} a number?", "answer": "yes"}) + "\n" for i in range(4))
TASK = {
    "task": "made_up",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "questions.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "exact_match"}],
}


def scored(answer, cache):
    model = Says(answer)
    found = lm_eval.simple_evaluate(model=model, tasks=[TASK], use_cache=cache, bootstrap_iters=0)
    return float(found["results"]["made_up"]["exact_match,none"]), model.asked


first, second, alone = scored("yes", "shared"), scored("no", "shared"), scored("no", "alone")
print("lm-eval", version("lm-eval"), "(exact_match, requests)")
print("says yes:", first, "| says no, the same cache:", second, "| says no, a cache of its own:", alone)
assert (first, second) == ((1.0, 4), (1.0, 0)), "the key has the model in it now"
assert alone == (0.0, 4)
PY
