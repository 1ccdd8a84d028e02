"""Settings as 0.1.1 documents them; the test says where database and Redis are."""

import json
import os

TOLD = json.loads(os.environ["UPGRADE_TEST"])

SECRET_KEY = "project"
USE_TZ = TOLD["use_tz"]
TIME_ZONE = "America/Chicago"
ROOT_URLCONF = "mysite.urls"
ALLOWED_HOSTS = ["*"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {"default": TOLD["database"]}
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_broadcaster",
    "shop",
]

OUTBOX_PUBLISHERS = {
    "redis": {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {**TOLD["redis"], "stream_name": TOLD["stream"]},
    },
    "audit": {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {**TOLD["redis"], "stream_name": f"{TOLD['stream']}-audit"},
    },
}

LIST_BACKEND = {"redis": TOLD["redis"], "key": f"{TOLD['stream']}-list"}
"""For the project's own backend: 0.1.1 ignores the paths of other classes than its own."""

OUTBOX_WORKER = {"BATCH_SIZE": 100, "SLEEP_TIME": 5, "MAX_RETRIES": 3, "RETRY_BACKOFF": True}
OUTBOX_RETENTION = {
    "CLEANUP_PUBLISHED": True,
    "PUBLISHED_RETENTION_DAYS": 7,
    "FAILED_RETENTION_DAYS": 30,
}
