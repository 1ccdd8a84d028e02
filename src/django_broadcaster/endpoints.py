"""The webhook endpoints in trouble: since when each fails, and which are disabled.

An endpoint has a row only while there is trouble. Whoever deletes the row enables it, and every
relay notices within `REREAD_SECONDS`. What is here is called before and after a batch, never
while one is sent.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable
from hashlib import sha256
from typing import Any, Final

from django.db import connections, router
from django.utils import timezone

from django_broadcaster.store import storable

from .models import OutboxWebhookEndpoint
from .redaction import masked
from .signals import endpoint_disabled

logger = logging.getLogger("django_broadcaster")

REREAD_SECONDS: Final = 5.0
"""How long a relay believes what it read: others write there, too."""

_LONGEST_URL: Final = 2000
"""What the column holds; an URL with escapes may be longer."""


class Endpoints:
    """The endpoints of one backend, with what is written about them.

    Everything raises the database's errors. Rows are where the router writes
    `OutboxWebhookEndpoint`.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._rows: dict[str, OutboxWebhookEndpoint | None] = {}
        self._read_at = 0.0

    def look(self, urls: Collection[str]) -> None:
        """Read what is written about these endpoints, if it is not known."""
        known = time.monotonic() < self._read_at + REREAD_SECONDS
        if known and self._rows.keys() >= set(urls):
            return
        identities = {self._identity(url): url for url in urls}
        found = {row.identity: row for row in self._all().filter(identity__in=identities)}
        self._rows = {url: found.get(identity) for identity, url in identities.items()}
        self._read_at = time.monotonic()

    def disabled(self, url: str) -> OutboxWebhookEndpoint | None:
        """Return the row of an endpoint that is disabled."""
        row = self._rows.get(url)
        return row if row is not None and row.disabled_at is not None else None

    def succeeded(self, urls: Iterable[str]) -> None:
        """Note that endpoints took an event: their trouble is over."""
        over = [row.pk for url in urls if (row := self._rows.get(url)) and not row.disabled_at]
        if over:
            self._all().filter(pk__in=over, disabled_at=None).delete()
            self._read_at = 0.0

    def failed(self, url: str, error: str, disable_after: float) -> None:
        """Note that an endpoint took nothing; disable it when it did not for so many seconds."""
        row = self._rows.get(url)
        if row is None:
            self._note(url, error)
        elif (timezone.now() - row.failing_since).total_seconds() >= disable_after:
            self.disable(url, f"{error}, as since {row.failing_since:%Y-%m-%d %H:%M %Z}")

    def disable(self, url: str, error: str) -> None:
        """Let nothing more be sent to an endpoint; one relay of all sends the signal."""
        self._note(url, error)
        error = self._text(masked(error))
        mine = self._all().filter(identity=self._identity(url))
        changed = mine.filter(disabled_at=None).update(disabled_at=timezone.now(), last_error=error)
        row = mine.first()
        if not changed or row is None:
            return
        logger.error(
            "webhook endpoint %d of backend %r is disabled: %s",
            row.pk,
            self._backend,
            error,
            extra={"backend": self._backend},
        )
        endpoint_disabled.send_robust(sender=OutboxWebhookEndpoint, endpoint=row)

    def _note(self, url: str, error: str) -> None:
        """Write a row where there is none; other relays may do the same at this moment."""
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
        return sha256(f"{self._backend}\0{url}".encode()).hexdigest()

    def _all(self) -> Any:
        return OutboxWebhookEndpoint._base_manager.using(router.db_for_write(OutboxWebhookEndpoint))
