"""Where events go before they are purged."""
