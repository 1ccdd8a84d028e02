"""Django's lazy objects, such as `request.user` and the result of `gettext_lazy()`."""

from __future__ import annotations

from typing import Any

from django.utils.functional import LazyObject, Promise, empty


def resolved(value: Any) -> Any:
    """Return the value of a lazy object, and anything else as it is."""
    while isinstance(value, LazyObject):
        if value._wrapped is empty:
            value._setup()
        value = value._wrapped
    return str(value) if isinstance(value, Promise) else value
