"""Topics: what an event may put into one, and what to publish to or subscribe to may be.

https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html, section 4.7.
"""

from __future__ import annotations

from .packets import LONGEST_TEXT, is_text


def topic_problem(topic: object) -> str:
    """Return what is wrong with a topic to publish to, or nothing."""
    if not isinstance(topic, str) or not topic:
        return "must be a non-empty string"
    if "+" in topic or "#" in topic or not is_text(topic):
        return f"must not contain a wildcard (+, #) or a control character, not {topic!r}"
    if len(topic.encode()) > LONGEST_TEXT:
        return f"must not be longer than {LONGEST_TEXT} bytes"
    return ""


def filter_problem(topic_filter: object) -> str:
    """Return what is wrong with a filter to subscribe to, or nothing (4.7.1)."""
    if not isinstance(topic_filter, str) or not topic_filter:
        return "must be a non-empty string"
    levels = topic_filter.split("/")
    if any(("+" in each or "#" in each) and len(each) > 1 for each in levels) or (
        "#" in levels[:-1]
    ):
        return f"must have + as a whole level, and # as the last one, not {topic_filter!r}"
    if levels[0] == "$share":
        return "must not begin with $share/, which 'group' and 'ordered': False stand for"
    if not is_text(topic_filter):
        return f"must not contain a control character, not {topic_filter!r}"
    if len(topic_filter.encode()) > LONGEST_TEXT:
        return f"must not be longer than {LONGEST_TEXT} bytes"
    return ""
