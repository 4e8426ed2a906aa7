"""Values that no run can use: refused, whichever parameter they are given to, before a kernel starts."""

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from typer.testing import CliRunner

from workbench.cli import app
from workbench.codec import RANGE
from workbench.config import Settings, SystemClock, load_settings
from workbench.errors import ConfigError, EvalsetError
from workbench.evalset.gates import NOTEBOOKS
from workbench.evaluation.start import _experiment_class, check_parameters, examined_experiment
from workbench.runner.headless import Job, find_notebook, planned_headless_job, run_headless
from workbench.runner.parameters import declared_parameters

ROOT = Path(__file__).parents[2]
NUMBERS: dict[str, tuple[Any, ...]] = {
    "int": (-1, 10**12 + 1, 10**30, "nan", "1.5", True),
    "float": (-1.0, -1e-9, 1e300, "nan", "inf", "-inf", float("nan"), float("inf"), "x"),
}


def project(runs: Path) -> Settings:
    return replace(load_settings({}, ROOT), runs=runs)


def bad_values() -> Iterator[tuple[str, str, Any]]:
    for notebook in NOTEBOOKS:
        for name, declared in declared_parameters(find_notebook(project(ROOT / "runs"), notebook)).items():
            if name == "warmup":  # as large as you like: how many requests there are is known with the stream
                yield from ((notebook, name, value) for value in (-1, "nan"))
                continue
            yield from ((notebook, name, value) for value in NUMBERS.get(declared.type, ()))
            if declared.type == "list[str]":
                first = next(iter(declared.default), "smollm_word")
                yield from ((notebook, name, value) for value in ([first, first], [""], [*declared.default, " "]))


@pytest.mark.parametrize(("notebook", "name", "value"), list(bad_values()))
def test_a_number_out_of_range_and_a_list_with_nothing_or_twins_are_refused_by_the_parameters_name(
    tmp_path: Path, notebook: str, name: str, value: Any
) -> None:
    settings = project(tmp_path / "runs")
    with pytest.raises(ConfigError) as refused:
        planned_headless_job(Job(notebook, "ci", {name: value}), settings)
    told = str(refused.value)
    wrong = value[-1] if isinstance(value, list) else value
    assert repr(wrong)[:20] in told or "at least one and all different" in told
    assert name.rstrip("s") in told or name[:4] in told or repr(wrong) in told


