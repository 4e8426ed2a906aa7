"""Files that a command writes where it is told to."""

from pathlib import Path

import typer

from workbench.errors import ConfigError


def write_file(path: Path, text: str) -> None:
    """Write a file and say so; folders that are missing are made.

    Raises
    ------
    ConfigError
        If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
    typer.echo(f"written: {path}")
