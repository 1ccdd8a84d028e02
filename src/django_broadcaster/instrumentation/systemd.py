"""Notifies systemd of the health of a relay: `Type=notify`, and the watchdog while it is live.

The protocol is one datagram to the socket that NOTIFY_SOCKET names, see sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import Self

from django_broadcaster.relay.health import Health

logger = logging.getLogger("django_broadcaster.relay")

SEND_SECONDS = 1.0
"""The timeout of a message to systemd."""


class Systemd:
    """Sends changes of the status, and `WATCHDOG=1` each time, unless a restart is needed.

    `READY=1` means that the relay runs, not that it delivers. Otherwise systemd would give up on a
    relay that starts while its broker or database is unavailable. `watchdog_seconds` is systemd's
    timeout for the next message, or 0 without a watchdog.
    """

    def __init__(self, address: str, watchdog_seconds: float = 0.0) -> None:
        self.watchdog_seconds = watchdog_seconds
        # `@` stands for the zero byte with which abstract addresses begin.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._is_ready = False
        self._status = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """Return the notifier that the variables of sd_notify(3) ask for, or None."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return None
        is_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        watched = is_for_us and microseconds.isdecimal()
        return cls(address, int(microseconds) / 1_000_000 if watched else 0.0)

    def report(self, health: Health) -> None:
        """Send a health."""
        words = []
        if health.is_live:
            if not self._is_ready:
                words.append("READY=1")
                self._is_ready = True
            words.append("WATCHDOG=1")
        if (status := in_a_line(health)) != self._status:
            words.append(f"STATUS={status}")
            self._status = status
        self._send(words)

    def end(self) -> None:
        """Send that the relay is stopping."""
        self._send(["STOPPING=1", "STATUS=stopping"])

    def _send(self, words: list[str]) -> None:
        if not words:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_SECONDS)
                sender.sendto("\n".join(words).encode(), self._address)
        except OSError as error:
            logger.debug("Could not notify systemd: %s; retrying with the next report.", error)


def in_a_line(health: Health) -> str:
    """Return the failing checks in one line, or `delivering`."""
    if health.is_ready:
        return "delivering"
    return "; ".join(f"{check.subject}: {check.detail}" for check in health.failing)
