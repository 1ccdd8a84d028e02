"""Fixtures of the consumers' tests."""

from __future__ import annotations

from tests.backends.conftest import certificates

__all__ = ["certificates"]
