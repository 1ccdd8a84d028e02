"""The tables of the test app."""
