"""The charts of notebooks and reports; each is a `Figure` that carries its alt text and its numbers."""

from workbench.reports.figure import Figure
from workbench.reports.forest import forest
from workbench.reports.frontier import frontier
from workbench.reports.lines import lines
from workbench.reports.slices import slices

__all__ = ["Figure", "forest", "frontier", "lines", "slices"]
