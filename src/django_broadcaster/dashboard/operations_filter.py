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
"""What the list filters by, and the condition of an operation that it is."""

NEARLY = {"last_error__startswith": "error"}
"""The same, where the condition may let more events through: it takes a text anywhere."""

OF_THE_LIST = frozenset({"p", "o", "all", "e", "_changelist_filters", "_popup", "_to_field"})
"""What a query of the list says that is no filter: page, order and the like."""


def form_query(filters: QueryDict) -> str:
    """Return the query that opens the form with the filters of the list.

    What the form has no condition for, or none that is as narrow, is named in `lost`: it would
    otherwise look as if the operation were about the events that the list shows.
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
