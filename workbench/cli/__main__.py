"""``python -m workbench.cli``: the command line without its script."""

from workbench.cli import app

app()
