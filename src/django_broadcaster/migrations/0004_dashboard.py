"""The dashboard: its entry in the admin, minutes to draw, and circuits that others can see."""

from django.db import migrations, models

import django_broadcaster.schema


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0003_operations"),
    ]

    operations = [
        migrations.CreateModel(
            name="Dashboard",
            fields=[],
            options={
                "verbose_name": "dashboard",
                "verbose_name_plural": "dashboard",
                "proxy": True,
                "default_permissions": (),
                "indexes": [],
                "constraints": [],
            },
            bases=("django_broadcaster.backendstate",),
        ),
        migrations.AddField(
            model_name="relay",
            name="circuit_error",
            field=models.CharField(
                blank=True, db_default="", default="", help_text="Why.", max_length=500
            ),
        ),
        migrations.AddField(
            model_name="relay",
            name="circuit_open_since",
            field=models.DateTimeField(
                blank=True, help_text="Since when the broker counts as away for it.", null=True
            ),
        ),
        migrations.CreateModel(
            name="Sample",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("backend", django_broadcaster.schema.ExactCharField(max_length=64)),
                ("minute", models.PositiveIntegerField(help_text="Minutes since 1970 in UTC.")),
                ("published", models.PositiveBigIntegerField(default=0)),
                ("retried", models.PositiveBigIntegerField(default=0)),
                ("failed", models.PositiveBigIntegerField(default=0)),
                ("timed", models.PositiveBigIntegerField(default=0)),
                ("waited", models.PositiveBigIntegerField(default=0)),
                ("longest", models.PositiveBigIntegerField(default=0)),
                (
                    "backlog",
                    models.PositiveBigIntegerField(
                        help_text="Events that are due, wait for a retry or are blocked.", null=True
                    ),
                ),
                (
                    "oldest_age",
                    models.PositiveBigIntegerField(
                        help_text="Milliseconds that the first event had been due.", null=True
                    ),
                ),
                (
                    "circuit_open",
                    models.BooleanField(
                        default=False, help_text="Whether the broker counted as away for a relay."
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
    ]
