"""What a notebook calls: start an experiment, ask its questions in order, save, gate."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from workbench.errors import ConfigError, unknown_name
from workbench.evalset.gates import NOTEBOOKS

# Each experiment is loaded when its notebook starts it.
EXPERIMENTS: Mapping[str, str] = {
    name: f"workbench.{name}.notebook:{name.capitalize()}Experiment" for name in NOTEBOOKS
}


def start(notebook: str, **parameters: Any) -> Any:
    """Begin the experiment of a notebook with its parameters.

    Parameters
    ----------
    notebook : str
        ``retrieval``, ``routing`` or ``caching``.
    **parameters
        Fields of the experiment's parameter class, e.g. `workbench.retrieval.notebook.RetrievalParameters`.

    Raises
    ------
    ConfigError
        If the notebook or a parameter is not known, or a value cannot be used.
    EvalsetError
        If the evalset cannot be used.
    """
    if notebook not in EXPERIMENTS:
        raise ConfigError(unknown_name("notebook", notebook, sorted(EXPERIMENTS)))
    module, _, name = EXPERIMENTS[notebook].partition(":")
    return getattr(import_module(module), name).start(**parameters)
