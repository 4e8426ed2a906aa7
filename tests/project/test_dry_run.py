"""What a run would take, told before anything is started."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.command_line import workbench
from workbench.config import SystemClock, load_settings
from workbench.errors import ConfigError, WorkbenchError
from workbench.evalset.evalset import load_evalset
from workbench.evaluation.run_record import close_run, open_run
from workbench.evaluation.start import start
from workbench.inference.encoders import MiniLM
from workbench.project.dry_run import foresee_run
from workbench.project.init_project import init_project
from workbench.retrieval.arms import CHUNKERS
from workbench.retrieval.ingest import IngestVectorCache
from workbench.runner import Job

HOSTED = "litellm:openai/text-embedding-3-small"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    init_project(tmp_path, ci="none")
    return tmp_path


def told(project: Path, **parameters: object) -> str:
    settings = load_settings({}, start=project)
    return "\n".join(foresee_run(settings, Job("retrieval", parameters={"chunkers": "whole"} | parameters)))


def test_a_single_question_is_told_in_the_singular(project: Path) -> None:
    qrels = project / "evalsets" / "sample" / "qrels" / "test.tsv"
    qrels.write_text("".join(qrels.read_text(encoding="utf-8").splitlines(keepends=True)[:2]), encoding="utf-8")
    assert "then 1 test question with the" in told(project)


def test_first_run_is_foreseen_and_nothing_is_written(project: Path) -> None:
    before = sorted(project.rglob("*"))
    said = told(project)
    assert "to embed: 20 new texts of 20 chunks of whole, with minilm-int8:" in said
    assert "by 16 of them that were embedded just now\ncost: no dollars" in said
    evalset = load_evalset("sample", settings=load_settings({}, start=project))
    n_dev, n_test = (len(evalset.split(split).queries) for split in ("dev", "test"))
    assert f"{n_dev} dev questions with each of 14 arms (4 of them fitted first), then {n_test} test questions" in said
    assert "is not known: no run of this kind is here yet" in said
    assert "no verdict" not in said
    new = [path for path in project.rglob("*") if path not in before and path.is_file()]
    assert {path.parent.name for path in new} <= {"weights"}  # the tokenizer's file, which every embedding needs


def test_too_few_questions_for_a_verdict_are_told_before_the_run(project: Path) -> None:
    qrels = project / "evalsets" / "sample" / "qrels" / "test.tsv"
    qrels.write_text("".join(qrels.read_text(encoding="utf-8").splitlines(keepends=True)[:6]), encoding="utf-8")
    assert "in dev and 5 in test, 10 and 30 are needed; label more first" in told(project)


def test_what_is_embedded_already_and_what_the_last_run_took_is_told(project: Path) -> None:
    settings = load_settings({}, start=project)
    encoder = MiniLM(settings.cache / "weights")
    documents = load_evalset("sample", settings=settings).documents
    texts = [c.text for d in documents[:19] for c in CHUNKERS["whole"].chunk(d, encoder)]
    IngestVectorCache(settings.cache / "vectors.sqlite").embed(texts, encoder)
    record = open_run(settings, "retrieval", profile="ci", parameters={"evalset": "sample"}, clock=SystemClock())
    close_run(record, SystemClock(), status="done", gate="new")
    said = told(project)
    assert "to embed: 1 new text of 20 chunks" in said
    assert f"time: the last run of this kind, {record.run_dir.name}, took 0 s in all" in said


def test_a_hosted_encoder_is_priced_and_not_asked(project: Path) -> None:
    prices = Path(__file__).parents[2] / "workbench/inference/prices.toml"
    text = prices.read_text(encoding="utf-8") + f'\n[operations."embed_query:{HOSTED}"]\nusd = 0.0000002\n'
    (project / "prices.toml").write_text(text, encoding="utf-8")
    said = told(project, embedder=HOSTED)
    assert "cost: about $" in said
    assert "tokens of 4 characters at its price" in said


@pytest.mark.parametrize(
    ("notebook", "lacks"),
    [("routing", "prompts.toml"), ("pipeline", "prompts.toml"), ("quality", "judges.toml"), ("stack", "traffic.toml")],
)
def test_answers_that_nobody_recorded_are_not_said_to_be_there(project: Path, notebook: str, lacks: str) -> None:
    settings = load_settings({}, start=project)
    with pytest.raises(WorkbenchError, match=re.escape(lacks)):
        list(foresee_run(settings, Job(notebook, parameters={"evalset": "sample"})))


def test_recordings_that_are_missing_are_told_with_the_command_that_makes_them(project: Path) -> None:
    text = (Path(__file__).parents[2] / "evalsets/docs_qa/prompts.toml").read_text(encoding="utf-8")
    (project / "evalsets" / "sample" / "prompts.toml").write_text(text, encoding="utf-8")
    settings = load_settings({}, start=project)
    for notebook in ("routing", "pipeline"):
        with pytest.raises(ConfigError, match=r"are recorded for 'sample'.*workbench record sample"):
            list(foresee_run(settings, Job(notebook, parameters={"evalset": "sample"})))


REFUSED = {
    "retrieval": [
        {"systems": ["ours=nope:search@1"]},
        {"systems": ["ours=nope.trec@1"]},
        {"systems": ["ours=json:nope@1"]},
        {"embedders": ["litellm:openai/nobody-priced-it"]},
    ],
    "routing": [{"policies": ["nope:Router"]}, {"embedder": "litellm:openai/nobody-priced-it"}],
    "caching": [
        {"verifiers": ["nope:check@1"]},
        {"verifiers": ["json:nope@1"]},
        {"verifiers": ["model:nobody/priced-it"]},
        {"verifiers": ["later:model:nobody/priced-it"]},
        {"verifiers": ["later:nope:check@1"]},
        {"warmup": 1_000_000},
        {"embedder": "litellm:openai/nobody-priced-it"},
    ],
    "pipeline": [{"models": ["nope"]}, {"contexts": ["nope"]}, {"checks": ["nope"]}, {}],
    "quality": [{"judges": ["nope"]}, {"production": "nope.jsonl"}, {"overlap": ["nope"]}],
    "stack": [{"contexts": ["nope"]}, {"routes": ["nope"]}, {"caches": ["nope"]}, {"warmup": 1_000_000}],
    "costs": [
        {"since": "yesterday"},
        {"before": "2026-02-01", "since": "2026-01-01"},
        {"instead": ["nope"]},
        {"revenue": "nope.csv"},
        {"good": "nope.csv"},
        {"invoice": ["nope.csv"]},
    ],
}


SMALL = {"routing": "routing_demo", "caching": "caching_demo"}  # the others need what docs_qa alone has recorded


@pytest.mark.parametrize(("notebook", "given"), [(name, each) for name, all_of in REFUSED.items() for each in all_of])
def test_a_dry_run_refuses_in_the_words_of_the_run_before_a_kernel_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, notebook: str, given: dict[str, object]
) -> None:
    root, cache = Path(__file__).parents[2], load_settings(start=Path(__file__)).cache
    if notebook in SMALL:
        given = {"evalset": SMALL[notebook]} | given
    if notebook == "pipeline" and not given:  # answers that are gone
        given = {"evalset": str(tmp_path / "docs_qa")}
        shutil.copytree(root / "evalsets" / "docs_qa", tmp_path / "docs_qa", ignore=shutil.ignore_patterns("local-*"))
    for name in [name for name in os.environ if name.startswith("WORKBENCH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORKBENCH_CACHE", str(cache))
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(root)
    with pytest.raises(WorkbenchError) as of_run:
        start(notebook, **given)
    with pytest.raises(WorkbenchError) as of_dry_run:
        list(foresee_run(load_settings(), Job(notebook, parameters=given)))
    assert (type(of_dry_run.value), str(of_dry_run.value)) == (type(of_run.value), str(of_run.value))
    assert not (tmp_path / "runs").exists()


def test_what_a_run_would_refuse_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'chunker'"):
        told(project, chunker="whole")
    done = workbench(load_settings({}, start=project), "run", "retrieval", "--dry-run", "--sweep", "seed=1,2")
    assert (done.returncode, "--dry-run looks at one job" in done.stderr) == (3, True)
