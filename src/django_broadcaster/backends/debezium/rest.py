"""The REST interface of Kafka Connect, as far as one connector needs it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from django_broadcaster.redaction import place_of

SECONDS: Final = 30.0
"""The limit for an answer: Kafka Connect checks a configuration by connecting to the database."""

STOP_SECONDS: Final = 60.0
PAUSE_SECONDS: Final = 0.2


class ConnectError(Exception):
    """Kafka Connect is unavailable, or refuses a request."""


class Connector:
    """A connector by its name, at a Kafka Connect with the address `url`."""

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self._url = url.rstrip("/")
        self._path = f"/connectors/{quote(name)}"

    def put(self, config: Mapping[str, str]) -> bool:
        """Create or update it; return True if it was there before. Raises ConnectError."""
        status, _ = self._call("PUT", "/config", config)
        return status == 200

    def remove(self) -> None:
        """Stop it, then remove its position and itself; raises ConnectError.

        A new slot has other positions. With an old one, a connector of this name would fail.
        """
        self._call("PUT", "/stop")
        deadline = time.monotonic() + STOP_SECONDS
        while not self._has_stopped():
            if time.monotonic() > deadline:
                raise ConnectError(f"The connector did not stop within {STOP_SECONDS:g} s.")
            time.sleep(PAUSE_SECONDS)
        self._call("DELETE", "/offsets")
        self._call("DELETE", "")

    def _has_stopped(self) -> bool:
        _, found = self._call("GET", "/status")
        return found["connector"]["state"] == "STOPPED" and not found["tasks"]

    def _call(
        self, method: str, path: str, body: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        """Return the status and the JSON of the answer; raises ConnectError."""
        try:
            request = Request(  # noqa: S310  # the command has checked the scheme
                self._url + self._path + path,
                data=None if body is None else json.dumps(body).encode(),
                headers={"Content-Type": "application/json"},
                method=method,
            )
            with urlopen(request, timeout=SECONDS) as answer:  # noqa: S310
                found = answer.read()
                return answer.status, json.loads(found) if found else None
        except HTTPError as error:
            said = error.read().decode(errors="replace")
            raise ConnectError(f"Kafka Connect refused {method}: {error.code} {said}") from error
        except (OSError, ValueError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            message = f"Could not reach Kafka Connect at {place_of(self._url)}: {reason}"
            raise ConnectError(message) from error
