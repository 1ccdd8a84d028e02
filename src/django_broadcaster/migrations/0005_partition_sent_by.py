"""The lease that last sent the events of a partition, for backends that keep positions."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0004_moves"),
    ]

    operations = [
        migrations.AddField(
            model_name="outboxpartition",
            name="sent_by",
            field=models.BigIntegerField(
                blank=True,
                editable=False,
                help_text=(
                    "Id of the last lease that sent its events, if the broker may have some that "
                    "are not settled. Used by backends that keep positions."
                ),
                null=True,
            ),
        ),
    ]
