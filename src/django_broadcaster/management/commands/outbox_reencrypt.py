"""`manage.py outbox_reencrypt`: re-encrypt payloads with the first key."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Any, Final

from django.core.management.base import CommandError
from django.db.models import Model, QuerySet
from django.utils import timezone

from django_broadcaster.amounts import counted
from django_broadcaster.conf import conf
from django_broadcaster.encryption import is_on, reseal
from django_broadcaster.exceptions import CannotUnseal
from django_broadcaster.management.base import OutboxCommand
from django_broadcaster.management.output import Progress, as_json
from django_broadcaster.management.selection import HIGHEST, add_database, database, whole
from django_broadcaster.models import OutboxArchivedEvent, OutboxEvent, OutboxTaskRun
from django_broadcaster.store import portions

CHUNK = 500
"""Payloads read at a time. Each row is written by itself, so that relays wait for one at most."""

NAMED = 20
"""The limit for listed payloads that cannot be decrypted."""


_KINDS: Final[Mapping[type[Model], str]] = {
    OutboxEvent: "event",
    OutboxArchivedEvent: "archived event",
    OutboxTaskRun: "task result",
}
"""The tables with encrypted payloads, and what a row of each is."""


class Command(OutboxCommand):
    """Re-encrypt payloads with the first of OUTBOX_ENCRYPTION_KEYS."""

    help = (
        "Re-encrypts payloads with the first of OUTBOX_ENCRYPTION_KEYS, so that older keys can be "
        "removed. Can be interrupted and run again; finished payloads are skipped."
    )
    examples = (
        "",
        "--start 1291",
        "--json",
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Declare the command's arguments."""
        parser.add_argument(
            "--start",
            type=whole(0, HIGHEST),
            default=0,
            metavar="ID",
            help="start with this id of the outbox",
        )
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
        add_database(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command; raise CommandError, which exits with 1, if no key decrypts a payload."""
        if not is_on():
            raise CommandError("OUTBOX_ENCRYPTION_KEYS must have at least one key.")
        using = database(options["database"])
        changed, unreadable = 0, []
        for model, kind in _KINDS.items():
            rows = model._default_manager.using(using)
            if model is OutboxEvent:
                rows = rows.filter(id__gte=options["start"])
            changed_of_kind, unreadable_of_kind = self._reencrypt_all(rows, kind)
            changed += changed_of_kind
            unreadable += unreadable_of_kind
        self._report(changed, unreadable, as_text=not options["json"])

    def _report(self, changed: int, unreadable: list[str], *, as_text: bool) -> None:
        if as_text:
            self.stdout.write(f"re-encrypted: {counted(changed, 'payload')}")
        else:
            self.stdout.write(as_json({"changed": changed, "unreadable": unreadable}))
        if unreadable:
            named = ", ".join(unreadable[:NAMED])
            more = f" and {len(unreadable) - NAMED:,} more" if len(unreadable) > NAMED else ""
            raise CommandError(
                f"Could not decrypt {counted(len(unreadable), 'payload')} ({named}{more}). Add the "
                "key that encrypted them to OUTBOX_ENCRYPTION_KEYS."
            )

    def _reencrypt_all(self, rows: QuerySet[Any], kind: str) -> tuple[int, list[str]]:
        """Return the number of changed rows, and the rows that no key decrypts."""
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
                f"Interrupted after {counted(changed, 'change')}, at {kind} {last}. Run the "
                "command again."
            ) from None
        finally:
            progress.end()
        return changed, unreadable


def _read(rows: QuerySet[Any], ids: list[int]) -> Iterator[tuple[int, bytes | memoryview]]:
    """Yield ids and payloads; read a bounded number of bytes at a time."""
    table, size = rows.model._meta.db_table, "LENGTH(sealed)"
    for portion in portions(rows.db, table, ids, conf.BATCH_BYTES, size=size):
        yield from rows.filter(id__in=portion).values_list("id", "sealed")


def _reencrypt(rows: QuerySet[Any], row_id: int, sealed: bytes | memoryview) -> int:
    """Re-encrypt one payload unless the first key encrypted it; return how many rows changed.

    The row may have been deleted meanwhile. Only this command changes `sealed` of an event, so a
    concurrent relay or replay is harmless. That of a task a relay replaces at the end of a run.
    """
    again = reseal(sealed)
    if again is None:
        return 0
    moment = {"updated_at": timezone.now()} if rows.model is OutboxEvent else {}
    unchanged = {"sealed": sealed} if rows.model is OutboxTaskRun else {}
    return rows.filter(pk=row_id, **unchanged).update(sealed=again, **moment)
