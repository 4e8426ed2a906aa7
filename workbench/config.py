"""Where things live and how a run is parameterised: settings from the environment, profiles from YAML."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import yaml

from workbench.errors import ConfigError, unknown_name

ENGINES = ("", "ray")
PROFILES = ("smoke", "ci", "full")
# Every variable of the environment that means something here; those of tests are theirs.
VARIABLES = (
    "WORKBENCH_ROOT", "WORKBENCH_CACHE", "WORKBENCH_RUNS", "WORKBENCH_STATE_URL", "WORKBENCH_STORE_URL",
    "WORKBENCH_TABLES_URL", "WORKBENCH_ENGINE", "WORKBENCH_THREADS", "WORKBENCH_LLM_API_BASE", "WORKBENCH_LLM_API_KEY",
    "WORKBENCH_LLM_THREADS", "WORKBENCH_CAPTURE_CONTENT", "WORKBENCH_PROFILE", "WORKBENCH_RUN_DIR",
    "WORKBENCH_SHARED_DATA", "WORKBENCH_CI_BOUNDED",
)  # fmt: skip
OBJECT_STORES = ("s3", "gs", "az")  # that LanceDB knows; its own variables (AWS_ENDPOINT ...) say where and as whom
_OF_TESTS = "WORKBENCH_TEST_"
DEFAULTS = "ci"  # the profile that needs no file


@dataclass(frozen=True, slots=True)
class Settings:
    """Folders and addresses of one project; made by `load_settings`, handed on explicitly.

    Attributes
    ----------
    root : Path
        The project: the folder that holds ``evalsets/`` and ``notebooks/``.
    cache : Path
        What can be built or fetched again: corpora, indices, vectors, weights.
    runs : Path
        One folder a run.
    state_url : str
        SQLAlchemy URL of the state database, ``sqlite:///...`` or ``postgresql://...``.
    store_url : str
        ``postgresql://`` URL of a server with pgvector; "" for that of the package, see ``stores`` of `01_retrieval`.
    tables_url : str
        Where LanceDB keeps its tables: ``s3://bucket/prefix`` or a folder; "" for one in the cache, see `tables`.
    engine : str
        What documents are embedded by: "ray" for several processes, "" for one.
    """

    root: Path
    cache: Path
    runs: Path
    state_url: str
    store_url: str = ""
    tables_url: str = ""
    engine: str = ""

    @property
    def notebooks(self) -> Path:
        """Folder of the notebooks."""
        return self.root / "notebooks"

    @property
    def evalsets(self) -> Path:
        """Folder of the evalsets."""
        return self.root / "evalsets"

    @property
    def tables(self) -> str:
        """Object store or folder of LanceDB's tables."""
        return self.tables_url or str(self.cache / "tables")

    def require_project(self, *, reads_evalset: bool = True) -> None:
        """Refuse a root that is no project; ``reads_evalset`` is false for what works on the state database alone.

        Raises
        ------
        ConfigError
            If it lacks a folder that is read: ``notebooks/``, or ``evalsets/``.
        """
        needed = (self.evalsets, self.notebooks) if reads_evalset else (self.notebooks,)
        if missing := [folder.name for folder in needed if not folder.is_dir()]:
            raise ConfigError(
                f"you are not in a project: {self.root} has no {' and no '.join(f'{name}/' for name in missing)}; "
                "change into the folder that holds evalsets/ and notebooks/, name it with WORKBENCH_ROOT, or "
                "begin one: workbench init"
            )


