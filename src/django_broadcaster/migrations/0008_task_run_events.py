"""The task and the backend of each run, with which its event is found."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0007_task_runs"),
    ]

    operations = [
        migrations.AddField(
            model_name="outboxtaskrun",
            name="task",
            field=models.CharField(blank=True, db_default="", default="", max_length=255),
        ),
        migrations.AddField(
            model_name="outboxtaskrun",
            name="backend",
            field=models.CharField(blank=True, db_default="", default="", max_length=64),
        ),
    ]
