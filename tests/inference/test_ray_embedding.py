"""Ray computes vectors and nothing else: the same ones, quietly, on this machine, whatever happens to a worker."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from workbench.config import load_settings
from workbench.errors import ConfigError, MissingExtra, ProviderError, WeightsError
from workbench.inference import ray_embedding as fan_out
from workbench.inference.ray_embedding import TASK, RayEmbedder, fanned_out_embedder
from workbench.testing import HashEmbedder

ROOT = Path(__file__).parents[2]
TEXTS = [f"text {i}" for i in range(3 * TASK + 5)]
MAKE = partial(HashEmbedder, dimension=8)


class TaskError(Exception):
    cause: Exception


class FakeRay(SimpleNamespace):
    """Does tasks when they are asked for, the last one first; ``fails`` is raised in place of results."""

    def __init__(self, fails=None, starts=None):
        errors = SimpleNamespace(RayError=RuntimeError, RayTaskError=TaskError)
        super().__init__(exceptions=errors, fails=fails, starts=starts, sizes=[], open=False)

    def is_initialized(self):
        return self.open

    def init(self, address, **options):
        assert address == "local"
        if self.starts:
            raise self.starts
        self.open = self.options = options

    def shutdown(self):
        self.open = False

    def remote(self, **options):
        return lambda function: SimpleNamespace(remote=lambda *given: partial(function, *given))

    def get(self, tasks):
        if self.fails:
            raise self.fails
        done = [task() for task in reversed(tasks)]
        self.sizes += [len(part) for part in done]
        return done[::-1]


@pytest.fixture
def fake(monkeypatch):
    def use(**given):
        ray = FakeRay(**given)
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    monkeypatch.setattr(fan_out, "_MADE", {})
    with pytest.MonkeyPatch.context() as env:  # what a start sets
        for name in (*fan_out._ENV, "RAY_AUTH_TOKEN", "WORKBENCH_THREADS"):
            env.setenv(name, "")
            env.delenv(name)
        yield use


def test_vectors_come_in_the_order_of_their_texts_whoever_is_done_first(fake):
    ray, embedder = fake(), RayEmbedder(MAKE(), MAKE, workers=2)
    assert np.array_equal(embedder.embed(TEXTS), MAKE().embed(TEXTS))
    assert sorted(ray.sizes) == [5, TASK, TASK, TASK]
    assert (embedder.encoder_id, embedder.dimension) == (MAKE().encoder_id, 8)
    assert ray.options["num_cpus"] == 2
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64
    embedder.close()
    assert not ray.open


def test_few_texts_start_nothing(fake):
    ray, embedder = fake(), RayEmbedder(MAKE(), MAKE)
    assert np.array_equal(embedder.embed(TEXTS[:TASK]), MAKE().embed(TEXTS[:TASK]))
    assert not ray.open


def test_a_ray_that_was_connected_before_stays(fake):
    ray, embedder = fake(), RayEmbedder(MAKE(), MAKE)
    ray.open = True
    embedder.embed(TEXTS)
    embedder.close()
    assert ray.open is True


def test_what_an_embedder_raises_in_a_worker_is_raised_here(fake):
    told = TaskError("in a worker")
    told.cause = WeightsError("not the pinned file")
    fake(fails=told)
    with pytest.raises(WeightsError, match="not the pinned file"):
        RayEmbedder(MAKE(), MAKE).embed(TEXTS)


def test_a_batch_that_ends_every_worker_says_so(fake):
    fake(fails=RuntimeError("worker died\nand more"))
    with pytest.raises(ProviderError, match=r"6 times a batch of 64 texts ended its worker \(worker died\)"):
        RayEmbedder(MAKE(), MAKE).embed(TEXTS)


def test_a_ray_that_does_not_start_says_what_to_do(fake):
    fake(starts=Exception("The current node timed out."))
    with pytest.raises(ProviderError, match=r"did not start: The current node timed out\..*WORKBENCH_ENGINE, one"):
        RayEmbedder(MAKE(), MAKE).embed(TEXTS)


def test_the_engine_is_a_setting_for_encoders_that_run_here(monkeypatch, tmp_path):
    env = {"WORKBENCH_ROOT": str(tmp_path)}
    plain, by_ray = (load_settings(env | {"WORKBENCH_ENGINE": engine}) for engine in ("", "ray"))
    monkeypatch.setattr(fan_out, "is_installed", lambda _: True)
    embedder = MAKE()
    for name, settings in (("minilm", plain), ("litellm:some/model", by_ray)):
        with fanned_out_embedder(name, embedder, settings) as found:
            assert found == (embedder, 0)
    with fanned_out_embedder("minilm", embedder, by_ray) as (fanned, at_once):
        assert isinstance(fanned, RayEmbedder)
        assert at_once == fan_out.TASKS_PER_WORKER * TASK * os.cpu_count()
    monkeypatch.setattr(fan_out, "is_installed", lambda _: False)
    with (
        pytest.raises(MissingExtra, match=r"pip install 'evals-workbench\[ray\]'"),
        fanned_out_embedder("minilm", embedder, by_ray),
    ):
        pass
    with pytest.raises(ConfigError, match="WORKBENCH_ENGINE is 'dask'; it is ray"):
        load_settings(env | {"WORKBENCH_ENGINE": "dask"})
    assert replace(by_ray, engine="") == plain


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_killed_worker_costs_no_row_and_makes_none_twice():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.inference.ray_child"],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    if "Ray did not start" in done.stderr:
        pytest.skip("the machine is so busy that Ray does not start within its 15 seconds")
    assert done.returncode == 0, done.stderr
    *others, told = done.stdout.splitlines()
    assert all(not line or "(raylet)" in line or "A worker died" in line for line in others), "of the death alone"
    told = json.loads(told)
    assert {ip.strip("[]").removeprefix("::ffff:") for ip in told.pop("listening")} == {"127.0.0.1"}
    assert told == {"rows": 3_000, "equal": True, "killed": 1}
