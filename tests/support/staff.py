"""Users of the admin."""

from __future__ import annotations

from django.contrib.auth.models import Permission, User


def permit(user: User, *codenames: str) -> None:
    """Give a user permissions of the outbox's models."""
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))
