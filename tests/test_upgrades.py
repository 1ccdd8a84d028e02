"""Relays and publishers of the version before work on the schema of this one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, migrations, models
from django.db.migrations import AddField, AlterField
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.operations.base import Operation
from django.db.models.fields import NOT_PROVIDED
from django.utils import timezone

from django_broadcaster.models import OutboxEvent, OutboxPartition
from django_broadcaster.schema import AddIndexConcurrently, PartialIndex, SetTableStorage
from tests.relay.conftest import stream, workers
from tests.support.events import first_arrivals, publish, publish_many
from tests.support.waiting import wait_until
from tests.support.workers import Workers, place_of

__all__ = ["stream", "workers"]

ROOT = Path(__file__).resolve().parent.parent
APP = "django_broadcaster"
BASE = "0002_events_of_0_1"
"""The schema of the version before: what came later is for both. To be moved with each release.

It is that of 1.0.0, the first version with these tables; 0.1.1 has others (`tests/upgrade/`).
"""

BEFORE = "v1.0.0"
"""The tag of the version before. Until there is one, no relays of two versions can be compared."""

REDIS = "django_broadcaster.backends.RedisStreamBackend"

HARMLESS = (
    migrations.CreateModel,
    migrations.AlterModelOptions,
    migrations.AlterModelManagers,
    SetTableStorage,  # a lock that lets readers and writers go on, for a moment
)


def later_migrations() -> list[migrations.Migration]:
    """Return the migrations behind the schema of the version before, in order."""
    loader = MigrationLoader(None)
    names = sorted(name for app, name in loader.disk_migrations if app == APP)
    return [loader.disk_migrations[APP, name] for name in names if name > BASE]


def problems(migration: migrations.Migration, known: set[str]) -> Iterator[str]:
    """Yield what in a migration stops writers, or a version that does not know it.

    `known` are the names of the models before it, in lower case.
    """
    for operation in migration.operations:
        yield from (f"{migration.name}: {each}" for each in _problems(operation, migration, known))


def _problems(
    operation: Operation, migration: migrations.Migration, known: set[str]
) -> Iterator[str]:
    what = operation.describe()
    if isinstance(operation, migrations.SeparateDatabaseAndState):
        for inner in operation.database_operations:
            yield from _problems(inner, migration, known)
    elif isinstance(operation, HARMLESS):
        return
    elif getattr(operation, "model_name", "").lower() not in known | {""}:
        return  # of a table that is as new as the migration
    elif isinstance(operation, AddIndexConcurrently):
        if migration.atomic:
            yield f"{what}: its migration needs atomic = False"
    elif isinstance(operation, AddField):
        yield from (f"{what}: {each}" for each in _of_a_column(operation.field))
    elif isinstance(operation, AlterField):
        yield from (f"{what}: {each}" for each in _of_a_change(operation))
    else:
        yield f"{what}: {type(operation).__name__} may not suit the version before"


def _of_a_column(field: models.Field[Any, Any]) -> Iterator[str]:
    if not field.null and field.db_default is NOT_PROVIDED:
        yield "rows of the version before have no value for it: null=True, or db_default"
    if field.db_index or field.unique:
        yield "its index stops writers: add it by AddIndexConcurrently"


def _of_a_change(operation: AlterField) -> Iterator[str]:
    """Only what the database does not see, and more room, suits both."""
    old = _state_before(operation).fields[operation.name]
    new = operation.field
    if old.null and not new.null:
        yield "the version before may write NULL"
    if old.max_length and new.max_length and old.max_length > new.max_length:
        yield "the version before may write more"
    if type(old) is not type(new):
        yield "its type changes"


def _state_before(operation: AlterField) -> Any:
    state = MigrationLoader(None).project_state((APP, BASE))
    return state.models[APP, operation.model_name.lower()]


def tables_of_the_version_before() -> set[str]:
    """Return the names of the models, in lower case."""
    state = MigrationLoader(None).project_state((APP, BASE))
    return {name for app, name in state.models if app == APP}


def test_migrations_suit_the_version_before_and_large_tables() -> None:
    """They add, with defaults that the database knows, and build indexes beside the writers."""
    known = tables_of_the_version_before()
    assert "outboxevent" in known
    found = [each for migration in later_migrations() for each in problems(migration, known)]
    assert found == []


INDEX = PartialIndex(name="i", fields=["id"], where="status = 'failed'")


@pytest.mark.parametrize(
    ("operation", "atomic", "words"),
    [
        (AddField("outboxrelay", "x", models.IntegerField(default=0)), True, "db_default"),
        (
            AddField("outboxrelay", "x", models.IntegerField(null=True, db_index=True)),
            True,
            "index",
        ),
        (migrations.RemoveField("outboxevent", "subject"), True, "RemoveField"),
        (migrations.RenameField("outboxevent", "subject", "topic"), True, "RenameField"),
        (migrations.DeleteModel("OutboxAttempt"), True, "DeleteModel"),
        (
            migrations.AddIndex("outboxrelay", models.Index(fields=["id"], name="i")),
            True,
            "AddIndex",
        ),
        (AddIndexConcurrently("outboxevent", INDEX), True, "atomic = False"),
        (migrations.RunSQL("SELECT 1"), True, "RunSQL"),
        (AlterField("outboxevent", "subject", models.CharField(max_length=9)), True, "more"),
        (AlterField("outboxevent", "time", models.DateTimeField()), True, "NULL"),
        (AlterField("outboxevent", "subject", models.TextField()), True, "type"),
        (AlterField("outboxevent", "subject", models.CharField(max_length=999)), True, None),
        (AddField("outboxevent", "x", models.IntegerField(null=True)), True, None),
        (AddField("outboxrelay", "x", models.IntegerField(db_default=0)), True, None),
        (AddField("brand_new", "x", models.IntegerField()), True, None),
        (AddIndexConcurrently("outboxevent", INDEX), False, None),
    ],
    ids=lambda value: value.describe() if isinstance(value, Operation) else None,
)
def test_a_migration_that_does_not_is_found(
    operation: Operation, atomic: bool, words: str | None
) -> None:
    """What stops writers, and what the version before could not write, has a name."""
    migration = migrations.Migration("0099", APP)
    migration.operations, migration.atomic = [operation], atomic
    found = "\n".join(problems(migration, tables_of_the_version_before()))
    assert (words in found) if words else not found


def test_rows_can_be_written_as_the_version_before_wrote_them(database: str) -> None:
    """Its INSERT into every table names the columns of its time, and needs no others."""
    state = MigrationLoader(None).project_state((APP, BASE))
    now = timezone.now()
    values: dict[str, dict[str, Any]] = {
        "OutboxEvent": {"event_id": "1", "source": "/s", "event_type": "t", "partition": 0,
                        "publisher_backend": "default"},
        "OutboxRelay": {"name": "old", "backend": "default", "started_at": now,
                        "heartbeat_at": now},
        "OutboxPartition": {"backend": "default", "number": 0},
        "InboxEvent": {"identity": "1", "handler": "h", "source": "/s", "event_id": "1"},
        "OutboxAttempt": {"row": 1, "number": 1, "attempted_at": now, "relay": "old", "error": "e"},
        "OutboxBackendState": {"backend": "old"},
        "OutboxArchivedEvent": {"row": 1, "event_id": "1", "source": "/s", "event_type": "t",
                                "publisher_backend": "default", "status": "published",
                                "scheduled_at": now, "created_at": now},
        "OutboxOperation": {"kind": "retry", "start": 1, "position": 1, "last": 2, "total": 1,
                            "total_is_exact": True},
        "OutboxSample": {"backend": "old", "minute": 1},
        "OutboxWebhookEndpoint": {"identity": "1", "backend": "default", "url": "https://a.example"},
    }  # fmt: skip
    models_of_then = state.apps.get_app_config(APP).get_models()
    of_then = {each.__name__: each for each in models_of_then if not each._meta.proxy}
    assert set(values) == set(of_then)
    for name, row in values.items():
        written = of_then[name]._base_manager.using(database).create(**row)
        read = of_then[name]._base_manager.using(database).get(pk=written.pk)
        assert {key: getattr(read, key) for key in row} == row
    assert OutboxEvent.objects.using(database).get().status == "pending"


# The version before itself


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources of the version before; without history there are only the tests above."""
    command = ["git", "-C", str(ROOT), "archive", BEFORE, "src"]
    try:
        archived = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip(f"needs the tag {BEFORE} (git fetch --tags)")
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archived)) as tar:
        tar.extractall(folder, filter="data")
    return folder / "src"