@pytest.mark.parametrize(
    ("notebook", "name", "value", "says"),
    [
        ("routing", "dev_share", 1.5, "dev_share = 1.5: a number above 0 and below 1 is expected"),
        ("routing", "dev_share", 0.0, "above 0 and below 1"),
        ("routing", "give_up", 1.5, "from 0 to 1"),
        ("routing", "draws", 0, "draws = 0: a number from 2 to 100,000"),
        ("retrieval", "depth", 5, "depth = 5: a number from 10 to 10,000"),
        ("retrieval", "rebuilds", 2, "from 8 to 1,000, or 0, is expected"),
        ("retrieval", "scale_rows", 10, "from 1,000 to 1,000,000, or 0, is expected"),
        ("quality", "labelled", 1.0, "above 0 and below 1"),
        ("costs", "nameless_limit", 1.5, "from 0 to 1"),
        ("costs", "shown", 0, "shown = 0"),
        ("pipeline", "models", [], "models needs at least one value"),
        ("pipeline", "models", ["a", "b", "a"], "models must be all different, and names 'a' twice"),
        ("stack", "caches", [], "caches needs at least one value"),
        ("stack", "retrievals", [""], "retrievals has an entry without a name, '': leave it out"),
    ],
)
def test_what_is_refused_says_what_was_asked_and_what_is_expected(
    notebook: str, name: str, value: Any, says: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        check_parameters(notebook, {name: value})
    assert says in str(refused.value)


@pytest.mark.parametrize("notebook", [name for name in NOTEBOOKS if name != "costs"])
@pytest.mark.parametrize("evalset", ["docs", "../docs_qa", "", " "])
def test_an_evalset_that_is_not_there_is_refused_before_a_kernel_starts(
    tmp_path: Path, notebook: str, evalset: str
) -> None:
    settings = project(tmp_path / "runs")
    with pytest.raises(EvalsetError) as refused:
        run_headless([Job(notebook, "ci", {"evalset": evalset})], settings=settings, clock=SystemClock())
    assert repr(evalset) in str(refused.value)
    assert "docs_qa" in str(refused.value)
    assert not settings.runs.exists()


def test_an_evalset_that_lacks_what_a_notebook_reads_is_refused_before_a_kernel_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBENCH_ROOT", str(ROOT))
    monkeypatch.setenv("WORKBENCH_RUNS", str(tmp_path / "runs"))
    done = CliRunner().invoke(app, ["run", "routing", "--evalset", "caching_demo"])
    assert done.exit_code == 3
    assert "evalset caching_demo has no outcomes.parquet; make one with: workbench import outcomes" in done.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_number_that_a_notebook_takes_has_a_range_that_its_default_fits(notebook: str) -> None:
    kind = _experiment_class(notebook).parameters_class
    numbers = [f for f in fields(kind) if get_type_hints(kind)[f.name] in (int, float)]
    assert numbers
    assert [f.name for f in numbers if RANGE not in f.metadata] == []
    assert [problem for f in numbers if (problem := f.metadata[RANGE].problem(f.default))] == []


@pytest.mark.parametrize(
    ("notebook", "given"),
    [
        ("retrieval", {"rebuilds": 0, "depth": 10, "scale_rows": 1000, "seed": 2**32 - 1}),
        ("routing", {"policies": [], "give_up": 1.0, "min_saving": 0.0}),
        ("caching", {"guard": [], "warmup": 0, "call_usd": 0.0}),
        ("quality", {"judges": [], "overlap": []}),
        ("costs", {"nameless_limit": 1.0, "shown": 1}),
        ("stack", {"warmup": 0, "retrievals": []}),
    ],
)
def test_the_ends_of_a_range_and_empty_lists_that_mean_none_are_taken(
    tmp_path: Path, notebook: str, given: dict[str, Any]
) -> None:
    used = planned_headless_job(Job(notebook, "ci", given), project(tmp_path / "runs")).parameters
    assert {name: used[name] for name in given} == given


def refused_on_docs_qa(tmp_path: Path, notebook: str, **given: Any) -> str:
    settings = project(tmp_path / "runs")
    job = planned_headless_job(Job(notebook, "ci", given), settings)
    with pytest.raises(ConfigError) as refused:
        examined_experiment(notebook, job.parameters, settings)
    assert not settings.runs.exists()
    return str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("notebook", "known"),
    [
        ("retrieval", "whole · hybrid_weighted"),
        ("routing", "by_feature"),
        ("pipeline", "smollm2-135m@bare"),
        ("quality", "smollm_word"),
        ("stack", "bare · smollm2-135m · off"),
    ],
)
def test_a_reference_that_is_no_arm_is_refused_before_anything_is_embedded(
    tmp_path: Path, notebook: str, known: str
) -> None:
    told = refused_on_docs_qa(tmp_path, notebook, reference="no such arm")
    assert told.startswith("reference 'no such arm' is not an arm of this run; there are ")
    assert known in told
    settings = project(tmp_path / "runs")
    assert examined_experiment(
        notebook, planned_headless_job(Job(notebook, "ci", {"reference": known}), settings).parameters, settings
    )


@pytest.mark.slow
def test_a_model_whose_verdicts_are_neither_recorded_nor_paid_for_is_refused_before_anything_is_embedded(
    tmp_path: Path,
) -> None:
    verifiers = ["model:local/smollm2-135m"]
    told = refused_on_docs_qa(tmp_path, "caching", verifiers=verifiers)
    assert "lacks recorded verdicts on" in told
    assert "found max_cost_usd=0. Give at least that" in told
    assert "found max_cost_usd=1e-06" in refused_on_docs_qa(
        tmp_path, "caching", verifiers=verifiers, max_cost_usd=0.000001
    )
    settings = project(tmp_path / "runs")
    paid = planned_headless_job(Job("caching", "ci", {"verifiers": verifiers, "max_cost_usd": 1.0}), settings)
    assert examined_experiment("caching", paid.parameters, settings)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"since": "2026-11-10", "until": "2026-11-01"}, "since 2026-11-10 is not before until 2026-11-01"),
        ({"instead": ["a=no/such"]}, "unknown model 'no/such'"),
        ({"instead": ["a=openai/gpt-5.4-mini", "a=openai/gpt-5.4-nano"]}, "asks another in the place of each model"),
    ],
)
def test_a_period_of_nothing_and_models_that_cannot_be_priced_are_refused(
    tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    assert says in refused_on_docs_qa(tmp_path, "costs", **given)
