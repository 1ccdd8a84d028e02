"""Operations in the background, and the events that they moved."""

import django.utils.timezone
from django.db import migrations, models

import django_broadcaster.schema


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0004_dashboard"),
    ]

    operations = [
        migrations.AlterModelOptions(
            name="outboxevent",
            options={
                "permissions": [
                    ("replay_outboxevent", "Can have outbox events delivered again"),
                    ("cancel_outboxevent", "Can cancel outbox events"),
                    ("purge_outboxevent", "Can purge outbox events"),
                ],
                "verbose_name": "outbox event",
                "verbose_name_plural": "outbox events",
            },
        ),
        migrations.AddField(
            model_name="outboxevent",
            name="operation",
            field=models.BigIntegerField(
                blank=True,
                editable=False,
                help_text="Id of the last operation in the background that moved the event.",
                null=True,
            ),
        ),
        migrations.CreateModel(
            name="Operation",
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
                        help_text="Key of the user, if it was one.",
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
                    models.BigIntegerField(
                        help_text="Events to move, counted when it was requested."
                    ),
                ),
                (
                    "total_is_exact",
                    models.BooleanField(help_text="No where counting would have taken long."),
                ),
                ("done", models.BigIntegerField(default=0)),
                (
                    "left_alone",
                    models.BigIntegerField(
                        default=0,
                        help_text="Events whose state had changed when it was their turn.",
                    ),
                ),
                (
                    "failures",
                    models.PositiveSmallIntegerField(
                        default=0,
                        help_text="How often in a row the database refused the next step.",
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
    ]
