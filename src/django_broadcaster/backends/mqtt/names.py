"""Topics: what an event may put into one, and what a topic to publish to may be.

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
