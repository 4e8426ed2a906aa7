"""What a notebook calls: start an experiment, ask its questions in order, save, gate."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from importlib import import_module
from typing import Any

from workbench.config import Settings, load_settings, require_writable
from workbench.errors import ConfigError, unknown_name
from workbench.evalset.evalset import Load, load_evalset
from workbench.evalset.gates import NOTEBOOKS
from workbench.extras import extras_named

# Each experiment is loaded when its notebook starts it.
EXPERIMENTS: Mapping[str, str] = {
    name: f"workbench.{name}.notebook:{name.capitalize()}Experiment" for name in NOTEBOOKS
}


def check_parameters(notebook: str, parameters: Mapping[str, Any]) -> None:
    """Refuse the values that the experiment of a notebook would refuse, before a kernel starts.

    The parameter class of an experiment knows the names that each parameter may hold. A notebook of your own has no
    such class, nor have parameters that you added to one of ours: those are checked by their types alone.

    Raises
    ------
    ConfigError
        If a value is not one that the experiment knows; the nearest is named.
    """
    if notebook in EXPERIMENTS:
        from workbench.evaluation.fingerprint import build_parameters

        kind = _experiment_class(notebook)
        build_parameters(kind.parameters_class, _own_parameters(kind, parameters))


def examined_experiment(
    notebook: str, parameters: Mapping[str, Any], settings: Settings, load: Load = load_evalset
) -> Any:
    """Experiment of a notebook that has refused, before a kernel starts, what a run would; None of one of your own.

    No model is loaded or asked, and no run folder is made. ``load`` may have read the evalset already.

    Raises
    ------
    ConfigError, EvalsetError
        With the words of the run.
    """
    if notebook not in EXPERIMENTS:
        return None
    from workbench.evaluation.finalists import require_arm
    from workbench.evaluation.fingerprint import build_parameters

    kind = _experiment_class(notebook)
    found = kind.examined(build_parameters(kind.parameters_class, _own_parameters(kind, parameters)), settings, load)
    if (asked := parameters.get("reference")) and (known := found.arm_names()):
        require_arm(asked, known)
    return found


def _own_parameters(kind: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of an experiment, without those that you added to its notebook."""
    own = {name for f in fields(kind.parameters_class) for name in (f.name, f.metadata.get("formerly"))}
    return {name: value for name, value in parameters.items() if name in own}


def parameters_as_declared(notebook: str, parameters: Mapping[str, Any], declared: Collection[str]) -> dict[str, Any]:
    """Parameters that were kept with a decision, under the names that the cell of a notebook has for them."""
    if notebook not in EXPERIMENTS:
        return dict(parameters)
    from workbench.evaluation.fingerprint import declared_parameter_names

    return declared_parameter_names(_experiment_class(notebook).parameters_class, parameters, declared)


def inputs_of_settings(notebook: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Inputs of the fingerprint that the settings of a decision make, as a run of the notebook would name them.

    Raises
    ------
    ConfigError
        If the settings are none of the notebook.
    """
    if notebook not in EXPERIMENTS:
        return {f"parameter {name}": repr(_tuples(value)) for name, value in settings.items()}
    from workbench.evaluation.fingerprint import (
        FORMERLY,
        build_parameters,
        declared_parameter_names,
        parameter_inputs,
    )

    kind = _experiment_class(notebook).parameters_class
    told = parameter_inputs(
        build_parameters(kind, declared_parameter_names(kind, settings, [f.name for f in fields(kind)]))
    )
    names = [{f.name, f.metadata.get(FORMERLY, f.name)} for f in fields(kind)]
    missing = set().union(*(each for each in names if not each & settings.keys()))
    return {name: value for name, value in told.items() if name.removeprefix("parameter ") not in missing}


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def start(notebook: str, **parameters: Any) -> Any:
    """Begin the experiment of a notebook with its parameters.

    Parameters
    ----------
    notebook : str
        ``retrieval``, ``routing``, ``caching``, ``pipeline`` or ``costs``.
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
    require_writable(load_settings().cache, "WORKBENCH_CACHE")
    return _experiment_class(notebook).start(**parameters)


def _experiment_class(notebook: str) -> Any:
    module, _, name = EXPERIMENTS[notebook].partition(":")
    with extras_named():
        return getattr(import_module(module), name)
