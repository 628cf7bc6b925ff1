"""HTML as text: everything except `Markup` is escaped, in one place."""

from collections.abc import Iterable, Sequence
from html import escape
from itertools import repeat
from typing import Any

from nnaccel.cli.streams import in_line


class Markup(str):
    """Text that already is HTML."""


def markup(value: Any) -> Markup:
    """A value as HTML: escaped, with visible control characters, unless it is Markup."""
    return value if isinstance(value, Markup) else Markup(escape(in_line(value)))


def join(parts: Iterable[Any], between: str = "") -> Markup:
    """The parts as HTML, one after the other."""
    return Markup(between.join(map(markup, parts)))


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An element of HTML or SVG. In attribute names `_` becomes a hyphen, and a final `_`, as in
    `class_`, is removed. Attributes that are None are left out."""
    told = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(in_line(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{told}>{join(children)}</{name}>")


def table(
    caption: str, header: Sequence[Any], rows: Iterable[Sequence[Any]], numbers: Sequence[int] = ()
) -> Markup:
    """A table with row headings in the first column.   numbers: the right-aligned columns."""

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
    """Content that scrolls horizontally on a narrow page, also with the keyboard."""
    return tag("div", content, class_="wide", tabindex=0, role="region", aria_label=name)


def terms(pairs: Iterable[tuple[str, Any]]) -> Markup:
    """A list of terms with their descriptions."""
    return tag("dl", join(tag("div", tag("dt", k), tag("dd", v)) for k, v in pairs))


def section(title: str, *content: Any) -> Markup:
    """A section with a heading; its anchor is the title in lower case."""
    return tag("section", tag("h2", title), *content, id=title.lower())


def figure(caption: Any, chart: Markup, key: Sequence[tuple[str, str]] = ()) -> Markup:
    """A chart with a caption.   key: the CSS class and the label of each mark."""
    marks = join(tag("span", text, class_=f"key {css}") for css, text in key)
    return tag("figure", tag("figcaption", tag("b", caption), marks), chart)
