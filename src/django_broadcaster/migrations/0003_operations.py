"""Failed attempts, paused backends, and an index of dead letters."""

from django.db import migrations, models

import django_broadcaster.schema


class Migration(migrations.Migration):
    atomic = False  # an index is added without stopping the writers

    dependencies = [
        ("django_broadcaster", "0002_webhook_endpoint"),
    ]

    operations = [
        migrations.CreateModel(
            name="Attempt",
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
            name="BackendState",
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
                        blank=True, default="", help_text="Who paused it, and why.", max_length=255
                    ),
                ),
            ],
            options={
                "verbose_name": "backend",
                "verbose_name_plural": "backends",
                "permissions": [("pause_backend", "Can pause and resume backends")],
            },
        ),
        django_broadcaster.schema.AddIndexConcurrently(
            model_name="outboxevent",
            index=django_broadcaster.schema.PartialIndex(
                fields=["publisher_backend", "id"],
                name="broadcaster_failed",
                prefix=("status",),
                unique=False,
                where="status = 'failed'",
            ),
        ),
    ]
