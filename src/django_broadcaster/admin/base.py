"""Base classes of the admin's pages: read-only, and without counts of large tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import connections
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

if TYPE_CHECKING:  # at run time, Django's classes take no type arguments
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
"""Maximum of rows in a filtered list, and of events that an action changes."""


class BoundedPaginator(AnyPaginator):
    """Paginates without counting a large table, which would read all matching rows.

    Without a filter, the count is PostgreSQL's estimate. With a filter, the count ends at `most`,
    and `has_more` is True.
    """

    most = MOST
    has_more = False

    @cached_property
    def count(self) -> int:
        """The number of rows: exact, estimated, or at most `most`."""
        rows: Any = self.object_list
        if rows.query.has_filters():
            found: int = rows.order_by()[: self.most + 1].count()
            self.has_more = found > self.most
            return min(found, self.most)
        estimate = self._estimate(rows)
        return estimate if estimate > EXACT_COUNT else super().count

    def _estimate(self, rows: QuerySet[Any]) -> int:
        """Return the rows by the database's statistics and the table's size, or 0."""
        connection = connections[rows.db]
        if connection.vendor != "postgresql":
            return 0
        with connection.cursor() as cursor:
            cursor.execute(_ESTIMATE, [rows.model._meta.db_table])
            estimate: float = cursor.fetchone()[0]
        return round(estimate)


_ESTIMATE = """
    SELECT SUM(reltuples / GREATEST(relpages, 1)
        * (pg_relation_size(oid) / current_setting('block_size')::int))
    FROM pg_class JOIN (VALUES (to_regclass(%s))) AS t (root) ON oid = root
    OR oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = root)
"""


class LeanChangeList(ChangeList):
    """A list that does not read the payloads and errors of its rows."""

    def get_queryset(self, request: HttpRequest, *args: Any, **kwargs: Any) -> QuerySet[Any]:
        """Return the rows of the list."""
        unread = getattr(self.model_admin, "payload_fields", ())
        return super().get_queryset(request, *args, **kwargs).defer(*unread)


class ReadOnlyAdmin(ModelAdmin):
    """Read-only rows: only the application and the relay write them.

    Attributes:
        payload_fields: Fields that lists do not read, because they may be long.
        unsearched: Fields that no filter may use, including a filter that a user types into the
            URL. `?data__card__startswith=4` would reveal data that OUTBOX_REDACTOR hides, and would
            read every row.
    """

    payload_fields: tuple[str, ...] = ()
    unsearched: frozenset[str] = frozenset()

    ordering = ("-id",)
    sortable_by = ("id",)  # the only order with an index
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER  # a facet counts every row
    paginator = BoundedPaginator
    change_form_template = "admin/django_broadcaster/change_form.html"

    class Media:
        css = {"all": ["django_broadcaster/admin.css"]}

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Return False for a filter on payloads."""
        field = lookup.partition("__")[0]
        return field not in self.unsearched and super().lookup_allowed(lookup, value, request)

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        """Return the class of the list."""
        return LeanChangeList

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False: rows can't be added."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows can't be edited."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False: rows can't be deleted."""
        return False
