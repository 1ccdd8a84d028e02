"""The least that Django wants for the reference pages to be made."""

SECRET_KEY = "docs"  # noqa: S105  # it protects nothing
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django_broadcaster",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
