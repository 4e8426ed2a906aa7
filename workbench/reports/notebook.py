"""The executed notebook inside a report: its slowest cells, and itself as a harmless appendix."""

import copy
import json
from typing import Any

from workbench.rendering.html import sanitize
from workbench.rendering.table import Column, Table

_TEXT_LIMIT = 20_000
_HTML_LIMIT = 2_000_000


def slowest_cells(notebook: dict[str, Any]) -> Table:
    """The five code cells that took longest, from the times that papermill stored; empty where it stored none."""
    timed = []
    for position, cell in enumerate(notebook.get("cells", []), start=1):
        seconds = cell.get("metadata", {}).get("papermill", {}).get("duration")
        if isinstance(seconds, int | float) and cell.get("cell_type") == "code":
            timed.append((float(seconds), position, cell))
    total = sum(seconds for seconds, _, _ in timed)
    rows = tuple(
        (position, _first_line(_joined(cell.get("source", ""))), seconds, seconds / total if total else 0.0)
        for seconds, position, cell in sorted(timed, key=lambda t: (-t[0], t[1]))[:5]
    )
    columns = (
        Column("cell", "count"), Column("first line", limit=100), Column("seconds", "number", digits=1),
        Column("share of all cells", "share", digits=0),
    )  # fmt: skip
    return Table(columns, rows)


def appendix(notebook: dict[str, Any]) -> str:
    """Render the notebook as HTML that loads nothing, runs nothing and cannot leave its place in the page.

    Cells tagged ``remove-cell`` and the code of cells tagged ``hide-input`` are left out.
    """
    import nbformat
    from nbconvert import HTMLExporter
    from traitlets.config import Config

    hidden = {"enabled": True, "remove_input_tags": {"hide-input"}, "remove_cell_tags": {"remove-cell"}}
    config = Config({"TagRemovePreprocessor": hidden})
    exporter = HTMLExporter(config=config, template_name="basic", exclude_anchor_links=True)
    # read, not built from the dictionary: on disk a text may be a list of lines
    html, _ = exporter.from_notebook_node(nbformat.reads(json.dumps(_bounded(notebook)), as_version=4))
    return sanitize(html, prefix="nb-", heading_shift=2)


def _bounded(notebook: dict[str, Any]) -> dict[str, Any]:
    """Copy whose outputs are cut to a length that a page can bear; what was cut is counted."""
    out = copy.deepcopy(notebook)
    for cell in out.get("cells", []):
        for output in cell.get("outputs", []):
            if "text" in output:
                output["text"] = _cut(_joined(output["text"]))
            data = output.get("data", {})
            if "text/plain" in data:
                data["text/plain"] = _cut(_joined(data["text/plain"]))
            size = len(_joined(data.get("text/html", "")))
            if size > _HTML_LIMIT:
                data["text/html"] = f"<p>An output of {size:,} characters is left out; open the notebook to see it.</p>"
            # plain forms of these exist beside them, and nothing else could be shown without a script
            for mime in [m for m in data if "javascript" in m or "widget" in m or "bokeh" in m]:
                del data[mime]
    return out


def _cut(text: str) -> str:
    rest = len(text) - _TEXT_LIMIT
    return f"{text[:_TEXT_LIMIT]}\n… (+{rest:,} characters)" if rest > 0 else text


def _joined(text: Any) -> str:
    return "".join(text) if isinstance(text, list) else str(text)


def _first_line(source: str) -> str:
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith("#")), lines[0] if lines else "")
