"""`manage.py outbox_reencrypt`: payloads that an older key encrypted get the first one."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError
from django.db.models import QuerySet
from django.utils import timezone

from django_broadcaster.conf import conf
from django_broadcaster.encryption import is_on, reseal
from django_broadcaster.exceptions import CannotUnseal
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import Progress, as_json
from django_broadcaster.management.selection import HIGHEST, add_database, database, whole
from django_broadcaster.models import OutboxArchivedEvent, OutboxEvent
from django_broadcaster.store import portions

CHUNK = 500
"""Payloads that are read at a time. Each is written by itself, so that no relay waits for many."""

NAMED = 20
"""Events that can't be decrypted and are named."""


class Command(OutboxCommand):
    """Encrypt with the first of OUTBOX_ENCRYPTION_KEYS what another one encrypted."""

    help = (
        "Encrypts payloads again that an older one of OUTBOX_ENCRYPTION_KEYS encrypted, so that "
        "it can be taken out. May be interrupted, and run again: what is done is left alone."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "--start",
            type=whole(0, HIGHEST),
            default=0,
            metavar="ID",
            help="go on from this id of the outbox",
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raises CommandError, and so exits with 1, if a payload is left."""
        if not is_on():
            raise CommandError("OUTBOX_ENCRYPTION_KEYS is empty: there is no key to encrypt with")
        using = database(options["database"])
        events = OutboxEvent.objects.using(using).filter(id__gte=options["start"])
        changed, unreadable = self._reencrypt_all(events, "event")
        archived = OutboxArchivedEvent.objects.using(using).all()
        changed_there, unreadable_there = self._reencrypt_all(archived, "archived event")
        self._report(
            changed + changed_there, unreadable + unreadable_there, as_text=not options["json"]
        )

    def _report(self, changed: int, unreadable: list[str], *, as_text: bool) -> None:
        if as_text:
            self.stdout.write(f"re-encrypted: {changed:,} events")
        else:
            self.stdout.write(as_json({"changed": changed, "unreadable": unreadable}))
        if unreadable:
            named = ", ".join(unreadable[:NAMED])
            more = f" and {len(unreadable) - NAMED:,} more" if len(unreadable) > NAMED else ""
            raise CommandError(
                f"no key decrypts {len(unreadable):,} events ({named}{more}); add the key that "
                "they were published with to OUTBOX_ENCRYPTION_KEYS"
            )

    def _reencrypt_all(self, rows: QuerySet[Any], kind: str) -> tuple[int, list[str]]:
        """Return how many rows changed, and those that no key decrypts."""
        sealed_rows = rows.filter(sealed__isnull=False).order_by("id")
        what = f"re-encrypt {kind}s"
        progress = Progress(self.stderr, what, sealed_rows.count())  # type: ignore[arg-type]
        changed, last = 0, 0
        unreadable: list[str] = []
        try:
            while ids := list(sealed_rows.filter(id__gt=last).values_list("id", flat=True)[:CHUNK]):
                for row_id, sealed in _read(sealed_rows, ids):
                    try:
                        changed += _reencrypt(rows, row_id, sealed)
                    except CannotUnseal:
                        unreadable.append(f"{kind} {row_id}")
                    last = row_id
                last = ids[-1]
                progress.advance(len(ids))
        except KeyboardInterrupt:
            raise CommandError(
                f"interrupted after {changed:,} changes, at {kind} {last}; run it again"
            ) from None
        finally:
            progress.end()
        return changed, unreadable


def _read(rows: QuerySet[Any], ids: list[int]) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield the payloads of rows, with their ids, a bounded number of bytes at a time."""
    for portion in portions(rows.db, rows.model._meta.db_table, ids, conf.BATCH_BYTES):
        yield from rows.filter(id__in=portion).values_list("id", "sealed")


def _reencrypt(rows: QuerySet[Any], row_id: int, sealed: bytes | memoryview) -> int:
    """Encrypt one payload again unless it has the first key; return how many rows changed.

    A row that was delivered and deleted meanwhile is not there any more. Nothing else changes
    `sealed`, so a relay or a replay at the same moment does no harm.
    """
    again = reseal(sealed)
    if again is None:
        return 0
    moment = {"updated_at": timezone.now()} if rows.model is OutboxEvent else {}
    return rows.filter(pk=row_id).update(sealed=again, **moment)
