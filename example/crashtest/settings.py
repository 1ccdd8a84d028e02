"""The shop's settings with billing's database beside, for the process that counts in both.

The services themselves run with their own settings.
"""

from billing_site.settings import DATABASES as BILLING_DATABASES
from django.db.models import Model
from shop_site.settings import *
from shop_site.settings import DATABASES, INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "billing"]
DATABASES = {**DATABASES, "billing": BILLING_DATABASES["default"]}
DATABASE_ROUTERS = ["crashtest.settings.EachItsOwn"]


class EachItsOwn:
    """The tables of billing are in its database, and those of the shop in the other one."""

    def db_for_read(self, model: type[Model], **hints: object) -> str | None:
        """Return the database of a model."""
        return "billing" if model._meta.app_label == "billing" else None

    db_for_write = db_for_read

    def allow_migrate(self, db: str, app_label: str, **hints: object) -> bool | None:
        """Say whether an app's tables are in a database; both have all other tables."""
        if app_label in ("shop", "billing"):
            return (app_label == "billing") == (db == "billing")
        return None
