"""Archived events, since when an event is given up, and how PostgreSQL vacuums the outbox."""

import django.core.serializers.json
import django.utils.timezone
from django.db import migrations, models

import django_broadcaster.schema


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0006_sealed_payloads"),
    ]

    operations = [
        migrations.CreateModel(
            name="ArchivedEvent",
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
                        encoder=django.core.serializers.json.DjangoJSONEncoder,
                    ),
                ),
                (
                    "data",
                    models.JSONField(
                        blank=True,
                        encoder=django.core.serializers.json.DjangoJSONEncoder,
                        null=True,
                    ),
                ),
                ("data_binary", models.BinaryField(blank=True, null=True)),
                ("sealed", models.BinaryField(editable=False, null=True)),
                (
                    "partition_key",
                    django_broadcaster.schema.ExactCharField(
                        blank=True, default="", max_length=255
                    ),
                ),
                ("publisher_backend", django_broadcaster.schema.ExactCharField(max_length=64)),
                ("publisher_config", models.JSONField(blank=True, default=dict)),
                (
                    "status",
                    models.CharField(
                        choices=[
                            ("pending", "pending"),
                            ("scheduled", "scheduled"),
                            ("retry", "retry"),
                            ("blocked", "blocked"),
                            ("published", "published"),
                            ("failed", "failed"),
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
        migrations.AddField(
            model_name="outboxevent",
            name="ended_at",
            field=models.DateTimeField(
                blank=True, help_text="When it was given up or cancelled.", null=True
            ),
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
