"""Hypothesis's strategies for events and their parts."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from hypothesis import strategies as st

from django_broadcaster.events import JSON_NULL, CloudEvent
from tests.events.samples import VALID_SOURCES, members


def _is_character(char: str) -> bool:
    return ord(char) & 0xFFFE != 0xFFFE and not 0xFDD0 <= ord(char) <= 0xFDEF


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]).filter(_is_character), max_size=20)
NAMES = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: (
        name not in {*members(), "subject", "time", "data", "datacontenttype", "dataschema"}
    )
)
TIMES = st.datetimes(
    datetime(2, 1, 1),  # noqa: DTZ001 (Hypothesis wants naive bounds)
    datetime(9998, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)
EXTENSIONS = st.dictionaries(
    NAMES,
    st.booleans() | st.integers(-(2**31), 2**31 - 1) | TEXTS | st.binary() | TIMES,
    max_size=4,
).filter(lambda extensions: isinstance(extensions.get("partitionkey", "k"), str))
DATA_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**40), 10**40)
    | st.floats(allow_nan=False, allow_infinity=False)
    | DATA_TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(DATA_TEXTS, inner),
    max_leaves=20,
)
EVENTS = st.builds(
    CloudEvent,
    event_type=TEXTS.filter(bool),
    source=st.sampled_from(VALID_SOURCES),
    id=TEXTS.filter(bool),
    data=JSON | st.binary() | st.just(JSON_NULL),
    subject=st.none() | TEXTS,
    time=st.none() | TIMES,
    data_schema=st.none() | st.just("https://example.com/schema"),
    extensions=EXTENSIONS,
)
