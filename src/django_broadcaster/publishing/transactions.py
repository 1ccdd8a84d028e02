"""Whether the caller's transaction is the one in which the event has to be written."""

from __future__ import annotations

from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import WrongTransaction


def check_transaction(connection: BaseDatabaseWrapper) -> None:
    """Raise WrongTransaction where the row would not commit with the change it is about."""
    if _is_open(connection):
        return
    using = connection.alias
    elsewhere = [c.alias for c in connections.all(initialized_only=True) if _is_open(c)]
    if elsewhere:
        raise WrongTransaction(
            f"using: the event would go to database {using!r}, but the open transaction is on "
            f"{', '.join(map(repr, elsewhere))}; open one on {using!r} around the change and the "
            f"publish call, or pass using={elsewhere[0]!r}"
        )
    if conf.REQUIRE_TRANSACTION:
        raise WrongTransaction(
            "published outside of a transaction, which OUTBOX_REQUIRE_TRANSACTION forbids; "
            "wrap the change and the publish call in transaction.atomic()"
        )


def _is_open(connection: BaseDatabaseWrapper) -> bool:
    if connection.in_atomic_block:
        return True
    return connection.connection is not None and not connection.get_autocommit()
