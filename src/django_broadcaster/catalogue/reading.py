"""Reads the document that `manage.py outbox_catalogue` has written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from .errors import CatalogueError

DOCUMENT: Final = "asyncapi.json"

PARTS_OF_EVENTS: Final = {
    "class": str,
    "description": str,
    "version": int,
    "upcasters": list,
    "source": str,
    "sent": bool,
    "schema": dict,
}
"""The parts of each event of `x-events`, each with its type."""


def read_document(path: Path) -> dict[str, Any]:
    """Return the document of a file, or of a directory that has one; raises CatalogueError."""
    file = path / DOCUMENT if path.is_dir() else path
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogueError(f"{file} can't be read: {error.strerror}") from error
    except ValueError as error:
        raise CatalogueError(f"{file} must be JSON: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("x-events"), dict):
        raise CatalogueError(f"{file} must be an AsyncAPI document of this command")
    for event_type, event in found["x-events"].items():
        for name, kind in PARTS_OF_EVENTS.items():
            if not isinstance(event, dict) or not isinstance(event.get(name), kind):
                raise CatalogueError(
                    f"{file}: x-events: {event_type!r} must have {name!r}; write the catalogue "
                    "again with --output"
                )
    return found
