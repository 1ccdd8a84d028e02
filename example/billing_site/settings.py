"""Settings of billing, which consumes the shop's events and publishes events about invoices.

Environment variables, beside those of base_settings.py:

BILLING_DATABASE  the database: a file for SQLite, a name for PostgreSQL
BILLING_STREAM    the stream, queue or topic of billing's events
SHOP_STREAM       that of the shop's events
"""

import os

from base_settings import *
from base_settings import INSTALLED_APPS, database
from brokers import BROKER, HANDLERS, consume_from, publish_to

INSTALLED_APPS = [*INSTALLED_APPS, "billing"]
ROOT_URLCONF = "billing_site.urls"
DATABASES = {"default": database("billing")}

SHOP_STREAM = os.environ.get("SHOP_STREAM", "shop")
BILLING_STREAM = os.environ.get("BILLING_STREAM", "billing")

if BROKER == "local":  # for tests and migrations: without a broker nothing arrives here
    OUTBOX_PUBLISHERS = {"default": HANDLERS}
else:
    OUTBOX_PUBLISHERS = {"default": publish_to(BILLING_STREAM), "handlers": HANDLERS}
    OUTBOX_CONSUMERS = {"shop": consume_from(SHOP_STREAM, group="billing")}
