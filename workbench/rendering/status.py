"""One sign and one word for each status, so that no status is told by colour alone; and what verdicts are called."""

SIGNS = {
    "holds": "✓", "identical": "=", "broken": "✕", "inconclusive": "?", "stale": "↻", "error": "!",
    "new": "○", "not tested": "\u2013",
    "done": "✓", "running": "…", "failed": "✕", "interrupted": "✕",
    "good enough": "✓", "certified": "✓", "the same": "=", "in use": "=", "none wrong": "=",
    "too far below": "↓", "too many wrong": "✕", "cannot tell": "?", "not compared": "\u2013",
    "shown better": "↑", "shown worse": "↓", "not told apart": "?",
}  # fmt: skip
_GOOD = ("holds", "identical", "done", "good enough", "certified", "the same", "in use", "none wrong", "shown better")
_BAD = ("broken", "error", "failed", "interrupted", "too many wrong")
# An arm that is merely worse than another is no alarm, and neither is what nobody has accepted or tried yet.
_NEUTRAL = ("new", "not tested", "too far below", "not compared", "shown worse", "not told apart")
VERDICTS = {
    "chosen": "Use", "upgrade": "Upgrade", "keep_reference": "Keep what you have",
    "none_meets_floor": "Nothing is good enough", "inconclusive": "Cannot tell yet", "provisional": "Provisional",
}  # fmt: skip


def tone(status: str) -> str:
    """Class of a status: ``good``, ``bad``, ``neutral`` or ``open``; what is not known is open, never good."""
    tones = {"good": _GOOD, "bad": _BAD, "neutral": _NEUTRAL}
    return next((name for name, statuses in tones.items() if status in statuses), "open")


def signed(status: str) -> str:
    """Status with its sign.

    >>> signed("holds")
    '✓ holds'
    """
    return f"{SIGNS.get(status, '·')} {status}"


def verdict_label(verdict: str, reference: str) -> str:
    """Verdict in a few words; ``reference`` is the arm in use, "" where there is none yet.

    >>> verdict_label("chosen", ""), verdict_label("chosen", "vector"), verdict_label("keep_reference", "off")
    ('Start with', 'Use', 'Keep the cache off')
    """
    if verdict == "chosen" and not reference:
        return "Start with"
    if verdict == "keep_reference" and reference == "off":
        return "Keep the cache off"
    return VERDICTS.get(verdict, verdict)
