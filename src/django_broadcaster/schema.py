"""Fields, indexes and migration operations that Django lacks for some databases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django.db import migrations, models
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.backends.base.schema import BaseDatabaseSchemaEditor
from django.db.backends.ddl_references import Columns, Statement, Table
from django.db.migrations.operations.base import Operation

if TYPE_CHECKING:  # at run time, Django's classes take no type arguments
    CharField = models.CharField[str, str]
else:
    CharField = models.CharField


class ExactCharField(CharField):
    """Text that is compared by its bytes, also on MariaDB and MySQL, whose default ignores case."""

    def db_parameters(self, connection: BaseDatabaseWrapper) -> dict[str, Any]:
        """Return the column's parameters, with a binary collation if that is not the default."""
        parameters: dict[str, Any] = super().db_parameters(connection)
        if connection.vendor == "mysql":
            parameters["collation"] = _exact_collation(connection)
        return parameters


def _exact_collation(connection: Any) -> str:
    """Return the collation that compares bytes, including trailing spaces."""
    if connection.mysql_is_mariadb:
        return "utf8mb4_nopad_bin"
    return "utf8mb4_0900_bin" if connection.mysql_version >= (8, 0, 17) else "utf8mb4_bin"


class PartialIndex(models.Index):
    """Index `fields` of the rows that satisfy `where`, optionally unique.

    `where` is a condition in SQL on columns of the table, for PostgreSQL and SQLite. MariaDB and
    MySQL have no partial indexes. There the index has all rows, and begins with the `prefix`
    columns, which find the rows. A unique index must then have a column that is NULL in all other
    rows. With Django's `condition`, each check of a MariaDB project would warn (models.W037).
    """

    def __init__(
        self,
        *,
        fields: list[str],
        name: str,
        where: str,
        prefix: tuple[str, ...] = (),
        unique: bool = False,
    ) -> None:
        super().__init__(fields=fields, name=name)
        self.where = where
        self.prefix = tuple(prefix)
        self.unique = unique

    def deconstruct(self) -> tuple[str, Any, dict[str, Any]]:
        path, args, kwargs = super().deconstruct()
        kwargs.update(where=self.where, prefix=self.prefix, unique=self.unique)
        return path, args, kwargs

    def create_sql(
        self,
        model: type[models.Model],
        schema_editor: BaseDatabaseSchemaEditor,
        using: str = "",
        **kwargs: Any,
    ) -> Statement:
        """Return the CREATE INDEX statement for the database of `schema_editor`."""
        partial = schema_editor.connection.features.supports_partial_indexes
        names = self.fields if partial else [*self.prefix, *self.fields]
        fields = [model._meta.get_field(name) for name in names]
        columns = [str(field.column) for field in fields if isinstance(field, models.Field)]
        table = model._meta.db_table
        return Statement(
            "CREATE %(unique)sINDEX %(concurrently)s%(name)s ON %(table)s (%(columns)s)%(where)s",
            unique="UNIQUE " if self.unique else "",
            concurrently="CONCURRENTLY " if kwargs.get("concurrently") else "",
            name=schema_editor.quote_name(self.name),
            table=Table(table, schema_editor.quote_name),
            columns=Columns(table, columns, schema_editor.quote_name),
            where=f" WHERE {self.where}" if partial else "",
        )


class AddIndexConcurrently(migrations.AddIndex):
    """Adds a `PartialIndex` to a table, on PostgreSQL without a lock that blocks writers.

    The migration must be `atomic = False`. If it is interrupted, PostgreSQL keeps an invalid
    index, which the next run drops. PostgreSQL can't do this for a partitioned table, where writers
    wait.
    """

    atomic = False

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Create the index."""
        if schema_editor.connection.vendor != "postgresql":
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        model = to_state.apps.get_model(app_label, self.model_name)
        if _is_partitioned(schema_editor, model):
            super().database_forwards(app_label, schema_editor, from_state, to_state)
        elif self.allow_migrate_model(schema_editor.connection.alias, model):
            name = schema_editor.quote_name(self.index.name)
            schema_editor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}", params=None)
            sql = self.index.create_sql(model, schema_editor, concurrently=True)
            schema_editor.execute(sql, params=None)


class SetTableStorage(Operation):
    """Sets storage parameters of a model's table on PostgreSQL; its reverse resets them.

    The lock (SHARE UPDATE EXCLUSIVE) blocks neither readers nor writers. Other databases are not
    changed. https://www.postgresql.org/docs/current/sql-createtable.html
    """

    reversible = True

    def __init__(self, model_name: str, parameters: Mapping[str, str]) -> None:
        self.model_name = model_name
        self.parameters = dict(parameters)

    def deconstruct(self) -> tuple[str, list[Any], dict[str, Any]]:
        """Return the arguments that create the operation."""
        kwargs = {"model_name": self.model_name, "parameters": self.parameters}
        return type(self).__qualname__, [], kwargs

    def state_forwards(self, app_label: str, state: Any) -> None:
        """Change nothing: the state of models has no storage parameters."""

    def database_forwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Set the parameters."""
        listed = ", ".join(f"{name} = {value}" for name, value in self.parameters.items())
        self._alter(app_label, schema_editor, to_state, f"SET ({listed})")

    def database_backwards(
        self,
        app_label: str,
        schema_editor: BaseDatabaseSchemaEditor,
        from_state: Any,
        to_state: Any,
    ) -> None:
        """Reset the parameters to the server's defaults."""
        self._alter(app_label, schema_editor, from_state, f"RESET ({', '.join(self.parameters)})")

    def _alter(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, state: Any, change: str
    ) -> None:
        model = state.apps.get_model(app_label, self.model_name)
        connection = schema_editor.connection
        if connection.vendor == "postgresql" and self.allow_migrate_model(connection.alias, model):
            for table in _tables(schema_editor, model):
                schema_editor.execute(f"ALTER TABLE {schema_editor.quote_name(table)} {change}")

    def describe(self) -> str:
        """Return the description that `migrate` shows."""
        return f"Set storage parameters of {self.model_name} on PostgreSQL"


def _is_partitioned(schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> bool:
    """Return True if a PostgreSQL table is partitioned."""
    table = model._meta.db_table
    return _tables(schema_editor, model) != [table]


def _tables(schema_editor: BaseDatabaseSchemaEditor, model: type[models.Model]) -> list[str]:
    """Return the tables with a model's rows: its own, or the partitions."""
    table = model._meta.db_table
    if schema_editor.collect_sql:
        return [table]
    sql = (
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = to_regclass(%s)"
    )
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(sql, [table])
        return [row[0] for row in cursor.fetchall()] or [table]
