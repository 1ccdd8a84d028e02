"""A small app whose rows change in the same transactions as the outbox."""
