"""A corpus of one small library, built for real; the other version of it is a wheel made here."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from tests.evalset.small_evalset import settings_in
from workbench.errors import EvalsetError
from workbench.evalset.corpus import build_corpus, load_corpus, write_corpus_lock
from workbench.evalset.docstrings import NAMESPACES

RECIPE = Path(__file__).parents[2] / "evalsets" / "docs_qa" / "corpus.toml"


def recipe(version: str, library: str = "numpy") -> str:
    months = tomllib.loads(RECIPE.read_text(encoding="utf-8"))["released"]["numpy"]
    lines = "".join(f'"{v}" = "{month}"\n' for v, month in months.items())
    return f'kind = "docstrings"\n[libraries]\n{library} = "{version}"\n[released.{library}]\n{lines}'


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """An evalset folder whose corpus is the installed numpy, locked, and its cache."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "evalsets" / "numpy_only"
    folder.mkdir(parents=True)
    (folder / "corpus.toml").write_text(recipe(metadata.version("numpy")), encoding="utf-8")
    write_corpus_lock(folder, settings_in(root))
    return root


@pytest.fixture
def root(built, tmp_path):
    shutil.copytree(built, tmp_path / "root")
    return tmp_path / "root"


@pytest.fixture
def folder(root):
    return root / "evalsets" / "numpy_only"


def test_the_pinned_corpus_loads_and_is_read_from_the_cache_after_that(root, folder, monkeypatch):
    documents, manifest = load_corpus(folder, settings_in(root))
    lines = (folder / "corpus.lock").read_text(encoding="utf-8").splitlines()
    assert len(documents) == len(lines) > 500
    assert [d.doc_id for d in documents] == sorted(line.split("\t")[0] for line in lines)
    assert {d.tenant_id for d in documents} == {"numpy"}
    assert {d.document_type for d in documents} == {"module", "class", "function", "method"}
    assert all(d.date is not None for d in documents)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # building would need it
    assert load_corpus(folder, settings_in(root)) == (documents, manifest)


def test_a_corpus_without_its_lock_says_how_to_write_it(root, folder):
    (folder / "corpus.lock").unlink()
    with pytest.raises(EvalsetError, match=r"corpus\.lock is missing; write it with: workbench evalset lock"):
        load_corpus(folder, settings_in(root))


def test_a_corpus_that_differs_from_its_lock_is_refused_with_counts_and_ids(root, folder):
    load_corpus(folder, settings_in(root))
    lock = folder / "corpus.lock"
    lines = lock.read_text(encoding="utf-8").splitlines()
    dropped, touched = lines[0].split("\t")[0], lines[1].split("\t")[0]
    lines = ["numpy.not_there\t0123456789abcdef", f"{touched}\t0000000000000000", *lines[2:]]
    lock.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(EvalsetError) as raised:
        load_corpus(folder, settings_in(root))
    assert "1 document missing, 1 new, 1 with another text" in str(raised.value)
    assert f"first: numpy.not_there, {dropped}, {touched}" in str(raised.value)


def test_a_cached_corpus_that_was_altered_is_refused_and_built_again(root, folder):
    documents, _ = load_corpus(folder, settings_in(root))
    (cached,) = (root / "cache" / "corpora").iterdir()
    text = cached.read_text(encoding="utf-8")
    cached.write_text(text.replace(documents[5].text[:20], "someone else's words"), encoding="utf-8")
    with pytest.raises(EvalsetError, match="with another text"):
        load_corpus(folder, settings_in(root))
    assert load_corpus(folder, settings_in(root))[0] == documents


@pytest.mark.parametrize("text", ["", "one line without a tab\n", "a\tb\tc\n"])
def test_a_lock_that_is_no_lock_is_refused(root, folder, text):
    (folder / "corpus.lock").write_text(text, encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"corpus\.lock"):
        load_corpus(folder, settings_in(root))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('kind = "pages"\n', "kind must be 'docstrings', found 'pages'"),
        ("kind = \n", r"corpus\.toml: not TOML"),
        ('kind = "docstrings"\n', r"corpus\.toml: \[libraries\]"),
        (recipe("1.0", "requests"), "unknown library 'requests'"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_refused(root, folder, text, says):
    (folder / "corpus.toml").write_text(text, encoding="utf-8")
    with pytest.raises(EvalsetError, match=says):
        build_corpus(folder, settings_in(root))


def test_a_release_without_a_month_is_refused(root, folder):
    text = (folder / "corpus.toml").read_text(encoding="utf-8")
    (folder / "corpus.toml").write_text(text.partition("[released.numpy]")[0] + "[released.numpy]\n", encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"gives no month for numpy .* under \[released\.numpy\]"):
        build_corpus(folder, settings_in(root))


def test_where_another_version_is_installed_the_pinned_one_is_fetched_and_read_by_a_child(root, folder, monkeypatch):
    wheels = _numpy_of_long_ago(root / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    text = recipe("0.0.1").replace('"2.0"', '"0.0.1"', 1)
    assert '"0.0.1" = ' in text
    (folder / "corpus.toml").write_text(text, encoding="utf-8")
    documents = build_corpus(folder, settings_in(root))
    assert [d.doc_id for d in documents] == ["numpy.ancient"]
    shutil.rmtree(wheels)
    assert build_corpus(folder, settings_in(root)) == documents, "installed once"


def test_a_pinned_version_that_cannot_be_fetched_is_a_clear_error(root, folder, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (folder / "corpus.toml").write_text(recipe("0.0.2"), encoding="utf-8")
    with pytest.raises(EvalsetError, match=r"the corpus needs numpy 0\.0\.2, .* is installed, and pip could not"):
        build_corpus(folder, settings_in(root))
    assert not list((root / "cache").glob("libraries/*")), "nothing half-installed stays"


def test_the_reader_is_a_script_that_needs_the_library_alone():
    script = Path(__file__).parents[2] / "workbench" / "evalset" / "docstrings.py"
    command = [sys.executable, "-c", f"import runpy, sys; runpy.run_path({str(script)!r}); print(*sys.modules)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ, PYTHONPATH=""))
    assert "workbench" not in done.stdout.split()


def _numpy_of_long_ago(folder: Path) -> Path:
    """Folder with a wheel of numpy 0.0.1 that has the modules which are read, and one docstring."""
    folder.mkdir()
    info = "numpy-0.0.1.dist-info"
    modules = {space.partition(":")[0] for space in NAMESPACES["numpy"]} | {"numpy.lib", "numpy.polynomial"}
    source = '__version__ = "0.0.1"\ndef ancient():\n    """' + "A function of a version that is not installed. " * 3
    with zipfile.ZipFile(folder / "numpy-0.0.1-py3-none-any.whl", "w") as wheel:
        for module in modules:
            wheel.writestr(f"{module.replace('.', '/')}/__init__.py", f'{source}"""\n' if module == "numpy" else "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: numpy\nVersion: 0.0.1\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return folder
