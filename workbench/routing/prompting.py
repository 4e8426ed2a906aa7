"""Prompts as data: what a feature says to a model, how much context it gets, and in which order.

What never changes comes first (system prompt), then what a retriever found, then what the user wrote: vendors
cache the longest prefix that they have seen, so one changing word in front would cost every saving behind it.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import ConfigError, unknown_name
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
class Prompts:
    """Features and contexts of one evalset, and the models that are asked, from its ``prompts.toml``."""

    models: tuple[str, ...]
    features: Mapping[str, Feature]
    contexts: Mapping[str, Context]

    @classmethod
    def load(cls, path: Path) -> "Prompts":
        """Read the file.

        Raises
        ------
        ConfigError
            If it is absent or not of the form.
        """
        try:
            raw = tomllib.loads(path.read_text(encoding="utf-8"))
            features = {name: Feature(**row) for name, row in raw["feature"].items()}
            models = tuple(raw["models"])
            contexts = {name: Context(**row) for name, row in raw["context"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path} is no table of prompts: {error!r}") from error
        if not models or not all(isinstance(m, str) for m in models):
            raise ConfigError(f"{path}: models must be a list of names, found {models!r}")
        return cls(models, features, contexts)

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


def passage(text: str, question: str, characters: int) -> str:
    r"""What of a document bears on the question: its first lines, and the lines that share most words with it.

    >>> passage("Join frames.\n\nhow : str\n    anti keeps rows without partner\n\nCopies.", "rows no partner", 60)
    'Join frames.\n...\nanti keeps rows without partner'
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if sum(len(line) + 1 for line in lines) <= characters:
        return "\n".join(lines)
    head, rest = _take(lines, int(SUMMARY_SHARE * characters))
    if not rest:
        return head
    asked, room = _stems(question), characters - len(head) - len("\n...\n")
    windows = [_take(rest[i:], room)[0] for i in range(len(rest))]
    best = max(windows, key=lambda w: (len(asked & _stems(w)), -len(w)))
    return f"{head}\n...\n{best}"


def _take(lines: Sequence[str], characters: int) -> tuple[str, Sequence[str]]:
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
