"""The moves of events by persons."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0003_receivers"),
    ]

    operations = [
        migrations.CreateModel(
            name="OutboxMove",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "row",
                    models.BigIntegerField(
                        db_index=True, help_text="The event's id in the outbox."
                    ),
                ),
                ("moved_at", models.DateTimeField(db_index=True)),
                ("kind", models.CharField(max_length=16)),
                ("status", models.CharField(help_text="The status before.", max_length=16)),
                (
                    "ended_at",
                    models.DateTimeField(help_text="When the event was done before.", null=True),
                ),
                ("moved_by", models.CharField(max_length=255)),
                (
                    "operation",
                    models.BigIntegerField(help_text="The operation, if any.", null=True),
                ),
            ],
            options={
                "verbose_name": "move of an event",
                "verbose_name_plural": "moves of events",
            },
        ),
    ]
