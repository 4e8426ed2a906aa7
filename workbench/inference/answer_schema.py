"""Whether an answer fulfils the JSON schema that it was asked for; not every vendor holds its models to it."""

import json
from typing import Any

from workbench.errors import ConfigError
from workbench.inference.messages import Request, Response

_TOLD_CHARACTERS = 200


def validator_of(request: Request) -> Any:
    """Validator of jsonschema's for the answers to a request; None where it asks for no schema.

    Raises
    ------
    ConfigError
        If the schema is none.
    """
    if request.schema is None:
        return None
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Registry

    kind = validator_for(request.schema)
    try:
        kind.check_schema(request.schema)
    except SchemaError as error:
        raise ConfigError(f"the schema of this request is no JSON schema: {error.message}") from error
    return kind(request.schema, registry=Registry())  # else it would fetch schemas that are referred to


def misfit(validator: Any, response: Response) -> str:
    """What is wrong with an answer; empty where nothing is, or where it only calls tools."""
    if validator is None or (response.tool_calls and not response.text):
        return ""
    from referencing.exceptions import Unresolvable

    try:
        first = next(validator.iter_errors(json.loads(response.text)), None)
    except ValueError as error:
        return f"the answer is no JSON, which its schema asks for: {error}"
    except Unresolvable as error:
        return f"the answer cannot be checked, because its schema refers to one elsewhere: {error}"
    return f"the answer does not fulfil its schema: {first.message[:_TOLD_CHARACTERS]}" if first else ""
