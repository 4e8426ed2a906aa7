"""Scripts of `findings/`: each says what was guessed and what is seen, and can be run without this project."""

import os
import re
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "findings").glob("*"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_finding_has_its_form(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    head, _, body = text.partition("\nset -euo pipefail\n")
    assert path.suffix == ".sh"
    assert os.access(path, os.X_OK)
    first, subject, *comment = head.splitlines()
    assert first == "#!/usr/bin/env bash"
    assert re.match(r"# .+ \d+(\.\d+)+", subject), "the first line names what it is of, and the version"
    assert all(line.startswith("#") for line in comment)
    assert "good guess says" in " ".join(line.removeprefix("#").strip() for line in comment)
    assert any(line.startswith("# Seen") for line in comment)
    assert "work=$(mktemp -d)\ntrap 'rm -rf \"$work\"' EXIT\n" in body
    assert "import workbench" not in body
    assert not re.search(r"index-url|pypi\.org|/(?:work|home|root|tmp)/", text)
    asked = re.findall(r'"([A-Za-z][\w.\[\],-]*)(==[\w.$]+|>=[^"]+)?"', "".join(_installs(body)))
    assert asked
    assert all(pin for _, pin in asked), "every package that is installed has its version"


def _installs(body: str) -> list[str]:
    return re.findall(r"pip\" install(?:.*\\\n)*.*", body)
