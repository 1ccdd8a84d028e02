"""Checks of declared events, after all modules have been imported."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage

from ..check_messages import TAG, Messages, error, warning
from ..typed_events import EventType, event_types


def check_typed_events(**_: Any) -> Messages:
    """Check that the types of all fields are defined, and that all old versions can be read."""
    found = (_unresolved(each) or _unread(each) for each in event_types)
    return [problem for problem in found if problem is not None]


def _unresolved(declared: EventType[Any]) -> CheckMessage | None:
    try:
        declared.prepare()
    except (NameError, TypeError) as reason:
        return error(
            "E055",
            f"The fields of {declared.path} can't be read: {reason}.",
            "Import the type in the module of the class, and not under TYPE_CHECKING.",
        )
    return None


def _unread(declared: EventType[Any]) -> CheckMessage | None:
    versions = declared.versions_without_upcaster()
    if not versions:
        return None
    name, version = declared.event_class.__name__, declared.version
    listed = ", ".join(map(str, versions))
    return warning(
        "W012",
        f"{declared.path} has version {version}, and no upcaster from version {listed}: events of "
        "these versions become dead letters.",
        f"Add a function with @upcasts({name}, from_version={versions[0]}). If there are no such "
        f"events, set SILENCED_SYSTEM_CHECKS = ['{TAG}.W012'].",
    )
