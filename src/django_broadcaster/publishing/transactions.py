"""The caller's transaction: whether it is the right one, and a block of it that is atomic."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import connections, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from django_broadcaster.conf import conf
from django_broadcaster.exceptions import WrongTransaction


def check_transaction(connection: BaseDatabaseWrapper) -> None:
    """Raise WrongTransaction if the row would not commit with the change that it announces."""
    if has_transaction(connection):
        return
    using = connection.alias
    elsewhere = [c.alias for c in connections.all(initialized_only=True) if has_transaction(c)]
    if elsewhere:
        raise WrongTransaction(
            f"using: the event would go to database {using!r}, but the open transaction is on "
            f"{', '.join(map(repr, elsewhere))}; open one on {using!r} around the change and the "
            f"publish call, or pass using={elsewhere[0]!r}"
        )
    if conf.REQUIRE_TRANSACTION:
        raise WrongTransaction(
            "published outside of a transaction, which OUTBOX_REQUIRE_TRANSACTION forbids; wrap "
            "the change and the publish call in transaction.atomic(). In an on_commit hook, or a "
            "signal sent after its transaction, the change has committed already: publish where "
            "the change is made"
        )


def has_transaction(connection: BaseDatabaseWrapper) -> bool:
    """Return True if a transaction is open, other than the one around a test case."""
    if connection.in_atomic_block:
        # The innermost one counts: a test case opens its own around all others.
        blocks: Any = connection.atomic_blocks
        return not (blocks and blocks[-1]._from_testcase)
    return connection.connection is not None and not connection.get_autocommit()


@contextmanager
def some_transaction(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Open a transaction unless there is one, for an event that announces no change of a caller.

    A transaction on another database is left to `check_transaction`.
    """
    if any(map(has_transaction, connections.all(initialized_only=True))):
        yield
        return
    with transaction.atomic(using=connection.alias):
        yield


@contextmanager
def all_or_nothing(connection: BaseDatabaseWrapper, *, savepoint: bool) -> Iterator[None]:
    """Write all of a block or, if it raises, nothing.

    With a savepoint the caller's transaction stays usable after an error; without one it ends.
    """
    if savepoint:
        _begin(connection)
    with transaction.atomic(using=connection.alias, savepoint=savepoint):
        yield


def _begin(connection: Any) -> None:
    """Begin the transaction of a caller who switched autocommit off, unless it has begun.

    SQLite begins it at the first change. A savepoint before that would be the whole transaction,
    and its release the commit.
    """
    if connection.vendor != "sqlite" or connection.in_atomic_block or connection.get_autocommit():
        return
    if not connection.connection.in_transaction:
        connection._start_transaction_under_autocommit()
