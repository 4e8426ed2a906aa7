"""Scores that ragas defines: how much of a question is copied from the document it should find."""

import asyncio
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EchoScore:
    """ROUGE-L of a question against a line, both in [0, 1].

    ``precision`` is the share of the question's words that stand in the line in the same order,
    ``recall`` the share of the line's words that do in the question.
    """

    precision: float
    recall: float


def echo_scores(pairs: Sequence[tuple[str, str]]) -> list[EchoScore]:
    """ROUGE-L (Lin 2004) of each (question, line), by ragas with word stems; offline, no model.

    Works inside the running loop of a notebook too: ragas scores asynchronously, in a thread of its own here.
    The first call imports ragas (about 4 s); a pair costs about 10 ms.
    """
    if not pairs:
        return []
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, _rouge(pairs)).result()


async def _rouge(pairs: Sequence[tuple[str, str]]) -> list[EchoScore]:
    # ragas must neither fetch a price list nor report its use
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    os.environ.setdefault("RAGAS_DO_NOT_TRACK", "true")
    from ragas.metrics import collections

    precision, recall = collections.RougeScore(mode="precision"), collections.RougeScore(mode="recall")
    return [
        EchoScore(
            (await precision.ascore(reference=line, response=question)).value,
            (await recall.ascore(reference=line, response=question)).value,
        )
        for question, line in pairs
    ]
