"""The receivers: the processes that read brokers."""

from django.db import migrations, models

import django_broadcaster.schema


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0002_events_of_0_1"),
    ]

    operations = [
        migrations.CreateModel(
            name="OutboxReceiver",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "name",
                    models.CharField(help_text="Host and process of the receiver.", max_length=255),
                ),
                ("consumer", django_broadcaster.schema.ExactCharField(max_length=64)),
                (
                    "reads",
                    django_broadcaster.schema.ExactCharField(  # type: ignore[misc]
                        blank=True,
                        help_text="The consumer, if this receiver alone may read it now.",
                        max_length=64,
                        null=True,
                    ),
                ),
                (
                    "stands_by",
                    models.BooleanField(
                        default=False, help_text="Whether it waits until it may read."
                    ),
                ),
                ("started_at", models.DateTimeField()),
                ("heartbeat_at", models.DateTimeField()),
                ("received", models.PositiveBigIntegerField(default=0)),
                (
                    "duplicates",
                    models.PositiveBigIntegerField(
                        default=0, help_text="Messages that had been received before."
                    ),
                ),
                (
                    "malformed",
                    models.PositiveBigIntegerField(
                        default=0, help_text="Messages that became dead letters."
                    ),
                ),
                (
                    "received_per_second",
                    models.FloatField(default=0, help_text="Over the last minute."),
                ),
                ("last_received_at", models.DateTimeField(blank=True, null=True)),
                (
                    "lag",
                    models.PositiveBigIntegerField(
                        blank=True,
                        help_text="Messages that wait at the broker, if it can say.",
                        null=True,
                    ),
                ),
                (
                    "lag_grows_since",
                    models.DateTimeField(
                        blank=True,
                        help_text="Since when nothing has been received while the lag grew.",
                        null=True,
                    ),
                ),
                (
                    "unavailable_since",
                    models.DateTimeField(
                        blank=True, help_text="The start of the broker's outage.", null=True
                    ),
                ),
                (
                    "error",
                    models.CharField(blank=True, default="", help_text="Why.", max_length=500),
                ),
            ],
            options={
                "verbose_name": "receiver",
                "verbose_name_plural": "receivers",
                "constraints": [
                    models.UniqueConstraint(fields=("reads",), name="broadcaster_receiver_reads")
                ],
            },
        ),
    ]
