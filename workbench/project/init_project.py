"""``workbench init``: the files of a project in a folder or repository of one's own."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import ConfigError, unknown_name
from workbench.extras import DISTRIBUTION, VERSION
from workbench.rendering.numbers import counted

FILES = Path(__file__).parent / "files"
SAMPLE = "sample"
GIT_FILES = ("gitignore", "gitattributes")
CI = {
    "github": ("github.yml", ".github/workflows/workbench.yml"),
    "gitlab": ("gitlab.yml", ".gitlab-workbench.yml"),
    "none": None,
}
_DEFAULT_EVALSET = re.compile(r'(evalset: str = \\")[^"\\]*(\\")')


@dataclass(frozen=True, slots=True)
class WrittenProject:
    """What `init_project` did: files that are new, and those that were there and are as they were.

    Attributes
    ----------
    missing : mapping of str to tuple of str
        Lines that ``.gitignore`` and ``.gitattributes`` lack, where they were there.
    """

    root: Path
    new: tuple[Path, ...]
    kept: tuple[Path, ...]
    missing: Mapping[str, tuple[str, ...]]


def init_project(root: Path, *, ci: str = "github") -> WrittenProject:
    """Write notebooks, profiles, the sample evalset with its gates, what git is told, and what CI runs.

    >>> import tempfile
    >>> done = init_project(Path(tempfile.mkdtemp()), ci="none")
    >>> [path.name for path in done.new if path.parent == done.root / "notebooks"][0], done.kept
    ('01_retrieval.ipynb', ())

    Parameters
    ----------
    root : Path
        Folder of the project; made where there is none. Nothing in it is overwritten.
    ci : {"github", "gitlab", "none"}
        Whose file for running ``workbench verify`` and ``workbench check`` is written.

    Raises
    ------
    ConfigError
        If ``ci`` is unknown, or a file or folder cannot be written.
    """
    if ci not in CI:
        raise ConfigError(unknown_name("CI", ci, list(CI)))
    new, kept = list[Path](), list[Path]()
    for name, text in _project_contents(ci):
        path = root / name
        try:
            if path.exists():
                kept += [] if path.read_text(encoding="utf-8") == text else [path]
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} cannot be written or read: {error}; is something else in its place?") from error
        new.append(path)
    return WrittenProject(root, tuple(new), tuple(kept), _missing_git_lines(root))


def gates_text() -> str:
    """Text of a ``gates.toml`` with every setting, its meaning and its default."""
    return (FILES / "gates.toml").read_text(encoding="utf-8")


def _project_contents(ci: str) -> Iterator[tuple[str, str]]:
    """Path below the project and text of every file that `init_project` writes."""
    notebooks = _project_notebooks()
    for path in sorted(notebooks.glob("[0-9]*_*.ipynb")):
        yield f"notebooks/{path.name}", _notebook_with_sample(path.read_text(encoding="utf-8"))
    for path in sorted(notebooks.glob("profiles/*.yaml")):
        yield f"notebooks/profiles/{path.name}", path.read_text(encoding="utf-8")
    sample = FILES / "evalsets" / SAMPLE
    for path in sorted(path for path in sample.rglob("*") if path.is_file()):
        yield f"evalsets/{SAMPLE}/{path.relative_to(sample).as_posix()}", path.read_text(encoding="utf-8")
    yield f"evalsets/{SAMPLE}/gates.toml", gates_text()
    yield "evalsets/AGENTS.md", (FILES / "skill.md").read_text(encoding="utf-8")
    for name in GIT_FILES:
        yield f".{name}", (FILES / name).read_text(encoding="utf-8")
    if found := CI[ci]:
        source, target = found
        text = (FILES / source).read_text(encoding="utf-8")
        yield target, text.replace("DISTRIBUTION", DISTRIBUTION).replace("VERSION", VERSION)


def _project_notebooks() -> Path:
    """Folder of the notebooks: in an installed package beside the other files, in a checkout at its root."""
    packed, checkout = FILES / "notebooks", FILES.parents[2] / "notebooks"
    return packed if packed.is_dir() else checkout


def _notebook_with_sample(notebook: str) -> str:
    """Text of a notebook whose default evalset is the sample."""
    return _DEFAULT_EVALSET.sub(rf"\g<1>{SAMPLE}\g<2>", notebook, count=1)


def _missing_git_lines(root: Path) -> dict[str, tuple[str, ...]]:
    """Lines of each of `GIT_FILES` that the project's own lacks; what keeps all files as they are lacks none."""
    missing = dict[str, tuple[str, ...]]()
    for name in GIT_FILES:
        wanted, there = (_git_lines(path) for path in (FILES / name, root / f".{name}"))
        kept = name == "gitattributes" and "* -text" in there
        if lines := () if kept else tuple(line for line in wanted if line not in there):
            missing[f".{name}"] = lines
    return missing


def _git_lines(path: Path) -> list[str]:
    lines = (" ".join(line.split()) for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def tell_project_written(done: WrittenProject, say: Callable[[str], object]) -> None:
    """Say what was written, what was left as it is, and what to do next."""
    folders: dict[Path, int] = {}
    for path in done.new:
        folder = path.parent if path.parent != done.root else path
        folders[folder] = folders.get(folder, 0) + 1
    for folder, count in folders.items():
        files = f" ({counted(count, 'file')})" if folder.is_dir() else ""
        say(f"written: {folder}{files}")
    for path in done.kept:
        say(f"left as it is, because it was there: {path}")
    for name, lines in done.missing.items():
        say(f"add to {name}: {'  '.join(lines)}")
    if not done.new:
        say("nothing to write: everything was there")
    here = done.root.resolve() == Path.cwd()
    say(f"next: {'' if here else f'cd {done.root} && '}workbench run retrieval")
