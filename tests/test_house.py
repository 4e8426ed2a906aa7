"""The floor plan: no name stands for two things, and a room with one visitor says why it is not part of his."""

import ast
import importlib
import inspect
from collections import Counter
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

from tests.benchmarks.house import classes, modules, single_importers


@cache
def trees() -> dict[str, ast.Module]:
    """Every module of the package, read when a test asks: whoever only collects tests need not."""
    return modules(Path(__file__).parents[1])


# A folder a question has its notebook; evalset is the main module of its own.
TWICE = {"notebook", "tables", "evalset"}
# Modules that exactly one other imports, with the reason for a room of their own.
REASONS = {
    "caching.canaries": "what is sent through real caches, by scope: read when a scope gains a field",
    "caching.scope_index": "vectors in memory: the one part of a cache that is measured alone",
    "caching.invalidations": "what keeps an answer out that comes too late: read when it is about order and clocks",
    "caching.near_repeats": "a command",
    "caching.prompt_cache": "vendors' rules, dated, and their simulation",
    "caching.accepted_cache": "a decision at work: what is refused when inputs moved",
    "caching.prompt_cache_tables": "tables of the vendors' caches, beside those of our own",
    "costs.focus": "a file format of others",
    "evalset.check": "a command",
    "evalset.docstrings": "a script that another Python runs",
    "evalset.imports.openai_litellm_langfuse_mlflow": "formats of others: logs of production",
    "evalset.imports.promptfoo_inspect_lm_eval": "formats of others: logs of tests",
    "inference.hosted_connections": "who may answer whom: read alone when litellm changes",
    "inference.local_models": "the engine that runs models here: read alone when llama.cpp changes",
    "inference.model_graph": "a file format of others",
    "orchestration.jobs": "what workers do, behind the one entrance",
    "pipeline.losses": "why an answer is wrong, read from any record of the flow",
    "quality.label_view": "the only part that knows widgets",
    "quality.production_sheet": "a command",
    "quality.subgroups": "a claim of its own, public to scripts",
    "project.document_databases": "tables that are no files",
    "project.dry_run": "a command",
    "project.verify_decision": "a command",
    "project.document_pages": "files of pages, which are not tables",
    "project.new_evalset": "a command",
    "quality.production": "graded calls: read when it is about production, and what the notebook shows of it",
    "inference.ray_embedding": "Ray: read alone when it changes",
    "reports.page": "made by the runner, and again by hand",
    "retrieval.ask_arms": "arms, questions, scores: what the notebook calls and the tests ask",
    "retrieval.postgres": "the store in PostgreSQL: read alone when pgvector changes",
    "retrieval.postgres_session": "roles, policies and what a server lacks: read when it is about who may see what",
    "retrieval.scale": "a measurement that takes an hour",
    "routing.tables": "what the notebook shows",
    "runner.sweep": "notebooks as jobs: the part of the runner that knows flows",
    "runner.terminal": "the only part of the runner that knows a terminal",
    "stack.tables": "what the notebook shows",
    "telemetry.export": "the SDK, which a light install lacks; loaded when the first span is made",
    "telemetry.waterfall": "a trace as a page",
}


def test_all_html_of_a_cell_s_output_is_made_fit_for_a_cell() -> None:
    nodes = [(name, node) for name, tree in trees().items() for node in ast.walk(tree)]
    defined = [(name, node) for name, node in nodes if isinstance(node, ast.FunctionDef)]
    functions = [(name, node) for name, node in defined if node.name in ("_repr_html_", "_repr_mimebundle_")]
    assert len(functions) > 8
    bare = [name for name, node in functions if "cell_html(" not in ast.unparse(node)]
    assert bare == [], "JupyterLab sets what stands between two dollars as a formula"


def test_no_file_stem_stands_twice() -> None:
    stems = Counter(name.rpartition(".")[2] for name, tree in trees().items() if tree.body)
    assert {stem for stem, n in stems.items() if n > 1} <= TWICE


def test_no_class_name_stands_twice() -> None:
    assert {name: found for name, found in classes(trees()).items() if len(found) > 1} == {}


def test_a_module_with_one_importer_has_a_reason() -> None:
    found = {name.removeprefix("workbench.") for name in single_importers(trees())} - {"runner"}
    assert found <= REASONS.keys(), "merge it into its importer, or say why not"
    assert REASONS.keys() <= found, "no longer needed"


def test_values_that_hold_arrays_compare_by_identity() -> None:
    """Field by field `==` of an array is an array, which is neither true nor false; tuples hide that until 3.13."""
    found = []
    for name in (name for name in trees() if not name.endswith("__main__")):
        classes_of = [c for _, c in inspect.getmembers(importlib.import_module(name), inspect.isclass)]
        for value in (c for c in classes_of if c.__module__ == name and is_dataclass(c)):
            kinds = [str(field.type) for field in fields(value) if "Callable" not in str(field.type)]
            if any(word in kind for kind in kinds for word in ("ndarray", "DataFrame")):
                found.append((f"{name}.{value.__name__}", value.__eq__ is object.__eq__))
    assert ("workbench.caching.stream_replay.ShadowHits", True) in found
    assert [name for name, by_identity in found if not by_identity] == []
