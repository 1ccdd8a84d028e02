"""The relay's promises, on every database."""
