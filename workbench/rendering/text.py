"""Text that nobody vouches for (documents, questions, answers, names of arms), made safe to show.

What cannot be seen is shown: control characters appear as their pictures, characters that turn the writing
direction as their code, so that no text can look like something else or break an HTML or XML parser.
"""

import html
import re
from dataclasses import dataclass

from workbench.rendering.numbers import counted

_PICTURES = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_UNUSABLE = re.compile("[\x80-\x9f\ud800-\udfff\ufffe\uffff]")
_NO_FORMULA = "mathjax_ignore tex2jax_ignore"  # MathJax from 3 on, and before
# Tags as our tables write them; no text that is shown has such a one: it is escaped.
_CAPTION, _CAPTION_STYLED = "<caption>", '<caption style="text-align:left;min-width:min(36em,80vw)">'
_NUMBER = re.compile(r' class="wb-number" style="([^"]*)">([^<]*)<')
_NOT_PROSE = re.compile(r"(<(pre|code|style|svg)\b.*?</\2>|<[^>]*>)", re.DOTALL)
_PER_CENT = re.compile(r"(?<=\d) (?=%)")
# Of numbers with a unit or a point: two whole ones may be any list.
_INTERVAL = re.compile(r"(\[(?=[^\[\]]*[.%$])[^\[\]\s]*\d(?:&nbsp;%)?,) (?=[^\[\]\s]*\d(?:&nbsp;%)?\])")
_NEWLINES = re.compile("\r\n?|\u2028|\u2029")


def visible(text: str, limit: int | None = None) -> str:
    r"""Text with every invisible or unusable character made visible; at most ``limit`` characters of it.

    Newlines become ``\n``; other control characters become their Unicode pictures, direction marks their
    code, lone surrogates and non-characters U+FFFD. What was cut off is counted.

    >>> visible("red\x1b[31m\u202egnp")
    'red␛[31m[U+202E]gnp'
    >>> visible("abcdef", 4)
    'abcd… (+2 characters)'
    """
    rest = 0 if limit is None else len(text) - limit
    if rest > 0:
        text = text[:limit]
    text = _NEWLINES.sub("\n", text).translate(_PICTURES)
    text = _BIDI.sub(lambda found: f"[U+{ord(found[0]):04X}]", text)
    text = _UNUSABLE.sub("\ufffd", text)
    return f"{text}… (+{counted(rest, 'character')})" if rest > 0 else text


def visible_line(text: str) -> str:
    r"""`visible` text on one line: no text begins a line that looks like another's.

    >>> visible_line("done\nfailed: \x1b[2J")
    'done failed: ␛[2J'
    """
    return visible(text).replace("\n", " ")


def escape(text: str, limit: int | None = None) -> str:
    """`visible` text for HTML, in an element or a quoted attribute.

    >>> escape('<b title="x">')
    '&lt;b title=&quot;x&quot;&gt;'
    """
    return html.escape(visible(text, limit), quote=True)


def cell_html(inner: str) -> str:
    """HTML of ours as a cell's output, which has no style sheet, and where dollars would begin and end a formula.

    >>> cell_html("<p>$1 of $2, 5 %</p>")
    '<div class="mathjax_ignore tex2jax_ignore"><p>$1 of $2, 5&nbsp;%</p></div>'
    """
    whole = _NUMBER.sub(_unbroken, unbroken_numbers(inner.replace(_CAPTION, _CAPTION_STYLED)))
    return f'<div class="{_NO_FORMULA}">{whole}</div>'


def unbroken_numbers(page: str) -> str:
    """HTML of ours whose percentages and intervals are not broken at the end of a line; code stays as it is.

    >>> unbroken_numbers("<p>5 % [0.1 %, 9.5 %]</p><code>5 %</code>")
    '<p>5&nbsp;% [0.1&nbsp;%,&nbsp;9.5&nbsp;%]</p><code>5 %</code>'
    """
    out, end = list[str](), 0
    for kept in _NOT_PROSE.finditer(page):
        out += (_unbroken_prose(page[end : kept.start()]), kept[0])
        end = kept.end()
    return "".join((*out, _unbroken_prose(page[end:])))


def _unbroken_prose(text: str) -> str:
    return _INTERVAL.sub(r"\1&nbsp;", _PER_CENT.sub("&nbsp;", text))


def _unbroken(cell: re.Match[str]) -> str:
    """A number on one line; an estimate may stand above its interval, which is not broken."""
    style, text = cell.groups()
    if "[" not in text:
        return f' class="wb-number" style="{style};white-space:nowrap">{text}<'
    return f' class="wb-number" style="{style}">{text.replace(", ", ",&nbsp;")}<'


@dataclass(frozen=True, slots=True, repr=False)
class Lines:
    """``display(Lines(("one", "two")))``: sentences as paragraphs of a notebook, which breaks printed words anywhere.

    >>> Lines(("one", "two"))
    one
    two
    """

    lines: tuple[str, ...]

    def _repr_html_(self) -> str:
        return cell_html("".join(f"<p>{escape(line)}</p>" for line in self.lines))

    def __repr__(self) -> str:
        return "\n".join(map(visible, self.lines))


SIGNS = {
    "holds": "✓", "identical": "=", "broken": "✕", "inconclusive": "?", "stale": "↻", "error": "!",
    "new": "○", "not tested": "\u2013",
    "done": "✓", "running": "…", "failed": "✕", "interrupted": "✕",
    "good enough": "✓", "certified": "✓", "the same": "=", "in use": "=", "none wrong": "=",
    "too far below": "↓", "too many wrong": "✕", "cannot tell": "?", "not compared": "\u2013",
    "shown better": "↑", "shown worse": "↓", "not told apart": "?",
    "dropped": "↓", "no drop seen": "\u2013", "too few": "\u2013", "several graders": "?",
}  # fmt: skip
_GOOD = ("holds", "identical", "done", "good enough", "certified", "the same", "in use", "none wrong", "shown better")
_BAD = ("broken", "error", "failed", "interrupted", "too many wrong", "dropped")
# An arm that is merely worse than another is no alarm, and neither is what nobody has accepted or tried yet.
_NEUTRAL = (
    "new",
    "not tested",
    "too far below",
    "not compared",
    "shown worse",
    "not told apart",
    "no drop seen",
    "too few",
)
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
