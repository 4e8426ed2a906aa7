"""Prompts of an evalset's recorded answers, from its ``prompts.toml``: what each feature says, and what it shows.

What never changes comes first (system prompt), then what a retriever found, then what the user wrote: vendors
cache the longest prefix that they have seen, so one changing word in front would cost every saving behind it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.codec import from_toml
from workbench.errors import ConfigError, unknown_name
from workbench.evalset.evalset import Evalset
from workbench.inference.messages import Message
from workbench.records import Document

SUMMARY_SHARE = 0.4


@dataclass(frozen=True, slots=True)
class Feature:
    """What one product feature says to every model; ``{tenant}`` in the system prompt is the customer's name."""

    system: str
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Context:
    """How many documents a prompt gets, and how many characters of each at most."""

    documents: int = 0
    characters: int = 0


@dataclass(frozen=True, slots=True)
class _PromptTable:
    """``prompts.toml`` as it is written."""

    models: tuple[str, ...]
    feature: Mapping[str, Feature]
    context: Mapping[str, Context]
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Prompts:
    """Features and contexts of one evalset, and the models that are asked, from its ``prompts.toml``."""

    models: tuple[str, ...]
    features: Mapping[str, Feature]
    contexts: Mapping[str, Context]
    temperature: float = 0.0

    @property
    def sampling(self) -> dict[str, Any]:
        """How answers are drawn: with a temperature none is the same again, so that repeats say something."""
        return {"temperature": self.temperature, "seed": None if self.temperature else 0}

    @classmethod
    def load(cls, path: Path) -> "Prompts":
        """Read the file.

        Raises
        ------
        ConfigError
            If it is absent or not of the form.
        """
        found = from_toml(_PromptTable, path, "is no table of prompts")
        if not found.models:
            raise ConfigError(f"{path}: models must name at least one")
        return cls(found.models, found.feature, found.context, found.temperature)

    def messages(
        self, feature: str, context: str, *, tenant_id: str, question: str, documents: Sequence[Document]
    ) -> tuple[Message, ...]:
        """Messages for one question; ``documents`` best first, of which the context takes its number."""
        if feature not in self.features:
            raise ConfigError(unknown_name("feature", feature, sorted(self.features)))
        if context not in self.contexts:
            raise ConfigError(unknown_name("context", context, sorted(self.contexts)))
        size = self.contexts[context]
        shown = [f"[{d.doc_id}]\n{passage(d.text, question, size.characters)}" for d in documents[: size.documents]]
        user = "\n\n".join([*shown, question]) if shown else question
        system = self.features[feature].system.replace("{tenant}", tenant_id).strip()
        return ({"role": "system", "content": system}, {"role": "user", "content": user})


@lru_cache(maxsize=8192)  # models, settings and arms show the same passages
def passage(text: str, question: str, characters: int) -> str:
    r"""What of a document bears on the question: its first lines, and the lines that share most words with it.

    >>> passage("Join frames.\n\nhow : str\n    anti keeps rows without partner\n\nCopies.", "rows no partner", 60)
    'Join frames.\n...\nanti keeps rows without partner'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(len(line) + 1 for line in lines) <= characters:
        return "\n".join(lines)
    head, rest = _lines_that_fit(lines, int(SUMMARY_SHARE * characters))
    if not rest:
        return head
    asked, room = _stems(question), characters - len(head) - len("\n...\n")
    shared = [asked & _stems(line) for line in rest]
    windows = []
    for i in range(len(rest)):
        window, left = _lines_that_fit(rest[i:], room)
        lines_in = len(rest) - i - len(left)
        words = asked & _stems(window) if lines_in == 1 else set().union(*shared[i : i + lines_in])  # one may be cut
        windows.append((len(words), -len(window), window))
    best = max(windows, key=lambda w: w[:2])
    return f"{head}\n...\n{best[2]}"


def _lines_that_fit(lines: Sequence[str], characters: int) -> tuple[str, Sequence[str]]:
    """Whole lines that fit, at least a part of the first, and what is left."""
    taken: list[str] = []
    size = 0
    for line in lines:
        if taken and size + len(line) > characters:
            break
        taken.append(line)
        size += len(line) + 1
    return "\n".join(taken)[:characters], lines[len(taken) :]


def _stems(text: str) -> set[str]:
    return {w[:5] for w in re.findall(r"\w+", text.lower().replace("_", " ")) if len(w) > 2}


def load_prompts(evalset: Evalset) -> Prompts:
    """What the evalset's ``prompts.toml`` says."""
    return Prompts.load(evalset.path / "prompts.toml")
