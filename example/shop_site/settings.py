"""Settings of the example shop, for a laptop only: they are not safe on a network.

Environment variables select the database and the broker:

SHOP_DB        sqlite (the default) or postgres, at BROADCASTER_POSTGRES_URL
SHOP_DATABASE  the database: a file for SQLite, a name for PostgreSQL
SHOP_BROKER    local (the default: handlers in the relay) or redis, at BROADCASTER_REDIS_URL
SHOP_STREAM    the Redis stream of the events
"""

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BASE_DIR = Path(__file__).resolve().parent.parent

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
    "shop",
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
ROOT_URLCONF = "shop_site.urls"
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


# The database


def sqlite() -> dict[str, Any]:
    """Return a SQLite database that web processes and a relay can share."""
    name = os.environ.get("SHOP_DATABASE")
    if not name:
        (BASE_DIR / ".data").mkdir(exist_ok=True)
        name = str(BASE_DIR / ".data" / "shop.sqlite3")
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


def postgres() -> dict[str, Any]:
    """Return the PostgreSQL database of SHOP_DATABASE, else that of the address."""
    url = urlsplit(
        os.environ.get("BROADCASTER_POSTGRES_URL") or "postgres://postgres@127.0.0.1:5432/postgres"
    )
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ.get("SHOP_DATABASE") or unquote(url.path.strip("/")) or "postgres",
        "USER": unquote(url.username or "postgres"),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "127.0.0.1",
        "PORT": url.port or 5432,
    }


DATABASES = {
    "default": {"sqlite": sqlite, "postgres": postgres}[os.environ.get("SHOP_DB", "sqlite")]()
}


# The outbox

BROKERS: dict[str, dict[str, Any]] = {
    "local": {"BACKEND": "django_broadcaster.backends.LocalBackend"},
    "redis": {
        "BACKEND": "django_broadcaster.backends.RedisStreamBackend",
        "OPTIONS": {
            "url": os.environ.get("BROADCASTER_REDIS_URL") or "redis://127.0.0.1:6379/0",
            "stream_name": os.environ.get("SHOP_STREAM", "shop"),
            "max_len": None,  # the default deletes old entries, read or not
        },
    },
}
SHOP_BROKER = os.environ.get("SHOP_BROKER", "local")
OUTBOX_PUBLISHERS = {"default": BROKERS[SHOP_BROKER]}
OUTBOX_REQUIRE_TRANSACTION = True  # here, an event outside of a transaction is a mistake
OUTBOX_POLL_INTERVAL = 0.2  # seconds; low, so that deliveries are visible quickly
OUTBOX_LEASE_SECONDS = 3  # low, so that another relay takes over quickly from a killed one