def require_writable(folder: Path, variable: str) -> None:
    """Make a folder, and refuse one that cannot be written; ``variable`` is what sets it.

    Raises
    ------
    ConfigError
        If it cannot be made, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK | os.X_OK) else "permission denied"
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise ConfigError(f"{folder} cannot be written: {reason}; make it writable, or name another with {variable}")


def load_settings(env: Mapping[str, str] | None = None, start: Path | None = None) -> Settings:
    """Settings from ``WORKBENCH_ROOT``, ``_CACHE``, ``_RUNS``, ``_STATE_URL``, ``_STORE_URL`` and ``_TABLES_URL``.

    What is not set lies below the project.

    The project is the nearest folder at or above ``start`` (default: the working directory) with ``evalsets/``.

    Raises
    ------
    ConfigError
        If a variable begins with ``WORKBENCH_`` and is none of `VARIABLES`, ``WORKBENCH_ROOT`` is no folder, or
        ``WORKBENCH_ENGINE`` is none of `ENGINES`.
    """
    env = os.environ if env is None else env
    for name in sorted(env):
        if name.startswith("WORKBENCH_") and name not in VARIABLES and not name.startswith(_OF_TESTS):
            raise ConfigError(f"{unknown_name('variable', name, VARIABLES)}; correct its name, or unset it")
    if "WORKBENCH_ROOT" in env and not Path(env["WORKBENCH_ROOT"]).is_dir():
        raise ConfigError(f"WORKBENCH_ROOT is {env['WORKBENCH_ROOT']!r}, which is no folder; name that of the project")
    if (engine := env.get("WORKBENCH_ENGINE", "")) not in ENGINES:
        raise ConfigError(f"WORKBENCH_ENGINE is {engine!r}; it is ray, to embed in several processes, or not set")
    start = (start or Path.cwd()).resolve()
    found = next((p for p in (start, *start.parents) if (p / "evalsets").is_dir()), start)
    root = Path(env["WORKBENCH_ROOT"]).resolve() if "WORKBENCH_ROOT" in env else found
    # Absolute, because a kernel works in another folder than the process that starts it.
    cache = Path(env.get("WORKBENCH_CACHE", root / "data" / ".cache")).resolve()
    return Settings(
        root=root,
        cache=cache,
        runs=Path(env.get("WORKBENCH_RUNS", root / "runs")).resolve(),
        state_url=_state_url(env.get("WORKBENCH_STATE_URL", f"sqlite:///{cache / 'state.sqlite'}")),
        store_url=env.get("WORKBENCH_STORE_URL", ""),
        tables_url=_tables_url(env.get("WORKBENCH_TABLES_URL", "")),
        engine=engine,
    )


def _state_url(given: str) -> str:
    """URL of the state database; the file of SQLite is named by an absolute path."""
    path = given.removeprefix("sqlite:///")
    if path == given or not path or path.startswith(("/", ":memory:", "file:")):
        return given
    return f"sqlite:///{Path(path).resolve()}"


def _tables_url(given: str) -> str:
    """Object store, or folder as an absolute path."""
    scheme, colon, rest = given.partition("://")
    forms = f"{', '.join(f'{name}://...' for name in OBJECT_STORES)} or a folder"
    if colon and scheme not in OBJECT_STORES:
        raise ConfigError(
            f"WORKBENCH_TABLES_URL is {forms}, found {scheme}://...; correct it, or unset it for a folder in the cache"
        )
    if (colon and not rest.strip("/ ")) or (not colon and given.startswith(tuple(f"{n}:" for n in OBJECT_STORES))):
        raise ConfigError(
            f"WORKBENCH_TABLES_URL is {forms}, found {given!r}, which names no bucket: s3://bucket/prefix"
        )
    return given if colon or not given else str(Path(given).resolve())


def count_from(variable: str, default: int) -> int:
    """Whole number from 1 that an environment variable holds, or the default where it is not set.

    Raises
    ------
    ConfigError
        If it holds anything else.
    """
    given = os.environ.get(variable, str(default))
    if not given.isdecimal() or int(given) < 1:
        raise ConfigError(f"{variable} must be a whole number from 1, found {given!r}")
    return int(given)


def load_profile(settings: Settings, notebook: str, profile: str) -> dict[str, Any]:
    """Parameters that ``notebooks/profiles/<notebook>.<profile>.yaml`` sets.

    Without a file the profile ``ci`` is the notebook's own defaults: what decisions are made with, and what CI keeps
    checking.

    Raises
    ------
    ConfigError
        If the profile is unknown, the file of another one than ``ci`` is missing, or it is not a mapping of names to
        plain values.
    """
    if profile not in PROFILES:
        raise ConfigError(unknown_name("profile", profile, PROFILES))
    path = settings.notebooks / "profiles" / f"{notebook}.{profile}.yaml"
    if not path.is_file():
        if profile == DEFAULTS:
            return {}
        raise ConfigError(
            f"profile {profile!r} of {notebook!r} needs the file {path}; it does not exist. Write it, or take "
            f"{DEFAULTS!r}, which without a file is the notebook's own defaults"
        )
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must map parameter names to values, found {type(values).__name__}")
    return values


class Clock(Protocol):
    """The three things code may ask of time."""

    def now(self) -> datetime:
        """Wall-clock time in UTC."""

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean something."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """Wall-clock time in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never run backwards."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for ``seconds``."""
        time.sleep(seconds)
