"""The JSON encoder of events: Django's own, or the project's by OUTBOX_JSON_ENCODER."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.functional import LazyObject
from django.utils.module_loading import import_string

from django_broadcaster.conf import conf

from .lazy import resolved


class EventJSONEncoder(DjangoJSONEncoder):
    """Encodes lazy objects, and other values by the project's encoder."""

    def default(self, value: Any) -> Any:
        """Return a JSON value instead; raises TypeError if there is none."""
        if isinstance(value, LazyObject):
            return resolved(value)
        return _of_project().default(value)


def load_encoder(path: str) -> json.JSONEncoder:
    """Return an instance of the class with this dotted path; raises ImproperlyConfigured."""
    try:
        found = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"OUTBOX_JSON_ENCODER: {path!r} can't be imported: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, json.JSONEncoder)):
        raise ImproperlyConfigured(
            f"OUTBOX_JSON_ENCODER: {path!r} is not a subclass of json.JSONEncoder"
        )
    return found()


def _of_project() -> json.JSONEncoder:
    try:
        path = conf.JSON_ENCODER
    except ImproperlyConfigured:  # a program without settings
        path = None
    return _default if path is None else _loaded(path)


_default = DjangoJSONEncoder()
_loaded = cache(load_encoder)