PUBLISH = """
import django, sys
django.setup()
import django_broadcaster
from django.db import transaction
from django_broadcaster.publishers import publisher
from tests.support.events import publish
assert django_broadcaster.__file__.startswith(sys.argv[1]), django_broadcaster.__file__
for number in range(40):
    publish(f"{'abcd'[number % 4]}{number // 4}", using=sys.argv[2])
"""


def publish_as_before(before: Path, database: str) -> list[str]:
    """Publish forty events with the version before; return their names."""
    told = {"databases": {alias: place_of(alias) for alias in connections}, "settings": {}}
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(before), str(ROOT)]),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "BROADCASTER_TEST_PROCESS": json.dumps(told),
    }
    command = [sys.executable, "-c", PUBLISH, str(before), database]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [f"{'abcd'[number % 4]}{number // 4}" for number in range(40)]


def share(database: str) -> list[int]:
    """Return how many partitions each relay has."""
    owned = OutboxPartition.objects.using(database).exclude(relay=None)
    counted = owned.values("relay").annotate(number=models.Count("pk"))
    return sorted(row["number"] for row in counted)


@pytest.mark.slow
def test_a_relay_of_the_version_before_works_beside_this_one(
    database: str,
    before: Path,
    workers: Workers,
    stream: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They share the partitions, and deliver what either version publishes, once and in order."""
    arguments = ("--database", database, "--batch-size", "10")
    settings = {"OUTBOX_PUBLISHERS": stream.publishers(REDIS)}
    this = workers.start(database, *arguments, **settings)
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(before))
        old = workers.start(database, *arguments, **settings)
    wait_until(lambda: share(database) == [32, 32], 30, "both to have their share")
    names = publish_as_before(before, database)
    names += publish_many(400, database, keys=20)
    wait_until(lambda: len(stream) >= len(names), 60, "all events to arrive")
    # One of each version goes; the other has its partitions and goes on.
    old.stop()
    assert old.end() == 0, old.output
    wait_until(lambda: share(database) == [64], 30, "this one to have them all")
    publish("z1", "z2", using=database)
    names += ["z1", "z2"]
    wait_until(lambda: len(stream) >= len(names), 30, "the last events to arrive")
    this.stop()
    assert this.end() == 0, this.output
    arrived = stream.names()
    assert len(arrived) == len(names)
    assert first_arrivals(arrived) == first_arrivals(names)
    assert not OutboxEvent.objects.using(database).exclude(status="published").exists()
