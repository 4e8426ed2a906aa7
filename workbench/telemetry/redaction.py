"""Secrets out of text before it is kept: keys in the environment by their value, other keys by their form.

A key that nobody declared and that looks like a word cannot be found; what has a known form, stands in a known
header or is the value of an environment variable with a telling name, can.
"""

import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache, partial
from html import escape
from typing import Any
from urllib.parse import quote, quote_plus

REDACTED = "[redacted]"
_SHORT = 64  # so many characters are worth remembering
_SHORTEST = 8  # shorter values are words such as "false", which must not vanish from every text
_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_FIELDS = (
    r"(?:proxy[-_])?authorization|(?:x[-_])?(?:goog[-_])?api[-_]?key|(?:client|aws)[-_]?secret(?:[-_]?(?:access[-_]?)?key)?"
    r"|(?:access|refresh|auth|id|session)[-_]token|(?:secret|private)[-_]?key|password|passwd"
)
_FIELD = re.compile(rf"(?:^|[^a-z0-9])(?:{_FIELDS}|(?:set[-_])?cookie|secret|credentials?)$", re.IGNORECASE)
# (a text without any of these, in lower case, need not be searched), pattern, what is put in its place
_FORMS = tuple(
    (marks, re.compile(pattern), rf"{kept}{REDACTED}")
    for marks, pattern, kept in (
        (("private key",), r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", ""),
        (("cookie",), r"""(?i)(\bcookie\\*["']?\s{0,9}[:=]\s{0,9}\\*["']?)[^\r\n"']{6,}""", r"\1"),
        (
            ("authorization", "key", "secret", "token", "passw"),
            rf"""(?i)((?<![a-z0-9])(?:{_FIELDS})\\*["']?\s{{0,9}}(?:[:=]|(?<=["']),)\s{{0,9}}\\*["']?)"""
            r"""(?:(?:bearer|basic|token|digest)\s+)?[^\s"',;}&\\]{6,}""",
            r"\1",
        ),
        (("bearer",), r"(?i)(\bbearer\s{1,9})[\w.~+/=-]{8,}", r"\1"),
        (("basic",), r"(\bBasic\s{1,9})(?=[A-Za-z+/]*[\d=])[A-Za-z0-9+/]{8,}=*", r"\1"),
        (("sk-",), r"(?<![A-Za-z0-9])sk-[\w-]{16,}", ""),
        (("akia", "asia"), r"(?<![A-Za-z0-9])A[KS]IA[A-Z0-9]{16}", ""),
        (("aiza",), r"(?<![A-Za-z0-9])AIza[\w-]{30,}", ""),
        (("gh", "glpat-", "hf_"), r"(?<![A-Za-z0-9])(?:gh[pousr]_|github_pat_|glpat-|hf_)\w[\w-]{15,}", ""),
        (("gsk_", "r8_", "xai-", "pplx-", "pypi-", "npm_"), r"\b(?:gsk_|r8_|xai-|pplx-|pypi-|npm_)[\w-]{20,}", ""),
        (("xox",), r"\bxox[a-z]-[\w-]{10,}", ""),
        (("eyj",), r"\beyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?", ""),
        (("://",), r"""(://[^\s/:@"'\\]{0,200}:)[^\s/@"']{1,400}(?=@)""", r"\1"),
    )
)


def redact(text: str, secrets: tuple[str, ...] | None = None) -> str:
    """Text in which every secret that can be told is ``[redacted]``.

    Parameters
    ----------
    text : str
        Any text; also JSON in which quotes are escaped.
    secrets : tuple of str, optional
        `secret_values`, where several texts are redacted at a time.

    >>> redact("curl -H 'Authorization: Bearer abcdefghijkl' https://me:hunter2@example.com/sk-learn")
    "curl -H 'Authorization: [redacted]' https://me:[redacted]@example.com/sk-learn"
    """
    secrets = secret_values() if secrets is None else secrets
    return _redacted_short(text, secrets) if len(text) < _SHORT else _redacted(text, secrets)


def _redacted(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, REDACTED)
    if len(text) < _SHORTEST:
        return text
    lowered = text.lower()
    for marks, pattern, replacement in _FORMS:
        if any(mark in lowered for mark in marks):
            text = pattern.sub(replacement, text)
    return text


_redacted_short = lru_cache(maxsize=4096)(_redacted)  # names of tenants, models and steps come with every span


def redact_all(value: Any) -> Any:
    """A value of JSON with every text in it redacted.

    >>> redact_all({"said": ["Bearer abcdefghijkl", 1], "api_key": "swordfish"})
    {'said': ['Bearer [redacted]', 1], 'api_key': '[redacted]'}
    """
    secrets = secret_values()

    def clean(part: Any) -> Any:
        if isinstance(part, str):
            return redact(part, secrets)
        if isinstance(part, Mapping):
            return {k: REDACTED if secret_field(k) and isinstance(v, str) else clean(v) for k, v in part.items()}
        return [clean(inner) for inner in part] if isinstance(part, list | tuple) else part

    return clean(value)


def secret_values(env: Mapping[str, str] | None = None) -> tuple[str, ...]:
    r"""Values of the environment variables whose names look secret, longest first, also as JSON, URLs, HTML have them.

    >>> secret_values({"MY_API_KEY": "with<out", "TOKENIZERS_PARALLELISM": "false", "HOME": "there"})
    ('with&lt;out', 'with%3Cout', 'with<out')
    """
    if env is not None:
        return _secret_values(env)
    global _seen
    # every span asks: comparing the mapping inside os.environ takes a microsecond, reading it forty
    inside = getattr(os.environ, "_data", None)
    before, found = _seen
    if inside is None or inside != before:
        before, found = dict(inside or {}), _secret_values(os.environ)
        _seen = before, found
    return found


_seen: tuple[Mapping[Any, Any], tuple[str, ...]] = {}, ()


def _secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    values = tuple(value for name in env if _looks_secret(name) and len(value := env[name].strip()) >= _SHORTEST)
    return _secret_forms(values)


@lru_cache(maxsize=4096)
def secret_field(name: str) -> bool:
    """Whether a header, an attribute or a key of a mapping holds a secret by its name.

    >>> secret_field("http.request.header.authorization"), secret_field("gen_ai.usage.input_tokens")
    (True, False)
    """
    return _FIELD.search(name) is not None


@lru_cache(maxsize=4096)
def _looks_secret(name: str) -> bool:
    return _VARIABLE.search(name) is not None


@lru_cache(maxsize=8)
def _secret_forms(values: tuple[str, ...]) -> tuple[str, ...]:
    forms = {
        form
        for v in values
        for form in (
            v, json.dumps(v)[1:-1], json.dumps(v, ensure_ascii=False)[1:-1], escape(v),
            *(quoted(v, errors="surrogateescape") for quoted in (quote, partial(quote, safe=""), quote_plus)),
        )
    }  # fmt: skip
    return tuple(sorted(forms, key=lambda form: (-len(form), form)))
