"""The health of relays and of the outbox, and who is told."""
