"""Values as Celery writes them in JSON, which has dates, UUIDs and decimals as objects."""

from __future__ import annotations

import json
from typing import Any


def as_json(value: Any) -> Any:
    """Return a value in JSON's types; raises TypeError if Celery's JSON does not have it."""
    return json.loads(_celery_json().dumps(value))


def from_json(value: Any) -> Any:
    """Return what `as_json` was given; raises ValueError or TypeError."""
    return _celery_json().loads(json.dumps(value))


def _celery_json() -> Any:
    from kombu.utils import json as module

    return module
