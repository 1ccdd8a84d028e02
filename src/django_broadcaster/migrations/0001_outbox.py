"""All tables of 1.0.0.

Databases of 0.1.1 have a migration `0001_initial` recorded, so this one has another name.
"""

import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import django_broadcaster.events.encoder
import django_broadcaster.schema


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="OutboxArchivedEvent",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("row", models.BigIntegerField()),
                ("event_id", models.CharField(db_index=True, max_length=255)),
                ("source", models.CharField(max_length=512)),
                ("event_type", models.CharField(max_length=255)),
                ("subject", models.CharField(blank=True, default="", max_length=512)),
                ("time", models.DateTimeField(null=True)),
                ("data_content_type", models.CharField(blank=True, default="", max_length=255)),
                ("data_schema", models.CharField(blank=True, default="", max_length=2000)),
                (
                    "extensions",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        encoder=django_broadcaster.events.encoder.EventJSONEncoder,
                    ),
                ),
                (
                    "data",
                    models.JSONField(
                        blank=True,
                        encoder=django_broadcaster.events.encoder.EventJSONEncoder,
                        null=True,
                    ),
                ),
                ("data_binary", models.BinaryField(blank=True, null=True)),
                ("sealed", models.BinaryField(null=True)),
                (
                    "partition_key",
                    django_broadcaster.schema.ExactCharField(
                        blank=True, default="", max_length=255
                    ),
                ),
                ("publisher_backend", django_broadcaster.schema.ExactCharField(max_length=64)),
                (
                    "publisher_config",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        encoder=django_broadcaster.events.encoder.EventJSONEncoder,
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "pending"),
                            ("processing", "processing"),
                            ("scheduled", "scheduled"),
                            ("retry", "retry"),
                            ("blocked", "blocked"),
                            ("published", "delivered"),
                            ("failed", "dead"),
                            ("cancelled", "cancelled"),
                        ],
                        max_length=16,
                    ),
                ),
                ("scheduled_at", models.DateTimeField()),
                ("created_at", models.DateTimeField()),
                ("published_at", models.DateTimeField(blank=True, null=True)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                ("retry_count", models.PositiveIntegerField(default=0)),
                ("last_error", models.TextField(blank=True, default="")),
                (
                    "archived_at",
                    models.DateTimeField(db_index=True, default=django.utils.timezone.now),
                ),
            ],
            options={
                "verbose_name": "archived event",
                "verbose_name_plural": "archived events",
            },
        ),
        migrations.CreateModel(
            name="OutboxAttempt",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("row", models.BigIntegerField(db_index=True)),
                ("number", models.PositiveIntegerField(help_text="1 is the first attempt.")),
                ("attempted_at", models.DateTimeField(db_index=True)),
                ("relay", models.CharField(max_length=255)),
                ("error", models.TextField()),
            ],
            options={
                "verbose_name": "failed attempt",
                "verbose_name_plural": "failed attempts",
            },
        ),
        migrations.CreateModel(
            name="OutboxBackendState",
            fields=[
                (
                    "backend",
                    django_broadcaster.schema.ExactCharField(
                        max_length=64, primary_key=True, serialize=False
                    ),
                ),
                ("paused_at", models.DateTimeField(blank=True, null=True)),
                (
                    "paused_by",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="The person, and the reason.",
                        max_length=255,
                    ),
                ),
            ],
            options={
                "verbose_name": "backend",
                "verbose_name_plural": "backends",
                "permissions": [("pause_backend", "Can pause and resume backends")],
            },
        ),
        migrations.CreateModel(
            name="OutboxRelay",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "name",
                    models.CharField(help_text="Host and process of the relay.", max_length=255),
                ),
                ("backend", django_broadcaster.schema.ExactCharField(max_length=64)),
                (
                    "takes_share",
                    models.BooleanField(
                        default=True,
                        help_text="No for a visitor, which takes partitions that no relay owns.",
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("heartbeat_at", models.DateTimeField()),
                (
                    "in_flight_from",
                    models.BigIntegerField(
                        blank=True,
                        help_text="First event of the last delivery.",
                        null=True,
                    ),
                ),
                ("in_flight_to", models.BigIntegerField(blank=True, null=True)),
                ("in_flight_ids", models.TextField(blank=True, editable=False, null=True)),
                (
                    "circuit_open_since",
                    models.DateTimeField(
                        blank=True,
                        help_text="The start of the broker's outage.",
                        null=True,
                    ),
                ),
                (
                    "circuit_error",
                    models.CharField(
                        blank=True, db_default="", default="", help_text="Why.", max_length=500
                    ),
                ),
            ],
            options={
                "verbose_name": "relay",
                "verbose_name_plural": "relays",
            },
        ),
        migrations.CreateModel(
            name="OutboxDashboard",
            fields=[],
            options={
                "verbose_name": "dashboard",
                "verbose_name_plural": "dashboard",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_broadcaster.outboxbackendstate",),
        ),
        migrations.CreateModel(
            name="InboxEvent",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("identity", models.CharField(editable=False, max_length=64)),
                ("handler", models.CharField(max_length=255)),
                ("source", models.CharField(max_length=512)),
                ("event_id", models.CharField(max_length=255)),
                ("processed_at", models.DateTimeField(default=django.utils.timezone.now)),
            ],
            options={
                "verbose_name": "inbox event",
                "verbose_name_plural": "inbox events",
                "constraints": [
                    models.UniqueConstraint(fields=("identity",), name="broadcaster_inbox")
                ],
            },
        ),
        migrations.CreateModel(
            name="OutboxOperation",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("retry", "retry"),
                            ("cancel", "cancel"),
                            ("replay", "replay"),
                            ("purge", "purge"),
                        ],
                        max_length=16,
                    ),
                ),
                ("selection", models.JSONField(default=dict)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "waiting"),
                            ("running", "running"),
                            ("done", "done"),
                            ("stopped", "stopped"),
                            ("failed", "failed"),
                        ],
                        default="waiting",
                        max_length=16,
                    ),
                ),
                ("requested_by", models.CharField(blank=True, default="", max_length=255)),
                (
                    "user_pk",
                    models.CharField(
                        blank=True,
                        default="",
                        help_text="Key of the user, if any.",
                        max_length=255,
                    ),
                ),
                ("stopped_by", models.CharField(blank=True, default="", max_length=255)),
                ("requested_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("started_at", models.DateTimeField(blank=True, null=True)),
                ("moved_at", models.DateTimeField(blank=True, null=True)),
                ("finished_at", models.DateTimeField(blank=True, null=True)),
                ("start", models.BigIntegerField()),
                ("position", models.BigIntegerField()),
                ("last", models.BigIntegerField()),
                (
                    "total",
                    models.BigIntegerField(help_text="Events to change, counted at the request."),
                ),
                (
                    "total_is_exact",
                    models.BooleanField(help_text="No if counting would have taken too long."),
                ),
                ("done", models.BigIntegerField(default=0)),
                (
                    "left_alone",
                    models.BigIntegerField(
                        default=0,
                        help_text="Events whose state had changed before their turn.",
                    ),
                ),
                (
                    "forget_inbox",
                    models.JSONField(
                        blank=True,
                        default=list,
                        help_text="Names of the handlers that a replay runs again.",
                    ),
                ),
                (
                    "skipped",
                    models.BigIntegerField(
                        default=0,
                        help_text="Replayed events that every handler had processed.",
                    ),
                ),
                (
                    "failures",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="Consecutive failures of the next step in the database.",
                    ),
                ),
                ("not_before", models.DateTimeField(blank=True, null=True)),
                ("error", models.TextField(blank=True, default="")),
            ],
            options={
                "verbose_name": "operation",
                "verbose_name_plural": "operations",
                "indexes": [
                    django_broadcaster.schema.PartialIndex(
                        fields=["id"],
                        name="broadcaster_active",
                        prefix=("state",),
                        unique=False,
                        where="state IN ('waiting', 'running')",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="OutboxEvent",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("event_id", models.CharField(blank=True, max_length=255)),
                ("spec_version", models.CharField(db_default="1.0", default="1.0", max_length=10)),
                ("source", models.CharField(max_length=512)),
                ("event_type", models.CharField(max_length=255)),
                ("subject", models.CharField(blank=True, default="", max_length=512)),
                ("time", models.DateTimeField(default=django.utils.timezone.now, null=True)),
                ("data_content_type", models.CharField(blank=True, default="", max_length=255)),
                ("data_schema", models.CharField(blank=True, default="", max_length=2000)),
                (
                    "extensions",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        encoder=django_broadcaster.events.encoder.EventJSONEncoder,
                    ),
                ),
                (
                    "data",
                    models.JSONField(
                        blank=True,
                        encoder=django_broadcaster.events.encoder.EventJSONEncoder,
                        null=True,
                    ),
                ),
                ("data_binary", models.BinaryField(blank=True, null=True)),
                (
                    "sealed",
                    models.BinaryField(
                        help_text=(
                            "The data, if they are encrypted; data and data_binary are empty then."
                        ),
                        null=True,
                    ),
                ),
                (
                    "identity",
                    models.CharField(
                        editable=False,
                        help_text="Digest of source, id and backend, if the caller passed the id.",
                        max_length=64,
                        null=True,
                    ),
                ),
                (
                    "partition_key",
                    django_broadcaster.schema.ExactCharField(
                        blank=True, default="", max_length=255
                    ),
                ),
                ("partition", models.PositiveSmallIntegerField(blank=True)),
                (
                    "publisher_backend",
                    django_broadcaster.schema.ExactCharField(blank=True, max_length=64),
                ),
                (
                    "publisher_config",
                    models.JSONField(
                        blank=True,
                        default=dict,
                        encoder=django_broadcaster.events.encoder.EventJSONEncoder,
                    ),
                ),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "pending"),
                            ("processing", "processing"),
                            ("scheduled", "scheduled"),
                            ("retry", "retry"),
                            ("blocked", "blocked"),
                            ("published", "delivered"),
                            ("failed", "dead"),
                            ("cancelled", "cancelled"),
                        ],
                        default="pending",
                        max_length=16,
                    ),
                ),
                ("scheduled_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("updated_at", models.DateTimeField(auto_now=True)),
                ("published_at", models.DateTimeField(blank=True, null=True)),
                (
                    "ended_at",
                    models.DateTimeField(
                        blank=True,
                        help_text="When it became a dead letter or was cancelled.",
                        null=True,
                    ),
                ),
                ("retry_count", models.PositiveIntegerField(default=0)),
                ("max_retries", models.PositiveSmallIntegerField(default=3)),
                (
                    "crash_count",
                    models.PositiveSmallIntegerField(
                        default=0, help_text="Relays that crashed while they delivered this event."
                    ),
                ),
                ("last_error", models.TextField(blank=True, default="")),
                (
                    "operation",
                    models.BigIntegerField(
                        blank=True,
                        editable=False,
                        help_text=("Id of the last background operation that changed the event."),
                        null=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "outbox event",
                "verbose_name_plural": "outbox events",
                "permissions": [
                    ("replay_outboxevent", "Can have outbox events delivered again"),
                    ("cancel_outboxevent", "Can cancel outbox events"),
                    ("purge_outboxevent", "Can purge outbox events"),
                ],
                "indexes": [
                    django_broadcaster.schema.PartialIndex(
                        fields=["publisher_backend", "id"],
                        name="broadcaster_pending",
                        prefix=("status",),
                        unique=False,
                        where="status = 'pending'",
                    ),
                    django_broadcaster.schema.PartialIndex(
                        fields=["publisher_backend", "scheduled_at", "id"],
                        name="broadcaster_due",
                        prefix=("status",),
                        unique=False,
                        where="status IN ('scheduled', 'retry')",
                    ),
                    django_broadcaster.schema.PartialIndex(
                        fields=["publisher_backend", "partition_key", "id"],
                        name="broadcaster_waiting",
                        prefix=("status",),
                        unique=False,
                        where="status IN ('retry', 'blocked')",
                    ),
                    django_broadcaster.schema.PartialIndex(
                        fields=["publisher_backend", "id"],
                        name="broadcaster_failed",
                        prefix=("status",),
                        unique=False,
                        where="status = 'failed'",
                    ),
                    django_broadcaster.schema.PartialIndex(
                        fields=["identity"],
                        name="broadcaster_identity",
                        prefix=(),
                        unique=True,
                        where="identity IS NOT NULL",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="OutboxSample",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("backend", django_broadcaster.schema.ExactCharField(max_length=64)),
                ("minute", models.PositiveIntegerField(help_text="Minutes since 1970 in UTC.")),
                ("published", models.PositiveBigIntegerField(default=0)),
                ("retried", models.PositiveBigIntegerField(default=0)),
                ("failed", models.PositiveBigIntegerField(default=0)),
                ("timed", models.PositiveBigIntegerField(default=0)),
                ("medians", models.PositiveBigIntegerField(default=0)),
                ("p99", models.PositiveBigIntegerField(default=0)),
                (
                    "backlog",
                    models.PositiveBigIntegerField(
                        help_text="Events that are due, wait for a retry or are blocked.", null=True
                    ),
                ),
                (
                    "oldest_age",
                    models.PositiveBigIntegerField(
                        help_text="Milliseconds that the oldest event of the backlog had waited.",
                        null=True,
                    ),
                ),
                (
                    "circuit_open",
                    models.BooleanField(
                        default=False, help_text="Whether the broker was unavailable for a relay."
                    ),
                ),
                (
                    "paused",
                    models.BooleanField(
                        default=False, help_text="Whether an operator had paused the backend."
                    ),
                ),
            ],
            options={
                "verbose_name": "minute of a backend",
                "verbose_name_plural": "minutes of backends",
                "constraints": [
                    models.UniqueConstraint(fields=("backend", "minute"), name="broadcaster_sample")
                ],
            },
        ),
        migrations.CreateModel(
            name="OutboxWebhookEndpoint",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "identity",
                    models.CharField(
                        editable=False,
                        help_text="Digest of the backend and the URL.",
                        max_length=64,
                    ),
                ),
                ("backend", models.CharField(max_length=64)),
                ("url", models.CharField(max_length=2000)),
                (
                    "failing_since",
                    models.DateTimeField(
                        default=django.utils.timezone.now,
                        help_text="The first failure after its last success.",
                    ),
                ),
                ("disabled_at", models.DateTimeField(blank=True, null=True)),
                ("last_error", models.TextField(blank=True, default="")),
            ],
            options={
                "verbose_name": "webhook endpoint",
                "verbose_name_plural": "failing webhook endpoints",
                "permissions": [("enable_webhookendpoint", "Can enable webhook endpoints again")],
                "constraints": [
                    models.UniqueConstraint(fields=("identity",), name="broadcaster_endpoint")
                ],
            },
        ),
        migrations.CreateModel(
            name="OutboxPartition",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("backend", django_broadcaster.schema.ExactCharField(max_length=64)),
                ("number", models.PositiveSmallIntegerField()),
                (
                    "relay",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="partitions",
                        to="django_broadcaster.outboxrelay",
                    ),
                ),
            ],
            options={
                "verbose_name": "partition",
                "verbose_name_plural": "partitions",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("backend", "number"), name="broadcaster_partition"
                    )
                ],
            },
        ),
        # Measured in docs/how-to/retention.md, with what each of them is for.
        django_broadcaster.schema.SetTableStorage(
            model_name="outboxevent",
            parameters={
                "autovacuum_vacuum_scale_factor": "0.01",
                "autovacuum_vacuum_threshold": "1000",
                "autovacuum_analyze_scale_factor": "0.02",
                "vacuum_index_cleanup": "on",
            },
        ),
    ]
