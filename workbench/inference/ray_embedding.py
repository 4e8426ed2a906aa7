"""Embedding by several processes of Ray, whose caller stays the only one that writes.

Plain tasks of Ray's core, each a batch of texts: what a killed worker had is done again by another, and since a vector
is only returned, never stored there, nothing can stand twice. Ray listens on this machine alone, under a token that
lives as long as this process and is not written down.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from workbench.config import Settings
from workbench.errors import MissingExtra, ProviderError
from workbench.extras import DISTRIBUTION, is_installed
from workbench.inference.embedding import LOCAL_EMBEDDERS, Embedder

TASK = 64  # texts
TASKS_PER_WORKER = 16  # handed out at once: workers wait while what they made is saved and written
RETRIES = 5  # a batch that has killed its worker so often would kill the next one
# The last one, whatever its name says, keeps Ray on 127.0.0.1: any other way it listens on the machine's own address.
_ENV = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
_ENV |= {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}  # else a warning

_WITHOUT = "Without WORKBENCH_ENGINE, one process embeds"

_MADE: dict[str, Embedder] = {}  # in a worker: its model, for as long as it lives


def _embed_on_ray(key: str, make: Callable[[], Embedder], texts: Sequence[str]) -> np.ndarray:
    if key not in _MADE:
        os.environ["WORKBENCH_THREADS"] = "1"  # one processor each
        _MADE[key] = make()
    return _MADE[key].embed(texts)


@dataclass(slots=True)
class RayEmbedder:
    """``RayEmbedder(embedder, make)``: the same vectors as of ``embedder``, computed by workers that ``make`` theirs.

    Workers start with the first call of more than one batch and end with ``close``, unless Ray was connected before.

    Parameters
    ----------
    inner : Embedder
        What embeds few texts in this process; it also says what vectors are called.
    make : callable
        Makes its like; it travels to the workers, so it is a class, a function of a module, or a partial of these.
    workers : int
        Processes.
    """

    inner: Embedder
    make: Callable[[], Embedder]
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    _ray: Any = None
    _ours: bool = False

    @property
    def encoder_id(self) -> str:
        """Name of model and settings, that of ``inner``."""
        return self.inner.encoder_id

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.inner.dimension

    @property
    def batch(self) -> int:
        """Texts that a call should have, so that all workers have something to do."""
        return TASK * TASKS_PER_WORKER * self.workers

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of the texts in their order, shape ``(len(texts), dimension)``.

        Raises
        ------
        ProviderError
            If a batch ended its worker more often than `RETRIES`; what a worker's embedder raises passes.
        """
        if len(texts) <= TASK:
            return self.inner.embed(texts)
        ray = self._connected()
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_embed_on_ray)
        parts = [list(texts[i : i + TASK]) for i in range(0, len(texts), TASK)]
        try:
            return np.concatenate(ray.get([task.remote(self.encoder_id, self.make, part) for part in parts]))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.RayError as error:
            asked = f"{RETRIES + 1} times a batch of {TASK} texts ended its worker"
            raise ProviderError(f"{asked} ({_first(error)}); is there memory for {self.workers}? {_WITHOUT}") from error

    def close(self) -> None:
        """End the workers that were started here."""
        if self._ours:
            self._ray.shutdown()
            self._ours, self._ray = False, None

    def _connected(self) -> Any:
        if self._ray is None:
            for name, value in {**_ENV, "RAY_AUTH_TOKEN": secrets.token_hex(32)}.items():
                os.environ.setdefault(name, value)  # read when it is imported
            import ray

            if not ray.is_initialized():
                self._start(ray)
            self._ray = ray
        return self._ray

    def _start(self, ray: Any) -> None:
        """Start Ray on this machine, quietly."""
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        try:
            ray.init("local", num_cpus=self.workers, object_store_memory=128 << 20, configure_logging=False, **quiet)
        except Exception as error:  # a plain one is what it raises
            ray.shutdown()
            why = "It waits for 15 seconds, too little where the machine is busy: try again"
            raise ProviderError(f"Ray did not start: {_first(error)} {why}. {_WITHOUT}") from error
        self._ours = True


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def fanned_out_embedder(name: str, embedder: Embedder, settings: Settings) -> Iterator[tuple[Embedder, int]]:
    """Embedder to ingest with, and the texts it should get at once: by Ray if the settings say so, 0 if not.

    Raises
    ------
    MissingExtra
        If Ray is not installed.
    """
    if not settings.engine or name not in LOCAL_EMBEDDERS:  # a hosted one computes nothing here
        yield embedder, 0
        return
    if not is_installed("ray"):
        raise MissingExtra(f"WORKBENCH_ENGINE=ray needs: pip install '{DISTRIBUTION}[ray]'", extra="ray")
    fanned = RayEmbedder(embedder, partial(LOCAL_EMBEDDERS[name], settings.cache / "weights"))
    with closing(fanned):
        yield fanned, fanned.batch
