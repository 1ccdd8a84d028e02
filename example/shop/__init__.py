"""A small shop whose orders are told to the world through the outbox."""
