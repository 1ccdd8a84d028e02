"""From a filter of the list of outbox events to the form of an operation."""

from __future__ import annotations

from django.http import QueryDict

CONDITIONS = {
    "status__exact": "status",
    "status": "status",
    "backend": "backend",
    "partition_key": "key",
    "created_at__gte": "since",
    "created_at__lt": "until",
}
"""Filters of the list, each with the equal condition of an operation."""

NEARLY = {"last_error__startswith": "error"}
"""Filters with a wider condition: it finds the text anywhere in the error."""

OF_THE_LIST = frozenset({"p", "o", "all", "e", "_changelist_filters", "_popup", "_to_field"})
"""Parameters of the list that do not filter, such as page and order."""


def form_query(filters: QueryDict) -> str:
    """Return the query that opens the form with the filters of the list.

    `lost` names the filters for which the form has no condition, or only a wider one. Otherwise the
    operation would seem to select exactly the events of the list.
    """
    query = QueryDict(mutable=True)
    for name in filters:
        value = str(filters[name])
        if not value or name in OF_THE_LIST:
            continue
        if condition := CONDITIONS.get(name) or NEARLY.get(name):
            query[condition] = value
        if name not in CONDITIONS:
            query.appendlist("lost", f"{name}={value}"[:100])
    return query.urlencode()
