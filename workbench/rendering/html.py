"""Foreign HTML reduced to what can do no harm: parsed as a browser parses it, and only known parts written back.

nh3 parses and keeps an allowlist. No element is kept whose content a browser reads as anything but markup
(``script``, ``style``, ``title``, ``textarea`` ...), so a second parse cannot find tags that the first did not see.
"""

import html
import re
from collections import Counter

import nh3

from workbench.rendering.text import escape, unbroken_numbers, visible

_SVG_TAGS = "svg g path use defs text tspan circle ellipse rect line polyline polygon"
_HTML_TAGS = (
    "a abbr b blockquote br caption code col colgroup dd del details div dl dt em figcaption figure h1 h2 h3 "
    "h4 h5 h6 hr i img li mark ol p pre q s samp small span strong sub summary sup table tbody td tfoot th "
    "thead tr u ul var"
)
_DROPPED_WHOLE = "script style title template textarea noscript iframe object math xmp noembed noframes select button"
_KEPT_ATTRIBUTES = (
    "id class style title lang dir role aria-label aria-hidden alt colspan rowspan scope open start width height "
    "viewBox d x y x1 y1 x2 y2 dx dy cx cy r rx ry points transform fill fill-opacity stroke stroke-width "
    "stroke-opacity stroke-dasharray stroke-linecap stroke-linejoin text-anchor font-size font-weight "
    "dominant-baseline preserveAspectRatio"
)
_KEPT_PROPERTIES = (
    "color fill fill-opacity stroke stroke-width stroke-opacity stroke-dasharray stroke-dashoffset "
    "stroke-linecap stroke-linejoin stroke-miterlimit opacity text-anchor text-align font font-size "
    "font-weight font-style font-family font-variant-numeric width height max-width vertical-align "
    "white-space display"
)
TAGS = frozenset(f"{_SVG_TAGS} {_HTML_TAGS}".split())
ATTRIBUTES = {"*": set(_KEPT_ATTRIBUTES.split()), "a": {"href"}, "use": {"href"}, "img": {"src"}}
_IMAGE = re.compile(r"data:image/(png|jpeg|gif|webp|svg\+xml);base64,[A-Za-z0-9+/=\s]*")
# A value with a bracket, a colon or a backslash may load something; nh3 looks at the names of properties alone.
_PLAIN = re.compile(r"[\w\s-]+:[\w\s#.,%+'\"-]*")
# Tags as nh3 writes them: every value in double quotes, no "<" and no ">" within one.
_TAG = re.compile(r'<(/?)(\w+)((?: [\w:-]+="[^"]*")*)>')
_AWAY = re.compile(r' (?:xlink:)?href="([^#"][^"]*)"')
_OPENED = re.compile(r"<(/?)([a-z]\w*)([^<>]*)")
_CLOSED_BY_NEXT = "p li dt dd tr td th thead tbody tfoot br hr img col"
# nh3 0.3.8 takes time by the square of the depth, a minute at 100,000; a browser nests 512.
_DEPTH = 2_000


def sanitize(foreign: str, *, prefix: str, heading_shift: int = 0) -> str:
    """Reduce HTML to known tags and attributes: no script, no handler, nothing that is loaded or followed.

    Parameters
    ----------
    foreign : str
        Any text; it need not be well formed. What is nested deeper than any page is shown as its source.
    prefix : str
        Put before every id and every reference to one, so that it cannot clash with the page around it.
    heading_shift : int
        How many levels headings move down, so that the page keeps one h1.

    Returns
    -------
    str
        Balanced HTML. A link to elsewhere keeps its words, followed by its address as text. Parts of a picture
        that stand outside of one are dropped with what they hold, as nh3 does.
    """
    if _depth(foreign) > _DEPTH:
        return f"<pre>{escape(foreign)}</pre>"
    clean = nh3.clean(
        visible(foreign),  # nh3 takes no lone surrogate, and drops NUL
        tags=set(TAGS),
        clean_content_tags=set(_DROPPED_WHOLE.split()),
        attributes=ATTRIBUTES,
        attribute_filter=lambda tag, name, value: _attribute_value(tag, name, value, prefix),
        filter_style_properties=set(_KEPT_PROPERTIES.split()),
        url_schemes={"data", "http", "https", "mailto", "ftp", "file"},
        link_rel=None,
    )
    # again, because a character may also be written as a reference
    return _rewritten(visible(clean), heading_shift)


def _depth(foreign: str) -> int:
    unclosed: Counter[str] = Counter()
    shallow = frozenset(_CLOSED_BY_NEXT.split())
    depth = deepest = 0
    for end, name, rest in _OPENED.findall(foreign.lower()):
        # only within a picture does a tag end itself
        ended = unclosed["svg"] and rest.endswith("/")
        if name in shallow or ended or (end and not unclosed[name]):
            continue
        step = -1 if end else 1
        unclosed[name] += step
        depth += step
        deepest = max(deepest, depth)
    return deepest


def _attribute_value(tag: str, name: str, value: str, prefix: str) -> str | None:
    """What an attribute may say, None if it goes. It must not raise: nh3 then keeps the value as it came."""
    if name == "id":
        return prefix + value
    if name == "href":
        if value.startswith("#"):
            return f"#{prefix}{value[1:]}"
        return value if tag == "a" else None
    if name == "src":
        return value if _IMAGE.fullmatch(value) else None
    if name == "style":
        return ";".join(part for part in value.split(";") if _PLAIN.fullmatch(part)) or None
    return None if "url(" in value.lower() and name in ("fill", "stroke") else value


def _rewritten(clean: str, heading_shift: int) -> str:
    """Headings moved down, and the address of a link to elsewhere put behind its words."""
    addresses: list[str] = []

    def tag(found: re.Match[str]) -> str:
        end, name, attributes = found.groups()
        if len(name) == 2 and name[0] == "h" and name[1].isdigit():
            return f"<{end}h{min(6, int(name[1]) + heading_shift)}{attributes}>"
        if name != "a":
            return found[0]
        if end:
            return f"{addresses.pop()}</a>"
        away = _AWAY.search(attributes)
        addresses.append(f" ({escape(html.unescape(away[1]), 200)})" if away else "")
        return f"<a{_AWAY.sub('', attributes)}>"

    return _TAG.sub(tag, clean)


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
<body><main>{unbroken_numbers(body)}</main></body></html>
"""
