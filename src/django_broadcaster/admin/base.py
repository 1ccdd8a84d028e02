"""What the pages have in common: they are read-only, and count no large table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

if TYPE_CHECKING:  # Django's own classes take no type arguments when they run
    ModelAdmin = admin.ModelAdmin[Any]
    AnyPaginator = Paginator[Any]
else:
    ModelAdmin = admin.ModelAdmin
    AnyPaginator = Paginator

PAYLOAD_FIELDS = (
    *("data", "data_binary", "sealed", "extensions", "publisher_config", "last_error"),
)
EXACT_COUNT = 50_000
"""Rows up to which a list without a filter counts exactly."""

MOST = 10_000
"""Rows that a filtered list counts and has, and that an action takes."""


class BoundedPaginator(AnyPaginator):
    """Counts no large table: that would read it all, or all that a filter lets through.

    Without a filter PostgreSQL's estimate serves. With one the count ends at `most`, and
    `has_more` says so.
    """

    most = MOST
    has_more = False

    @cached_property
    def count(self) -> int:
        """The number of rows: exact, estimated, or as many as are counted."""
        rows: Any = self.object_list
        if rows.query.has_filters():
            found: int = rows.order_by()[: self.most + 1].count()
            self.has_more = found > self.most
            return min(found, self.most)
        estimate = self._estimate(rows)
        return estimate if estimate > EXACT_COUNT else super().count

    def _estimate(self, rows: QuerySet[Any]) -> int:
        """Return the rows that the statistics promise for the table's size now, or 0."""
        connection = connections[rows.db]
        if connection.vendor != "postgresql":
            return 0
        with connection.cursor() as cursor:
            cursor.execute(_ESTIMATE, [rows.model._meta.db_table])
            estimate: float = cursor.fetchone()[0]
        return round(estimate)  # which may be just below a whole number


_ESTIMATE = """
    SELECT SUM(reltuples / GREATEST(relpages, 1)
        * (pg_relation_size(oid) / current_setting('block_size')::int))
    FROM pg_class JOIN (VALUES (to_regclass(%s))) AS t (root) ON oid = root
    OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = root)
"""


class LeanChangeList(ChangeList):
    """A list that leaves payloads and errors in the database."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """Return the rows of the list."""
        return super().get_queryset(request, *args, **kwargs).defer(*PAYLOAD_FIELDS)


class ReadOnlyAdmin(ModelAdmin):
    """Rows to look at: they are written by the application and the relay alone."""

    ordering = ("-id",)
    sortable_by = ("id",)  # the order that has an index
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # each would count every row
    paginator = BoundedPaginator

    class Media:
        css = {"all": ["django_broadcaster/admin.css"]}

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds rows here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits rows here."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes rows here."""
        return False
