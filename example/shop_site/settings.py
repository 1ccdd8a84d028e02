"""Settings of the shop, which publishes events about orders and consumes those about invoices.

Environment variables, beside those of base_settings.py:

SHOP_DATABASE   the database: a file for SQLite, a name for PostgreSQL
SHOP_STREAM     the stream, queue or topic of the shop's events
BILLING_STREAM  that of billing's events
"""

import os

from base_settings import *
from base_settings import INSTALLED_APPS, database
from brokers import BROKER, HANDLERS, consume_from, publish_to

INSTALLED_APPS = [*INSTALLED_APPS, "shop"]
ROOT_URLCONF = "shop_site.urls"
DATABASES = {"default": database("shop")}

SHOP_BROKER = BROKER
SHOP_STREAM = os.environ.get("SHOP_STREAM", "shop")
BILLING_STREAM = os.environ.get("BILLING_STREAM", "billing")

if BROKER == "local":
    OUTBOX_PUBLISHERS = {"default": HANDLERS}
else:
    OUTBOX_PUBLISHERS = {"default": publish_to(SHOP_STREAM), "handlers": HANDLERS}
    OUTBOX_CONSUMERS = {"billing": consume_from(BILLING_STREAM, group="shop")}
