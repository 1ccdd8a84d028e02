"""The catalogue for people has each event with its fields, in the admin and in Sphinx alike."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from django_broadcaster.catalogue.errors import CatalogueError
from django_broadcaster.catalogue.listing import ListedEvent, listed_events

from .conftest import EventsModule, catalogue

ROOT = Path(__file__).resolve().parent.parent.parent

EVENT = '''
class Color(Enum):
    RED = "red"
    BLUE = "blue"

class Line(BaseModel):
    """A line of an order."""
    product: str = Field(description="The name  in\\nthe catalogue.", max_length=20)
    price: Decimal | None = None

class Node(BaseModel):
    name: str
    nodes: list[Node] = []

@typed_event("order.placed", source="/shop")
class OrderPlaced(BaseModel):
    """A customer placed an order.

    Prices are <b>net</b>.
    """
    order_id: int = Field(ge=1)
    at: datetime
    lines: list[Line]
    color: Color
    pair: tuple[int, str]
    stock: dict[str, int] = {}
    kind: Literal["web"] = "web"
    first: Line
    root: Node
    anything: Any = None
'''

VERSIONS = '''
@typed_event("order.paid", source="/shop", version=3)
@dataclass
class OrderPaid:
    order_id: int

@upcasts(OrderPaid, from_version=2)
def second(data):
    return data

@typed_event("customer.left", source="/shop")
@dataclass
class CustomerLeft:
    """A customer closed the account."""
'''


def listed(events: EventsModule, text: str) -> dict[str, ListedEvent]:
    """Return the listed events of a module by their types."""
    events.declare(text)
    out = io.StringIO()
    call_command("outbox_catalogue", stdout=out)
    return {each.type: each for each in listed_events(json.loads(out.getvalue()))}


def test_fields_are_listed_with_those_of_the_classes_within(events: EventsModule) -> None:
    """Each field has its name in JSON, type, limits, default and description; recursion ends."""
    event = listed(events, EVENT)["order.placed"]
    columns, *rows = event.field_table
    assert columns == ["Field", "Type", "Required", "Description"]
    assert {row[0]: row[1:] for row in rows} == {
        "order_id": ["integer (at least 1)", "yes", ""],
        "at": ["string (date-time)", "yes", ""],
        "lines": ["array of object", "yes", ""],
        "lines.product": [
            "string (at most 20 characters)",
            "yes",
            "The name in the catalogue.",
        ],
        "lines.price": ["string or null", "no, default null", ""],
        "color": ['"red" or "blue"', "yes", ""],
        "pair": ["array of integer, string", "yes", ""],
        "stock": ["object with values of integer", "no, default {}", ""],
        "kind": ['"web"', 'no, default "web"', ""],
        "first": ["object", "yes", "A line of an order."],
        "first.product": [
            "string (at most 20 characters)",
            "yes",
            "The name in the catalogue.",
        ],
        "first.price": ["string or null", "no, default null", ""],
        "root": ["object", "yes", ""],
        "root.name": ["string", "yes", ""],
        "root.nodes": ["array of object", "no, default []", ""],
        "anything": ["any value", "no, default null", ""],
    }


def test_an_event_is_listed_with_its_versions(events: EventsModule) -> None:
    """Older versions are those that an upcaster reads; what an event lacks is left out."""
    found = listed(events, VERSIONS)
    paid = found["order.paid"]
    assert paid.description == ""
    assert paid.facts["Version"] == ["3"]
    assert paid.facts["Older versions"] == ["2"]
    assert paid.field_table == [["Field", "Type", "Required"], ["order_id", "integer", "yes"]]
    left = found["customer.left"]
    assert left.description == "A customer closed the account."
    assert "Older versions" not in left.facts
    assert left.field_table == []


class Texts(HTMLParser):
    """The texts of a page's cells and paragraphs."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found = [""]
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Begin another text, except at code within one."""
        if tag not in ("code", "span"):
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        """End the text."""
        self.handle_starttag(tag, None)

    def handle_data(self, data: str) -> None:
        """Add to the text."""
        self.found[-1] += data


def build(folder: Path, page: str, text: str) -> subprocess.CompletedProcess[str]:
    """Build documentation of one page without settings of Django, warnings being errors."""
    folder.mkdir(exist_ok=True)
    (folder / "conf.py").write_text(
        'project = "Shop"\nextensions = ["myst_parser", "django_broadcaster.sphinx"]\n'
    )
    (folder / page).write_text(text)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment.pop("DJANGO_SETTINGS_MODULE", None)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            "-n",
            "-W",
            "-q",
            "-j",
            "2",
            str(folder),
            str(folder / "html"),
        ],
        env=environment,
        capture_output=True,
        text=True,
    )


PAGES = {
    "index.md": """# Events

```{outbox-catalogue} ../catalogue/asyncapi.json
:events: order.*
```

See {ref}`outbox-event-order.placed`.
""",
    "index.rst": """Events
======

.. outbox-catalogue:: /../catalogue/asyncapi.json
   :events: order.paid, order.pl*

