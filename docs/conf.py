"""The documentation site: `python -m sphinx -W docs build/docs`, with the extra [docs] installed.

The pages are plain Markdown, which a code-hosting site shows too; the reference comes from the
docstrings.
"""

import re
from pathlib import Path
from typing import Any

from nnaccel import __version__

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "bench" / "README.md"

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


def set_paths_of_the_site(app: Any, page: str, text: list[str]) -> None:
    """Benchmarks are written beside their code; links to that page lead to its place here."""
    if page == "benchmarks":
        moved = re.sub(r"\]\((?!https?:|#)", "](../bench/", BENCHMARKS.read_text(encoding="utf-8"))
        text[0] = moved.replace("](../bench/../docs/", "](")
    if page == "index":
        text[0] = re.sub(r"^(\w+\*)\n", keep_if_it_matches, text[0], flags=re.MULTILINE)
    text[0] = text[0].replace("](../bench/README.md", "](benchmarks.md")


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
    app.connect("source-read", set_paths_of_the_site)
    app.connect("autodoc-skip-member", skip_what_is_not_ours)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
