"""What is given on the command line as NAME=VALUE."""

from collections.abc import Sequence

from workbench.errors import ConfigError


def named_values(given: Sequence[str], option: str = "-p") -> dict[str, str]:
    """Read values by name; ``option`` is named in the message.

    Raises
    ------
    ConfigError
        If an entry has no name or no ``=``, or a name is given twice.
    """
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ConfigError(f"{option} takes NAME=VALUE, found {text!r}")
        if name in pairs:
            raise ConfigError(f"{option} {name} is given twice: {pairs[name]!r} and {value!r}")
        pairs[name] = value
    return pairs
