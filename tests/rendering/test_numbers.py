"""Counts, percentages and dollars are written in one way, and no text of the package writes its own."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from workbench.rendering.numbers import cents, counted, percent, price, usd

PACKAGE = Path(__file__).parents[2] / "workbench"
# Below the rendering: what these say has no helper to go through.
BELOW = {"errors.py", "state.py", "config.py", "records.py", "codec.py"}
PLURAL = re.compile(r" (?:(?!of |other )[a-z]+ ){0,2}?([a-z]{2,}s)\b")
NO_NOUN = {
    *("is", "as", "was", "its", "has", "this", "does", "ms", "less", "across", "plus", "process", "times", "thus"),
    "halves",
}


@pytest.mark.parametrize(
    ("count", "noun", "told"),
    [
        (1, ("repeat",), "1 repeat"),
        (0, ("metric",), "0 metrics"),
        (2750, ("item",), "2,750 items"),
        (2, ("family",), "2 families"),
        (2, ("day",), "2 days"),
        (3, ("match",), "3 matches"),
        (1, ("call has", "calls have"), "1 call has"),
        (10_000, ("call has", "calls have"), "10,000 calls have"),
    ],
)
def test_a_count_agrees_with_its_noun(count: int, noun: tuple[str, ...], told: str) -> None:
    assert counted(count, *noun) == told


@pytest.mark.parametrize(
    ("amount", "told"),
    [
        (4.759e-8, "$0.0476 per million"),
        (6.668e-8, "$0.0667 per million"),
        (0.002, "$0.002 each"),
        (0.0, "$0 each"),
        (12.0, "$12 each"),
        (1e-13, "$0.0001 per billion"),
    ],
)
def test_a_price_is_told_by_so_many_that_it_can_be_read(amount: float, told: str) -> None:
    assert price(amount) == told
    assert "e-" not in price(amount, "call")


def test_what_must_suffice_is_rounded_up() -> None:
    assert usd(0.00012341, up=True) == "$0.000124"
    assert usd(0.00004, up=True) == "$0.0000400"
    assert cents(1e-6) == "$0.000001"


def test_a_percentage_has_a_space_and_a_true_minus() -> None:
    assert (percent(0.05), percent(0.0004, 1), percent(-0.5)) == ("5 %", "0.0 %", "\u221250 %")


def texts() -> Iterator[tuple[str, list[ast.expr]]]:
    """Parts of every text with values in it, by module and line."""
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name not in BELOW and path.name != "numbers.py":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.JoinedStr):
                    yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node.values


def spec(part: ast.expr) -> str:
    return ast.unparse(part.format_spec)[2:-1] if isinstance(part, ast.FormattedValue) and part.format_spec else ""


def said(part: ast.expr) -> str:
    return str(part.value) if isinstance(part, ast.Constant) else ""


def test_no_text_writes_a_percentage_of_its_own() -> None:
    wrong = [
        where
        for where, parts in texts()
        for part, after in zip(parts, [*parts[1:], ast.Constant("")], strict=True)
        if isinstance(part, ast.FormattedValue)
        if re.fullmatch(r"[^%]*\.\d%", spec(part)) or (spec(part).endswith("f") and re.match(r" ?%", said(after)))
    ]
    assert wrong == []


def test_no_text_writes_a_price_with_an_exponent() -> None:
    wrong = [
        where
        for where, parts in texts()
        for before, part in pairwise(parts)
        if said(before).endswith("$") and spec(part).endswith("g") and not where.startswith(FORMER)
    ]
    assert wrong == []


# As accepted decisions have them; and what `verify` shows of two costs that differ, to six digits.
FORMER = ("evaluation/flip_points.py", "project/recompute_decision.py")


def test_no_text_writes_a_count_with_a_noun_that_may_not_agree() -> None:
    wrong = []
    for where, parts in texts():
        for part, after in pairwise(parts):
            counts = isinstance(part, ast.FormattedValue) and (spec(part) == "," or _is_length(part))
            noun = PLURAL.match(said(after))
            if counts and noun and noun[1] not in NO_NOUN and not _is_constant(part):
                wrong.append(f"{where}: {ast.unparse(part)}{said(after)[:30]}")
    assert wrong == []


def _is_length(part: ast.FormattedValue) -> bool:
    return bool(re.match(r"len\(", ast.unparse(part.value))) and not spec(part)


def _is_constant(part: ast.expr) -> bool:
    return isinstance(part, ast.FormattedValue) and isinstance(part.value, ast.Name) and part.value.id.isupper()
