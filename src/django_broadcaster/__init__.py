"""A transactional outbox for Django: events commit with your data, and a relay delivers them."""

__version__ = "1.0.0"
