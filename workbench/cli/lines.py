"""Lines that a command prints, values that it takes, files that it writes."""

from collections.abc import Sequence
from pathlib import Path

import typer

from workbench.errors import ConfigError
from workbench.rendering.text import visible, visible_line


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


def write_file(path: Path, text: str) -> None:
    """Write a file and say so; folders that are missing are made.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode(errors="backslashreplace"))  # half of a pair is no text, and JSON's own escape
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(f"written: {path}")


def say(line: str, *, err: bool = False) -> None:
    """Print one line, and never more: texts of others stand in it, and must not steer the terminal or forge a line."""
    typer.echo(visible_line(line), err=err)


def say_error(error: Exception) -> None:
    """Print an error; what it says on further lines, such as the defects of a file, and its notes are set in."""
    first, *more = visible("\n".join([f"error: {error}", *getattr(error, "__notes__", ())])).split("\n")
    typer.echo("\n  ".join([first, *(line.strip() for line in more)]), err=True)
