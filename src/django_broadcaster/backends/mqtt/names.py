"""Topics: what an event may put into one, and what a topic to publish to may be.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html, section 4.7.
"""

from __future__ import annotations

from string import Formatter
from urllib.parse import quote

from ..templates import EMPTY
from .packets import LONGEST_TEXT, is_text


def escape(_: str, value: str) -> str:
    """Return a field of a topic: one level, whatever is in it.

    Letters and digits of ASCII and `-._~` stay, all else is percent-encoded: `/` begins no level,
    `+` and `#` are no wildcards, and a `$` does not lead to the server's own topics. A value that
    is the stand-in for no value is encoded, too.
    """
    return "%5F" if value == EMPTY else quote(value, safe="")


def topic_problem(topic: object) -> str:
    """Return what is wrong with a topic to publish to, or nothing."""
    if not isinstance(topic, str) or not topic:
        return f"must be text and not empty, not {topic!r}"
    if "+" in topic or "#" in topic or not is_text(topic):
        return f"must have no wildcard (+, #) and no control character: {topic!r}"
    if len(topic.encode()) > LONGEST_TEXT:
        return f"must not be longer than {LONGEST_TEXT} bytes"
    return ""


def template_problem(template: str) -> str:
    """Return what is wrong with a template's own text, or nothing."""
    parts = Formatter().parse(template)
    return topic_problem("".join(text + ("x" if field else "") for text, field, *_ in parts))
