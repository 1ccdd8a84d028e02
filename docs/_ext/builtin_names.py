"""Keeps names of Python's own in signatures from links to attributes of this package.

Sphinx searches all documented objects for a name. So `type[...]` would lead to the attribute `type`
of an event.
"""

from __future__ import annotations

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

NAMES = {"type"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", _unlink)
    return {"parallel_read_safe": True}


def _unlink(app: Sphinx, tree: nodes.document) -> None:
    for link in list(tree.findall(pending_xref)):
        if link["refdomain"] == "py" and link["reftype"] == "class" and link["reftarget"] in NAMES:
            link.replace_self(nodes.Text(link["reftarget"]))
