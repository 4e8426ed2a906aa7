"""``workbench models``, as a user calls it."""

from pathlib import Path

from tests.command_line import workbench
from tests.notebooks.zoo import make_settings
from workbench.inference.prices import load_prices
from workbench.inference.weights import WEIGHTS, weights_table


def test_models_lists_every_file_with_licence_hash_price_and_source(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    settings.evalsets.mkdir(exist_ok=True)
    done = workbench(settings, "models")
    assert done.returncode == 0, done.stderr
    _, *lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, "no"] for name in WEIGHTS]
    for line, weights in zip(lines, WEIGHTS.values(), strict=True):
        assert weights.licence in line
        assert weights.sha256[:12] in line
        assert str(weights.sources[0]) in line
    (small,) = [line for line in lines if line.startswith("smollm2-135m")]
    assert "98.4" in small
    assert small.count("$") == 2


def test_a_file_that_is_not_the_pinned_one_is_listed_as_altered(tmp_path: Path) -> None:
    (tmp_path / WEIGHTS["smollm2-135m"].file_name).write_bytes(b"something else")
    cells = {row[0]: row[1] for row in weights_table(tmp_path, load_prices()).cells()}
    assert cells == dict.fromkeys(WEIGHTS, "no") | {"smollm2-135m": "altered"}


def test_weights_that_nobody_knows_are_refused_with_the_names_there_are(tmp_path: Path) -> None:
    done = workbench(make_settings(tmp_path), "models", "fetch", "smollm3")
    assert done.returncode == 3
    assert f"error: no weights called 'smollm3'; known: {', '.join(sorted(WEIGHTS))}" in done.stderr


def test_where_no_source_answers_it_says_where_to_put_the_file(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    done = workbench(settings, "models", "fetch", "qwen2.5-coder-0.5b")  # tests are offline, children too
    assert done.returncode == 3
    file = WEIGHTS["qwen2.5-coder-0.5b"]
    said = done.stderr.replace("\n", " ")
    assert f"{file.file_name} (sha256 {file.sha256}) could not be fetched; put it at " in said
    assert "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF (Hugging Face hub): the model hub cannot be reached" in said
    assert "Traceback" not in done.stderr
