"""The user's own modules: where they lie in a project, and which files of the project each of them rests on."""

import ast
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType

from workbench.config import load_settings
from workbench.records import content_hash


def project_folders(root: Path) -> tuple[Path, Path]:
    """Folders of the project in which modules of its own lie."""
    return root / "notebooks", root


def import_module_of(name: str, root: Path) -> ModuleType:
    """Import a module that is installed, or lies in ``notebooks/`` or the project's root, wherever we work.

    Raises
    ------
    ImportError
        If it cannot be imported, whatever its code raises.
    """
    for folder in project_folders(root):
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
    try:
        return importlib.import_module(name)
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"{type(error).__name__}: {error}") from error


def files_of_module(loaded: ModuleType, root: Path) -> list[Path]:
    """File of a module, and then those files of the project that it imports, and they import, in their order."""
    first = getattr(loaded, "__file__", None)
    if first is None:
        return []
    found: dict[Path, None] = {Path(first): None}
    left = [(Path(first), loaded.__name__)]
    while left:
        file, name = left.pop()
        for other in _imported_modules(file, name):
            path = _project_file(other, root)
            if path and path not in found:
                found[path] = None
                left.append((path, other))
    return [Path(first), *sorted(path for path in found if path != Path(first))]


def sources_of_function(function: Callable[..., object]) -> dict[str, str]:
    """Hash of everything of the project's own code that a function rests on, by the name of its file.

    Of a function that was typed into a notebook: hash of its source and of those that it uses, by their names.
    """
    module = sys.modules[function.__module__]
    if getattr(module, "__file__", None) is None:
        return {name: content_hash(text) for name, text in sorted(_function_sources(function).items())}
    # by where the module lies, whatever a process says of its project: all must come to the same version
    root = load_settings({}, start=Path(str(module.__file__)).parent).root
    return {_project_path(file, root): content_hash(file.read_bytes()) for file in files_of_module(module, root)}


def _project_path(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file.is_relative_to(root) else file.name


def _function_sources(function: Callable[..., object]) -> dict[str, str]:
    """Source of a function without a file, and of the functions of its module that it names, and they name."""
    found: dict[str, str] = {}
    left = [inspect.unwrap(function)]
    while left:
        one = left.pop()
        if one.__qualname__ in found or not inspect.isfunction(one) or one.__module__ != function.__module__:
            continue
        found[one.__qualname__] = inspect.getsource(one)
        named = {name for code in _function_codes(one.__code__) for name in code.co_names}
        left += [inspect.unwrap(value) for name in named if callable(value := one.__globals__.get(name))]
    return found


def _function_codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _function_codes(inner)


def _project_file(name: str, root: Path) -> Path | None:
    """File of the project that a module's name means; None for what is installed, and for workbench itself."""
    if name.partition(".")[0] == "workbench":
        return None
    paths = (folder.joinpath(*name.split(".")) for folder in project_folders(root))
    files = (file for path in paths for file in (path / "__init__.py", path.with_name(f"{path.name}.py")))
    return next((file for file in files if file.is_file()), None)


def _imported_modules(file: Path, name: str) -> Iterator[str]:
    """Names of what a module may import, its packages too; ``from a import b`` is ``a`` and perhaps ``a.b``."""
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    parts = package.split(".") if package else []
    yield from (".".join(parts[:n]) for n in range(1, len(parts) + 1))
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # no source, or not yet right: its bytes are hashed all the same
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
