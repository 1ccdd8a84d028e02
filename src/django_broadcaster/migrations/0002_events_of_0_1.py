"""Move events of 0.1.1 into the outbox. Without its table, this does nothing."""

from typing import Any

from django.db import migrations

from django_broadcaster.management.output import Progress
from django_broadcaster.store import is_served
from django_broadcaster.upgrade import (
    UNDELIVERED,
    OldTable,
    move_back,
    move_events,
    stdout_of_migrate,
)

APP = "django_broadcaster"


def move(apps: Any, schema_editor: Any) -> None:
    """Move all rows in batches; each batch is one transaction."""
    using = schema_editor.connection.alias
    old = OldTable(using)
    if not old.exists() or old.is_empty():
        return
    out = stdout_of_migrate(using)
    if out is None:
        move_events(using)
        return
    out.write("")  # ends the line on which `migrate` names the migration
    progress = Progress(out, "Moving events of 0.1.1", sum(old.counts().values()))
    report = move_events(using, progress.advance)
    progress.end()
    for line in report.lines():
        out.write(line)


def restore(apps: Any, schema_editor: Any) -> None:
    """Move undelivered events back, because the tables are dropped next.

    Raises:
        RuntimeError: A relay is running, or an undelivered event can't be moved back.
    """
    using = schema_editor.connection.alias
    if is_served(apps.get_model(APP, "OutboxRelay")._base_manager.using(using)):
        raise RuntimeError("a relay is running; stop all relays and publishers first")
    if not OldTable(using).exists():
        events = apps.get_model(APP, "OutboxEvent")._base_manager.using(using)
        if count := events.filter(status__in=UNDELIVERED).count():
            raise RuntimeError(
                f"undelivered events would be lost: {count:,}. Run outbox_worker --drain to "
                "deliver them, or outbox_cancel to discard them. To move them to 0.1.1, install "
                "it, run its migrate, and install this version again"
            )
        return
    report = move_back(using)
    if report.refused:
        raise RuntimeError("\n".join(report.lines()))


class Migration(migrations.Migration):
    atomic = False  # each batch is a transaction of its own

    dependencies = [(APP, "0001_outbox")]

    operations = [migrations.RunPython(move, restore)]
