"""Ingestion as a job: the same table as a plain ingestion makes, whatever happens to the process on the way."""

from dataclasses import replace

import pytest

from tests.evalset.small_evalset import settings_in
from tests.orchestration.small_flows import LOG
from tests.retrieval.ingest_job import KILLS, clean, survive_kills
from tests.retrieval.tiny import write_evalset
from workbench.orchestration.flows import Flows
from workbench.records import parameters_of
from workbench.retrieval.arms import make_arms
from workbench.retrieval.ingestion import ingest_evalset
from workbench.testing import HashEmbedder, WordTokenizer

N = 800  # documents; tests/benchmarks/bench_ingestion_kills.py has 10,000


def test_an_evalset_is_ingested_by_a_job_that_tells_how_far_it_is(tmp_path):
    folder = write_evalset(tmp_path / "evalsets" / "tiny")
    settings = replace(settings_in(tmp_path), state_url=f"sqlite:///{tmp_path / 'state.sqlite'}")
    arm = parameters_of(make_arms(["whole"], ["hybrid_rrf"])[0])
    encoders = {"encoders": lambda name: (HashEmbedder(), WordTokenizer())}
    with Flows.open(settings, tools=encoders) as flows:
        run_id = flows.submit(ingest_evalset, folder.name, arm)
        flows.work(when_done=True)
        assert flows.wait(run_id)["added"] == 80
        assert flows.jobs().rows[0][2] == "documents 80/80"
        assert flows.run(ingest_evalset, folder.name, arm, key="again")["unchanged"] == 80
        assert flows.replay(run_id).result["added"] == 80  # from the record: nothing is ingested


@pytest.mark.slow
def test_five_kills_and_a_document_that_changes_leave_the_table_of_a_clean_ingestion(tmp_path, monkeypatch):
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    survived = survive_kills(tmp_path, N, seed=3)
    assert survived.status == "done"
    assert survived.rows == clean(tmp_path / "clean", N)
    assert len(survived.killed_after) == KILLS
    assert survived.unexplained() == {}, "more was embedded twice than the batch in flight at each kill"
