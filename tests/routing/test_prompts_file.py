"""``prompts.toml``: what it cannot say is told by the key, all at once."""

from pathlib import Path

import pytest

from workbench.errors import ConfigError
from workbench.routing.prompts import Context, Feature, Prompts

TEXT = 'models = ["local/m"]\n[feature.answer]\nsystem = "s"\nmax_tokens = 9\n[context.bare]\n'
TEXT += "[context.top2]\ndocuments = 2\n"


def test_features_contexts_and_models_are_read_with_what_is_not_said_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "prompts.toml").write_text(TEXT, encoding="utf-8")
    prompts = Prompts.load(tmp_path / "prompts.toml")
    assert (prompts.models, prompts.features) == (("local/m",), {"answer": Feature("s", 9)})
    assert prompts.contexts == {"bare": Context(), "top2": Context(documents=2)}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("max_tokens = 9", "max_token = '9'", "feature.answer.max_tokens is missing; feature.answer: unknown field "),
        ("documents = 2", "documents = '2'\ncharacters = 0.5", "context.top2.documents must be a whole number, fo"),
        ("[feature.answer]", "[features.answer]", "feature is missing; unknown field 'features'; did you mean 'feat"),
        ('"local/m"', "3", "models[0] must be text, found 3"),
        ('"local/m"', "", "models must name at least one"),
        ("[context.bare]", "[context.bare", "is no table of prompts: not TOML: "),
    ],
)  # fmt: skip
def test_what_it_cannot_say_is_told_by_the_key(tmp_path: Path, old: str, new: str, says: str) -> None:
    path = tmp_path / "prompts.toml"
    path.write_text(TEXT.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        Prompts.load(path)
    assert str(path) in str(raised.value)
    assert says in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompts\.toml is no table of prompts: No such file"):
        Prompts.load(tmp_path / "prompts.toml")
