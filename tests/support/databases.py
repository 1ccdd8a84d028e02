"""The databases of this run, by what they can do."""

from __future__ import annotations

from django.conf import settings

DATABASES = tuple(settings.DATABASES)

SERVERS = [
    alias for alias, entry in settings.DATABASES.items() if not entry["ENGINE"].endswith("sqlite3")
]
"""Databases that several can write to at a time, and that can be away."""

POSTGRESQL = [
    alias for alias in SERVERS if settings.DATABASES[alias]["ENGINE"].endswith("postgresql")
]
"""Databases with locks that others do not have."""

ANY = DATABASES[-1:]
"""The quickest one, for what no database makes a difference to."""
