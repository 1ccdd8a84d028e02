"""Fixtures of the relay's tests that these use, too."""

from __future__ import annotations

from tests.relay.conftest import clock, join

__all__ = ["clock", "join"]
