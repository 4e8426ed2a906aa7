"""Flows on an empty database, with a scripted model for their client."""

import pytest

from tests.databases import database_url
from tests.orchestration.small_flows import LOG
from workbench.config import Settings
from workbench.inference.call_attempt import Books
from workbench.inference.client import Client
from workbench.inference.prices import project_prices
from workbench.orchestration.flows import Flows
from workbench.testing import ScriptedModel


@pytest.fixture
def settings(tmp_path, monkeypatch) -> Settings:
    """Project in a folder of its own, on SQLite."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    return settings_in(tmp_path, f"sqlite:///{tmp_path / 'state.sqlite'}")


def settings_in(folder, url) -> Settings:
    return Settings(root=folder, cache=folder / "cache", runs=folder / "runs", state_url=url)


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
def client(model, settings) -> Client:
    """Client that asks the scripted model, and pays nothing."""
    return Client({"": model}, Books(project_prices(settings.root)))


@pytest.fixture
def flows(settings, client):
    with Flows.open(settings, tools={"client": client}) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def any_flows(request, tmp_path, monkeypatch):
    """Flows on an empty database of each kind."""
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    with database_url(request.param, tmp_path) as url, Flows.open(settings_in(tmp_path, url)) as opened:
        yield opened
