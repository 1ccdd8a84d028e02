"""The Django project around billing."""
