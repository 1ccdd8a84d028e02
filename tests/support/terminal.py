"""Output that a command takes for a terminal."""

from __future__ import annotations

import io


class Terminal(io.StringIO):
    """Text that a command prints to a terminal."""

    def isatty(self) -> bool:
        """Return True."""
        return True
