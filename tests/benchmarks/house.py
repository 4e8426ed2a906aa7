# ruff: noqa: T201
"""The floor plan in numbers, of this tree or of another: ``python -m tests.benchmarks.house [folder of a checkout]``.

Files, lines and code; modules that only one other imports; stems and class names that stand twice; functions; and the
modules between which a question, a call and a check travel, as imports tell it.
"""

import ast
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np


def modules(home: Path) -> dict[str, ast.Module]:
    """Every module of the package with its tree."""
    found = {}
    for path in sorted((home / "workbench").rglob("*.py")):
        name = ".".join(path.relative_to(home).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def importers(trees: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Who imports each module, at its top or inside a function."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("workbench"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    target = whole if whole in trees else str(node.module)
                    if target != name:
                        found[target].add(name)
    return found


def single_importers(trees: dict[str, ast.Module]) -> dict[str, str]:
    """Modules that exactly one other imports, with that other; notebook classes and commands are not counted."""
    found = importers(trees)
    plain = {n for n, tree in trees.items() if tree.body and ".cli" not in n and not n.endswith(".notebook")}
    return {n: next(iter(found[n])) for n in sorted(plain) if len(found.get(n, ())) == 1}


def classes(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    """Modules of each class name."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found[node.name].append(name)
    return found


def function_lengths(trees: dict[str, ast.Module]) -> list[int]:
    """Lines of every function."""
    return [
        (node.end_lineno or 0) - node.lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def main(home: Path) -> None:
    trees = modules(home)
    texts = [p.read_text(encoding="utf-8").splitlines() for p in sorted((home / "workbench").rglob("*.py"))]
    content = [t for t in texts if len(t) > 5]
    lines = [line.strip() for text in texts for line in text]
    docs = sum(
        (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    )
    code = sum(bool(line) and not line.startswith("#") for line in lines) - docs
    stems = Counter(n.rpartition(".")[2] for n, tree in trees.items() if tree.body)
    twice = {name: found for name, found in classes(trees).items() if len(found) > 1}
    single = single_importers(trees)
    print(f"files {len(texts)}, with content {len(content)}, lines {len(lines):,}, code about {code:,}")
    print(f"longest {max(map(len, texts))}, internal imports {sum(map(len, importers(trees).values()))}")
    p50, p90 = np.quantile(function_lengths(trees), (0.5, 0.9))
    print(f"function length p50 {p50:.0f}, p90 {p90:.0f}")
    print(f"modules with one importer {len(single)}: " + ", ".join(f"{n} < {by}" for n, by in single.items()))
    print(f"stems twice: {', '.join(s for s, n in stems.items() if n > 1) or 'none'}")
    print(f"class names twice: {', '.join(f'{name} in {found}' for name, found in twice.items()) or 'none'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parents[2])
