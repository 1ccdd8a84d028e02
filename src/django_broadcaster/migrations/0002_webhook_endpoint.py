import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("django_broadcaster", "0001_initial")]

    operations = [
        migrations.CreateModel(
            name="WebhookEndpoint",
            fields=[
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                (
                    "identity",
                    models.CharField(
                        editable=False,
                        help_text="Digest of the backend and the URL.",
                        max_length=64,
                    ),
                ),
                ("backend", models.CharField(max_length=64)),
                ("url", models.CharField(max_length=2000)),
                (
                    "failing_since",
                    models.DateTimeField(
                        default=django.utils.timezone.now,
                        help_text="The first failure behind its last success.",
                    ),
                ),
                ("disabled_at", models.DateTimeField(blank=True, null=True)),
                ("last_error", models.TextField(blank=True, default="")),
            ],
            options={
                "verbose_name": "webhook endpoint",
                "verbose_name_plural": "webhook endpoints in trouble",
                "permissions": [("enable_webhookendpoint", "Can enable webhook endpoints again")],
                "constraints": [
                    models.UniqueConstraint(fields=("identity",), name="broadcaster_endpoint")
                ],
            },
        ),
    ]
