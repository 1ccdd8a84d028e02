"""The table of orders."""

from django.db import migrations, models


class Migration(migrations.Migration):
    """As makemigrations writes it."""

    initial = True
    dependencies = []
    operations = [
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("number", models.IntegerField()),
            ],
        ),
    ]
