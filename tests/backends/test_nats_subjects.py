"""Subjects of NATS: what becomes of an event's values, and what a stream takes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from django_broadcaster.backends.names import LONGEST_VALUE, Template, escape_subject
from django_broadcaster.backends.nats.names import (
    LONGEST_SUBJECT,
    any_overlaps,
    subject_problem,
    wildcard,
)
from django_broadcaster.testing import make_message

VALUES = st.text(min_size=1, max_size=300).map(lambda text: text.encode(errors="replace").decode())


@pytest.mark.shows("names are escaped")
@pytest.mark.parametrize(
    ("field", "value", "escaped"),
    [
        ("type", "order.placed", "order.placed"),
        ("type", "order..placed", "order%2E%2Eplaced"),
        ("type", ".order", "%2Eorder"),
        ("type", "order.*", "order.%2A"),
        ("type", ">", "%3E"),
        ("type", "$JS.API.STREAM.DELETE.EVENTS", "%24JS.API.STREAM.DELETE.EVENTS"),
        ("type", "_INBOX.x", "%5FINBOX.x"),
        ("type", "bestellung.überprüft", "bestellung.%C3%BCberpr%C3%BCft"),
        ("key", "order-7_a", "order-7_a"),
        ("key", "a.b", "a%2Eb"),
        ("key", "*", "%2A"),
        ("key", "a >", "a%20%3E"),
        ("key", "a\r\nPUB x 0\r\n", "a%0D%0APUB%20x%200%0D%0A"),
        ("key", "_", "%5F"),
        ("key", "a%2Eb", "a%252Eb"),
        ("key", "a~b", "a%7Eb"),
        ("source", "/shop/orders", "/shop/orders"),
        ("source", "https://shop.example/?a=1#2", "https://shop%2Eexample/%3Fa=1%232"),
        ("subject", "order 7", "order%207"),
    ],
)
def test_value_means_nothing_to_nats(field: str, value: str, escaped: str) -> None:
    """Dots part tokens in a type only; wildcards, spaces and the server's own names are encoded."""
    assert escape_subject(field, value) == escaped


@pytest.mark.shows("names are escaped")
@given(value=VALUES, field=st.sampled_from(["type", "source", "subject", "key"]))
def test_any_value_is_a_valid_part_of_its_own_length(field: str, value: str) -> None:
    """Whatever a value is, it is plain tokens: a single one for all but a type."""
    escaped = escape_subject(field, value)
    assert subject_problem(escaped) is None
    assert re.fullmatch(r"[A-Za-z0-9%/:@=+,._~-]+", escaped)
    assert not escaped.startswith(("$", "_"))
    assert len(escaped) <= LONGEST_VALUE
    assert field == "type" or "." not in escaped


@given(values=st.lists(VALUES, min_size=2, max_size=2, unique=True))
def test_different_values_stay_different(values: list[str]) -> None:
    """No two keys fall onto one subject, long ones included."""
    first, second = values
    assert escape_subject("key", first) != escape_subject("key", second)
    long = "x" * LONGEST_VALUE
    assert escape_subject("key", long + first) != escape_subject("key", long + second)


@pytest.mark.parametrize(
    ("template", "covers"),
    [
        ("events", "events"),
        ("events.{type}", "events.>"),
        ("{type}", ">"),
        ("shop.{key}.of.{source}", "shop.*.of.*"),
        ("shop.{key}.{type}.{subject}", "shop.*.>"),
        ("shop-{key}.x", "*.x"),
        ("shop.v{type}.x", "shop.>"),
    ],
)
def test_wildcard_takes_whatever_a_template_may_become(template: str, covers: str) -> None:
    """A stream for that subject gets every event, those with strange values too."""
    assert wildcard(Template(template, escape_subject)) == covers
    for message in (
        make_message(event_type="order.placed", source="/s", subject="1", partition_key="k"),
        make_message(event_type="a..b", source="x.y", subject="*", partition_key="> ."),
        make_message(event_type="x" * 255, source="urn:x:" + "%C3" * 160),
    ):
        subject = Template(template, escape_subject).render(message)
        assert any_overlaps([covers], subject)
        assert subject_problem(subject) is None
        assert len(subject) < LONGEST_SUBJECT


@pytest.mark.parametrize(
    ("pattern", "subject", "overlap"),
    [
        ("a.b", "a.b", True),
        ("a.b", "a.c", False),
        ("a.b", "a.b.c", False),
        ("a.*", "a.b", True),
        ("a.*", "a.b.c", False),
        ("a.*", "a", False),
        ("a.>", "a.b.c", True),
        ("a.>", "a", False),
        (">", "a", True),
        ("a.*.c", "*.b.>", True),
        ("a.b", "a.>", True),
        ("b.>", "a.>", False),
    ],
)
def test_subjects_overlap_as_the_server_says(pattern: str, subject: str, overlap: bool) -> None:
    """`*` is one token, `>` is one or more at the end."""
    assert any_overlaps(["other", pattern], subject) is overlap
    assert any_overlaps([subject], pattern) is overlap
