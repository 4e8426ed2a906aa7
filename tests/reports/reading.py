"""A report read the way a browser reads it."""

from html.parser import HTMLParser
from pathlib import Path

_TAGS = """
html head meta title style body main header section footer h1 h2 h3 h4 h5 h6 p span b i small code pre div
dl dt dd ul ol li table caption thead tbody tr th td figure figcaption details summary a em strong img br hr
svg g path use defs text rect
"""
ALLOWED = frozenset(_TAGS.split())


class Page(HTMLParser):
    """Tags with attributes, visible text, headings in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.headings: list[tuple[str, str]] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {k: v or "" for k, v in attrs}))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "title"):
            return
        self.words.append(data)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append((self.open[-1], data.strip()))

    @property
    def text(self) -> str:
        """All text that is shown, with single spaces."""
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        """How often a tag stands in the page."""
        return sum(t == tag for t, _ in self.tags)

    def assert_harmless(self) -> None:
        """No script, no handler, no address that is loaded or followed, no unknown tag."""
        assert {tag for tag, _ in self.tags} <= ALLOWED, {tag for tag, _ in self.tags} - ALLOWED
        for tag, attrs in self.tags:
            assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
            for name in ("href", "src", "srcset", "action", "data", "xlink:href"):
                assert attrs.get(name, "#").startswith(("#", "data:image/")), (tag, attrs)
            assert "url(" not in attrs.get("style", "")
        assert "url(" not in self.source.partition("</style>")[0]
        assert "@import" not in self.source
