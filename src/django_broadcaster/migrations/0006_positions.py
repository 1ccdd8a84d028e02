"""The positions up to which consumers have read, where the database keeps them."""

from django.db import migrations, models

import django_broadcaster.schema


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0005_partition_sent_by"),
    ]

    operations = [
        migrations.CreateModel(
            name="OutboxPosition",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("consumer", django_broadcaster.schema.ExactCharField(max_length=64)),
                (
                    "source",
                    django_broadcaster.schema.ExactCharField(
                        help_text="For Kafka: the group, the topic and the partition.",
                        max_length=520,
                    ),
                ),
                ("epoch", models.PositiveBigIntegerField(default=0)),
                (
                    "position",
                    models.BigIntegerField(
                        blank=True,
                        help_text="Where to go on; none until a batch was written.",
                        null=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "position of a consumer",
                "verbose_name_plural": "positions of consumers",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("consumer", "source"), name="broadcaster_position"
                    )
                ],
            },
        ),
    ]
