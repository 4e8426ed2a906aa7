"""Pages as documents: Markdown, text, HTML, PDF and Office files, each with an id, a title and its text."""

from collections import Counter
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser
from pathlib import Path

from workbench.errors import Defect
from workbench.evalset.files import read_text
from workbench.project.office_files import OFFICE, ReadOffice, read_office
from workbench.records import Document

MARKDOWN, PLAIN, HTML = (".md", ".markdown", ".mdx"), (".txt", ".rst", ".text"), (".html", ".htm")
PAGES = (*MARKDOWN, *PLAIN, *HTML, *OFFICE)
_BLOCKS = {"p", "div", "br", "li", "tr", "section", "article", "pre", "table", "ul", "ol", "h1", "h2", "h3", "h4"}
_UNSEEN = {"script", "style", "noscript", "template", "svg"}


def find_pages(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Id and file of every page at or below ``paths``; an id is the path below the folder that was named.

    Hidden files and folders are passed over, and what Office leaves beside an open file. Two folders that hold the same
    path keep their own names in front.
    """
    found: list[tuple[str, Path, str]] = []
    for path in paths:
        if path.is_dir():
            inside = [p for p in sorted(path.rglob("*")) if p.is_file() and p.suffix.lower() in PAGES]
            relative = [(p, p.relative_to(path)) for p in inside]
            found += [
                (r.as_posix(), p, path.name) for p, r in relative if not any(n.startswith((".", "~$")) for n in r.parts)
            ]
        elif path.suffix.lower() in PAGES:
            found.append((path.name, path, path.parent.name))
    ids = Counter(key for key, _, _ in found)
    return [(f"{home}/{key}" if ids[key] > 1 else key, path) for key, path, home in found]


def pages_passed_over(paths: Iterable[Path]) -> list[Path]:
    """Files below ``paths`` that are no pages by their ending, but for hidden ones."""
    below = ((path, p) for path in paths if path.is_dir() for p in sorted(path.rglob("*")))
    return [
        p
        for path, p in below
        if p.is_file()
        and p.suffix.lower() not in PAGES
        and not any(n.startswith((".", "~$")) for n in p.relative_to(path).parts)
    ]


def read_pages(
    pages: Sequence[tuple[str, Path]], office: ReadOffice = read_office
) -> tuple[list[Document], list[Defect]]:
    """Documents of pages, and what cannot be read; a page without text is a defect, not a document.

    ``office`` gives the Markdown of PDF and Office files.

    Raises
    ------
    MissingExtra
        If there are such files, and what reads them is not installed.
    """
    documents, defects = list[Document](), list[Defect]()
    theirs = [path for _, path in pages if path.suffix.lower() in OFFICE]
    converted = dict(zip(theirs, office(theirs), strict=True)) if theirs else {}
    for key, path in pages:
        if path in converted:
            text, problem = converted[path].text, converted[path].problem
            wrong = [Defect(str(path), 0, problem)] if problem else []
        else:
            text, wrong = read_text(path)
        defects += wrong
        if wrong:
            continue
        title, body = _html_page(text) if path.suffix.lower() in HTML else _plain_page(text)
        if body.strip():
            documents.append(Document(key, body.strip(), title or path.stem))
        else:
            defects.append(Defect(str(path), 0, "has no text"))
    return documents, defects


def _plain_page(text: str) -> tuple[str, str]:
    """Title and text of a Markdown or plain page; front matter is taken off, its title kept."""
    text, title = text.removeprefix("\ufeff"), ""
    head, matter, rest = text.partition("\n---\n")
    if text.startswith("---\n") and matter:
        told = [line.partition(":")[2] for line in head.splitlines() if line.startswith("title:")]
        title, text = (told[0].strip().strip("\"'") if told else ""), rest
    heading = next((line for line in text.splitlines() if line.startswith("# ")), "")
    return title or heading.removeprefix("# ").strip(), text


def _html_page(text: str) -> tuple[str, str]:
    """Title and visible text of an HTML page."""
    reader = _HtmlPageReader()
    reader.feed(text)
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return " ".join("".join(reader.title).split()), "\n".join(line for line in lines if line)


class _HtmlPageReader(HTMLParser):
    """Collects what a reader of a page sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.title: list[str] = []
        self._unseen = 0
        self._in_title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Begin a line at a block, and stop reading at what nobody sees."""
        self._unseen += tag in _UNSEEN
        self._in_title = self._in_title or tag == "title"
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        """End a line at a block."""
        self._unseen -= tag in _UNSEEN and self._unseen > 0
        self._in_title = self._in_title and tag != "title"
        if tag in _BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        """Keep text that is seen."""
        if not self._unseen:
            (self.title if self._in_title else self.parts).append(data)
