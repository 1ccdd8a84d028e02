"""Settings that both services share, for a laptop only: they are not safe on a network.

Environment variables select the database and the broker:

SHOP_DB      sqlite (the default) or postgres, at BROADCASTER_POSTGRES_URL
SHOP_BROKER  local (the default: handlers in the shop's relay), redis, rabbitmq, nats or kafka,
             at BROADCASTER_REDIS_URL, BROADCASTER_RABBITMQ_URL, ...
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BASE_DIR = Path(__file__).resolve().parent

SECRET_KEY = "for-the-example-only"  # not secret: with DEBUG, on this machine only
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_broadcaster",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"


# The databases: one for each service


def database(service: str) -> dict[str, Any]:
    """Return the database of a service: that in SHOP_DATABASE or BILLING_DATABASE, if set."""
    name = os.environ.get(f"{service.upper()}_DATABASE", "")
    return _postgres(name) if os.environ.get("SHOP_DB") == "postgres" else _sqlite(service, name)


def _sqlite(service: str, name: str) -> dict[str, Any]:
    """Return a SQLite database that web processes and a worker can share."""
    if not name:
        (BASE_DIR / ".data").mkdir(exist_ok=True)
        name = str(BASE_DIR / ".data" / f"{service}.sqlite3")
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": name,
        "OPTIONS": {
            # A transaction takes the write lock at its beginning. If it took the lock after a read,
            # it would fail without waiting if another transaction had written in between.
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def _postgres(name: str) -> dict[str, Any]:
    """Return the named PostgreSQL database, else that of the address."""
    url = urlsplit(
        os.environ.get("BROADCASTER_POSTGRES_URL") or "postgres://postgres@127.0.0.1:5432/postgres"
    )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": name or unquote(url.path.strip("/")) or "postgres",
        "USER": unquote(url.username or "postgres"),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "127.0.0.1",
        "PORT": url.port or 5432,
    }


# The outbox

OUTBOX_REQUIRE_TRANSACTION = True  # here, an event outside of a transaction is a mistake
OUTBOX_POLL_INTERVAL = 0.2  # seconds; low, so that deliveries are visible quickly
OUTBOX_LEASE_SECONDS = 3  # low, so that another worker takes over quickly from a killed one
