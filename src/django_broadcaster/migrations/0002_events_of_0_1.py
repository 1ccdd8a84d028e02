"""Events of 0.1.1 move into the outbox; without its table this takes no time."""

from typing import Any

from django.db import migrations

from django_broadcaster.management.output import Progress
from django_broadcaster.upgrade import OldTable, move_back, move_events, stdout_of_migrate

APP = "django_broadcaster"


def move(apps: Any, schema_editor: Any) -> None:
    """Move all rows, in batches, each of which is one transaction."""
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
    """Move undelivered events back; raise RuntimeError for those that 0.1.1 can't hold."""
    using = schema_editor.connection.alias
    if not OldTable(using).exists():
        return
    report = move_back(using)
    if report.refused:
        raise RuntimeError("\n".join(report.lines()))


class Migration(migrations.Migration):
    atomic = False  # each batch is a transaction of its own

    dependencies = [(APP, "0001_outbox")]

    operations = [migrations.RunPython(move, restore)]
