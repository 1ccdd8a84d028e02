"""The runs of tasks of `OutboxTaskBackend`, with their results."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("django_broadcaster", "0006_positions"),
    ]

    operations = [
        migrations.CreateModel(
            name="OutboxTaskRun",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("task_id", models.CharField(max_length=255)),
                ("task", models.CharField(max_length=255)),
                ("backend", models.CharField(max_length=64)),
                ("identity", models.CharField(max_length=64)),
                ("started_at", models.DateTimeField()),
                ("last_attempted_at", models.DateTimeField()),
                (
                    "finished_at",
                    models.DateTimeField(help_text="When the task returned.", null=True),
                ),
                ("is_running", models.BooleanField()),
                ("worker_ids", models.JSONField(help_text="The relay of each attempt.")),
                ("outcome", models.TextField(blank=True, default="")),
                ("sealed", models.BinaryField(editable=False, null=True)),
            ],
            options={
                "verbose_name": "task run",
                "verbose_name_plural": "task runs",
                "constraints": [
                    models.UniqueConstraint(fields=("task_id",), name="broadcaster_task_run")
                ],
            },
        ),
    ]
