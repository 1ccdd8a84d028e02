"""Create the archive of the setting OUTBOX_ARCHIVE."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.module_loading import import_string

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import ArchiveConfigurationError
from django_broadcaster.redaction import masked

from .base import Archive

ENTRY_KEYS = frozenset({"BACKEND", "OPTIONS"})


def create_archive() -> Archive | None:
    """Return the archive of OUTBOX_ARCHIVE, or None; raise ArchiveConfigurationError."""
    entry: Any = conf.ARCHIVE
    if entry is None:
        return None
    if not isinstance(entry, Mapping) or not isinstance(entry.get("OPTIONS", {}), Mapping):
        raise ArchiveConfigurationError("OUTBOX_ARCHIVE and its OPTIONS must be dicts")
    archive_class = _archive_class(entry.get("BACKEND"))
    try:
        return archive_class(**entry.get("OPTIONS", {}))
    except ArchiveConfigurationError:
        raise
    except (TypeError, ValueError) as error:
        raise ArchiveConfigurationError(masked(f"OUTBOX_ARCHIVE['OPTIONS']: {error}")) from error


def _archive_class(path: Any) -> type[Archive]:
    try:
        found = import_string(path)
    except (ImportError, AttributeError, TypeError) as error:
        raise ArchiveConfigurationError(
            f"OUTBOX_ARCHIVE['BACKEND']: {path!r} can't be imported: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Archive)):
        raise ArchiveConfigurationError(
            f"OUTBOX_ARCHIVE['BACKEND']: {path!r} is not a subclass of Archive"
        )
    return found
