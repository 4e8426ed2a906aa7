"""What is in use: where the accepted decision and the anchor lie, and which arms were judged on the test split."""

from pathlib import Path

from workbench.config import Settings

TEST_INPUTS = ("qrels/test", "outcomes", "stream")  # what a notebook judges on, the first that it has


def decision_path(evalset: Path, notebook: str) -> Path:
    """Where the accepted decision of a notebook lies."""
    return evalset / "decisions" / f"{notebook}.json"


def anchor_path(evalset: Path, notebook: str) -> Path:
    """Where the decision lies whose arm is the anchor; its scores lie beside it."""
    return evalset / "decisions" / "anchor" / f"{notebook}.json"


def note_test_use(settings: Settings, evalset: Path, notebook: str, use: str = "") -> list[str]:
    """Arm sets that were judged on the test split, on this machine and before the last acceptance, with this one."""
    local = settings.cache / "test_uses" / f"{evalset.name}-{notebook}"
    known: list[str] = []
    for path in (decision_path(evalset, notebook).with_suffix(".uses"), local):
        known += path.read_text(encoding="utf-8").split() if path.is_file() else []
    uses = list(dict.fromkeys([*known, use] if use else known))
    local.parent.mkdir(parents=True, exist_ok=True)
    local.write_text("\n".join(uses) + "\n", encoding="utf-8")
    return uses
