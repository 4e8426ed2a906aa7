"""Foreign HTML reduced to what can do no harm: an allowlist, written anew rather than patched.

The text is parsed and only known tags with known attributes are written back; everything else is dropped or
escaped. No element is written whose content a browser reads as anything but markup (``script``, ``style``,
``title``, ``textarea`` ...), so a second parse cannot find tags that the first did not see.
"""

import re
from html.parser import HTMLParser

from workbench.rendering.text import escape

_SVG_TAGS = "svg g path use defs text tspan circle ellipse rect line polyline polygon"
_HTML_TAGS = (
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 "
    "h4 h5 h6 hr i img li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th "
    "thead tr u ul var"
)
_DROPPED_WHOLE = "script style title template textarea noscript iframe object math xmp noembed noframes select button"
_KEPT_ATTRIBUTES = (
    "id class style title lang dir role aria-label aria-hidden alt src href colspan rowspan scope open start "
    "width height viewbox d x y x1 y1 x2 y2 dx dy cx cy r rx ry points transform fill fill-opacity stroke "
    "stroke-width stroke-opacity stroke-dasharray stroke-linecap stroke-linejoin text-anchor font-size "
    "font-weight dominant-baseline preserveaspectratio"
)
_KEPT_PROPERTIES = (
    "color fill fill-opacity stroke stroke-width stroke-opacity stroke-dasharray stroke-dashoffset "
    "stroke-linecap stroke-linejoin stroke-miterlimit opacity text-anchor text-align font font-size "
    "font-weight font-style font-family font-variant-numeric width height max-width vertical-align "
    "white-space display"
)
_SVG = frozenset(_SVG_TAGS.split())
_TAGS = _SVG | frozenset(_HTML_TAGS.split())
_WITH_CONTENT = frozenset(_DROPPED_WHOLE.split())
_VOID = frozenset({"br", "col", "hr", "img"})
_ATTRIBUTES = frozenset(_KEPT_ATTRIBUTES.split())
_PROPERTIES = frozenset(_KEPT_PROPERTIES.split())
_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
_STYLE_VALUE = re.compile(r"[\w\s#.,%+'\"-]*")


def sanitize(html: str, *, prefix: str, heading_shift: int = 0) -> str:
    """Reduce HTML to known tags and attributes: no script, no handler, nothing that is loaded or followed.

    Parameters
    ----------
    html : str
        Any text; it need not be well formed.
    prefix : str
        Put before every id and every reference to one, so that it cannot clash with the page around it.
    heading_shift : int
        How many levels headings move down, so that the page keeps one h1.

    Returns
    -------
    str
        Balanced HTML. A link to elsewhere keeps its words, followed by its address as text.
    """
    writer = _Writer(prefix, heading_shift)
    writer.feed(html)
    writer.close()
    return writer.result()


class _Writer(HTMLParser):
    def __init__(self, prefix: str, heading_shift: int) -> None:
        super().__init__(convert_charrefs=True)
        self._prefix, self._shift = prefix, heading_shift
        self._out: list[str] = []
        self._open: list[tuple[str, str]] = []  # (tag as read, what closes it)
        self._skipped: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _WITH_CONTENT:
            self._skipped.append(tag)
        if self._skipped or tag not in _TAGS:
            return
        name = self._name(tag)
        self._out.append(f"<{name}{self._attributes(tag, attrs)}>")
        if tag not in _VOID:
            away = next((v for k, v in attrs if k == "href" and v and not v.startswith("#")), "") if tag == "a" else ""
            self._open.append((tag, (f" ({escape(away, 200)})" if away else "") + f"</{name}>"))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _WITH_CONTENT:
            return
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            if tag == self._skipped[-1]:
                self._skipped.pop()
            return
        if tag not in [opened for opened, _ in self._open]:
            return
        while self._open:
            opened, closing = self._open.pop()
            self._out.append(closing)
            if opened == tag:
                return

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._out.append(escape(data))

    def result(self) -> str:
        """Return what was written, with everything still open closed."""
        return "".join(self._out) + "".join(closing for _, closing in reversed(self._open))

    def _name(self, tag: str) -> str:
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            return f"h{min(6, int(tag[1]) + self._shift)}"
        return tag

    def _attributes(self, tag: str, attrs: list[tuple[str, str | None]]) -> str:
        kept: dict[str, str] = {}
        for raw, value in attrs:
            name = "href" if raw == "xlink:href" else raw
            clean = self._value(tag, name, value or "") if name in _ATTRIBUTES else None
            if clean is not None:
                kept.setdefault(name, clean)
        return "".join(f' {name}="{escape(value)}"' for name, value in kept.items())

    def _value(self, tag: str, name: str, value: str) -> str | None:
        if name == "id":
            return self._prefix + value
        if name == "href":
            return f"#{self._prefix}{value[1:]}" if value.startswith("#") and tag in ("a", "use") else None
        if name == "src":
            return value if tag == "img" and _IMAGE.fullmatch(value) else None
        if name == "style":
            return _declarations(value) or None
        return None if "url(" in value.lower() and name in ("fill", "stroke") else value


def _declarations(style: str) -> str:
    pairs = (part.partition(":") for part in style.split(";"))
    kept = [
        f"{key.strip()}: {value.strip()}"
        for key, _, value in pairs
        if key.strip().lower() in _PROPERTIES and _STYLE_VALUE.fullmatch(value)
    ]
    return "; ".join(kept)


def plain_page(title: str, body: str) -> str:
    """Page around HTML of ours, which loads nothing and runs nothing and follows the reader's light or dark setting."""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1.5rem auto; max-width: 76rem; padding: 0 1rem; font: 15px/1.5 system-ui, sans-serif; }}
table {{ border-collapse: collapse; width: 100%; }}
caption {{ text-align: left; font-weight: 600; padding: .5rem 0; }}
td, th {{ padding: .3rem .6rem; border-bottom: 1px solid; vertical-align: top; overflow-wrap: anywhere; }}
</style></head>
<body><main>{body}</main></body></html>
"""
