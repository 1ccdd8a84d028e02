"""A small shop that publishes events about its orders through the outbox."""
