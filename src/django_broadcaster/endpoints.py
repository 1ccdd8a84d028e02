"""The state of webhook endpoints: since when each one fails, and which ones are disabled.

Only a failing or disabled endpoint has a row. Deleting the row enables the endpoint; each relay
notices that within `REREAD_SECONDS`. The relay calls this module before and after a batch, but not
while it sends one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from typing import Any, Final

from django.db import connections, router
from django.utils import timezone

from django_broadcaster.store import storable

from .models import OutboxWebhookEndpoint
from .redaction import endpoint_identity, masked
from .signals import endpoint_disabled

logger = logging.getLogger("django_broadcaster")

REREAD_SECONDS: Final = 5.0
"""Seconds for which a relay caches rows, which other processes write, too."""

_LONGEST_URL: Final = 2000
"""The column's length; escapes may make a URL longer."""


class Endpoints:
    """The endpoints of one backend and their rows.

    All methods raise the database's errors. The router's database for writing
    `OutboxWebhookEndpoint` has the rows.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._rows: dict[str, OutboxWebhookEndpoint | None] = {}
        self._read_at = 0.0

    def look(self, urls: Collection[str]) -> None:
        """Read the rows of these endpoints, if they are not cached."""
        known = time.monotonic() < self._read_at + REREAD_SECONDS
        if known and self._rows.keys() >= set(urls):
            return
        identities = {self._identity(url): url for url in urls}
        found = {row.identity: row for row in self._all().filter(identity__in=identities)}
        self._rows = {url: found.get(identity) for identity, url in identities.items()}
        self._read_at = time.monotonic()

    def disabled(self, url: str) -> OutboxWebhookEndpoint | None:
        """Return the row of an endpoint if it is disabled, else None."""
        row = self._rows.get(url)
        return row if row is not None and row.disabled_at is not None else None

    def succeeded(self, urls: Iterable[str]) -> None:
        """Delete the rows of failing endpoints that accepted an event."""
        recovered = [row.pk for url in urls if (row := self._rows.get(url)) and not row.disabled_at]
        if recovered:
            self._all().filter(pk__in=recovered, disabled_at=None).delete()
            self._read_at = 0.0

    def failed(self, url: str, error: str, disable_after: float, details: str = "") -> None:
        """Record a failure; disable the endpoint if it has failed for `disable_after` seconds."""
        row = self._rows.get(url)
        if row is None:
            self._note(url, _whole(error, details))
        elif (timezone.now() - row.failing_since).total_seconds() >= disable_after:
            since = f"{row.failing_since:%Y-%m-%d %H:%M %Z}"
            self.disable(url, f"{error} (failing since {since})", details)

    def disable(self, url: str, error: str, details: str = "") -> None:
        """Disable an endpoint. The first relay that disables it logs that and sends the signal."""
        self._note(url, _whole(error, details))
        stored = self._text(masked(_whole(error, details)))
        mine = self._all().filter(identity=self._identity(url))
        changed = mine.filter(disabled_at=None).update(
            disabled_at=timezone.now(), last_error=stored
        )
        row = mine.first()
        if not changed or row is None:
            return
        logger.error(
            "Disabled webhook endpoint %d of backend %r: %s; enable it in the admin once its "
            "receiver is fixed.",
            row.pk,
            self._backend,
            masked(error),
            extra={"backend": self._backend},
        )
        endpoint_disabled.send_robust(sender=OutboxWebhookEndpoint, endpoint=row)

    def _note(self, url: str, error: str) -> None:
        """Insert a row if there is none; other relays may insert it at the same time."""
        row = OutboxWebhookEndpoint(
            identity=self._identity(url),
            backend=self._backend,
            url=self._text(url)[:_LONGEST_URL],
            last_error=self._text(masked(error)),
        )
        self._all().bulk_create([row], ignore_conflicts=True)
        self._read_at = 0.0

    def _text(self, text: str) -> str:
        return storable(text, connections[router.db_for_write(OutboxWebhookEndpoint)])

    def _identity(self, url: str) -> str:
        return endpoint_identity(self._backend, url)

    def _all(self) -> Any:
        return OutboxWebhookEndpoint._base_manager.using(router.db_for_write(OutboxWebhookEndpoint))


def _whole(error: str, details: str) -> str:
    """Return an error and its details, which begin a line."""
    return f"{error}\n{details}" if details else error
