"""Django settings for the tests, mypy and makemigrations.

The servers' addresses come from the environment (`tools/services.py`, which also knows the
defaults); a database whose address is empty is left out. `BROADCASTER_TEST_DATABASES`, such as
`sqlite` or `mariadb,sqlite`, limits the databases; the first one is the alias `default`, the
others go by their own names.

A process that a test starts is told by `BROADCASTER_TEST_PROCESS` what the test has: where the test
databases are by alias, and settings (`tests/support/workers.py`).
"""

import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tools import services

# Two runs at once on the same servers need two names.
TEST_NAME = os.environ.get("BROADCASTER_TEST_NAME", "test_broadcaster")


def _sqlite() -> dict[str, Any]:
    """A file, also in tests, so that other processes see it too (they are told its path)."""
    folder = Path(__file__).resolve().parent.parent / ".cache" / "sqlite"
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("BROADCASTER_SQLITE_PATH") or str(folder / "db.sqlite3"),
        "OPTIONS": {
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
        },
        "TEST": {"NAME": str(folder / f"{TEST_NAME}.sqlite3")},
    }


def _server(name: str, engine: str, **test: str) -> dict[str, Any]:
    """A database server, by its address."""
    url = urlsplit(services.address(name))
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": unquote(url.path.strip("/")),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname,
        "PORT": url.port,
        "TEST": {"NAME": TEST_NAME, **test},
    }


def _databases() -> dict[str, dict[str, Any]]:
    """The wanted databases that there are, by alias."""
    known = {
        "postgres": lambda: _server("postgres", "postgresql"),
        "mariadb": lambda: _server("mariadb", "mysql", CHARSET="utf8mb4"),
        "sqlite": _sqlite,
    }
    wanted = os.environ.get("BROADCASTER_TEST_DATABASES") or ",".join(known)
    names = [name for name in wanted.split(",") if name == "sqlite" or services.address(name)]
    if "mariadb" in names and not find_spec("MySQLdb") and not services.in_ci():
        names.remove("mariadb")  # the driver could not be compiled here, and that was said
    # SQLite comes last: a test that is about servers then never meets it as the default.
    names = sorted(names or ["sqlite"], key="sqlite".__eq__)
    return {"default" if name == names[0] else name: known[name]() for name in names}


SECRET_KEY = "tests"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = _databases()
ROOT_URLCONF = "tests.urls"
STATIC_URL = "static/"

# A theme of the admin, such as unfold, has to be before the admin (tests/dashboard/test_themes.py).
ADMIN_THEME = os.environ.get("BROADCASTER_ADMIN_THEME")

INSTALLED_APPS = [
    *([ADMIN_THEME] if ADMIN_THEME else []),
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "django_broadcaster",
    "tests.app",
]

# Jazzmin: no fonts from the internet, which tests can't reach, and dark where the browser is.
JAZZMIN_SETTINGS = {"use_google_fonts_cdn": False}
JAZZMIN_UI_TWEAKS = {"default_theme_mode": "auto"}

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
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

# Cheap on purpose: tests that log in are not about hashing.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

OUTBOX_PUBLISHERS = {"default": {"BACKEND": "django_broadcaster.backends.LocMemBackend"}}
# Quick, since tests wait for retries; tests of the default remove it.
OUTBOX_RETRY = {"initial": 1.0, "factor": 2.0, "maximum": 300.0}
# Not None: handlers that a test registers are run where it says so.
OUTBOX_ROUTES: dict[str, Any] = {}

_told = json.loads(os.environ.get("BROADCASTER_TEST_PROCESS", "{}"))
for _alias, _place in _told.get("databases", {}).items():
    DATABASES.setdefault(_alias, {}).update(_place)
globals().update(_told.get("settings", {}))