See :ref:`outbox-event-order.placed`.
""",
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.django_db
def test_sphinx_and_the_admin_show_the_same(
    events: EventsModule, page: str, tmp_path: Path, admin_client: Client
) -> None:
    """A page in Markdown or reStructuredText has all that the page of the admin has, escaped."""
    event = listed(events, EVENT + VERSIONS)["order.placed"]
    catalogue("--output", str(tmp_path / "catalogue"))
    run = build(tmp_path / "docs", page, PAGES[page])
    assert run.returncode == 0, run.stderr
    built = (tmp_path / "docs" / "html" / "index.html").read_text()
    url = reverse("admin:django_broadcaster_outboxdashboard_catalogue")
    admin = admin_client.get(url).content.decode()
    expected = {
        *event.description.split("\n\n"),
        *(cell for row in event.field_table for cell in row),
    }
    for html in (built, admin):
        found = {text.strip() for text in Texts(html).found}
        assert expected <= found
        assert "<b>net" not in html
    assert 'href="#outbox-event-order-placed"' in built
    assert "customer.left" not in built
    assert "customer.left" in admin


@pytest.mark.parametrize(
    ("directive", "problem"),
    [
        ("missing.json", "missing.json can't be read: No such file or directory."),
        ("conf.py", "conf.py must be JSON"),
        ("../catalogue/asyncapi.json\n:events: ','", "'' of events must match an event of"),
        (
            "../catalogue/asyncapi.json\n:events: order.* nothing.*",
            "'nothing.*' of events must match an event of",
        ),
    ],
)
def test_a_wrong_directive_is_an_error_of_the_page(
    events: EventsModule, directive: str, problem: str, tmp_path: Path
) -> None:
    """The error names the line of the page, and what is wrong."""
    events.declare(VERSIONS)
    catalogue("--output", str(tmp_path / "catalogue"))
    run = build(
        tmp_path / "docs", "index.md", f"# Events\n\n```{{outbox-catalogue}} {directive}\n```\n"
    )
    assert run.returncode != 0
    assert f"{tmp_path}/docs/index.md:3:" in run.stderr
    assert problem in run.stderr


@pytest.mark.django_db
def test_an_event_is_listed_twice_with_labels_of_its_own(
    events: EventsModule, tmp_path: Path
) -> None:
    """Each list can be referred to, on one page and on two."""
    events.declare(VERSIONS)
    catalogue("--output", str(tmp_path / "catalogue"))
    folder = tmp_path / "docs"
    folder.mkdir()
    directive = "```{outbox-catalogue} ../catalogue/asyncapi.json\n"
    (folder / "billing.md").write_text(f"# Billing\n\n{directive}:label: billing-\n```\n")
    text = f"# Shop\n\n{directive}```\n\n# Again\n\n{directive}:label: again-\n```\n\n"
    for label in ("outbox-event-", "again-", "billing-"):
        text += f"See {{ref}}`{label}order.paid`.\n"
    run = build(folder, "index.md", f"{text}\n```{{toctree}}\nbilling\n```\n")
    assert run.returncode == 0, run.stderr
    built = (folder / "html" / "index.html").read_text()
    assert {"#outbox-event-order-paid", "#again-order-paid", "billing.html#billing-order-paid"} <= {
        part.split('"')[0] for part in built.split('href="')
    }


def _without_operations(document: dict[str, Any]) -> None:
    del document["operations"]


def _without_summaries(document: dict[str, Any]) -> None:
    for operation in document["operations"].values():
        del operation["summary"]


def _with_a_list_of_operations(document: dict[str, Any]) -> None:
    document["operations"] = list(document["operations"].values())


def _without_addresses(document: dict[str, Any]) -> None:
    for channel in document["channels"].values():
        del channel["address"]


@pytest.mark.parametrize(
    "change",
    [
        _without_operations,
        _without_summaries,
        _with_a_list_of_operations,
        _without_addresses,
    ],
)
def test_a_document_of_another_tool_is_an_error_with_its_fix(
    events: EventsModule, change: Callable[[dict[str, Any]], None]
) -> None:
    """The error says which parts are wrong, and how to write the catalogue again."""
    events.declare(VERSIONS)
    out = io.StringIO()
    call_command("outbox_catalogue", stdout=out)
    document = json.loads(out.getvalue())
    change(document)
    with pytest.raises(CatalogueError, match=r"operations and channels must be .* with --output"):
        listed_events(document)


@pytest.mark.parametrize("service", ["shop", "billing"])
def test_the_catalogue_of_the_example_is_up_to_date(service: str) -> None:
    """The committed catalogue, which the docs show, is that of the example's events."""
    run = subprocess.run(
        [
            *(sys.executable, "example/manage.py", "outbox_catalogue"),
            *("--settings", f"{service}_site.settings", "--title", service.title()),
            *("--check", f"example/catalogue/{service}"),
        ],
        cwd=ROOT,
        env={**os.environ, "SHOP_BROKER": "kafka", "SHOP_DB": "sqlite"},
        capture_output=True,
        text=True,
    )
    assert run.stdout == "The catalogue is up to date.\n", run.stdout + run.stderr
