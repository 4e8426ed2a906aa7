"""One sign and one word for each status, so that no status is told by colour alone."""

SIGNS = {
    "holds": "✓",
    "identical": "=",
    "broken": "✕",
    "inconclusive": "?",
    "stale": "↻",
    "error": "!",
    "done": "✓",
    "running": "…",
    "failed": "✕",
    "interrupted": "✕",
}


def tone(status: str) -> str:
    """Class of a status: ``good``, ``bad`` or ``open``; what is not known is open, never good."""
    if status in ("holds", "identical", "done"):
        return "good"
    return "bad" if status in ("broken", "error", "failed", "interrupted") else "open"


def signed(status: str) -> str:
    """Status with its sign.

    >>> signed("holds")
    '✓ holds'
    """
    return f"{SIGNS.get(status, '·')} {status}"
