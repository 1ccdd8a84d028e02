"""Puts a drawing of `docs/_diagrams` into a page: {diagram} states

The drawing is part of the page, so that it has the colours of the theme that the reader chose. On a
phone it scrolls.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

FOLDER = Path(__file__).resolve().parent.parent / "_diagrams"
SVG = "{http://www.w3.org/2000/svg}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_directive("diagram", Diagram)
    app.add_css_file("diagrams.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Diagram(SphinxDirective):
    """A drawing in SVG, with its title for those who can't see it."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the drawing in an area that scrolls."""
        file = FOLDER / f"{self.arguments[0]}.svg"
        self.env.note_dependency(str(file))
        text = file.read_text()
        title = ElementTree.fromstring(text).findtext(f"{SVG}title")  # noqa: S314  # our own file
        if not title:
            raise self.error(f"{file.name} must have a title.")
        label = nodes.Text(title).astext().replace('"', "&quot;")
        html = (
            f'<div class="diagram" tabindex="0" role="group" aria-label="{label}">\n{text}</div>\n'
        )
        return [nodes.raw("", html, format="html")]
