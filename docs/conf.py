"""The documentation site: `python -m sphinx -W docs build/docs`, with the extra [docs] installed.

The pages are plain Markdown, which a code-hosting site shows too; the reference comes from the
docstrings.
"""

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from nnaccel import __version__

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Pages of the site whose text a code-hosting site looks for somewhere else.
ELSEWHERE = {
    "index": ROOT / "README.md",
    "benchmarks": ROOT / "bench" / "README.md",
    "contributing": ROOT / "CONTRIBUTING.md",
}

project = "nnaccel"
author = "the nnaccel developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
default_role = "py:obj"  # `name` in a docstring is code, and a link where the reference has it

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"  # the docstrings say more than the annotations
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True

html_theme = "pydata_sphinx_theme"
html_title = "nnaccel"
html_show_sourcelink = False
templates_path = ["templates"]
html_static_path = ["static"]
html_css_files = ["narrow.css"]
html_theme_options = {
    "show_toc_level": 2,
    "navbar_center": [],  # the pages are in the sidebar
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"**": ["all-pages"]}
project_copyright = "the nnaccel developers, BSD-3-Clause licence"


def page_of_the_site(app: Any, page: str, text: list[str]) -> None:
    """Puts the text of a page that is written elsewhere in its place, and makes links work here."""
    source = ELSEWHERE.get(page, HERE / f"{page}.md")
    contents = "".join(re.findall(r"^```\{toctree\}.*?^```$\n?", text[0], re.DOTALL | re.MULTILINE))
    if page in ELSEWHERE:
        text[0] = f"{source.read_text(encoding='utf-8')}\n{contents}"
    text[0] = re.sub(r"^(\w+\*)\n", keep_if_it_matches, text[0], flags=re.MULTILINE)
    link = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
    text[0] = link.sub(partial(link_of_the_site, source.parent), text[0])


def link_of_the_site(folder: Path, link: re.Match[str]) -> str:
    """A link on a page in that folder as one from `docs/`: to a page, or to a file."""
    image, words, path, anchor = link.groups(default="")
    target = (folder / path).resolve()
    if not target.exists():  # an address, or something in code that looks like a link
        return link[0]
    for page, source in ELSEWHERE.items():
        if target == source:
            return f"[{words}]({page}.md{anchor})"
    path = Path(os.path.relpath(target, HERE)).as_posix()
    if target.suffix == ".md" and target.parent != HERE:
        return f"{{download}}`{words} <{path}>`"
    return f"{image}[{words}]({path}{anchor})"


def keep_if_it_matches(pattern: re.Match[str]) -> str:
    """A line of the table of contents; Sphinx warns of a pattern that no page matches."""
    return pattern[0] if any(HERE.glob(f"{pattern[1]}.md")) else ""


def skip_what_is_not_ours(
    app: Any, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leaves out methods of scikit-learn, and fields that have Python's docstring alone."""
    has_no_text = (getattr(thing, "__doc__", "") or "").startswith("Alias for field number")
    is_foreign = str(getattr(thing, "__module__", "")).startswith("sklearn.")
    return True if has_no_text or is_foreign else None


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", page_of_the_site)
    app.connect("autodoc-skip-member", skip_what_is_not_ours)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
