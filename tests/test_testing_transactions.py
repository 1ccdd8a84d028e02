"""The helpers that applications test with, where the transaction makes a difference."""

from __future__ import annotations

from contextlib import suppress
from threading import Thread

import pytest
from django.db import connections, transaction
from django.test import TestCase, override_settings

from django_broadcaster.exceptions import WrongTransaction
from django_broadcaster.models import OutboxEvent
from django_broadcaster.publishers import publisher
from django_broadcaster.testing import assert_not_published, capture_events
from tests.support.databases import DATABASES


class Declined(Exception):
    """What ends a transaction of these tests."""


def place(number: str, using: str) -> OutboxEvent:
    """Publish an event as an application does."""
    return publisher.publish_event("order.placed", "/shop", subject=number, using=using)


class EachDatabase(TestCase):
    """Django's own test case, on every database."""

    databases = "__all__"

    def test_transaction_of_the_test_case_does_not_count(self) -> None:
        """OUTBOX_REQUIRE_TRANSACTION is the same inside of a TestCase as in production."""
        for using in DATABASES:
            with self.subTest(using), override_settings(OUTBOX_REQUIRE_TRANSACTION=True):
                with pytest.raises(WrongTransaction):
                    place("1", using=using)
                with pytest.raises(WrongTransaction):
                    publisher.publish_events([], using=using)
                with transaction.atomic(using=using), transaction.atomic(using=using):
                    place("2", using=using)
                assert_not_published("order.placed", using=using, subject="1")

    def test_hook_after_the_commit_is_outside_of_the_transaction(self) -> None:
        """A publish call in an `on_commit` function raises in a test case as well."""
        for using in DATABASES:
            with (
                self.subTest(using),
                override_settings(OUTBOX_REQUIRE_TRANSACTION=True),
                pytest.raises(WrongTransaction),
                self.captureOnCommitCallbacks(using=using, execute=True),
                transaction.atomic(using=using),
            ):
                transaction.on_commit(lambda u=using: place("1", using=u), using=using)  # type: ignore[misc]

    def test_wrong_database_is_noticed(self) -> None:
        """The open transaction of another database is noticed although the test case has both."""
        if len(DATABASES) < 2:
            self.skipTest("needs two databases")
        one, other = DATABASES[:2]
        with transaction.atomic(using=other), pytest.raises(WrongTransaction):
            place("1", using=one)

    def test_what_was_rolled_back_is_not_captured(self) -> None:
        """Events of a savepoint that is rolled back leave the list, and the others stay."""
        for using in DATABASES:
            with self.subTest(using), capture_events() as events:
                place("1", using=using)
                with transaction.atomic(using=using):
                    place("2", using=using)
                    with transaction.atomic(using=using):
                        place("3", using=using)
                        transaction.set_rollback(True, using=using)
                    assert [event.subject for event in events] == ["1", "2"]
                    place("4", using=using)
                with suppress(Declined), transaction.atomic(using=using):
                    place("5", using=using)
                    raise Declined
            assert [event.subject for event in events] == ["1", "2", "4"]


def test_what_was_committed_stays_captured(database: str) -> None:
    """After a real commit the event is still in the list, and after a real rollback it is not."""
    with capture_events() as events:
        with transaction.atomic(using=database):
            place("1", using=database)
        place("2", using=database)
        with transaction.atomic(using=database):
            place("3", using=database)
            transaction.set_rollback(True, using=database)
    assert [event.subject for event in events] == ["1", "2"]


def test_capture_includes_threads(database: str) -> None:
    """An event published by another thread is captured, and belongs to its own transaction."""

    def publish() -> None:
        try:
            with transaction.atomic(using=database):
                place("1", using=database)
            with transaction.atomic(using=database):
                place("2", using=database)
                transaction.set_rollback(True, using=database)
        finally:
            connections.close_all()

    with capture_events() as events:
        thread = Thread(target=publish)
        thread.start()
        thread.join(30)
    assert [event.subject for event in events] == ["1"]


def test_capture_without_autocommit(database: str) -> None:
    """A transaction that Django does not follow can't be told to be rolled back: it stays."""
    transaction.set_autocommit(False, using=database)
    try:
        with capture_events() as events:
            place("1", using=database)
        assert [event.subject for event in events] == ["1"]
    finally:
        transaction.rollback(using=database)
        transaction.set_autocommit(True, using=database)
