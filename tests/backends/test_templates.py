"""Names that are made from events, and what an event cannot make of them."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from django_broadcaster.backends.names import Template
from django_broadcaster.testing.contract import make_message


def escape(field: str, value: str) -> str:
    """Escape as a protocol might whose types may have dots."""
    return quote(value, safe="." if field == "type" else "")


MESSAGE = make_message(
    event_type="order.placed", source="/shop", subject="order 7", partition_key="order-7"
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("events", "events"),
        ("{type}", "order.placed"),
        ("shop.{type}.{key}", "shop.order.placed.order-7"),
        ("{source}/{subject}", "%2Fshop/order%207"),
        ("{{type}}", "{type}"),
        ("{type}!{type}", "order.placed!order.placed"),
    ],
)
def test_template_is_filled_in(text: str, name: str) -> None:
    """Fields are replaced by escaped values; the template's own text goes in as it is."""
    assert Template(text, escape).render(MESSAGE) == name


def test_what_an_event_has_not_leaves_no_gap() -> None:
    """Without a key or a subject the name keeps its number of parts."""
    message = make_message(event_type="order.placed")
    assert Template("a.{key}.{subject}", escape).render(message) == "a._._"


@pytest.mark.parametrize(
    "text", ["", None, 7, "{id}", "{}", "{0}", "{type.upper}", "{type!r}", "{type:>9}", "{", "a}"]
)
def test_wrong_template_is_refused(text: object) -> None:
    """Only the four fields can be named, and nothing can be done to them."""
    with pytest.raises(ValueError, match=r"must be|unknown field|Single|expected"):
        Template(text, escape)  # type: ignore[arg-type]
