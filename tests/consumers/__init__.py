"""Consumers: from the message of a broker to a row of the outbox."""
