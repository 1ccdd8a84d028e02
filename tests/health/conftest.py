"""Fixtures of the health's tests, most of which are the relay's."""

from __future__ import annotations

from tests.relay.conftest import routed, scripted, workers

__all__ = ["routed", "scripted", "workers"]
