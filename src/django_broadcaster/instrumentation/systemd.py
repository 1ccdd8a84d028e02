"""Tells systemd how a relay is doing: `Type=notify`, and the watchdog while it is live.

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
"""The longest that a message to systemd may take."""


class Systemd:
    """Sends what changed, and `WATCHDOG=1` each time, unless a restart is called for.

    `READY=1` is sent once the relay runs, not once it delivers: with a broker or a database that is
    away when the machine starts, systemd would give up on a relay that only has to wait.
    `watchdog_seconds` is the time after which systemd acts if it hears nothing; 0 for never.
    """

    def __init__(self, address: str, watchdog_seconds: float = 0.0) -> None:
        self.watchdog_seconds = watchdog_seconds
        # A name that begins with @ is in the abstract namespace, where it begins with a zero byte.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._is_ready = False
        self._status = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self | None:
        """Return it where systemd asked for it, by the variables of sd_notify(3)."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")):
            return None
        is_for_us = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        microseconds = environment.get("WATCHDOG_USEC", "")
        watched = is_for_us and microseconds.isdecimal()
        return cls(address, int(microseconds) / 1_000_000 if watched else 0.0)

    def report(self, health: Health) -> None:
        """Tell it about this health."""
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
        """Tell it that the relay stops, as it was told to or by itself."""
        self._send(["STOPPING=1", "STATUS=stopping"])

    def _send(self, words: list[str]) -> None:
        if not words:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(SEND_SECONDS)
                sender.sendto("\n".join(words).encode(), self._address)
        except OSError as error:
            logger.debug("systemd could not be told: %s", error)


def in_a_line(health: Health) -> str:
    """Return what is wrong, or that nothing is, in one line."""
    if health.is_ready:
        return "delivering"
    return "; ".join(f"{check.subject}: {check.detail}" for check in health.failing)
