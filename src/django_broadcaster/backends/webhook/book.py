"""The record of endpoints that fail."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any, Protocol


class EndpointBook(Protocol):
    """The record of one backend's endpoints. Every method may raise the database's errors."""

    def look(self, urls: Collection[str]) -> None:
        """Read the records of these endpoints."""

    def disabled(self, url: str) -> Any:
        """Return the `OutboxWebhookEndpoint` of an endpoint that is disabled, else None."""

    def succeeded(self, urls: Iterable[str]) -> None:
        """Note that endpoints took an event."""

    def failed(self, url: str, error: str, disable_after: float, details: str = "") -> None:
        """Note that an endpoint took nothing; disable it after `disable_after` seconds of that."""

    def disable(self, url: str, error: str, details: str = "") -> None:
        """Disable an endpoint: nothing more is sent to it. The details are not logged."""


class NoBook:
    """For a backend that no relay uses: nothing is recorded, and no endpoint is disabled."""

    def look(self, urls: Collection[str]) -> None:
        """Do nothing."""

    def disabled(self, url: str) -> None:
        """Return None."""

    def succeeded(self, urls: Iterable[str]) -> None:
        """Do nothing."""

    def failed(self, url: str, error: str, disable_after: float, details: str = "") -> None:
        """Do nothing."""

    def disable(self, url: str, error: str, details: str = "") -> None:
        """Do nothing."""
