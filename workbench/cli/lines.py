"""Lines that a command prints."""

import typer

from workbench.rendering.escape import visible, visible_line


def say(line: str, *, err: bool = False) -> None:
    """Print one line, and never more: texts of others stand in it, and must not steer the terminal or forge a line."""
    typer.echo(visible_line(line), err=err)


def say_error(error: Exception) -> None:
    """Print an error; what it says on further lines, such as the defects of a file, is set in."""
    first, *more = visible(f"error: {error}").split("\n")
    typer.echo("\n  ".join([first, *(line.strip() for line in more)]), err=True)
