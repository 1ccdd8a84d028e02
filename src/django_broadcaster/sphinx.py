"""Shows the event catalogue in documentation that Sphinx builds.

Add `"django_broadcaster.sphinx"` to `extensions` in `conf.py`. The directive `outbox-catalogue` has
the path of a document that `manage.py outbox_catalogue --output` has written, and lists its events.
It needs no settings of Django.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from django_broadcaster import __version__
from django_broadcaster.catalogue.errors import CatalogueError
from django_broadcaster.catalogue.listing import ListedEvent, listed_events
from django_broadcaster.catalogue.reading import read_document

LABEL = "outbox-event-"
"""How the labels of the sections begin, unless the directive has an option `label`."""


def setup(app: Sphinx) -> dict[str, Any]:
    """Register with Sphinx."""
    app.add_directive("outbox-catalogue", CatalogueDirective)
    return {
        "version": __version__,
        "parallel_read_safe": True,
        "parallel_write_safe": True,
    }


class CatalogueDirective(SphinxDirective):
    """List the events of a catalogue, each in a section of its own.

    The argument is the path of the document, from the page's directory; a path that begins with `/`
    is from the directory of the documentation. The option `events` has patterns of event types,
    such as `order.*`; without it, all events are listed. The option `label` is the beginning of the
    labels, to which the event type is added. It makes them unique if an event is listed twice.
    """

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[dict[str, Any]] = {
        "events": directives.unchanged_required,
        "label": directives.unchanged_required,
    }

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        _, file = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(file)
        try:
            events = listed_events(read_document(Path(file)))
        except CatalogueError as error:
            raise self.error(f"outbox-catalogue: {error}.") from error
        patterns = self.options.get("events", "*").replace(",", " ").split() or [""]
        listed = set()
        for pattern in patterns:
            matches = {each.type for each in events if fnmatchcase(each.type, pattern)}
            if not matches:
                raise self.error(
                    f"outbox-catalogue: {pattern!r} of events must match an event of {file}."
                )
            listed |= matches
        return [self._section(each) for each in events if each.type in listed]

    def _section(self, event: ListedEvent) -> nodes.section:
        label = f"{self.options.get('label', LABEL)}{event.type}"
        section = nodes.section(names=[nodes.fully_normalize_name(label)])
        section["support_smartquotes"] = False  # types have the quotes of JSON
        section += nodes.title("", event.type)
        self.set_source_info(section)
        self.state.document.note_explicit_target(section, section)
        for paragraph in event.description.split("\n\n"):
            if paragraph.strip():
                section += nodes.paragraph("", " ".join(paragraph.split()))
        section += _facts(event.facts)
        if event.fields:
            section += _table(event.field_table)
        return section


def _facts(facts: dict[str, list[str]]) -> nodes.table:
    """Return a table in which each row begins with its name."""
    body = nodes.tbody("")
    for name, values in facts.items():
        lines = (nodes.paragraph("", "", nodes.literal("", each)) for each in values)
        body += nodes.row("", _cell(nodes.Text(name)), nodes.entry("", *lines))
    columns = (nodes.colspec(colwidth=1, stub=1), nodes.colspec(colwidth=3))
    return nodes.table("", nodes.tgroup("", *columns, body, cols=2))


def _table(table: list[list[str]]) -> nodes.table:
    """Return a table of fields, of which the first row is the head."""
    head, *rows = table
    body = nodes.tbody("")
    for name, *others in rows:
        body += _row(nodes.literal("", name), *map(nodes.Text, others))
    columns = (nodes.colspec(colwidth=1) for _ in head)
    heading = nodes.thead("", _row(*map(nodes.Text, head)))
    return nodes.table("", nodes.tgroup("", *columns, heading, body, cols=len(head)))


def _row(*texts: nodes.Node) -> nodes.row:
    return nodes.row("", *map(_cell, texts))


def _cell(text: nodes.Node) -> nodes.entry:
    return nodes.entry("", nodes.paragraph("", "", text))
