"""A column for payloads that are encrypted at rest."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_broadcaster", "0005_operations_in_background")]

    operations = [
        migrations.AddField(
            model_name="outboxevent",
            name="sealed",
            field=models.BinaryField(
                editable=False,
                help_text=(
                    "The data, encrypted: they stand neither in data nor in data_binary then."
                ),
                null=True,
            ),
        ),
    ]
