"""A class that the admins of both services share."""

from __future__ import annotations

from django.http import HttpRequest


class ReadOnly:
    """Read-only rows: a change in the admin would not publish an event."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: only services and handlers add rows."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        """Return False: only services and handlers change rows."""
        return False
