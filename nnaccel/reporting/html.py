"""HTML as text: what is not markup already is escaped, in one place."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import repeat
from typing import Any

from nnaccel.cli.streams import in_line


class Markup(str):
    """Text that is HTML already."""


def markup(value: Any) -> Markup:
    """A value as HTML: escaped, and with controls made visible, unless it is Markup."""
    return value if isinstance(value, Markup) else Markup(escape(in_line(value)))


def join(parts: Iterable[Any], between: str = "") -> Markup:
    """The parts as HTML, one after the other."""
    return Markup(between.join(map(markup, parts)))


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element of HTML or SVG. In names of attributes `_` stands for a hyphen, and one at the end
    for nothing: `class_`; None leaves an attribute out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(in_line(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{told}>{join(children)}</{name}>")


def table(
    caption: str, header: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()
) -> Markup:
    """A table whose first column names its rows.   numbers: the columns that are right-aligned."""

    def cells(row: Sequence[Any], kinds: Iterable[tuple[str, str | None]]) -> Markup:
        return join(
            tag(kind, cell, scope=scope, class_="number" if i in numbers else None)
            for i, (cell, (kind, scope)) in enumerate(zip(row, kinds, strict=False))
        )

    kinds = [("th", "row"), *repeat(("td", None), len(header))]
    body = join((tag("tr", cells(row, kinds)) for row in rows), "\n")
    head = tag("tr", cells(header, repeat(("th", "col"))))
    return wide(
        tag("table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", body)),
        caption,
    )


def wide(content: Markup, name: str) -> Markup:
    """Content that scrolls sideways where the page is narrow, by keys too."""
    return tag("div", content, class_="wide", tabindex=0, role="region", aria_label=name)


def terms(pairs: Iterable[tuple[str, Any]]) -> Markup:
    """Terms and what they are."""
    return tag("dl", join(tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs))


def section(title: str, *content: Any) -> Markup:
    """A section under its heading; its place in the page is called like it, in lower case."""
    return tag("section", tag("h2", title), *content, id=title.lower())


def figure(caption: Any, chart: Markup, key: Sequence[tuple[str, str]] = ()) -> Markup:
    """A chart under its caption.   key: of each mark its class in the chart, and what it is."""
    marks = join(tag("span", text, class_=f"key {css}") for css, text in key)
    return tag("figure", tag("figcaption", tag("b", caption), marks), chart)
