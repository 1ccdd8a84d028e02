"""Django settings of the benchmarks; the addresses come from `tools/services.py`."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

from tools import services

NAME = "broadcaster_bench"


def _server(name: str, engine: str) -> dict[str, Any]:
    url = urlsplit(services.address(name))
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": NAME,
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname,
        "PORT": url.port,
    }


SECRET_KEY = "benchmarks"  # noqa: S105  # it protects nothing
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_broadcaster"]
DATABASES = {"default": _server("postgres", "postgresql")}
STREAM = "broadcaster-bench"
OUTBOX_PUBLISHERS = {
    "default": {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"url": services.address("redis"), "stream_name": STREAM},
    }
}
OUTBOX_BATCH_SIZE = int(os.environ.get("BENCH_BATCH_SIZE", "1000"))
