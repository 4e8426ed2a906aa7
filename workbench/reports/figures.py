"""The charts of notebooks and reports; each is a `Figure` that carries its alt text and its numbers."""

from workbench.reports.charts import forest, lines, slices
from workbench.reports.figure import Figure
from workbench.reports.frontier import frontier

__all__ = ["Figure", "forest", "frontier", "lines", "slices"]
