"""Django settings of the benchmarks; the addresses come from `tools/services.py`.

A process of a benchmark may have other backends: BENCH_PUBLISHERS is OUTBOX_PUBLISHERS as JSON.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tools import services

NAME = os.environ.get("BENCH_NAME", "broadcaster_bench")


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


def _sqlite() -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(tempfile.gettempdir(), f"{NAME}.sqlite3"),
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
        },
    }


SECRET_KEY = "benchmarks"  # noqa: S105  # protects nothing
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_broadcaster"]
DATABASES = {"default": _server("postgres", "postgresql"), "sqlite": _sqlite()}
if services.address("mariadb"):
    DATABASES["mariadb"] = _server("mariadb", "mysql")
STREAM = f"{NAME}-stream"
OUTBOX_PUBLISHERS = {
    "default": {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {"url": services.address("redis"), "stream_name": STREAM, "max_len": None},
    }
}
if "BENCH_PUBLISHERS" in os.environ:
    OUTBOX_PUBLISHERS = json.loads(os.environ["BENCH_PUBLISHERS"])
OUTBOX_BATCH_SIZE = int(os.environ.get("BENCH_BATCH_SIZE", "1000"))
