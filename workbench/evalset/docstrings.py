"""Read the docstrings of one installed library; a script that needs nothing but that library.

It runs in a child process (``python docstrings.py LIBRARY``), so that a pinned version in a private
folder can be read while another version is imported by the parent. It prints one JSON object a line.
"""

import importlib
import inspect
import json
import re
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# The public namespaces of each library that are read; ``module:Name`` reads one name of a private module.
NAMESPACES = {
    "pandas": ["pandas", "pandas.api.types", "pandas.api.extensions", "pandas.api.indexers", "pandas.api.interchange",
               "pandas.api.typing", "pandas.errors", "pandas.plotting", "pandas.testing", "pandas.tseries.offsets",
               "pandas.tseries.frequencies", "pandas.io.formats.style:Styler"],
    "polars": ["polars", "polars.selectors", "polars.api", "polars.testing", "polars.testing.parametric",
               "polars.exceptions", "polars.datatypes", "polars.io.plugins", "polars.plugins", "polars.catalog.unity",
               "polars.dataframe.group_by:GroupBy", "polars.lazyframe.group_by:LazyGroupBy"],
    "numpy": ["numpy", "numpy.linalg", "numpy.fft", "numpy.random", "numpy.polynomial", "numpy.polynomial.polynomial",
              "numpy.polynomial.chebyshev", "numpy.polynomial.legendre", "numpy.polynomial.hermite",
              "numpy.ma", "numpy.char", "numpy.strings", "numpy.rec", "numpy.lib.stride_tricks", "numpy.lib.format",
              "numpy.lib.recfunctions", "numpy.lib.array_utils", "numpy.lib.scimath", "numpy.testing", "numpy.typing",
              "numpy.exceptions", "numpy.dtypes", "numpy.ctypeslib"],
    "pyarrow": ["pyarrow", "pyarrow.compute", "pyarrow.dataset", "pyarrow.parquet", "pyarrow.parquet.encryption",
                "pyarrow.csv", "pyarrow.json", "pyarrow.feather", "pyarrow.orc", "pyarrow.fs", "pyarrow.ipc",
                "pyarrow.flight", "pyarrow.acero", "pyarrow.substrait", "pyarrow.types", "pyarrow.interchange"],
}  # fmt: skip
# Namespace objects that hang on a class attribute: the accessors of a Series or an expression.
ACCESSORS = {"pandas": ["str", "dt", "cat", "sparse", "plot", "list", "struct"],
             "polars": ["str", "dt", "list", "arr", "cat", "struct", "name", "bin", "meta", "ext", "plot"]}  # fmt: skip
# Of several names of one text, the one that users know: not ``pandas.Index.str.split``.
PREFERRED = (
    "pandas.Series.", "pandas.DataFrame.", "numpy.ndarray.", "numpy.polynomial.Polynomial.",
)  # fmt: skip
MIN_CHARS = 60
VERSION_ADDED = re.compile(r"versionadded::\s*v?(\d+(?:\.\d+)*)")


def docstring_names(owner: Any) -> list[str]:
    """Names a user may rely on: ``__all__`` and what does not start with an underscore."""
    names = getattr(owner, "__all__", None) if isinstance(owner, ModuleType) else None
    return sorted(n for n in (names or dir(owner)) if not n.startswith("_"))


def describe_docstring(name: str, thing: Any, kind: str) -> dict[str, Any] | None:
    """One document, or None where there is no docstring worth the name."""
    text = inspect.getdoc(thing)
    if not isinstance(text, str) or len(text.strip()) < MIN_CHARS:
        return None
    added = VERSION_ADDED.search(text)
    return {"id": name, "kind": kind, "text": text.strip(), "added": added.group(1) if added else None}


def docstring_members(library: str, owner: Any, name: str, depth: int) -> Iterator[dict[str, Any]]:
    """Documents of the methods and properties of a class, its accessors included."""
    for attribute in docstring_names(owner):
        if (thing := inspect.getattr_static(owner, attribute, None)) is None:
            continue
        if attribute in ACCESSORS.get(library, []) and depth == 0:
            namespace = accessor_class(owner, attribute, thing)
            if namespace is not None:
                yield from filter(None, [describe_docstring(f"{name}.{attribute}", namespace, "class")])
                yield from docstring_members(library, namespace, f"{name}.{attribute}", 1)
                continue
        if inspect.isclass(thing) or isinstance(thing, ModuleType):
            continue
        if doc := describe_docstring(f"{name}.{attribute}", getattr(owner, attribute, thing), "method"):
            yield doc


def accessor_class(owner: type, attribute: str, thing: Any) -> type | None:
    """Find the class behind ``Series.str`` and the like (pandas: a descriptor, polars: a property)."""
    found = getattr(thing, "_accessor", None) or getattr(owner, attribute, None)
    if inspect.isclass(found):
        return found
    hint = getattr(getattr(thing, "fget", None), "__annotations__", {}).get("return")
    module = sys.modules[owner.__module__]
    return getattr(module, hint, None) if isinstance(hint, str) else hint if inspect.isclass(hint) else None


def docstring_documents(library: str) -> Iterator[dict[str, Any]]:
    """Every public documented object of the library, namespace by namespace."""
    for entry in NAMESPACES[library]:
        space, _, only = entry.partition(":")
        module = importlib.import_module(space)
        if not only and (doc := describe_docstring(space, module, "module")):
            yield doc
        for attribute in [only] if only else docstring_names(module):
            thing = getattr(module, attribute, None)
            if isinstance(thing, ModuleType) or not (inspect.isclass(thing) or callable(thing)):
                continue
            home = getattr(thing, "__module__", None) or ""
            if home.split(".")[0] not in ("", library, "builtins"):
                continue
            name, is_class = f"{space}.{attribute}", inspect.isclass(thing)
            if doc := describe_docstring(name, thing, "class" if is_class else "function"):
                yield doc
            if is_class:
                yield from docstring_members(library, thing, name, 0)


def main(library: str) -> None:
    """Print the version, then one document a line; identical texts are one document with aliases.

    Of the names of one text the preferred, then the shortest, then the alphabetically first is its id:
    ``pandas.Index.memory_usage`` and not one of the subclasses that inherit it.
    """
    warnings.simplefilter("ignore")
    by_text: dict[str, dict[str, dict[str, Any]]] = {}
    taken: set[str] = set()
    for doc in docstring_documents(library):
        if doc["id"] not in taken:
            taken.add(doc["id"])
            by_text.setdefault(doc["text"], {})[doc["id"]] = doc
    print(json.dumps({"library": library, "version": importlib.import_module(library).__version__}))
    for named in by_text.values():
        first, *aliases = sorted(named, key=lambda name: (not name.startswith(PREFERRED), len(name), name))
        print(json.dumps(named[first] | {"aliases": aliases}))


if __name__ == "__main__":
    main(sys.argv[1])
